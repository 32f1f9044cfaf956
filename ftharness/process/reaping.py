"""What a process needs to be the end of everything below it: it is told of each child's end, reaps, and kills what is left.

Standard library only: the guardian, its keepers and the engines' shims run it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
from collections.abc import Callable

from ftharness.process.process_table import below, read_table, send_signal

# Options of prctl(2), linux/prctl.h.
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def set_option(option: int, value: object) -> None:
    """Call prctl(2) for this process.

    Raises:
        OSError: The kernel does not do it.
    """
    if _prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


class Signals:
    """The signals that came, through a pipe that can be polled.

    A Python handler alone would not do: a signal that comes just before waitpid goes to sleep is handled when it wakes.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)

    def read(self) -> bytes:
        """The numbers of the signals since the last call."""
        try:
            return os.read(self.fd, 4096)
        except BlockingIOError:
            return b""

    def wait(self) -> bytes:
        """The same, once there is one."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.poll()
        return self.read()

    def close(self) -> None:
        """Close the pipe; another has taken over."""
        os.close(self.fd)
        os.close(self._write_fd)


def reap(report: Callable[[int, int], None]) -> bool:
    """Report the pid and wait status of every child that ended; whether there are any left."""
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
            report(pid, status)
    except ChildProcessError:
        return False


def kill_below() -> None:
    """SIGKILL every descendant.

    One that forks faster than the table is read escapes this once. So it is called again after each child that ended:
    what escaped becomes our child when its parent dies, and its parent, or the parent's, is reaped by us later than that.
    """
    for entry in below(os.getpid(), read_table()):
        send_signal(entry, signal.SIGKILL)
