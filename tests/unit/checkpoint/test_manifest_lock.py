"""The manifest's lock, and processes that are forked while it is held."""

import subprocess
import sys
from pathlib import Path

from ftharness.checkpoint import CheckpointManifest

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
