"""The manifest: what each shard of a run has done, for whoever starts, watches and resumes it."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ftharness.checkpoint.commit import commit, make_folder
from ftharness.checkpoint.manifest_changes import new_manifest, now
from ftharness.checkpoint.manifest_file import ManifestFile
from ftharness.checkpoint.shard import remove, shard_folder
from ftharness.checkpoint.storage import DISK, Storage

_log = logging.getLogger("ftharness.checkpoint")

_FINAL = "manifest_final.json"


class CheckpointManifest:
    """The manifest of a run, in one JSON file that any number of processes may change at the same time.

    After each call it is on the disk as the call says. A process that is killed at any moment loses none that returned, and
    leaves a file that is whole. Objects of this class keep nothing: they may come and go, in any process.

    Args:
        manifest_path: The file; the folders ``shard_<rank>`` lie beside it.
        staleness_threshold_sec: Seconds after its last checkpoint from which a shard in progress counts as stale.
        storage: The disk.

    Every method but :meth:`exists` and :meth:`initialize` raises :class:`FileNotFoundError` where there is no manifest, and
    :class:`~ftharness.checkpoint.errors.ManifestCorruptedError` where no copy can be read. Those that change it raise
    :class:`~ftharness.checkpoint.errors.ManifestWriteError` where the disk does not take the change, and :class:`ValueError`
    for a shard that it does not have.
    """

    #: Failures after which a shard is left to others.
    MAX_ORPHANED_RETRIES = 3

    def __init__(self, manifest_path: Path, staleness_threshold_sec: float = 600, *, storage: Storage = DISK) -> None:
        self.manifest_path = Path(manifest_path)
        self.staleness_threshold_sec = staleness_threshold_sec
        self._storage = storage
        self._file = ManifestFile(self.manifest_path, storage)

    def exists(self) -> bool:
        """Whether there is one."""
        return self._storage.exists(self.manifest_path)

    def initialize(
        self, world_size: int, input_fingerprint: str = "", model_config_hash: str = "", *, anew: bool = False
    ) -> dict[str, Any]:
        """See that there is one of this run: a new one, of shards that have done nothing yet, where there is none.

        Every process of a run may call it, at the same time: the first makes it, and the others keep it, with all that is
        recorded. One of another run, or that nobody can read, is replaced, with a warning; which checkpoints there are, files
        tell and not it.

        Args:
            world_size: Shards.
            input_fingerprint: Tells one input from another; "": not compared.
            model_config_hash: The same of the model.
            anew: Replace one of this run as well.

        Returns:
            What it holds.

        Raises:
            ValueError: There would be no shard.
            ManifestWriteError: The disk does not take it.
        """
        if world_size < 1:
            raise ValueError(f"world_size is {world_size}; at least one shard is needed")
        return self._file.begin(new_manifest(world_size, input_fingerprint, model_config_hash), anew=anew)

    def set_global_metadata(self, input_fingerprint: str, model_config_hash: str) -> None:
        """What the run computes, and with what."""
        self._file.change("metadata", input_fingerprint=input_fingerprint, model_config_hash=model_config_hash)

    def validate_run_compatibility(self, input_fingerprint: str, model_config_hash: str) -> tuple[bool, list[str]]:
        """Whether its checkpoints fit a run of that input and model, and why not, a sentence each."""
        manifest = self._file.read()
        warnings = [
            f"{name} mismatch: the manifest has {then}, this run {current}"
            for name, then, current in (
                ("Input fingerprint", manifest["input_fingerprint"], input_fingerprint),
                ("Model config hash", manifest["model_config_hash"], model_config_hash),
            )
            if then and then != current
        ]
        return not warnings, warnings

    def update_shard_checkpoint(
        self, rank: int, batch_idx: int, num_sequences: int, checkpoint_file: str, sequence_range: str = ""
    ) -> None:
        """A checkpoint is committed. One of the same shard and batch that was recorded before is replaced.

        Args:
            rank: The shard.
            batch_idx: The batch.
            num_sequences: How many are in it.
            checkpoint_file: Its name in the shard's folder.
            sequence_range: Which they are, for people.

        Raises:
            ValueError: The name leads out of the shard's folder.
            FileNotFoundError: There is no such file, or no manifest.
        """
        folder = shard_folder(self.manifest_path.parent, rank)
        path = folder / checkpoint_file
        if not checkpoint_file or path.parent != folder or "\\" in checkpoint_file or checkpoint_file in (".", ".."):
            raise ValueError(f"{checkpoint_file!r} is no name of a file in {folder}")
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path} leads to {path.resolve()}, out of {folder}")
        if not self._storage.exists(path):
            raise FileNotFoundError(f"{path} is not there, so it cannot be recorded as a checkpoint")
        self._file.change(
            "checkpoint",
            rank=rank,
            batch_idx=batch_idx,
            num_sequences=num_sequences,
            file=checkpoint_file,
            sequence_range=sequence_range,
            at=now(),
        )

    def reconcile_shard(self, rank: int, held: list[tuple[int, int, str]]) -> None:
        """The files of a shard were read: these are its checkpoints, as ``(batch_idx, num_sequences, file)``.

        What is recorded and not among them is dropped; what is not recorded, as after a crash between a checkpoint and its
        record, is added. Of a shard whose checkpoints were cleaned up nothing is changed.
        """
        shard = self.get_shard_status(rank)
        if shard is None or any(record.get("removed") for record in shard["checkpoints"]):
            return
        recorded = [(one["batch_idx"], one["num_sequences"], one["file"]) for one in shard["checkpoints"]]
        if recorded != held:
            _log.warning("shard %d: the manifest has %d checkpoints, the disk %d", rank, len(recorded), len(held))
            self._file.change("reconcile", rank=rank, held=held, at=now())

    def mark_shard_complete(self, rank: int) -> None:
        """All of it is done."""
        self._file.change("complete", rank=rank, at=now())

    def mark_shard_failed(self, rank: int, error: str) -> None:
        """Its worker gave up; counts as one more try."""
        self._file.change("failed", rank=rank, error=error, at=now())

    def get_shard_status(self, rank: int) -> dict[str, Any] | None:
        """All that is recorded of a shard; None where there is none of that rank."""
        found: dict[str, Any] | None = self._shards().get(rank)
        return found

    def get_incomplete_shard_ranks(self) -> list[int]:
        """The shards that are not complete."""
        return [rank for rank, shard in self._shards().items() if shard["status"] != "complete"]

    def get_resumable_shards(self) -> list[int]:
        """The same."""
        return self.get_incomplete_shard_ranks()

    def get_completed_shards(self) -> list[int]:
        """The shards that are complete."""
        return [rank for rank, shard in self._shards().items() if shard["status"] == "complete"]

    def get_resume_info(self, rank: int) -> dict[str, Any]:
        """Where a shard can go on; ``{"rank": …, "status": "unknown"}`` where there is none of that rank."""
        shard = self.get_shard_status(rank)
        if shard is None:
            return {"rank": rank, "status": "unknown"}
        return {
            "rank": rank,
            "resume_from_batch": shard["last_checkpoint_batch"] + 1,
            "last_completed_batch": shard["last_checkpoint_batch"],
            "total_sequences_completed": shard["total_sequences"],
            "status": shard["status"],
            "assigned_rank": shard["assigned_rank"],
            "retry_count": shard["retry_count"],
            "last_checkpoint_time": shard["last_checkpoint_time"],
        }

    def get_global_progress(self) -> dict[str, Any]:
        """All shards together: how many there are, completed, in progress, failed; which are stale; sequences done."""
        manifest = self._file.read()
        shards = _by_rank(manifest)
        states = [shard["status"] for shard in shards.values()]
        return {
            "total_shards": manifest["world_size"],
            "completed": states.count("complete"),
            "in_progress": states.count("in_progress"),
            "failed": states.count("failed"),
            "total_sequences_checkpointed": sum(shard["total_sequences"] for shard in shards.values()),
            "stale_shards": [rank for rank, shard in shards.items() if _stale(shard, self.staleness_threshold_sec)],
            "input_fingerprint": manifest["input_fingerprint"],
            "model_config_hash": manifest["model_config_hash"],
        }

    def is_shard_stale(self, rank: int, threshold_sec: float | None = None) -> bool:
        """Whether a shard in progress has written no checkpoint for longer than that many seconds.

        One that has never written any is not stale: it may be starting.
        """
        shard = self.get_shard_status(rank)
        return shard is not None and _stale(
            shard, self.staleness_threshold_sec if threshold_sec is None else threshold_sec
        )

    def reassign_shard(self, shard_rank: int, new_assigned_rank: int) -> None:
        """Another worker does a shard from now on; whose it was first stays recorded."""
        self._file.change("reassigned", rank=shard_rank, to=new_assigned_rank)

    def get_orphaned_shards(self) -> list[int]:
        """The shards that have failed for good: other workers may take them."""
        return [
            rank
            for rank, shard in self._shards().items()
            if shard["status"] == "failed" and shard["retry_count"] >= self.MAX_ORPHANED_RETRIES
        ]

    def record_global_checkpoint(self, checkpoint_id: str, batch_boundaries: Mapping[int, int]) -> None:
        """All shards together reached a point: the batch of each, by rank."""
        self._file.change(
            "global_checkpoint",
            checkpoint_id=checkpoint_id,
            batch_boundaries={str(rank): batch for rank, batch in batch_boundaries.items()},
            at=now(),
        )

    def get_latest_global_checkpoint(self) -> dict[str, Any] | None:
        """The last of these points; None where there was none."""
        points: list[dict[str, Any]] = self._file.read()["global_checkpoints"]
        return points[-1] if points else None

    def archive_manifest(self, archive_dir: Path) -> Path:
        """Copy it to ``manifest_final.json`` in a folder below its own, when all is done; returns the copy's place.

        Raises:
            ValueError: A shard is not complete, or the folder is elsewhere.
        """
        folder, below = Path(archive_dir).resolve(), self.manifest_path.parent.resolve()
        if not folder.is_relative_to(below):
            raise ValueError(f"{archive_dir} is not below {below}")
        if unfinished := self.get_incomplete_shard_ranks():
            raise ValueError(f"the shards {unfinished} are not complete; a manifest is archived when all are")
        text = msgspec.json.format(msgspec.json.encode(self._file.read()), indent=2)
        make_folder(self._storage, folder)
        commit(self._storage, folder / _FINAL, lambda stream: stream.write(text))
        return folder / _FINAL

    def cleanup_checkpoints(self, keep_final_only: bool = True) -> None:  # noqa: FBT001, FBT002 - the field's signature
        """Remove the files of complete shards' checkpoints, of each all but the last one, or all. Their records stay.

        A shard that is not complete keeps its own: it would be resumed from them.
        """
        for rank, shard in self._shards().items():
            done = shard["checkpoints"][: -1 if keep_final_only else None]
            if shard["status"] != "complete" or not done:
                continue
            self._file.change("cleaned", rank=rank, batches=[record["batch_idx"] for record in done])
            folder = shard_folder(self.manifest_path.parent, rank)
            remove(self._storage, [folder / record["file"] for record in done])

    def _shards(self) -> dict[int, dict[str, Any]]:
        return _by_rank(self._file.read())


def _by_rank(manifest: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return dict(sorted((int(rank), shard) for rank, shard in manifest["shards"].items()))


def _stale(shard: dict[str, Any], threshold_sec: float) -> bool:
    if shard["status"] != "in_progress" or shard["last_checkpoint_time"] is None:
        return False
    since = datetime.now(UTC) - datetime.fromisoformat(shard["last_checkpoint_time"])
    return since.total_seconds() > threshold_sec
