"""The shim: a small process between the manager and one engine, its parent and the subreaper of all that it starts.

    manager ── shim ── engine ── what it starts

It keeps what only a parent can keep: the pipe of the output and the real wait status. So a manager that is killed loses
neither, and the next one finds both. What happens to the engine then is a matter of configuration: with ``survive`` the shim
waits at a socket in its slot's folder for the next manager; otherwise it kills everything below it at once.

There is one shim for a slot: it holds the slot's lock for as long as it lives, and starts nothing without it. When the shim
itself is killed, the kernel kills the engine (PR_SET_PDEATHSIG), and whoever finds the lock free afterwards looks for what the
engine had started by the tag in its environment (:mod:`ftharness.pool.adoption`).

It signals its engine by pidfd, and what is below itself; nothing else. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ftharness.failover.identity import identity_of, myself
from ftharness.failover.slots import Slots
from ftharness.pool.scratch import give_back, make_scratch, remove_scratch
from ftharness.pool.shim_link import SOCKET, ManagerLink
from ftharness.pool.shim_log import ShimLog
from ftharness.process.execute import spawn
from ftharness.process.process_table import below, read_table, send_signal
from ftharness.process.reaping import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_NAME,
    PR_SET_PDEATHSIG,
    Signals,
    kill_below,
    reap,
    set_option,
)
from ftharness.process.wire import Launch

#: In a slot's folder.
LOCK, RECORD, LOG = "lock", "shim", "engine.log"
_READ = 64 * 1024


class Shim:
    """Starts one engine, and serves whoever is its manager until the engine is gone.

    Args:
        spec: What to start, and how: ``argv``, ``environment``, ``cwd``, ``folder``, ``survive``, ``log_limit`` (bytes),
            ``settle_s``, ``privileges``, ``scratch_in``, ``open_files`` (its soft limit), ``about`` (the manager's own notes,
            given to the next one).
        link: The socket to the manager that started it.
        manager: The pid of that.
    """

    def __init__(self, spec: dict[str, Any], link: socket.socket, manager: int) -> None:
        self._spec = spec
        self._folder: str = spec["folder"]
        self._survive: bool = spec["survive"]
        self._manager = ManagerLink(
            link, manager, obey=self._obey, lost=self._without_manager, came=self._meet_the_next
        )
        self._signals = Signals(signal.SIGCHLD)
        self._lock = -1
        self._log = ShimLog(
            f"{self._folder}/{LOG}", spec["log_limit"], lambda why: self._manager.say("unkept", why=why)
        )
        self._record = Slots(Path(self._folder, RECORD))
        self._output = -1
        self._pidfd = -1
        self._pid = 0
        self._engine: list[object] | None = None
        self._status: int | None = None
        self._exited_ns = 0
        self._kill_at: float | None = None  # CLOCK_MONOTONIC, seconds: when what outlives the engine is killed
        self._scratch: Path | None = None
        self._ending = False
        self._alone = False
        self._acknowledged = False  # a manager knows how it ended

    def run(self) -> None:
        """Start the engine and serve; returns when nothing is left to do."""
        if not self._hold_the_slot():
            return
        if self._start():
            while not self._is_done():
                self._turn()
        if self._scratch is not None:
            give_back(self._folder, self._scratch)
        else:
            remove_scratch(self._folder)  # of one that could not be made whole
        with contextlib.suppress(OSError):
            Path(self._folder, SOCKET).unlink()
        os.close(self._lock)  # before the manager sees the end of the link, on which it may start the next

    # The start.

    def _hold_the_slot(self) -> bool:
        """Take the slot's lock; it is let go when nothing of the engine is left, or by the end of this process."""
        try:
            self._lock = os.open(f"{self._folder}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._fail("slot", errno.EBUSY, f"{self._folder}: another shim holds this slot")
                return False
            self._write_record("starting")
            if self._survive:
                self._manager.listen(self._folder)
        except OSError as error:
            self._fail("state", error.errno or 0, f"{self._folder}: {error.strerror or error}")
            return False
        return True

    def _start(self) -> bool:
        if not self._manager.starter_lives:
            return False  # it is gone already, and the next one may be about to start an engine here
        spec = self._spec
        try:
            environment = [*spec["environment"], *self._own_variables()]
        except OSError as error:
            self._fail("state", error.errno or 0, f"{error.filename or spec['scratch_in']}: {error.strerror or error}")
            return False
        launch = Launch(
            [os.fsencode(word) for word in spec["argv"]],
            [os.fsencode(variable) for variable in environment],
            os.fsencode(spec["cwd"]),
            [],
        )
        self._output, write = os.pipe2(os.O_CLOEXEC)
        shim = os.getpid()
        give_up = _privileges(spec["privileges"])

        def before_exec() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (spec["open_files"], _open_files()))
            give_up()
            # After a change of user, which resets it.
            set_option(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != shim:
                os._exit(127)

        try:
            self._pid, stage, number = spawn(launch, write, [], before_exec)
        except OSError as error:
            self._fail("fork", error.errno or 0, "")
            return False
        finally:
            os.close(write)
        if stage:
            os.waitpid(self._pid, 0)
            self._write_record("gone", told=True)
            self._fail(stage, number, "")
            return False
        os.set_blocking(self._output, False)
        self._pidfd = os.pidfd_open(self._pid)
        self._engine = list(identity_of(self._pid))
        with contextlib.suppress(OSError):  # its place was made before: what fails here is the disk itself
            self._write_record("running")
        self._greet()
        return True

    def _own_variables(self) -> list[str]:
        """Where its temporary files go, which end with it."""
        if not self._spec["scratch_in"]:
            return []
        rights = self._spec["privileges"] or {}
        self._scratch = make_scratch(self._folder, self._spec["scratch_in"], rights.get("uid"), rights.get("gid"))
        return [f"TMPDIR={self._scratch}"]

    def _fail(self, stage: str, number: int, why: str) -> None:
        self._manager.say("failed", stage=stage, errno=number, why=why)

    # Serving.

    def _turn(self) -> None:
        ready = self._wait()
        self._manager.hear(ready)
        if self._output in ready:
            self._read_output()
        if self._signals.fd in ready:
            self._signals.read()
            self._reap()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._end()

    def _wait(self) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._signals.fd, select.POLLIN)
        self._manager.watch(poll, life=not self._survive)
        if self._output >= 0:
            poll.register(self._output, select.POLLIN)
        left = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic()) * 1000 + 1
        return dict(poll.poll(left))

    def _is_done(self) -> bool:
        if not self._alone:
            return False
        if self._manager.is_there and not self._acknowledged:
            return False
        try:
            self._write_record("gone", told=self._acknowledged)
        except OSError:
            return self._acknowledged or not self._survive  # whoever comes is told what could not be written down
        return True

    def _reap(self) -> None:
        left = reap(self._child_ended)
        if left and self._ending:
            kill_below()
        if not left and not self._alone:
            self._read_output()
            self._kill_at = None
            self._alone = True
            self._manager.say("alone")

    def _child_ended(self, pid: int, status: int) -> None:
        if pid != self._pid or self._status is not None:
            return
        self._exited_ns = time.monotonic_ns()
        self._status = status
        self._read_output()  # what it said before it ended belongs before its end
        self._manager.end_of_output()
        self._manager.say("exited", status=status, at_ns=self._exited_ns)
        with contextlib.suppress(OSError):
            self._write_record("exited")
        # What it leaves behind may hold the device: it gets a moment to end by itself.
        self._kill_at = time.monotonic() + self._spec["settle_s"]

    def _end(self) -> None:
        self._kill_at = None
        self._ending = True
        kill_below()

    def _read_output(self) -> None:
        """Take what is in the pipe now, as far as one piece of the log goes; at the engine's end, all of it."""
        while self._output >= 0:
            try:
                data = os.read(self._output, _READ)
            except BlockingIOError:
                return
            if not data:
                os.close(self._output)
                self._output = -1
                return
            self._log.write(data)
            self._manager.pass_on(data)
            if self._status is None:
                return  # others wait: a program that never stops printing must not be all that there is

    # The manager.

    def _greet(self) -> None:
        self._manager.say(
            "hello",
            fds=(self._pidfd,),
            shim=list(myself()),
            engine=self._engine,
            about=self._spec["about"],
            status=self._status,
            exited_ns=self._exited_ns,
            alone=self._alone,
        )

    def _obey(self, message: dict[str, Any]) -> None:
        match message.get("do"):
            case "signal":
                self._signal(signal.Signals(message["number"]), tree=bool(message["tree"]))
            case "end":
                self._end()
            case "survive":
                self._survive = bool(message["yes"])
            case "done":
                self._acknowledged = True
            case _:
                pass  # a newer manager's word: what it is for can be seen to fail there, and here nothing is lost

    def _signal(self, number: signal.Signals, *, tree: bool) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
        if tree:
            for entry in below(os.getpid(), read_table()):
                if entry.pid != self._pid:
                    send_signal(entry, number)

    def _without_manager(self) -> None:
        if not self._survive:
            self._end()

    def _meet_the_next(self) -> None:
        self._greet()
        self._manager.pass_on(self._log.tail())

    def _write_record(self, phase: str, *, told: bool = False) -> None:
        self._record.write(
            {
                "phase": phase,
                "shim": list(myself()),
                "engine": self._engine,
                "status": self._status,
                "told": told,
            }
        )


def _privileges(spec: dict[str, Any] | None) -> Callable[[], None]:
    """What gives up the privileges that the engine is not to have."""
    if spec is None:
        return lambda: None
    from ftharness.pool import privileges  # noqa: PLC0415 - not who gives up nothing

    def give_up() -> None:
        try:
            privileges.apply(spec)
        except Exception as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise PermissionError(errno.EPERM, str(error)) from error  # an engine with too many rights is not started

    return give_up


def _open_files() -> int:
    """The hard limit of open files."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def main(link_fd: int, spec_fd: int, manager: int) -> NoReturn:
    """Be the shim of one engine for the process ``manager``."""
    # Nothing but its engine's end, or its manager's word, ends it: a Ctrl-C to all must not cost an engine its wait status.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    for fd in (link_fd, spec_fd):
        os.set_inheritable(fd, False)  # noqa: FBT003 - it came through our exec; no program of ours is to have it
    set_option(PR_SET_NAME, b"ft-shim")
    set_option(PR_SET_CHILD_SUBREAPER, 1)
    with open(spec_fd, "rb") as file:
        file.seek(0)
        spec = json.loads(file.read())
    Shim(spec, socket.socket(fileno=link_fd), manager).run()
    os._exit(0)  # without the interpreter's own goodbye
