"""The checkpoint folder of a shard, looked over before its worker is started again."""

import logging
from pathlib import Path
from typing import NamedTuple

from ftharness.checkpoint.commit import remove_orphans
from ftharness.checkpoint.marker import marker_of, parse
from ftharness.checkpoint.shard import batches, shard_folder
from ftharness.checkpoint.storage import DISK

_log = logging.getLogger("ftharness.coordinator")
QUARANTINE = "quarantine"


class FolderCheck(NamedTuple):
    """What was found, and done about it.

    Attributes:
        usable: Whether a worker may be started on it.
        reason: A sentence for people.
        removed: Files that a write left half done.
        quarantined: Checkpoints and markers that are no pair, or do not fit each other.
    """

    usable: bool
    reason: str
    removed: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()


def validate_checkpoint_dir(checkpoint_dir: Path, rank: int) -> FolderCheck:
    """Make a shard's folder fit for another attempt. Nothing may be writing into it.

    What a killed writer left under a temporary name is removed. A checkpoint without its marker, a marker without its
    checkpoint, and two of which the marker says another size are moved into ``quarantine`` beside them, with a warning, for
    whoever wants to know; the worker computes that batch again. What is inside the others is for the worker to check, which
    reads them.

    Args:
        checkpoint_dir: The folder of all shards.
        rank: Which shard: ``shard_<rank>`` in it.

    Returns:
        ``usable`` is False where the folder is a file, or cannot be read or changed: a worker started on it would lose its
        work.
    """
    folder = shard_folder(checkpoint_dir, rank)
    try:
        there = batches(DISK, folder)  # or, where it is no folder, an error that says so
        if not folder.exists():
            return FolderCheck(usable=True, reason=f"no {folder}: a fresh start")
        removed = tuple(remove_orphans(DISK, folder))
        if removed:
            _log.warning("%s: %d files that a write left half done, removed", folder, len(removed))
        odd = {path: why for path in there.values() if (why := _oddity(path))}
        quarantined = tuple(name for path, why in odd.items() for name in _quarantine(path, why))
    except OSError as error:
        _log.error("%s: no worker is started on it: %s", folder, error)
        return FolderCheck(usable=False, reason=f"{folder} cannot be used: {error}")
    whole = len(there) - len(odd)
    reason = f"{whole} checkpoints" if whole else "no checkpoint: a fresh start"
    return FolderCheck(usable=True, reason=reason, removed=removed, quarantined=quarantined)


def _oddity(path: Path) -> str:
    """What is wrong with a checkpoint and its marker, seen from outside; "" where nothing is."""
    marker = marker_of(path)
    if not path.exists():
        return "a marker without its checkpoint"
    if not marker.exists():
        return "a checkpoint without its marker"
    size, promised = path.stat().st_size, [seal.size for seal in parse(marker.read_bytes())]
    return (
        "" if size in promised else f"{size} bytes, and its marker says {' or '.join(map(str, promised)) or 'nothing'}"
    )


def _quarantine(path: Path, why: str) -> list[str]:
    _log.warning("%s: %s; moved to %s", path, why, QUARANTINE)
    # The marker first: a kill between the two leaves a checkpoint that does not look committed.
    there = [one for one in (marker_of(path), path) if one.exists()]
    for one in there:
        _move(one, path.parent / QUARANTINE)
    return [one.name for one in there]


def _move(path: Path, into: Path) -> None:
    into.mkdir(exist_ok=True)
    place, number = into / path.name, 0
    while place.exists():  # an earlier one is kept as well
        number += 1
        place = into / f"{path.name}.{number}"
    path.rename(place)
