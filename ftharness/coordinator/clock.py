"""The time by which a coordinator waits, and one that a test holds in its hand."""

import os
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import wait as until_readable
from typing import Protocol


class Clock(Protocol):
    """What a coordinator knows of time."""

    def now(self) -> float:
        """Seconds since some moment; never less than before."""
        ...

    def wait(self, fds: Sequence[int], timeout: float | None) -> list[int]:
        """Wait until one of ``fds`` can be read.

        Args:
            fds: File descriptors of what may happen by itself: exits and reports. None of them: only time can pass.
            timeout: Seconds at most; None: without end.

        Returns:
            Those that can be read; none where the time is up.
        """
        ...


class SystemClock:
    """The real one: CLOCK_MONOTONIC."""

    def now(self) -> float:
        """Seconds since the machine's start."""
        return time.monotonic()

    def wait(self, fds: Sequence[int], timeout: float | None) -> list[int]:
        """As :meth:`Clock.wait`."""
        return _readable(fds, timeout)


class HeldClock:
    """One that stands still, for tests: processes are real, waits are not.

    Time passes by :meth:`advance`, from any thread. And by itself where nothing runs that could happen first: then a wait for
    a minute is over at once, a minute later.

    Args:
        start: What it shows first, in seconds.

    Attributes:
        waits: How long each of those waits was, in seconds: what a coordinator did between two attempts.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._moved = threading.Lock()
        self._bell, self._rope = os.pipe()
        self.waits: list[float] = []

    def now(self) -> float:
        """What it shows, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._moved:
            self._now += seconds
        os.write(self._rope, b".")

    def wait(self, fds: Sequence[int], timeout: float | None) -> list[int]:
        """As :meth:`Clock.wait`."""
        until = None if timeout is None else self._now + max(0.0, timeout)
        while True:
            if ready := _readable(fds, 0):
                return ready
            if until is not None and not fds and self._now < until:
                self.waits.append(until - self._now)
                with self._moved:
                    self._now = until
            if until is not None and self._now >= until:
                return []
            if self._bell in _readable([*fds, self._bell], None):
                os.read(self._bell, 4096)

    def close(self) -> None:
        """Let its pipe go."""
        os.close(self._bell)
        os.close(self._rope)


def _readable(fds: Sequence[int], timeout: float | None) -> list[int]:
    if not fds:
        if timeout:
            time.sleep(timeout)
        return []
    return [fd for fd in until_readable(list(fds), timeout) if isinstance(fd, int)]
