"""Where to go on: what was committed, in order, up to the first checkpoint that is not whole."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ftharness.checkpoint.commit import remove_orphans
from ftharness.checkpoint.contents import Contents, read_ids
from ftharness.checkpoint.shard import batches, remove, shard_folder, withdraw
from ftharness.checkpoint.storage import DISK, Storage
from ftharness.checkpoint.validation import examine

if TYPE_CHECKING:
    import numpy as np

    from ftharness.checkpoint.manifest import CheckpointManifest

_log = logging.getLogger("ftharness.checkpoint")


class Resumed(NamedTuple):
    """What :func:`resume_from_checkpoints` found.

    Attributes:
        ids: What is done, each once, in the order of the batches.
        embeddings: A row for each of them, a numpy array (a tensor where numpy has no such numbers: bfloat16, float8); None
            where nothing is done.
        resume_batch_idx: The next batch to be written.
        corrupted_ids: What has to be computed again although a file of it is there; ``batch_N_LOST`` for a batch whose ids
            are unreadable, too. What is in no list was never committed.
    """

    ids: list[str]
    embeddings: "np.ndarray[Any, Any] | None"
    resume_batch_idx: int
    corrupted_ids: list[str]


def resume_from_checkpoints(
    checkpoint_dir: Path,
    rank: int,
    force_restart: bool = False,  # noqa: FBT001, FBT002 - the field's signature
    manifest: "CheckpointManifest | None" = None,
    *,
    storage: Storage = DISK,
) -> Resumed:
    """What a shard's checkpoints hold, and where to go on.

    They are taken in order, up to the first that is not valid, or is missing while later ones are there. The marker of that one
    is removed, so that it never counts again. It and all later ones have to be computed again. The later ones stay as they
    are until they are written anew; an id that was in an earlier batch is left out of a later one, so that none comes twice.

    Args:
        checkpoint_dir: The folder of all shards.
        rank: Which shard: ``shard_<rank>`` in it.
        force_restart: Remove all of them instead, and begin anew.
        manifest: Is told what is there, where it says something else: the files decide.
        storage: The disk.

    Returns:
        ``(ids, embeddings, resume_batch_idx, corrupted_ids)``.

    Raises:
        OSError: The folder is none, or cannot be read; a marker, or with ``force_restart`` a checkpoint, cannot be removed.
    """
    folder = shard_folder(Path(checkpoint_dir), rank)
    there = batches(storage, folder)
    if storage.exists(folder):
        remove_orphans(storage, folder)
    if force_restart:
        # The last one first: what a crash leaves of them is still a beginning.
        for path in reversed(there.values()):
            remove(storage, [path])
        there = {}
    whole, broken_at = _whole(there, rank, storage)
    ids, rows = _joined(whole)
    corrupted = _corrupted(there, broken_at, set(ids), storage)
    if manifest is not None and manifest.exists():
        held = [(batch, len(what.sequence_ids), there[batch].name) for batch, what in enumerate(whole)]
        manifest.reconcile_shard(rank, held)
    return Resumed(ids, rows, len(whole), corrupted)


def _whole(there: dict[int, Path], rank: int, storage: Storage) -> tuple[list[Contents], int | None]:
    """The checkpoints up to the first that is not whole, and which batch that is; None where all are."""
    found: list[Contents] = []
    for batch in range(max(there, default=-1) + 1):
        path = there.get(batch)
        reason, what = "it is missing, and later ones are there", None
        if path is not None:
            reason, what, _ = examine(path, storage)
            if what is not None and found and (unlike := _unlike(found[0], what)):
                reason, what = unlike, None
        if what is None:
            _log.warning("shard %d: batch %d is to be computed again, and all after it: %s", rank, batch, reason)
            if path is not None:
                withdraw(storage, [path])
            return found, batch
        found.append(what)
    return found, None


def _unlike(first: Contents, other: Contents) -> str:
    one, two = first.embeddings, other.embeddings
    if one.shape[1] == two.shape[1] and one.dtype == two.dtype:
        return ""
    return f"its rows are {two.shape[1]} x {two.dtype}, those of the first batch {one.shape[1]} x {one.dtype}"


def _joined(whole: list[Contents]) -> "tuple[list[str], np.ndarray[Any, Any] | None]":
    if not whole:
        return [], None
    import torch  # noqa: PLC0415 - it is imported by now, as a checkpoint was read

    ids: list[str] = []
    seen: set[str] = set()
    parts = []
    for what in whole:
        new = []
        for place, name in enumerate(what.sequence_ids):
            if name not in seen:
                seen.add(name)
                new.append(place)
        parts.append(what.embeddings if len(new) == len(what.sequence_ids) else what.embeddings[new])
        ids += [what.sequence_ids[place] for place in new]
    rows = torch.cat(parts)
    try:
        return ids, rows.numpy()
    except TypeError:  # numpy has no such numbers
        return ids, rows


def _corrupted(there: dict[int, Path], broken_at: int | None, done: set[str], storage: Storage) -> list[str]:
    if broken_at is None:
        return []
    ids: dict[str, None] = {}
    for batch in range(broken_at, max(there) + 1):
        found = _ids(there[batch], storage) if batch in there else None
        for name in [f"batch_{batch}_LOST"] if found is None else found:
            if name not in done:
                ids[name] = None
    return list(ids)


def _ids(path: Path, storage: Storage) -> list[str] | None:
    try:
        return read_ids(storage.read(path))
    except OSError:
        return None
