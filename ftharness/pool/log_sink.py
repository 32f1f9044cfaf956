"""Lines onto a file descriptor, without ever waiting for whoever reads them.

The manager has one event loop. A log whose reader has stopped would stop it, and with it every probe, lease and restart: a
pipe that nobody drains blocks its writer after 64 KiB. So it is asked first whether there is room, what finds none is held
back up to a bound, and beyond that it is dropped, counted and told.
"""

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable

#: Bytes of a line, at most: what a pipe that is writable takes at once (PIPE_BUF, pipe(7)).
LONGEST = 4096
_HELD_BYTES = 1 << 20


class LineSink:
    """A log's end.

    Args:
        fd: Where to; stays open.
        held_bytes: What is held back at most for a reader that lags.

    Attributes:
        dropped: Lines that are lost, so far.
    """

    def __init__(self, fd: int, *, held_bytes: int = _HELD_BYTES) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._most = held_bytes
        self._told = 0
        self.dropped = 0

    def write(self, line: bytes, on_loss: Callable[[int], bytes] | None = None) -> None:
        """Write a line, now or as soon as there is room and another one comes.

        Args:
            line: Without its end; of :data:`LONGEST` - 1 bytes at most.
            on_loss: Makes the line that says how many lines were lost, once there is room to say it.
        """
        self.flush()
        if on_loss is not None and not self._held and self.dropped > self._told:
            lost, self._told = self.dropped - self._told, self.dropped
            self._take(on_loss(lost))
        self._take(line)

    def flush(self) -> int:
        """Write what was held back, as far as there is room; how many lines went."""
        before = len(self._held)
        while self._held and self._room():
            line = self._held.popleft()
            self._held_bytes -= len(line)
            self._put(line)
        return before - len(self._held)

    def finish(self, within_s: float) -> None:
        """Write all that was held back: a reader that lags has so many seconds to take it."""
        deadline = time.monotonic() + within_s
        while self._held and (left_s := deadline - time.monotonic()) > 0:
            self._poll.poll(left_s * 1000)
            self.flush()

    def _take(self, line: bytes) -> None:
        ended = line + b"\n"
        if not self._held and self._room():
            self._put(ended)
        elif self._held_bytes + len(ended) <= self._most:
            self._held.append(ended)
            self._held_bytes += len(ended)
        else:
            self.dropped += 1

    def _room(self) -> bool:
        # A pipe without readers is an error at once, not a wait: the write says so.
        return bool(self._poll.poll(0))

    def _put(self, ended: bytes) -> None:
        # A full disk, or a reader that is gone, is no reason for engines to stop.
        written = 0
        with contextlib.suppress(OSError):
            written = os.write(self._fd, ended)
        self.dropped += written < len(ended)
