"""A disk that some processes have for themselves: full for them, seen by nobody else, and readable afterwards."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftharness.process.small_disk import READY, enter_argv, hold_argv, seen_by


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """One that holds a disk of 1 MiB over ``tmp_path``."""
    process = subprocess.Popen(hold_argv(tmp_path, 1), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    if said != READY:
        process.wait()
        process.stdout.close()
        pytest.skip(f"{said}: runs where namespaces of users, or CAP_SYS_ADMIN, are allowed")
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()
    process.stdout.close()


def inside(holder: subprocess.Popen[str], program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    argv = [*enter_argv(holder.pid), sys.executable, "-c", program]
    return subprocess.run(argv, cwd=folder, check=False, capture_output=True, text=True)


WRITES = (
    "import os, pathlib\ntry:\n pathlib.Path('data').write_bytes(bytes(2 << 20))\nexcept OSError as e:\n print(e.errno)"
)


def test_who_is_inside_meets_its_end(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    """2 MiB do not fit; who is outside does not even see them."""
    ended = inside(holder, WRITES, tmp_path)
    assert ended.stdout.strip() == str(errno.ENOSPC), ended.stderr
    assert not any(tmp_path.iterdir())
    seen = seen_by(holder.pid, tmp_path)
    assert (seen / "data").stat().st_size == 1 << 20
    assert os.statvfs(seen).f_bavail == 0


def test_what_was_on_it_is_kept(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    """In the folder below, when the holder is told to end."""
    inside(holder, "import pathlib; pathlib.Path('a').mkdir(); pathlib.Path('a/b').write_text('kept')", tmp_path)
    assert not any(tmp_path.iterdir())
    holder.send_signal(signal.SIGTERM)
    assert holder.wait() == 0
    assert (tmp_path / "a" / "b").read_text() == "kept"


def test_it_ends_with_its_holder(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    """Nothing stays mounted, and nobody can come in any more."""
    holder.kill()
    holder.wait()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    ended = inside(holder, "print('inside')", tmp_path)
    assert ended.returncode != 0
    assert "inside" not in ended.stdout
