"""Where environments lie: a folder each, a lock beside it, and in it a marker that says that it is complete.

A venv cannot be built beside its place and moved there, for its scripts hold its path. So it is built in place under
the lock, and the marker is written last.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_MARKER = ".complete"


def cache_folder() -> Path:
    """``$FTHARNESS_CACHE``, or ``$XDG_CACHE_HOME/ftharness``, or ``~/.cache/ftharness``."""
    if own := os.environ.get("FTHARNESS_CACHE"):
        return Path(own).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache").absolute() / "ftharness"


def environments_folder() -> Path:
    """Where each environment has its own."""
    return cache_folder() / "sut"


def interpreter_of(folder: Path) -> Path:
    """The Python of an environment."""
    return folder / "bin" / "python"


def mark_complete(folder: Path, spec: str) -> None:
    """Nothing is written in it after this."""
    (folder / _MARKER).write_text(f"{spec}\n", encoding="utf-8")


def is_complete(folder: Path) -> bool:
    """Whether it was made to its end, and can still be run."""
    # Its interpreter is a link to the one it was made with, which may have been removed since.
    return (folder / _MARKER).is_file() and interpreter_of(folder).exists()


def complete_folders() -> list[Path]:
    """All that are complete."""
    return [marker.parent for marker in environments_folder().glob(f"*/{_MARKER}") if is_complete(marker.parent)]


@contextmanager
def locked(path: Path, say: Callable[[str], None]) -> Iterator[int]:
    """One at a time; gives the lock's descriptor."""
    lock = _lock(path, say)
    while not _is_at(path, lock):  # whoever had it has unlinked it: it would exclude nobody
        os.close(lock)
        lock = _lock(path, say)
    try:
        yield lock
    finally:
        os.close(lock)


def _lock(path: Path, say: Callable[[str], None]) -> int:
    lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another process that has {path}")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
