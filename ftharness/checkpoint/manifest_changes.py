"""What changes in a manifest: each kind of change is a function of the manifest and of arguments that JSON can carry.

So a change can be handed to another process, which makes it with its own (:mod:`ftharness.checkpoint.manifest_file`). A
change that is made twice counts once, and one that cannot be made changes nothing.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

#: The whole of a manifest, as it is in its file.
Manifest = dict[str, Any]

VERSION = "2.0"


def now() -> str:
    """The time of day, as a manifest has it."""
    return datetime.now(UTC).isoformat()


def new_manifest(world_size: int, input_fingerprint: str, model_config_hash: str) -> Manifest:
    """One of a run that has done nothing yet."""
    return {
        "version": VERSION,
        "world_size": world_size,
        "created_at": now(),
        "input_fingerprint": input_fingerprint,
        "model_config_hash": model_config_hash,
        "global_checkpoints": [],
        "shards": {str(rank): _new_shard(rank) for rank in range(world_size)},
    }


def of_another_run(manifest: Manifest, new: Manifest) -> str:
    """What tells one that is there from a new one of this run; "" where nothing does. What one does not say is not compared."""
    for key in ("world_size", "input_fingerprint", "model_config_hash"):
        then, here = manifest.get(key), new[key]
        if then and here and then != here:
            return f"{key} is {then!r} there and {here!r} here"
    return ""


def migrated(manifest: Manifest) -> Manifest:
    """One of version 1.0 had no fingerprints and no global checkpoints."""
    if manifest.get("version", "1.0") == "1.0":
        manifest = {"input_fingerprint": "", "model_config_hash": "", "global_checkpoints": []} | manifest
    return manifest | {"version": VERSION}


def shard_of(manifest: Manifest, rank: int) -> dict[str, Any]:
    """A shard's entry.

    Raises:
        ValueError: There is none of that rank.
    """
    found: dict[str, Any] | None = manifest["shards"].get(str(rank))
    if found is None:
        raise ValueError(f"there is no shard {rank}; the manifest has {', '.join(manifest['shards']) or 'none'}")
    return found


def _new_shard(rank: int) -> dict[str, Any]:
    return {
        "status": "in_progress",
        "original_rank": rank,
        "assigned_rank": rank,
        "last_checkpoint_batch": -1,
        "total_sequences": 0,
        "last_checkpoint_time": None,
        "retry_count": 0,
        "error": None,
        "checkpoints": [],
    }


def _metadata(manifest: Manifest, input_fingerprint: str, model_config_hash: str) -> None:
    manifest["input_fingerprint"] = input_fingerprint
    manifest["model_config_hash"] = model_config_hash


def _checkpoint(
    manifest: Manifest, rank: int, batch_idx: int, num_sequences: int, file: str, sequence_range: str, at: str
) -> None:
    shard = shard_of(manifest, rank)
    record = {
        "batch_idx": batch_idx,
        "num_sequences": num_sequences,
        "file": file,
        "timestamp": at,
        "sequence_range": sequence_range,
    }
    _hold(shard, [*(held for held in shard["checkpoints"] if held["batch_idx"] != batch_idx), record])
    shard["last_checkpoint_time"] = at
    if shard["status"] == "failed":  # it is worked on again
        shard["status"] = "in_progress"


def _reconcile(manifest: Manifest, rank: int, held: list[tuple[int, int, str]], at: str) -> None:
    shard = shard_of(manifest, rank)
    known = {record["batch_idx"]: record for record in shard["checkpoints"]}
    if shard["status"] == "complete" and not known.keys() <= {batch for batch, *_ in held}:
        shard["status"] = "in_progress"  # a part of it is gone
    _hold(
        shard,
        [
            known[batch]
            if known.get(batch, {}).get("num_sequences") == count
            else {"batch_idx": batch, "num_sequences": count, "file": file, "timestamp": at, "sequence_range": ""}
            for batch, count, file in held
        ],
    )


def _hold(shard: dict[str, Any], records: list[dict[str, Any]]) -> None:
    shard["checkpoints"] = sorted(records, key=lambda record: record["batch_idx"])
    shard["last_checkpoint_batch"] = max((record["batch_idx"] for record in records), default=-1)
    shard["total_sequences"] = sum(record["num_sequences"] for record in records)


def _complete(manifest: Manifest, rank: int, at: str) -> None:
    shard = shard_of(manifest, rank)
    shard["status"], shard["completed_at"] = "complete", at


def _failed(manifest: Manifest, rank: int, error: str, at: str) -> None:
    shard = shard_of(manifest, rank)
    if shard.get("failed_at") == at:
        return  # it is counted
    shard["status"], shard["failed_at"], shard["error"] = "failed", at, error
    shard["retry_count"] += 1


def _reassigned(manifest: Manifest, rank: int, to: int) -> None:
    shard_of(manifest, rank)["assigned_rank"] = to


def _global_checkpoint(manifest: Manifest, checkpoint_id: str, batch_boundaries: dict[str, int], at: str) -> None:
    point = {"checkpoint_id": checkpoint_id, "timestamp": at, "batch_boundaries": batch_boundaries}
    if point not in manifest["global_checkpoints"]:
        manifest["global_checkpoints"].append(point)


def _cleaned(manifest: Manifest, rank: int, batches: list[int]) -> None:
    for record in shard_of(manifest, rank)["checkpoints"]:
        if record["batch_idx"] in batches:
            record["removed"] = True


#: By the name under which a change is handed on.
CHANGES: dict[str, Callable[..., None]] = {
    "metadata": _metadata,
    "checkpoint": _checkpoint,
    "reconcile": _reconcile,
    "complete": _complete,
    "failed": _failed,
    "reassigned": _reassigned,
    "global_checkpoint": _global_checkpoint,
    "cleaned": _cleaned,
}
