"""The manifest's lock: processes that are forked while it is held, and ranks that begin one manifest together."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ftharness.checkpoint import CheckpointManifest
from ftharness.checkpoint.manifest_changes import CHANGES, new_manifest
from ftharness.checkpoint.storage import Storage

_FORKS = """
import os, sys
from pathlib import Path
from ftharness.checkpoint import CheckpointManifest
manifest = CheckpointManifest(Path(sys.argv[1]))
with manifest._file._locked(None):
    child = os.fork()
    if child == 0:
        sys.stdin.readline()
        os._exit(0)
print("let go", flush=True)
os.waitpid(child, 0)
"""


def test_a_forked_child_does_not_keep_it(tmp_path: Path) -> None:
    """It has the open file, and lives on: the lock is let go all the same."""
    manifest = CheckpointManifest(tmp_path / "manifest.json")
    manifest.initialize(1)
    argv = [sys.executable, "-c", _FORKS, str(manifest.manifest_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "let go\n"
        file = manifest._file
        fd = file._storage.open_to_append(file._lock_path)
        assert file._storage.lock_at_once(fd)
        file._storage.close(fd)
        process.communicate("end\n", timeout=30)
    assert process.returncode == 0


def test_whoever_initializes_it_again_wipes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each rank of a run may; one of another run begins anew and says so, as does one that asks for it."""
    manifest = CheckpointManifest(tmp_path / "manifest.json")
    manifest.initialize(2, "input", "model")
    manifest.mark_shard_complete(1)
    for again in (("input", "model"), ("", "")):  # what is not said is not held against it
        assert manifest.initialize(2, *again)["shards"]["1"]["status"] == "complete"
        assert manifest.get_completed_shards() == [1]
    assert not caplog.records
    for other in ((3, "input", "model"), (3, "other", "model"), (3, "other", "other"), (1, "other", "other")):
        assert manifest.initialize(*other)["shards"]["0"]["status"] == "in_progress"
        assert manifest.get_completed_shards() == []
        manifest.mark_shard_complete(0)
    assert [record.message for record in caplog.records] == [
        f"{manifest.manifest_path} is begun anew; what it held is of another run: {what}"
        for what in (
            "world_size is 2 there and 3 here",
            "input_fingerprint is 'input' there and 'other' here",
            "model_config_hash is 'model' there and 'other' here",
            "world_size is 3 there and 1 here",
        )
    ]
    assert manifest.get_completed_shards() == [0]
    manifest.initialize(1, "other", "other", anew=True)
    assert manifest.get_completed_shards() == []


class Syncs(Storage):
    """A disk that notes what is synced."""

    def __init__(self) -> None:
        self.synced: list[str] = []

    def fsync(self, fd: int) -> None:
        self.synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        super().fsync(fd)


def test_one_that_is_kept_is_on_the_disk(tmp_path: Path) -> None:
    """Whoever made it may have been killed before its last sync: who finds it makes sure, file and name."""
    path = tmp_path / "manifest.json"
    CheckpointManifest(path).initialize(1)
    disk = Syncs()
    CheckpointManifest(path, storage=disk).initialize(1)
    assert disk.synced[-2:] == [str(path), str(tmp_path)]


def test_one_that_nobody_can_read_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is left that could be kept, which is said."""
    manifest = CheckpointManifest(tmp_path / "manifest.json")
    manifest.manifest_path.write_text("{")
    manifest.initialize(1)
    assert manifest.get_incomplete_shard_ranks() == [0]
    assert "no slot beside it is whole" in caplog.text


def test_ranks_that_initialize_together(tmp_path: Path) -> None:
    """One that comes while another has the lock finds that one's manifest, and keeps what was recorded in it meanwhile."""
    manifest = CheckpointManifest(tmp_path / "manifest.json")
    late = threading.Thread(target=CheckpointManifest(manifest.manifest_path).initialize, args=(2,))
    with manifest._file._locked(None):
        assert not manifest.exists()
        late.start()  # it waits for the lock, whatever it has looked at until now
        late.join(0.05)
        assert late.is_alive()
        new = new_manifest(2, "", "")
        CHANGES["complete"](new, rank=1, at="now")
        manifest._file._write(new)
    late.join(30)
    assert manifest.get_completed_shards() == [1]
