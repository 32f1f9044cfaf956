"""The folder of one shard: what its files are called, and how a checkpoint is committed to it, or taken back."""

import re
from pathlib import Path

from ftharness.checkpoint import contents, marker
from ftharness.checkpoint.commit import commit, prepared, sync_folder
from ftharness.checkpoint.contents import Contents
from ftharness.checkpoint.seal import Seal, seal_of
from ftharness.checkpoint.storage import Storage

_BATCH = re.compile(r"batch_(\d+)\.pt")


def shard_folder(checkpoint_dir: Path, rank: int) -> Path:
    """Where the checkpoints of a shard are."""
    return checkpoint_dir / f"shard_{rank}"


def checkpoint_file(batch_idx: int) -> str:
    """What the checkpoint of a batch is called in that folder."""
    return f"batch_{batch_idx:05d}.pt"


def batch_of(name: str) -> int | None:
    """Of which batch a file of that name is the checkpoint; None where it is something else."""
    found = _BATCH.fullmatch(name)
    return int(found[1]) if found else None


def batches(storage: Storage, folder: Path) -> dict[int, Path]:
    """The checkpoints in a shard's folder, in order, committed or not; a marker without its file counts as one.

    Raises:
        NotADirectoryError: A file is where that folder, or one above it, should be: whoever took this for a beginning would
            lose all that is computed.
    """
    try:
        names = storage.names(folder)
    except FileNotFoundError:
        return {}
    except NotADirectoryError as error:
        file = next(place for place in (folder, *folder.parents) if storage.exists(place))
        raise NotADirectoryError(error.errno, "Not a directory, so checkpoints cannot be in it", str(file)) from error
    found: dict[int, Path] = {}
    for name in names:
        bare = name.removesuffix(marker.SUFFIX)
        if (batch := batch_of(bare)) is not None:
            found[batch] = folder / bare
    return dict(sorted(found.items()))


def commit_checkpoint(storage: Storage, path: Path, what: Contents) -> None:
    """Write a checkpoint, then its marker; it is committed when this returns.

    Two who commit to one folder at the same time take turns, by a lock on the folder: the file of the one never gets the
    marker of the other.

    Raises:
        OSError: It is not committed. If another was committed under that name, that one still is.
    """
    with prepared(storage, path, lambda stream: contents.write(what, stream)) as (unnamed, seal):
        folder = storage.open_folder(path.parent)
        try:
            storage.lock(folder)
            before = _committed(storage, path)
            if before is not None and before != seal:
                _mark(storage, path, [before, seal])  # from here on either of the two files is a committed one
            storage.rename(unnamed, path)
            storage.fsync(folder)
            _mark(storage, path, [seal])
        finally:
            storage.unlock(folder)
            storage.close(folder)


def withdraw(storage: Storage, paths: list[Path]) -> None:
    """Take the markers of checkpoints away: none of them is committed when this returns."""
    gone = [marker.marker_of(path) for path in paths if storage.exists(marker.marker_of(path))]
    for place in gone:
        _unlink(storage, place)
    for folder in {place.parent for place in gone}:
        sync_folder(storage, folder)


def remove(storage: Storage, paths: list[Path]) -> None:
    """Take checkpoints away, markers first: what a crash leaves of them does not look committed."""
    withdraw(storage, paths)
    gone = [path for path in paths if storage.exists(path)]
    for path in gone:
        _unlink(storage, path)
    for folder in {path.parent for path in gone}:
        sync_folder(storage, folder)


def _unlink(storage: Storage, path: Path) -> None:
    try:
        storage.unlink(path)
    except IsADirectoryError as error:  # nobody knows whose it is, and what is in it
        raise IsADirectoryError(
            error.errno, "a folder has the name of a file of ours; move it away, and resume again", str(path)
        ) from error


def _mark(storage: Storage, path: Path, seals: list[Seal]) -> None:
    commit(storage, marker.marker_of(path), lambda stream: marker.write(seals, stream))


def _committed(storage: Storage, path: Path) -> Seal | None:
    """The seal of the file that is committed under a name; None where none is."""
    try:
        seals = marker.parse(storage.read(marker.marker_of(path)))
        if not seals:
            return None
        seal = seal_of(storage.read(path))
    except FileNotFoundError:
        return None
    return seal if seal in seals else None
