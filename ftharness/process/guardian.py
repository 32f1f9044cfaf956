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

import os
import select
import signal
import socket

from ftharness.process.execute import spawn
from ftharness.process.reaping import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_NAME,
    PR_SET_PDEATHSIG,
    Signals,
    kill_below,
    reap,
    set_option,
)
from ftharness.process.wire import REMOVE, Launch, receive, send

# To a keeper: kill everything below you.
END = signal.SIGUSR1


def _keep(link: socket.socket, guardian: int, request: int, fds: list[int]) -> None:
    """Be the keeper of one process, until it and all that it started are gone."""
    signals = Signals(signal.SIGCHLD, END)
    set_option(PR_SET_NAME, b"ft-keeper")
    set_option(PR_SET_CHILD_SUBREAPER, 1)
    set_option(PR_SET_PDEATHSIG, END)
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
    while reap(report):
        if ending:
            kill_below()
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
        self._signals = Signals(signal.SIGCHLD)
        self._keepers: set[int] = set()
        self._keeper_lost = False
        self._folders: list[str] = []

    def run(self) -> int:
        """Serve until the harness or a keeper is lost, then end everything; the exit code, 1 for a lost keeper."""
        try:
            self._serve()
        finally:
            while reap(self._child_ended):
                kill_below()
                self._signals.wait()
            for folder in self._folders:
                _remove(folder)
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
                reap(self._child_ended)
            if self._link.fileno() in ready:
                words, fds, truncated = receive(self._link)
                if not words:
                    return
                if words[0] == REMOVE:
                    self._folders.append(os.fsdecode(bytes.fromhex(words[1])))
                else:
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


def _remove(folder: str) -> None:
    try:
        os.rmdir(folder)  # noqa: PTH106 - pathlib costs the guardian its start
    except FileNotFoundError:  # the harness has done it, as it does unless it was killed
        return
    except OSError:
        import shutil  # noqa: PLC0415 - only where there is something in it

        shutil.rmtree(folder, ignore_errors=True)


def _print_exception() -> None:
    import traceback  # noqa: PLC0415 - 5 ms that only a bug needs

    traceback.print_exc()


def main(link_fd: int, harness: int) -> None:
    """Be the guardian of the process ``harness``."""
    # Nothing but the end of the harness ends it: a Ctrl-C or a stray SIGTERM to all must not leave orphans.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(link_fd, False)  # noqa: FBT003 - it came through our exec; no program of ours is to have it
    set_option(PR_SET_NAME, b"ft-guardian")
    set_option(PR_SET_CHILD_SUBREAPER, 1)
    code = Guardian(socket.socket(fileno=link_fd), harness).run()
    os._exit(code)  # without the interpreter's own goodbye
