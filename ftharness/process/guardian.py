"""The guardian: a small process that is parent and subreaper of everything that a run starts.

    harness ── guardian ─┬─ keeper ── worker-1 ── its engine
                         └─ keeper ── frontend

The harness cannot do this itself: a subreaper in the harness dies with it, and waiting for any child steals the exit
codes of other people's. The guardian outlives the harness by as long as it takes to SIGKILL what is below it.

For each process it forks a keeper, which starts the program, is the subreaper of it and reports its wait status.
Whatever a program starts stays below its keeper, however it forks, whatever session, group and environment it chooses,
so that "whose is this" has one exact answer: whose keeper it has above it. The kernel tells a keeper when the last of
them is gone. A keeper ends with that, or kills all that is below it when it is told to (SIGUSR1) or when the guardian
dies (the same signal, from the kernel).

All is killed when the harness is gone (its end of the socket is closed, or its process ended: a fork of the harness may
hold the socket open), and also when a keeper was killed, since then it is no longer known what belongs to whom.

Standard library only, and little of it: the start takes some 10 ms more than a bare interpreter.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
from collections.abc import Callable

from ftharness.process.execute import spawn
from ftharness.process.process_table import below, read_table, send_signal
from ftharness.process.wire import Launch, receive, send

# To a keeper: kill everything below you.
END = signal.SIGUSR1

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def _set(option: int, value: object) -> None:
    if _prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


class _Signals:
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


def _reap(report: Callable[[int, int], None]) -> bool:
    """Report the pid and wait status of every child that ended; whether there are any left."""
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
            report(pid, status)
    except ChildProcessError:
        return False


def _kill_below() -> None:
    """SIGKILL every descendant.

    One that forks faster than the table is read escapes this once. So it is called again after each child that ended:
    what escaped becomes our child when its parent dies, and its parent, or the parent's, is reaped by us later than that.
    """
    for entry in below(os.getpid(), read_table()):
        send_signal(entry, signal.SIGKILL)


def _keep(link: socket.socket, guardian: int, request: int, fds: list[int]) -> None:
    """Be the keeper of one process, until it and all that it started are gone."""
    signals = _Signals(signal.SIGCHLD, END)
    _set(_PR_SET_NAME, b"ft-keeper")
    _set(_PR_SET_CHILD_SUBREAPER, 1)
    _set(_PR_SET_PDEATHSIG, END)
    if os.getppid() != guardian:  # it died before the kernel was asked to tell
        return
    launch_fd, output, *passed = fds
    pid, stage, error = spawn(Launch.read(launch_fd), output, passed)
    for fd in fds:
        os.close(fd)
    if stage:
        os.waitpid(pid, 0)
        send(link, "failed", request, error, stage)
        return
    pidfds = os.pidfd_open(pid), os.pidfd_open(os.getpid())
    send(link, "started", request, pid, os.getpid(), fds=pidfds)
    for fd in pidfds:
        os.close(fd)

    def report(ended: int, status: int) -> None:
        if ended == pid:
            send(link, "exited", request, pid, status)

    ending = False
    while _reap(report):
        if ending:
            _kill_below()
        ending = END in signals.wait() or ending
    send(link, "alone", request)


class Guardian:
    """Serve one harness.

    Args:
        link: The socket to it.
        harness: Its pid.
    """

    def __init__(self, link: socket.socket, harness: int) -> None:
        self._link = link
        self._harness = harness
        self._signals = _Signals(signal.SIGCHLD)
        self._keepers: set[int] = set()
        self._keeper_lost = False

    def run(self) -> int:
        """Serve until the harness or a keeper is lost, then end everything; the exit code, 1 for a lost keeper."""
        try:
            self._serve()
        finally:
            while _reap(self._child_ended):
                _kill_below()
                self._signals.wait()
        return int(self._keeper_lost)

    def _serve(self) -> None:
        try:
            harness_fd = os.pidfd_open(self._harness)
        except ProcessLookupError:
            return
        if os.getppid() != self._harness:
            return
        poll = select.poll()
        for fd in (self._link.fileno(), harness_fd, self._signals.fd):
            poll.register(fd, select.POLLIN)
        while not self._keeper_lost:
            ready = {fd for fd, _ in poll.poll()}
            if harness_fd in ready:
                return
            if self._signals.fd in ready:
                self._signals.read()
                _reap(self._child_ended)
            if self._link.fileno() in ready:
                words, fds, truncated = receive(self._link)
                if not words:
                    return
                self._launch(int(words[0]), fds, truncated=truncated)

    def _launch(self, request: int, fds: list[int], *, truncated: bool) -> None:
        try:
            if truncated:
                send(self._link, "failed", request, 24, "fds")  # EMFILE
                return
            guardian = os.getpid()
            keeper = os.fork()
            if keeper == 0:
                self._become_keeper(guardian, request, fds)
            self._keepers.add(keeper)
        except OSError as error:
            send(self._link, "failed", request, error.errno, "fork")
        finally:
            for fd in fds:
                os.close(fd)

    def _become_keeper(self, guardian: int, request: int, fds: list[int]) -> None:
        code = 1
        try:
            self._signals.close()
            _keep(self._link, guardian, request, fds)
            code = 0
        finally:
            if code:
                _print_exception()
            os._exit(code)

    def _child_ended(self, pid: int, status: int) -> None:
        if pid not in self._keepers:
            send(self._link, "exited", 0, pid, status)
            return
        self._keepers.discard(pid)
        if status != 0:
            self._keeper_lost = True


def _print_exception() -> None:
    import traceback  # noqa: PLC0415 - 5 ms that only a bug needs

    traceback.print_exc()


def main(link_fd: int, harness: int) -> None:
    """Be the guardian of the process ``harness``."""
    # Nothing but the end of the harness ends it: a Ctrl-C or a stray SIGTERM to all must not leave orphans.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(link_fd, False)  # noqa: FBT003 - it came through our exec; no program of ours is to have it
    _set(_PR_SET_NAME, b"ft-guardian")
    _set(_PR_SET_CHILD_SUBREAPER, 1)
    code = Guardian(socket.socket(fileno=link_fd), harness).run()
    os._exit(code)  # without the interpreter's own goodbye
