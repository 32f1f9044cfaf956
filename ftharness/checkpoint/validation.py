"""Whether a checkpoint is what was committed: the marker, the bytes, and what is in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ftharness.checkpoint import contents, marker
from ftharness.checkpoint.contents import Contents
from ftharness.checkpoint.seal import seal_of
from ftharness.checkpoint.storage import DISK, Storage

_KEYS = ("embeddings", "sequence_ids", "metadata")
_KNOWN = ("batch_idx", "num_sequences", "timestamp")


class Examined(NamedTuple):
    """What was found of one checkpoint.

    Attributes:
        reason: Why it is not valid; "" where it is.
        contents: What is in it; None where it is not valid.
        data: Its bytes; None where they cannot be read.
    """

    reason: str
    contents: Contents | None = None
    data: bytes | None = None


def validate_checkpoint_pt(checkpoint_path: Path, *, storage: Storage = DISK) -> tuple[bool, str]:
    """Whether a checkpoint is valid. Reading it executes nothing that is in it.

    Args:
        checkpoint_path: The ``.pt`` file.
        storage: The disk.

    Returns:
        ``(True, "")``, or False and all that is wrong: it is missing, or empty; it has no marker; marker and file disagree; it
        cannot be loaded; keys are missing; its embeddings are not 2-D, or are not one for each id.
    """
    reason = examine(Path(checkpoint_path), storage).reason
    return not reason, reason


def validate_checkpoint_metadata(
    metadata: Mapping[str, Any],
    current_model_config_hash: str | None = None,
    current_packing_enabled: bool | None = None,  # noqa: FBT001 - the field's signature
) -> tuple[bool, list[str]]:
    """Whether a checkpoint was written by a run like this one.

    Args:
        metadata: The checkpoint's.
        current_model_config_hash: This run's; None: not compared.
        current_packing_enabled: The same.

    Returns:
        Whether nothing speaks against it, and what does, a sentence each. What the checkpoint does not say is not held against
        it, but for its batch, its number of sequences and its time.
    """
    warnings = []
    for key, name, now in (
        ("model_config_hash", "Model config hash", current_model_config_hash),
        ("packing_enabled", "Packing config", current_packing_enabled),
    ):
        then = metadata.get(key)
        if now is not None and then is not None and then != now:
            warnings.append(f"{name} mismatch: the checkpoint has {then}, this run {now}")
    warnings += [f"Missing metadata key: {key}" for key in _KNOWN if key not in metadata]
    return not warnings, warnings


def examine(path: Path, storage: Storage) -> Examined:
    """Read a checkpoint, and say all that is wrong with it: what disagrees with its marker is still looked into."""
    try:
        data = storage.read(path)
    except FileNotFoundError:
        return Examined(f"Checkpoint file does not exist: {path}")
    except OSError as error:
        return Examined(f"Checkpoint file cannot be read: {path}: {error.strerror}")
    if not data:
        return Examined(f"Checkpoint file is empty (0 bytes): {path}", data=data)
    seals_wrong = _against_marker(path, data, storage)
    if seals_wrong.startswith("Missing"):
        return Examined(seals_wrong, data=data)
    try:
        found = contents.read(data)
    except Exception as error:  # noqa: BLE001 - torch raises what it likes
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Examined(_joined(seals_wrong, f"Failed to load checkpoint {path}: {first}"), data=data)
    reason = _joined(seals_wrong, _of_contents(found))
    return Examined(reason, None if reason else Contents(*(found[key] for key in _KEYS)), data)


def _against_marker(path: Path, data: bytes, storage: Storage) -> str:
    place = marker.marker_of(path)
    try:
        seals = marker.parse(storage.read(place))
    except FileNotFoundError:
        return f"Missing .done marker: {place}"
    except OSError as error:
        return f"Missing .done marker: {place} cannot be read: {error.strerror}"
    actual = seal_of(data)
    if actual in seals:
        return ""
    promised = " or ".join(str(seal) for seal in seals) or "nothing that can be read"
    return f"Marker and file disagree: {place} says {promised}, the file has {actual}"


def _of_contents(found: Any) -> str:
    if not isinstance(found, dict):
        return f"Checkpoint is a {type(found).__name__}, not a dictionary"
    if missing := [key for key in _KEYS if key not in found]:
        return f"Checkpoint is missing the keys {', '.join(map(repr, missing))}"
    return contents.mismatch(found["embeddings"], found["sequence_ids"])


def _joined(*reasons: str) -> str:
    return "; ".join(reason for reason in reasons if reason)
