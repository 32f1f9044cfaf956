"""An engine's output on disk, bounded: the file that is written, and the one before it.

Standard library only: the shim writes it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

_TAIL_BYTES = 16 * 1024


class ShimLog:
    """Writes output as it comes. When a file has its share, it becomes the older one, in the place of that.

    A disk that takes nothing is said once; each later piece is tried again, and it is said again when that has failed after
    one that went well.

    Args:
        path: The file; the older one is beside it, with ``.1`` behind its name. Only the owner may read them: an engine
            prints what it wants, also secrets.
        limit: Bytes for both files.
        unkept: Gets the reason.
    """

    def __init__(self, path: str, limit: int, unkept: Callable[[str], None]) -> None:
        self._path = path
        self._share = max(1, limit // 2)
        self._unkept = unkept
        self._fd = -1
        self._size = 0
        self._fails = False
        self._last: deque[bytes] = deque()
        self._last_bytes = 0

    def write(self, data: bytes) -> None:
        """Keep one piece."""
        self._last.append(data)
        self._last_bytes += len(data)
        while self._last_bytes - len(self._last[0]) >= _TAIL_BYTES:
            self._last_bytes -= len(self._last.popleft())
        try:
            self._keep(memoryview(data))
        except OSError as error:
            if not self._fails:
                self._unkept(f"{self._path}: {error.strerror}")
            self._fails = True
        else:
            self._fails = False

    def tail(self) -> bytes:
        """The last of it, some 16 KiB."""
        return b"".join(self._last)[-_TAIL_BYTES:]

    def _keep(self, view: memoryview) -> None:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._size = os.fstat(self._fd).st_size
        if self._size and self._size + len(view) > self._share:
            os.replace(self._path, self._path + ".1")  # noqa: PTH105 - pathlib costs the shim its start
            os.close(self._fd)
            self._fd = -1
            self._keep(view)
            return
        while view:
            written = os.write(self._fd, view)
            self._size += written
            view = view[written:]
