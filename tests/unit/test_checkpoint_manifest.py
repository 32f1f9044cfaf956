"""The manifest of a run: on the disk after each call, whoever else changes it at the same time, whoever is killed."""

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ftharness.checkpoint import CheckpointManifest, ManifestCorruptedError, ManifestWriteError
from ftharness.checkpoint.storage import Storage

# Records a number of checkpoints, all at once with the others that wait for the same line of input.
_UPDATER = """
import sys
from pathlib import Path
from ftharness.checkpoint import CheckpointManifest
folder, rank, first, count = Path(sys.argv[1]), *map(int, sys.argv[2:])
manifest = CheckpointManifest(folder / "manifest.json")
print("ready", flush=True)
sys.stdin.readline()
for batch in range(first, first + count):
    manifest.update_shard_checkpoint(rank, batch, 10, f"batch_{batch:05d}.pt")
"""


def manifest_of(folder: Path, world_size: int = 4, batches: int = 0) -> CheckpointManifest:
    """A new one; each shard has that many files, which it does not know of yet."""
    manifest = CheckpointManifest(folder / "manifest.json")
    manifest.initialize(world_size)
    for rank in range(world_size):
        (folder / f"shard_{rank}").mkdir()
        for batch in range(batches):
            (folder / f"shard_{rank}" / f"batch_{batch:05d}.pt").touch()
    return manifest


def on_disk(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def update_together(folder: Path, *what: tuple[int, int, int]) -> None:
    """A process for each (rank, first batch, how many); they begin at the same time."""
    with contextlib.ExitStack() as stack:
        processes = []
        for numbers in what:
            argv = [sys.executable, "-c", _UPDATER, str(folder), *map(str, numbers)]
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(process.kill)
            processes.append(stack.enter_context(process))
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.wait(60) for process in processes] == [0] * len(what)


class TestManifestBasicOperations:
    def test_manifest_initialize_creates_json(self, tmp_path: Path) -> None:
        """Version 2.0, a shard for each rank that has done nothing; the folder is made; a second one replaces it."""
        manifest = CheckpointManifest(tmp_path / "run" / "manifest.json")
        returned = manifest.initialize(world_size=4, input_fingerprint="abc123", model_config_hash="def456")
        data = on_disk(tmp_path / "run")
        assert data == returned
        assert {key: data[key] for key in ("version", "world_size", "input_fingerprint", "model_config_hash")} == {
            "version": "2.0",
            "world_size": 4,
            "input_fingerprint": "abc123",
            "model_config_hash": "def456",
        }
        assert data["shards"] == {
            str(rank): {
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
            for rank in range(4)
        }
        manifest.mark_shard_complete(0)
        manifest.initialize(1)
        assert on_disk(tmp_path / "run")["world_size"] == 1
        assert manifest.get_global_progress()["total_shards"] == 1  # nothing of the old one is taken for newer
        with pytest.raises(ValueError, match="world_size is 0"):
            manifest.initialize(0)

    def test_manifest_update_shard_checkpoint(self, tmp_path: Path) -> None:
        """Recorded with its file, which has to be there and in the shard's folder; a rank that is none is refused."""
        manifest = manifest_of(tmp_path, batches=6)
        manifest.update_shard_checkpoint(0, 5, 100, "batch_00005.pt", "seq_0-seq_99")
        shard = on_disk(tmp_path)["shards"]["0"]
        assert (shard["last_checkpoint_batch"], shard["total_sequences"]) == (5, 100)
        (record,) = shard["checkpoints"]
        assert record.pop("timestamp") == shard["last_checkpoint_time"]
        assert record == {
            "batch_idx": 5,
            "num_sequences": 100,
            "file": "batch_00005.pt",
            "sequence_range": "seq_0-seq_99",
        }
        before = (tmp_path / "manifest.json").read_bytes()
        (tmp_path / "elsewhere").touch()
        (tmp_path / "shard_0" / "link.pt").symlink_to(tmp_path / "elsewhere")
        for name in ("../elsewhere", "/etc/passwd", "..", "", "a/../batch_00000.pt", "..\\elsewhere", "link.pt"):
            with pytest.raises(ValueError, match=r"no name of a file|out of"):
                manifest.update_shard_checkpoint(0, 6, 1, name)
        with pytest.raises(FileNotFoundError, match=r"batch_00006\.pt is not there"):
            manifest.update_shard_checkpoint(0, 6, 1, "batch_00006.pt")
        with pytest.raises(ValueError, match="there is no shard 7; the manifest has 0, 1, 2, 3"):
            manifest.mark_shard_complete(7)
        assert (tmp_path / "manifest.json").read_bytes() == before

    def test_manifest_mark_shard_complete(self, tmp_path: Path) -> None:
        """With the time; then it can be archived, below its own folder, and its checkpoints be cleaned up."""
        manifest = manifest_of(tmp_path, world_size=1, batches=3)
        for batch in range(3):
            (tmp_path / "shard_0" / f"batch_{batch:05d}.pt.done").touch()
            manifest.update_shard_checkpoint(0, batch, 1, f"batch_{batch:05d}.pt")
        with pytest.raises(ValueError, match=r"the shards \[0\] are not complete"):
            manifest.archive_manifest(tmp_path / "archive")
        manifest.cleanup_checkpoints()
        assert len(list((tmp_path / "shard_0").iterdir())) == 6
        manifest.mark_shard_complete(0)
        shard = on_disk(tmp_path)["shards"]["0"]
        assert shard["status"] == "complete"
        assert shard["completed_at"] > shard["last_checkpoint_time"]
        with pytest.raises(ValueError, match="is not below"):
            manifest.archive_manifest(tmp_path / ".." / "archive")
        manifest.archive_manifest(tmp_path / "archive")
        assert json.loads((tmp_path / "archive" / "manifest_final.json").read_text()) == on_disk(tmp_path)
        manifest.cleanup_checkpoints()
        assert sorted(path.name for path in (tmp_path / "shard_0").iterdir()) == [
            "batch_00002.pt",
            "batch_00002.pt.done",
        ]
        manifest.cleanup_checkpoints(keep_final_only=False)
        assert not list((tmp_path / "shard_0").iterdir())
        assert len(on_disk(tmp_path)["shards"]["0"]["checkpoints"]) == 3

    def test_manifest_mark_shard_failed(self, tmp_path: Path) -> None:
        """With the error, and counted; after three it is an orphan, until it is worked on again."""
        manifest = manifest_of(tmp_path, batches=1)
        for count in range(1, 4):
            assert manifest.get_orphaned_shards() == []
            manifest.mark_shard_failed(1, "CUDA out of memory")
            shard = on_disk(tmp_path)["shards"]["1"]
            assert (shard["status"], shard["error"], shard["retry_count"]) == ("failed", "CUDA out of memory", count)
        assert manifest.get_orphaned_shards() == [1]
        manifest.update_shard_checkpoint(1, 0, 1, "batch_00000.pt")
        assert on_disk(tmp_path)["shards"]["1"]["status"] == "in_progress"

    def test_manifest_get_resumable_shards(self, tmp_path: Path) -> None:
        """Those in progress and those that failed; and where each goes on."""
        manifest = manifest_of(tmp_path, batches=2)
        manifest.mark_shard_complete(0)
        manifest.mark_shard_failed(2, "error")
        manifest.update_shard_checkpoint(3, 1, 20, "batch_00001.pt")
        assert manifest.get_resumable_shards() == manifest.get_incomplete_shard_ranks() == [1, 2, 3]
        info = manifest.get_resume_info(3)
        assert info.pop("last_checkpoint_time") is not None
        assert info == {
            "rank": 3,
            "resume_from_batch": 2,
            "last_completed_batch": 1,
            "total_sequences_completed": 20,
            "status": "in_progress",
            "assigned_rank": 3,
            "retry_count": 0,
        }
        assert manifest.get_resume_info(9) == {"rank": 9, "status": "unknown"}
        assert manifest.get_shard_status(9) is None

    def test_manifest_get_completed_shards(self, tmp_path: Path) -> None:
        """Those that are; and a run of another input or model is told apart."""
        manifest = manifest_of(tmp_path)
        manifest.mark_shard_complete(2)
        manifest.mark_shard_complete(0)
        assert manifest.get_completed_shards() == [0, 2]
        assert manifest.validate_run_compatibility("any", "any") == (True, [])
        manifest.set_global_metadata("input", "model")
        assert manifest.validate_run_compatibility("input", "model") == (True, [])
        ok, warnings = manifest.validate_run_compatibility("other", "another")
        assert (ok, len(warnings)) == (False, 2)

    def test_manifest_get_global_progress(self, tmp_path: Path) -> None:
        """Counted by state, with what is done and what is stale; and the last point that all have reached."""
        manifest = manifest_of(tmp_path, batches=1)
        manifest.mark_shard_complete(0)
        manifest.mark_shard_failed(1, "error")
        manifest.update_shard_checkpoint(2, 0, 40, "batch_00000.pt")
        progress = manifest.get_global_progress()
        assert (progress["total_shards"], progress["completed"], progress["in_progress"], progress["failed"]) == (
            4,
            1,
            2,
            1,
        )
        assert (progress["total_sequences_checkpointed"], progress["stale_shards"]) == (40, [])
        assert manifest.is_shard_stale(2, threshold_sec=0)
        assert not any(manifest.is_shard_stale(rank, threshold_sec=0) for rank in (0, 1, 3, 9))
        assert manifest.get_latest_global_checkpoint() is None
        for batch in (1, 2):
            manifest.record_global_checkpoint(f"point {batch}", {0: batch, 1: batch})
        latest = manifest.get_latest_global_checkpoint()
        assert latest is not None
        assert (latest["checkpoint_id"], latest["batch_boundaries"]) == ("point 2", {"0": 2, "1": 2})

    def test_manifest_atomic_write_no_temp_remains(self, tmp_path: Path) -> None:
        """A full disk changes nothing, and says so; a damaged manifest is read from its slots; without them it is an error."""
        manifest = manifest_of(tmp_path, world_size=2)
        manifest.mark_shard_complete(0)
        before = (tmp_path / "manifest.json").read_bytes()
        with pytest.raises(ManifestWriteError, match=r"is not committed: No space left on device"):
            CheckpointManifest(tmp_path / "manifest.json", storage=Full()).mark_shard_complete(1)
        assert (tmp_path / "manifest.json").read_bytes() == before
        assert not list(tmp_path.glob("*.tmp"))
        (tmp_path / "manifest.json").write_bytes(before[:-20])
        assert manifest.get_completed_shards() == [0]  # nothing is lost
        manifest.mark_shard_complete(1)
        assert on_disk(tmp_path)["shards"]["1"]["status"] == "complete"
        for name in ("json", "slot0", "slot1"):
            assert manifest.get_completed_shards() == [0, 1] or name == "slot1"
            (tmp_path / f"manifest.{name}").write_text("[]")
        with pytest.raises(ManifestCorruptedError) as raised:
            manifest.mark_shard_complete(1)
        assert raised.value.manifest_path == tmp_path / "manifest.json"

    def test_manifest_exists_false_before_init(self, tmp_path: Path) -> None:
        """Then nothing can be asked of it, or changed in it, and nothing is made."""
        manifest = CheckpointManifest(tmp_path / "manifest.json")
        assert not manifest.exists()
        with pytest.raises(FileNotFoundError):
            manifest.get_global_progress()
        with pytest.raises(FileNotFoundError, match=r"initialize\(\) makes one"):
            manifest.mark_shard_complete(0)
        assert not list(tmp_path.iterdir())
        manifest.initialize(world_size=2)
        assert manifest.exists()
        old = {"version": "1.0", "world_size": 1, "created_at": "", "shards": on_disk(tmp_path)["shards"]}
        (tmp_path / "manifest.json").write_text(json.dumps(old))
        manifest.mark_shard_complete(0)
        assert on_disk(tmp_path)["version"] == "2.0"

    def test_manifest_cumulative_sequence_count(self, tmp_path: Path) -> None:
        """All batches together; the same batch twice counts once, as it was the last time; what the files say decides."""
        manifest = manifest_of(tmp_path, world_size=1, batches=3)
        manifest.update_shard_checkpoint(0, 0, 50, "batch_00000.pt")
        manifest.update_shard_checkpoint(0, 1, 75, "batch_00001.pt")
        assert on_disk(tmp_path)["shards"]["0"]["total_sequences"] == 125
        manifest.update_shard_checkpoint(0, 1, 60, "batch_00001.pt")
        shard = on_disk(tmp_path)["shards"]["0"]
        assert (shard["total_sequences"], len(shard["checkpoints"])) == (110, 2)
        manifest.mark_shard_complete(0)
        manifest.reconcile_shard(0, [(0, 50, "batch_00000.pt"), (1, 60, "batch_00001.pt")])
        assert manifest.get_completed_shards() == [0]
        manifest.reconcile_shard(0, [(0, 50, "batch_00000.pt")])
        assert manifest.get_resumable_shards() == [0]
        shard = on_disk(tmp_path)["shards"]["0"]
        assert (shard["total_sequences"], shard["last_checkpoint_batch"]) == (50, 0)
        manifest.reconcile_shard(0, [(n, 50, f"batch_{n:05d}.pt") for n in range(3)])
        assert on_disk(tmp_path)["shards"]["0"]["total_sequences"] == 150


class TestManifestConcurrency:
    def test_manifest_concurrent_updates_no_corruption(self, tmp_path: Path) -> None:
        """Four processes with fifty updates each: two hundred records, in order."""
        manifest_of(tmp_path, batches=50)
        update_together(tmp_path, *((rank, 0, 50) for rank in range(4)))
        shards = on_disk(tmp_path)["shards"].values()
        for shard in shards:
            assert [record["batch_idx"] for record in shard["checkpoints"]] == list(range(50))
            assert shard["total_sequences"] == 500
        times = [[record["timestamp"] for record in shard["checkpoints"]] for shard in shards]
        assert max(first for first, *_ in times) < min(last for *_, last in times)  # it was at the same time

    def test_manifest_concurrent_same_shard_updates(self, tmp_path: Path) -> None:
        """Two processes with twenty-five each, of one shard: fifty records, five hundred sequences."""
        manifest_of(tmp_path, world_size=1, batches=50)
        update_together(tmp_path, (0, 0, 25), (0, 25, 25))
        shard = on_disk(tmp_path)["shards"]["0"]
        assert [record["batch_idx"] for record in shard["checkpoints"]] == list(range(50))
        assert shard["total_sequences"] == 500

    def test_manifest_file_lock_prevents_corruption(self, tmp_path: Path) -> None:
        """Whoever changes it waits for the lock; it is on a file that is there for good, and gone with whoever had it.

        What was waited for is written down meanwhile; somebody else makes it, once, and the one who waited finds it made.
        """
        manifest = manifest_of(tmp_path)
        lock = tmp_path / "manifest.lock"
        inode = lock.stat().st_ino
        with lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            waiting = [threading.Thread(target=manifest.mark_shard_failed, args=(rank, "error")) for rank in (0, 1)]
            for thread in waiting:
                thread.start()
            _wait_for_blocked(inode, 2)
            assert on_disk(tmp_path)["shards"]["0"]["retry_count"] == 0
            assert len((tmp_path / "manifest.pending").read_bytes().splitlines()) == 2
        for thread in waiting:
            thread.join(30)
        data = on_disk(tmp_path)
        assert [data["shards"][str(rank)]["retry_count"] for rank in range(4)] == [1, 1, 0, 0]
        assert len(data["made_for_others"]) == 1
        assert lock.stat().st_ino == inode


class TestManifestRedistribution:
    def test_manifest_record_redistribution(self, tmp_path: Path) -> None:
        """Another worker has it; whose it was stays."""
        manifest = manifest_of(tmp_path)
        manifest.reassign_shard(shard_rank=2, new_assigned_rank=0)
        shard = on_disk(tmp_path)["shards"]["2"]
        assert (shard["original_rank"], shard["assigned_rank"]) == (2, 0)

    def test_manifest_get_redistributed_shards(self, tmp_path: Path) -> None:
        """Several, and the others keep their own."""
        manifest = manifest_of(tmp_path)
        manifest.reassign_shard(2, 0)
        manifest.reassign_shard(3, 1)
        shards = on_disk(tmp_path)["shards"].values()
        assert {shard["original_rank"]: shard["assigned_rank"] for shard in shards} == {0: 0, 1: 1, 2: 0, 3: 1}


class Full(Storage):
    """A disk that takes no more bytes."""

    def write(self, fd: int, data: memoryview) -> int:  # noqa: ARG002 - as the seam has it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _wait_for_blocked(inode: int, count: int) -> None:
    """Until so many wait for the flock of a file, as the kernel says."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        if sum(fields[1] == "->" and fields[-3].endswith(f":{inode}") for fields in lines) >= count:
            return
        time.sleep(0.005)
    pytest.fail(f"not {count} wait for the lock")
