"""A disk that is full, or fails, from a certain operation on or at that one only."""

import errno
import os
from collections.abc import Callable
from typing import Any

from ftharness.checkpoint.storage import Storage

#: What can fail on a disk that is full.
NEEDS_ROOM = frozenset({"create", "open_to_append", "write", "write_at", "fsync", "fdatasync", "rename", "mkdir"})
#: What can fail on one that is broken.
TOUCHES = NEEDS_ROOM | {"open", "open_to_update", "open_folder", "truncate", "unlink", "read", "names"}


class FailingDisk(Storage):
    """A disk of which an operation fails.

    Args:
        disk: The disk.
        at: Which operation of those that can, counted from 0.
        error: ``errno.ENOSPC``, which fails those that need room, or ``errno.EIO``, which fails any.
        for_good: All later ones as well, as on a disk that stays full or broken.
        partly: Of a write that fails, half has been done before.

    Attributes:
        asked: The operations that could have failed.
    """

    def __init__(self, disk: Storage, at: int, error: int, *, for_good: bool = False, partly: bool = False) -> None:
        self._disk = disk
        self._at = at
        self._error = error
        self._for_good = for_good
        self._partly = partly
        self._can = NEEDS_ROOM if error == errno.ENOSPC else TOUCHES
        self.asked: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name == "asked":
            return object.__getattribute__(self, name)
        real = getattr(self._disk, name)
        return _Failing(self, name, real) if name in self._can else real

    def _fails(self, name: str) -> bool:
        place = len(self.asked)
        self.asked.append(name)
        return place >= self._at if self._for_good else place == self._at


class _Failing:
    """An operation that may fail."""

    def __init__(self, disk: FailingDisk, name: str, real: Callable[..., Any]) -> None:
        self._disk = disk
        self._name = name
        self._real = real

    def __call__(self, *arguments: Any) -> Any:
        if not self._disk._fails(self._name):  # noqa: SLF001 - a part of it
            return self._real(*arguments)
        if self._name in ("write", "write_at") and self._disk._partly:  # noqa: SLF001
            fd, data, *where = arguments
            self._real(fd, data[: len(data) // 2], *where)
        raise OSError(self._disk._error, os.strerror(self._disk._error))  # noqa: SLF001
