"""Faults on what a job keeps on its disk: a checkpoint that is corrupted, a disk that is full.

No module here has the name of a kind or of a target: loaded later than the package, it would take the name's place in it.
"""

import os
import time
from pathlib import Path
from typing import Any

from ftharness.checkpoint.contents import read_ids
from ftharness.checkpoint.marker import marker_of
from ftharness.checkpoint.shard import checkpoint_file, shard_folder
from ftharness.faults.strike import Strike
from ftharness.id_ranges import ranges

_FILLER = ".filler"
_BLOCK = 1 << 16  # bytes at a time; the last ones go one by one
#: A disk of more bytes than this is nobody's alone, whatever it is mounted for.
_LARGEST = 1 << 30


async def corrupt_checkpoint(strike: Strike) -> None:
    """A committed checkpoint is damaged as ``how`` says; the evidence is which, and the ids of what was in it."""
    args = strike.args
    rank, number, how = int(args.get("rank", 0)), int(args.get("checkpoint", 0)), str(args.get("how", "flip"))
    path = shard_folder(strike.data / "checkpoints", rank) / checkpoint_file(number)
    victim = marker_of(path) if how == "remove_marker" else path
    try:
        ids, before = read_ids(path.read_bytes()), victim.read_bytes()
    except OSError as error:
        strike.missed(f"there is no checkpoint {number} of rank {rank} to corrupt: {error}")
        return
    at = time.monotonic_ns()
    _damage(victim, before, how)
    after = victim.read_bytes() if victim.exists() else None
    if after == before:
        strike.missed(f"{victim} is as it was")
        return
    strike.landed(at=at, rank=rank, checkpoint=number, how=how, path=str(path), ids=ranges(ids or ()))


def _damage(path: Path, whole: bytes, how: str) -> None:
    """As a disk does: in place, without a word to whoever wrote it."""
    half = len(whole) // 2
    if how == "remove_marker":
        path.unlink()
        return
    damaged = {
        "flip": whole[:half] + bytes([whole[half] ^ 0xFF]) + whole[half + 1 :],
        "truncate": whole[:half],
        "zero_tail": whole[:half] + bytes(len(whole) - half),
    }
    path.write_bytes(damaged[how])


async def fill_disk(strike: Strike) -> None:
    """Every byte of the job's own disk is taken; the evidence is what the file system says of itself then."""
    folder = strike.data
    why = _not_its_own(folder)
    if why:
        strike.missed(f"{folder}: {why}: inference(disk_mb=4) gives a job a disk of its own")
        return
    filler = folder / _FILLER
    strike.heals_by(lambda: _freed(folder))
    at = time.monotonic_ns()
    filled = _fill(filler)
    told = os.statvfs(folder)
    if told.f_bavail:
        strike.missed(f"{folder}: {told.f_bavail * told.f_frsize} bytes are free though nothing more could be written")
        return
    size = told.f_blocks * told.f_frsize
    strike.landed(at=at, size_bytes=size, free_bytes=0, filled_bytes=filled)


async def free_disk(strike: Strike) -> None:
    """What ``fill_disk`` took is given back, by which that is healed; the evidence is what is free then."""
    at = time.monotonic_ns()
    evidence = await strike.undo("fill_disk")
    if evidence is None:
        strike.missed(f"no fill_disk has taken anything of the disk of {strike.source}")
        return
    strike.landed(at=at, **evidence)


def _not_its_own(folder: Path) -> str:
    """Why a disk may not be filled; "" where it is a small one that only this job has."""
    told = os.statvfs(folder)
    if folder.stat().st_dev == folder.parent.stat().st_dev:
        return "it is on a disk with everything else"
    if told.f_blocks * told.f_frsize > _LARGEST:
        return f"its disk has {told.f_blocks * told.f_frsize >> 20} MiB"
    return ""


def _fill(filler: Path) -> int:
    """Write until the disk takes no more byte; how many it took."""
    fd, filled = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), 0
    try:
        for size in (_BLOCK, 1):
            filled += _filled(fd, bytes(size))
    finally:
        os.close(fd)
    return filled


def _filled(fd: int, block: bytes) -> int:
    filled = 0
    while True:
        try:
            filled += os.write(fd, block)
        except OSError:  # ENOSPC, EDQUOT: the kernel's own words are not what counts, but what is free then
            return filled


async def _freed(folder: Path) -> dict[str, Any]:
    filler = folder / _FILLER
    size = filler.stat().st_size if filler.exists() else 0
    filler.unlink(missing_ok=True)
    told = os.statvfs(folder)
    return {"freed_bytes": size, "free_bytes": told.f_bavail * told.f_frsize}
