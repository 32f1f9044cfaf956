"""What it costs to have a checkpoint, or a manifest's change, for certain.

A save of 20 MB beside ``torch.save`` with the same protocol (a temporary file, fsync, rename, fsync of the folder, then a
marker the same way), which has no checksum. What a caller waits for when it is written meanwhile, beside what the same save
takes when it is waited for. Changes of a manifest by four processes at once beside a plain loop that takes the lock, loads,
writes, syncs and renames, and does not sync the folder. And what one change costs with 50 and with 500 records, beside how
much larger the file is.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from _figures import Figures, median, paired, seconds_of

from ftharness.checkpoint import AsyncCheckpointWriter, CheckpointManifest

_ROWS = torch.randn(5_120, 1_024)  # 20 MB
_IDS = [f"seq_{number}" for number in range(len(_ROWS))]
_WRITERS = 4

_OURS = """
import sys
from pathlib import Path
from ftharness.checkpoint import CheckpointManifest
folder, rank, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
manifest = CheckpointManifest(folder / "manifest.json")
print(flush=True)
sys.stdin.readline()
for batch in range(count):
    manifest.update_shard_checkpoint(rank, batch, 10, "any.pt")
"""
_PLAIN = """
import datetime, fcntl, json, os, sys
folder, rank, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
path = folder + "/manifest.json"
print(flush=True)
sys.stdin.readline()
for batch in range(count):
    with open(folder + "/manifest.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(path) as file:
            manifest = json.load(file)
        at = datetime.datetime.now(datetime.UTC).isoformat()
        manifest["shards"][rank]["checkpoints"].append(
            {"batch_idx": batch, "num_sequences": 10, "file": "any.pt", "timestamp": at, "sequence_range": ""})
        with open(f"{path}.{os.getpid()}.tmp", "w") as file:
            json.dump(manifest, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.rename(file.name, path)
"""


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def _torch_save(path: Path) -> None:
    """What our save is beside: the same file by the same steps."""
    for place, content in ((path, None), (path.with_suffix(".pt.done"), f"{len(_ROWS)}\n".encode())):
        unnamed = place.with_suffix(place.suffix + ".tmp")
        if content is None:
            torch.save({"embeddings": _ROWS, "sequence_ids": _IDS, "metadata": {"batch_idx": 0}}, unnamed)
        else:
            unnamed.write_bytes(content)
        _sync(unnamed)
        unnamed.replace(place)
        _sync(path.parent)


def _save(figures: Figures, folder: Path) -> None:
    numbers = iter(range(100_000))
    for name in ("ours", "plain"):
        (folder / name).mkdir()
    blocked: list[float] = []
    with AsyncCheckpointWriter() as writer:

        def write(*, wait: bool) -> float:
            path = folder / "ours" / f"batch_{(number := next(numbers)):05d}.pt"
            began = time.perf_counter()
            future = writer.write_checkpoint_async(path, _ROWS, _IDS, {"batch_idx": number})
            blocked.append(time.perf_counter() - began)
            future.result()
            took = time.perf_counter() - began
            for written in (path, path.with_suffix(".pt.done")):
                written.unlink()
            assert wait or took
            return took

        def plain() -> float:
            path = folder / "plain" / f"batch_{next(numbers):05d}.pt"
            took = seconds_of(lambda: _torch_save(path))
            for written in (path, path.with_suffix(".pt.done")):
                written.unlink()
            return took

        write(wait=True)
        plain()
        blocked.clear()
        ours, theirs = paired(lambda: write(wait=True), plain, 15 if figures.quick else 61)
    figures.tell(
        "checkpoint/save_20mb", median(ours) * 1e3, "ms", n=len(ours), bound="ratio <= 1.15",
        peer="torch.save, the same protocol, no checksum", peer_value=median(theirs) * 1e3,
    )  # fmt: skip
    figures.tell(
        "checkpoint/caller_blocked", median(blocked) * 1e3, "ms", n=len(blocked), bound="ratio <= 0.25",
        peer="the same save, waited for", peer_value=median(ours) * 1e3,
    )  # fmt: skip


def _together(folder: Path, program: str, each: int) -> float:
    """How many changes a second, of all processes together."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        _manifest(Path(place), _WRITERS)
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", program, place, str(rank), str(each)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for rank in range(_WRITERS)
        ]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        began = time.perf_counter()
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write(b"\n")
            writer.stdin.flush()
        assert [writer.wait() for writer in writers] == [0] * _WRITERS
        took = time.perf_counter() - began
        shards = json.loads((Path(place) / "manifest.json").read_text())["shards"].values()
        assert [len(shard["checkpoints"]) for shard in shards] == [each] * _WRITERS
        for writer in writers:
            for pipe in (writer.stdin, writer.stdout):
                assert pipe is not None
                pipe.close()
        return _WRITERS * each / took


def _manifest(folder: Path, world_size: int) -> CheckpointManifest:
    manifest = CheckpointManifest(folder / "manifest.json")
    manifest.initialize(world_size)
    for rank in range(world_size):
        (folder / f"shard_{rank}").mkdir()
        (folder / f"shard_{rank}" / "any.pt").touch()
    return manifest


def _rate(figures: Figures, folder: Path) -> None:
    each = 25 if figures.quick else 50
    ours, plain = paired(
        lambda: _together(folder, _OURS, each), lambda: _together(folder, _PLAIN, each), 3 if figures.quick else 7
    )
    figures.tell(
        "checkpoint/manifest_rate_4_processes", median(ours), "changes/s", n=len(ours), bound="ratio >= 1",
        peer="lock, load, write, fsync, rename", peer_value=median(plain),
    )  # fmt: skip


def _growth(figures: Figures, folder: Path) -> None:
    manifest = _manifest(folder, 1)
    took: list[float] = []
    sizes: list[int] = []
    for batch in range(520):
        took.append(seconds_of(lambda batch=batch: manifest.update_shard_checkpoint(0, batch, 10, "any.pt")))
        sizes.append((folder / "manifest.json").stat().st_size)
    few, many = median(took[40:60]), median(took[490:510])
    figures.tell(
        "checkpoint/manifest_growth_50_to_500", many / few, "times", n=20, bound="ratio <= 1",
        peer="the file's", peer_value=sizes[500] / sizes[50],
    )  # fmt: skip


if __name__ == "__main__":
    told = Figures(__doc__)
    with tempfile.TemporaryDirectory() as here:
        _save(told, Path(here))
        _rate(told, Path(here))
        _growth(told, Path(here))
    told.end()
