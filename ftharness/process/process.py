"""One process that we own."""

import asyncio
import os
import time
from pathlib import Path
from signal import SIGKILL, SIGUSR1, Signals, pidfd_send_signal
from typing import NamedTuple

from ftharness.history import History, LogTruncated, ProcessExited, ProcessSignalled
from ftharness.process.pidfd import wait_status
from ftharness.process.process_table import Entry, below, read_entry, read_table, send_signal
from ftharness.process.pump import Pump


class ProcessGone(Exception):  # noqa: N818 - says what is the case
    """The process had ended before it could be signalled."""


class Ended(NamedTuple):
    """How a process ended: by a signal, or with an exit status; both None where the kernel no longer tells."""

    returncode: int | None
    signal: str | None

    @classmethod
    def of(cls, wait_status: int) -> "Ended":
        """From the status that ``waitpid`` gave."""
        code = os.waitstatus_to_exitcode(wait_status)
        return cls(code, None) if code >= 0 else cls(None, signal_name(-code))

    def __str__(self) -> str:
        """For a person."""
        if self.signal:
            return self.signal
        return f"exit status {self.returncode}" if self.returncode is not None else "an unknown end"


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; a real-time signal has only its number."""
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


class Process:
    """A process of ours and what it started. Made by :meth:`Processes.start`, which also ends it.

    Attributes:
        name: Unique among those that live.
        role: What it is in the stack.
        pid: Its process id.
        keeper_pid: The process above it, below which everything stays that it starts.
        started_ns: CLOCK_MONOTONIC just before it was started: nothing that it says is older.
    """

    def __init__(
        self,
        name: str,
        role: str,
        *,
        pid: int,
        keeper_pid: int,
        pidfds: tuple[int, int],
        started_ns: int,
        history: History,
        pump: Pump,
    ) -> None:
        self.name = name
        self.role = role
        self.pid = pid
        self.keeper_pid = keeper_pid
        self.started_ns = started_ns
        self.ports: dict[str, int] = {}
        self._pidfd, self._keeper_fd = pidfds
        self._history = history
        self._pump = pump
        self._exit: Ended | None = None
        self._noticed_ns: int | None = None
        self._keeper_lost = False
        entry = read_entry(pid)
        self._start_time = entry.start_time if entry else None
        loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[Ended] = loop.create_future()
        self._alone: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._pidfd, self._notice)

    def __repr__(self) -> str:
        """Its name, pid and how it is."""
        return f"<Process {self.name} pid={self.pid} {self._exit or 'alive'}>"

    @property
    def exit(self) -> Ended | None:
        """How it ended, or None while it lives."""
        return self._exit

    @property
    def alone(self) -> asyncio.Future[None]:
        """Done when it and everything that it started are gone."""
        return self._alone

    @property
    def log_path(self) -> Path:
        """Where its output is kept."""
        return self._pump.path

    def tail(self, lines: int = 20) -> list[str]:
        """The last lines of its output, without secrets."""
        return self._pump.tail(lines)

    def state(self) -> str:
        """The kernel's letter for it (R, S, D, T, Z); "" when it is gone."""
        entry = read_entry(self.pid)
        return entry.state if entry is not None and entry.start_time == self._start_time else ""

    def descendants(self) -> list[Entry]:
        """Everything that it started and that lives (no zombies), whatever session or group it is in; parents first."""
        found = below(self.keeper_pid, read_table()) if not self._alone.done() else []
        return [entry for entry in found if entry.pid != self.pid and entry.state != "Z"]

    def signal(self, number: Signals, *, reason: str, tree: bool = False) -> int:
        """Send a signal to it, or with ``tree`` to all that it started as well.

        Args:
            number: Which.
            reason: ``fault``, ``teardown``, ``escalation`` or ``heal``; for the history.
            tree: Also what it started, and what that starts meanwhile.

        Returns:
            CLOCK_MONOTONIC in ns, just before it was sent.

        Raises:
            ProcessGone: It has ended (of a tree: all of it).
        """
        at = time.monotonic_ns()
        reached = self._send(number)
        if tree:
            reached = self._send_below(number) or reached
        if not reached:
            how = f" by {self._exit}" if self._exit else ""
            raise ProcessGone(f"{self.name} (pid {self.pid}) had already ended{how}")
        self._history.append(
            ProcessSignalled(source=self.name, pid=self.pid, signal=number.name, reason=reason, tree=tree), at=at
        )
        return at

    def _send(self, number: Signals) -> bool:
        if self._exited.done() or self.state() in ("", "Z"):  # a zombie takes every signal and obeys none
            return False
        try:
            pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def _send_below(self, number: Signals) -> bool:
        """All descendants, until no new one appears: a parent may fork while its children are being signalled."""
        sent: set[tuple[int, int]] = set()
        while True:
            new = [entry for entry in self.descendants() if entry.identity not in sent]
            if not new:
                return bool(sent)
            for entry in new:
                send_signal(entry, number)
                sent.add(entry.identity)

    async def exited(self, deadline_s: float | None = None) -> Ended:
        """Wait until it has ended.

        Args:
            deadline_s: Seconds; None waits for ever.

        Raises:
            TimeoutError: It lives on.
        """
        await asyncio.wait((self._exited,), timeout=deadline_s)
        if not self._exited.done():
            raise TimeoutError(f"{self.name} (pid {self.pid}) lives after {deadline_s:g} s, in state {self.state()}")
        return self._exited.result()

    def end_tree(self) -> None:
        """Have everything that is left of it killed, by its keeper."""
        try:
            pidfd_send_signal(self._keeper_fd, SIGUSR1)
        except ProcessLookupError:
            return  # nothing is left of it

    # What Processes tells it.

    def has_ended(self, ended: Ended) -> None:
        """Its wait status is known."""
        if self._exited.done():
            return
        at = self._noticed_ns or time.monotonic_ns()
        self._stop_noticing()
        self._pump.drain()  # what it said before it ended belongs before its end
        self._exit = ended
        self._history.append(
            ProcessExited(source=self.name, pid=self.pid, returncode=ended.returncode, signal=ended.signal), at=at
        )
        self._exited.set_result(ended)

    def keeper_is_lost(self) -> None:
        """Nobody is left to reap it and to tell how it ended: end it, and ask the kernel, which may know."""
        self._keeper_lost = True
        if self._noticed_ns is not None:
            self._has_ended_unseen()
        elif not self._exited.done():
            self._send(SIGKILL)

    def _has_ended_unseen(self) -> None:
        status = wait_status(self._pidfd)
        self.has_ended(Ended(None, None) if status is None else Ended.of(status))

    def is_alone(self) -> None:
        """Nothing that it started is left."""
        if not self._alone.done():
            self._alone.set_result(None)
            self._pump.drain()

    def close(self) -> None:
        """Let go of the kernel's handles."""
        self._stop_noticing()
        if self._keeper_fd >= 0:
            os.close(self._pidfd)
            os.close(self._keeper_fd)
            self._pidfd = self._keeper_fd = -1
        self._pump.close()

    def truncated(self, reason: str, kept: int) -> None:
        """Its log is not complete from here on."""
        self._history.append(LogTruncated(source=self.name, reason=reason, kept=kept))

    def _notice(self) -> None:
        """The kernel says, by the pidfd, that it has ended; how, its keeper says a little later."""
        self._noticed_ns = time.monotonic_ns()
        self._stop_noticing()
        if self._keeper_lost:
            self._has_ended_unseen()

    def _stop_noticing(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
