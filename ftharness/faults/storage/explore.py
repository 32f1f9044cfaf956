"""A run that writes checkpoints, crashed at every moment in every way, and what a new run makes of what is left."""

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftharness.checkpoint import AsyncCheckpointWriter, CheckpointManifest, resume_from_checkpoints
from ftharness.checkpoint.commit import TEMPORARY
from ftharness.checkpoint.shard import checkpoint_file, shard_folder
from ftharness.checkpoint.storage import Storage
from ftharness.faults.storage.crashes import Crash, crashes
from ftharness.faults.storage.image import Image, ImageDisk
from ftharness.faults.storage.recording import Operation, RecordingDisk

NOTHING = Image(frozenset(), {})

_ROWS = 2
_TORN_EACH = 16  # bytes; a disk tears at 512, a copy that is cut short tears anywhere


class Lost(AssertionError):  # noqa: N818 - says what is the case
    """A crash cost something that was acknowledged, or left something that nobody wrote."""


def explore(
    folder: Path, batches: int = 3, disk: RecordingDisk | None = None, *, manifest: bool = True, cuts: int = 3
) -> Counter[str]:
    """Write checkpoints to a disk, and recover from each crash that could have been.

    After each, exactly a beginning of what was written comes back, with all that was acknowledged. What the recovery itself
    does is crashed and recovered as well, and the run goes on to its end.

    Args:
        folder: An empty one.
        batches: How many are written, one after the other.
        disk: Records; one with a bug of its own is found out.
        manifest: Whether the run has one.
        cuts: Places at most where one write is torn.

    Returns:
        How many operations there were, and how many different crashes of them and of recoveries were recovered.

    Raises:
        Lost: After one crash something is not as it should be; the message says after which, and what.
    """
    disk = disk or RecordingDisk()
    write_batches(folder, disk, range(batches), disk.log.note, manifest=manifest)
    operations = disk.log.operations
    count = Counter({"operations": len(operations)})
    seen = set()
    for crash in crashes(folder, NOTHING, operations, sector=_TORN_EACH, cuts=cuts):
        try:
            left, reached = recover(folder, crash.image, crash.notes)
            count["crash_states"] += 1
            key = reached, crash.notes, frozenset(path for path in crash.image.files if path.suffix != TEMPORARY)
            if key not in seen:  # what it does depends on that, and on when it does it
                seen.add(key)
                count["crash_states_of_recoveries"] += _again(folder, crash, left.log.operations, reached)
                write_batches(folder, left, range(reached, batches), left.log.note, manifest=manifest)
                recover(folder, left.image, crash.notes, batches)
                count["gone_on_to_the_end"] += 1
        except Exception as error:
            last = operations[crash.done - 1] if crash.done else "nothing"
            raise Lost(f"a crash after operation {crash.done} ({last}), {crash.what}: {error}") from error
    return count


def write_batches(
    folder: Path,
    disk: Storage,
    batches: range,
    note: Callable[[str], object],
    *,
    manifest: bool = True,
    more: float = 0,
) -> None:
    """Write batches, one after the other, and say what was acknowledged.

    Args:
        folder: Where the manifest and the shard's folder are, or will be.
        disk: The disk.
        batches: Which.
        note: Is told ``manifest`` and ``batch N``.
        manifest: Whether there is one.
        more: Makes other rows of the same batches.
    """
    told = CheckpointManifest(folder / "manifest.json", storage=disk) if manifest else None
    if told is not None:
        if not told.exists():
            told.initialize(1)
        note("manifest")
    with AsyncCheckpointWriter(manifest=told, rank=0, storage=disk) as writer:
        for batch in batches:
            path = shard_folder(folder, 0) / checkpoint_file(batch)
            writer.write_checkpoint_async(path, rows(batch) + more, ids(batch), {"batch_idx": batch}).result()
            note(f"batch {batch}")


def recover(folder: Path, image: Image, notes: tuple[str, ...], reached: int | None = None) -> tuple[ImageDisk, int]:
    """What a new run finds: a beginning of all batches, with all that were acknowledged; in files and manifest.

    Args:
        folder: Of the run.
        image: What is on the disk.
        notes: What was acknowledged.
        reached: How many batches were found before; it has to be the same again.

    Returns:
        The disk after the recovery, and how many batches there are.

    Raises:
        Lost: It is not so.
        Exception: It cannot be recovered at all.
    """
    disk = ImageDisk(folder, image)
    manifest = CheckpointManifest(folder / "manifest.json", storage=disk)
    if "manifest" in notes and not manifest.exists():
        raise Lost("the manifest is gone")
    told = manifest if manifest.exists() else None
    acknowledged = sum(note.startswith("batch") for note in notes)
    if told is not None and len(_recorded(told)) < acknowledged:  # before the files, which decide, have mended it
        raise Lost(f"the manifest has {_recorded(told)}, of {acknowledged} batches that were acknowledged")
    found = resume_from_checkpoints(folder, 0, manifest=told, storage=disk)
    least, most = (acknowledged, acknowledged + 1) if reached is None else (reached, reached)
    if not least <= found.resume_batch_idx <= most:
        raise Lost(f"{found.resume_batch_idx} batches are there, of {least} that were acknowledged")
    for batch in range(found.resume_batch_idx):
        here = slice(_ROWS * batch, _ROWS * (batch + 1))
        if found.ids[here] != ids(batch) or found.embeddings is None or (found.embeddings[here] != rows(batch)).any():
            raise Lost(f"batch {batch} is not as it was written")
    if told is not None and _recorded(told) != list(range(found.resume_batch_idx)):
        raise Lost(f"the manifest has {_recorded(told)}, the disk {found.resume_batch_idx} batches")
    return disk, found.resume_batch_idx


def ids(batch: int) -> list[str]:
    """Of a batch."""
    return [f"{batch}.{number}" for number in range(_ROWS)]


def rows(batch: int) -> Any:
    """Of a batch: no other has the same."""
    import numpy as np  # noqa: PLC0415 - an extra

    return np.arange(32.0 * _ROWS, dtype="float32").reshape(_ROWS, -1) + batch


def _recorded(manifest: CheckpointManifest) -> list[int]:
    state = manifest.get_shard_status(0)
    if state is None:
        raise Lost("the manifest has no shard")
    return [record["batch_idx"] for record in state["checkpoints"]]


def _again(folder: Path, crash: Crash, operations: list[Operation], reached: int) -> int:
    """Crash what a recovery did; how many there were."""
    count = 0
    for second in crashes(folder, crash.image, operations, numbers=ImageDisk(folder, crash.image).numbers):
        recover(folder, second.image, crash.notes, reached)
        count += 1
    return count


def explore_somewhere(batches: int, cuts: int) -> Counter[str]:
    """The same in a folder that is made for it."""
    with tempfile.TemporaryDirectory(prefix="ftharness-crashes-") as folder:
        return explore(Path(folder), batches, cuts=cuts)
