"""All processes of one run: a guardian below the harness, and everything else below the guardian."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from ftharness.history import History, ProcessStarted
from ftharness.process.kept_log import LogBudget
from ftharness.process.process import Ended, Process, ProcessGone
from ftharness.process.process_table import command_line, read_table, send_signal, tagged
from ftharness.process.pump import Pump, Sink
from ftharness.process.redact import Redactor
from ftharness.process.wire import PASS_FDS_LIMIT, REMOVE, Launch, receive, send

#: The variable by which a process can be told to be ours, even if every other trace of it were lost.
OWNER = "FTHARNESS_OWNER"
_LAUNCHER = Path(__file__).with_name("launch_guardian.py")
_SHM = "/dev/shm"  # noqa: S108 - the kernel's folder, read only
_START_S = 30.0
_END_S = 5.0


class StartError(Exception):
    """A process could not be started; the message says which, what was tried, and why not."""


class Survivor(NamedTuple):
    """Something that outlived the process that started it.

    Attributes:
        name: That process's.
        pid: Its own.
        argv: The command line.
        state: R, S, D, … (proc(5)).
        waited_s: Seconds for which it was given time to end by itself.
        cpu_s: Seconds of CPU that it used in them: whether it hangs, or is at work.
    """

    name: str
    pid: int
    argv: list[str]
    state: str
    waited_s: float
    cpu_s: float


class _Starting(NamedTuple):
    name: str
    role: str
    argv: list[str]
    ports: dict[str, int]
    pump: Pump
    began_ns: int
    started: asyncio.Future[Process]
    truncated: list[tuple[str, int]]


class Processes:
    """Starts processes, and is the end of them: a context manager that leaves nothing behind.

    Whatever becomes of the harness, also by SIGKILL, everything that was started here ends with it (see
    :mod:`ftharness.process.guardian`). For a process that is to outlive its test, this is the wrong thing.

    Args:
        history: Where starts, signals and exits go.
        folder: Logs go to ``logs/NAME.log`` in it.
        redactor: Keeps secrets out of them.
        log_limit: Bytes of logs that are kept, over all processes.
    """

    def __init__(
        self, history: History, folder: Path, *, redactor: Redactor | None = None, log_limit: int = 1 << 30
    ) -> None:
        self._history = history
        self._logs = folder / "logs"
        self._redactor = redactor or Redactor()
        self._budget = LogBudget(log_limit)
        self._tag = uuid.uuid4().hex
        self._serial = 0
        self._starting: dict[int, _Starting] = {}
        self._by_request: dict[int, Process] = {}
        self._by_name: dict[str, Process] = {}
        self._link: socket.socket | None = None
        self._guardian: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        """Start the guardian.

        Raises:
            StartError: This is not Linux, or no process can be started here.
        """
        if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
            raise StartError(f"processes can be owned on Linux 5.4 or newer only; this is {sys.platform}")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # -I -S: the guardian needs the standard library alone, and starts in half the time.
        argv = [sys.executable, "-I", "-S", str(_LAUNCHER), str(theirs.fileno()), str(os.getpid())]
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            self._guardian = subprocess.Popen(  # noqa: ASYNC220 - 1 ms, once a run
                argv, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True
            )
        except OSError as error:
            ours.close()
            raise StartError(f"cannot start the guardian process {' '.join(argv[:1])}: {error}") from error
        finally:
            theirs.close()
        self._link = ours
        asyncio.get_running_loop().add_reader(ours, self._hear)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill everything that is left, and end the guardian."""
        await self.kill_survivors()
        self._hang_up("the run is over")
        guardian, self._guardian = self._guardian, None
        if guardian is not None:
            await self._end_of(guardian)
            if guardian.returncode != 0:
                self._sweep()
        living = [process for process in self._by_request.values() if process.exit is None]
        await asyncio.gather(*(process.exited(_END_S) for process in living), return_exceptions=True)
        for process in self._by_request.values():
            process.close()

    def __iter__(self) -> Iterator[Process]:
        """Every process by name, also those that have ended, in the order in which they were started."""
        return iter(self._by_name.values())

    def __getitem__(self, name: str) -> Process:
        """The process of that name; the last one, if several had it."""
        return self._by_name[name]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._by_name)

    async def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        role: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        ports: Mapping[str, int] | None = None,
        sink: Sink | None = None,
    ) -> Process:
        """Start a program in a session of its own; returns when it has been executed.

        Args:
            name: For the history and its log; may be used again once the process of that name has ended.
            argv: The program, looked for in its own PATH, and its arguments. No shell.
            role: What it is in the stack.
            env: All of its environment; ours, if not given.
            cwd: Where it starts; where we are, if not given.
            pass_fds: Descriptors that it gets, under the same numbers.
            ports: The ports that it serves, by what they are for; known to the history and looked at when it is over.
            sink: Gets its output (stdout and stderr, in order) as it is read, with the time of the read.

        Raises:
            StartError: It cannot be executed; says why.
            ValueError: A process of that name lives.
        """
        if self._link is None:
            raise StartError(f"cannot start {name}: the guardian is not running")
        if name in self._by_name and self._by_name[name].exit is None:
            raise ValueError(f"a process {name!r} is still running")
        if len(pass_fds) > PASS_FDS_LIMIT:
            raise StartError(f"cannot start {name}: {len(pass_fds)} descriptors to pass, at most {PASS_FDS_LIMIT}")
        environment = {**(os.environ if env is None else env), OWNER: self._tag}
        self._redactor.learn_environment(environment)
        self._redactor.learn_arguments(argv)
        launch = Launch(
            [os.fsencode(word) for word in argv],
            [os.fsencode(f"{key}={value}") for key, value in environment.items()],
            os.fsencode(cwd or Path.cwd()),
            list(pass_fds),
        )
        self._serial += 1
        request = self._serial
        pump = Pump(
            self._logs / f"{name}.log",
            self._redactor,
            self._budget,
            sink,
            lambda why, kept: self._truncated(request, why, kept),
        )
        started: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        # Whoever waits may be cancelled, as where another one failed: then this one's failure is nobody's.
        started.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._starting[request] = _Starting(
            name, role, list(argv), dict(ports or {}), pump, time.monotonic_ns(), started, []
        )
        memfd = launch.memfd()
        try:
            send(self._link, request, fds=(memfd, pump.write_fd, *pass_fds))
        finally:
            os.close(memfd)
            pump.handed_over()
        await asyncio.wait((started,), timeout=_START_S)
        if not started.done():
            raise StartError(f"cannot start {name}: the guardian did not answer within {_START_S:g} s")
        return started.result()

    def remove_at_end(self, folder: Path) -> None:
        """Have a folder removed when all processes have ended, also where we are killed before we could do so ourselves."""
        if self._link is not None:
            send(self._link, REMOVE, os.fsencode(folder).hex())

    async def stop(self, *processes: Process, grace_s: float) -> None:
        """Thaw them, ask them to end (SIGTERM), and kill those, with all they started, that have not within the grace."""
        for process in processes:
            self._signal(process, signal.SIGCONT, "heal", tree=True, quietly=process.state() != "T")
            self._signal(process, signal.SIGTERM, "teardown")
        waiting = [process for process in processes if process.exit is None]
        await asyncio.gather(*(self._ended_within(process, grace_s) for process in waiting))

    async def _ended_within(self, process: Process, grace_s: float) -> None:
        try:
            await process.exited(grace_s)
        except TimeoutError:
            self._signal(process, signal.SIGKILL, "escalation", tree=True)
            await process.exited(_END_S)

    def _signal(
        self, process: Process, number: signal.Signals, reason: str, *, tree: bool = False, quietly: bool = False
    ) -> None:
        if quietly or process.exit is not None:
            return
        try:
            process.signal(number, reason=reason, tree=tree)
        except ProcessGone:
            return

    async def survivors(self, settle_s: float) -> list[Survivor]:
        """What is left of processes that have ended, after at most ``settle_s`` seconds in which it may end by itself."""
        ended = [process for process in self if process.exit is not None]
        open_ends = [process.alone for process in ended if not process.alone.done()]
        if not open_ends:
            return []
        before = {entry.identity: entry.cpu_ticks for process in ended for entry in process.descendants()}
        began = time.monotonic()
        await asyncio.wait(open_ends, timeout=settle_s)
        waited_s = time.monotonic() - began
        return [
            Survivor(
                process.name,
                entry.pid,
                self._redactor.argv(command_line(entry)),
                entry.state,
                waited_s,
                (entry.cpu_ticks - before.get(entry.identity, 0)) / os.sysconf("SC_CLK_TCK"),
            )
            for process in ended
            for entry in process.descendants()
        ]

    async def kill_survivors(self) -> None:
        """Kill everything that is left of every process, and the processes too."""
        left = [process for process in self._by_request.values() if not process.alone.done()]
        if self._link is None or not left:
            return
        for process in left:
            process.end_tree()
        await asyncio.wait([process.alone for process in left], timeout=_END_S)

    def shared_memory(self) -> dict[str, set[Path]]:
        """The files in /dev/shm that each of those that live, or what it started, has mapped now; by its name."""
        return {
            process.name: {path for pid in (process.pid, *_pids(process)) for path in _mapped_shared_memory(pid)}
            for process in self
            if process.exit is None
        }

    def _hear(self) -> None:
        """A message of the guardian's or of a keeper's."""
        assert self._link is not None
        words, fds, truncated = receive(self._link)
        if not words:
            self._hang_up("the guardian process is gone")
            return
        what, request = words[0], int(words[1])
        if what == "started":
            if truncated or len(fds) != 2:  # noqa: PLR2004 - the process's and its keeper's
                self._failed(request, errno.EMFILE, "fds")
            else:
                self._started(request, int(words[2]), int(words[3]), (fds[0], fds[1]))
        elif what == "failed":
            self._failed(request, int(words[2]), words[3])
        elif request in self._by_request:
            if what == "exited":
                self._by_request[request].has_ended(Ended.of(int(words[3])))
            else:
                self._by_request[request].is_alone()

    def _started(self, request: int, pid: int, keeper: int, fds: tuple[int, int]) -> None:
        starting = self._starting.pop(request)
        process = Process(
            starting.name,
            starting.role,
            pid=pid,
            keeper_pid=keeper,
            pidfds=fds,
            started_ns=starting.began_ns,
            history=self._history,
            pump=starting.pump,
        )
        process.ports = starting.ports
        self._by_request[request] = self._by_name[starting.name] = process
        self._history.append(
            ProcessStarted(
                source=process.name,
                pid=pid,
                role=process.role,
                argv=self._redactor.argv(starting.argv),
                ports=starting.ports,
            )
        )
        for reason, kept in starting.truncated:
            process.truncated(reason, kept)
        if not starting.started.done():
            starting.started.set_result(process)

    def _failed(self, request: int, number: int, stage: str) -> None:
        starting = self._starting.pop(request)
        starting.pump.close()
        program, why = starting.argv[0], os.strerror(number)
        if stage == "program" and number == errno.ENOENT:
            tried = f"there is no program {program}" + ("" if "/" in program else " in its PATH")
        elif stage == "program":
            tried = f"{program} cannot be executed: {why}"
        elif stage == "cwd":
            tried = f"its folder cannot be entered: {why}"
        elif number == errno.EMFILE:
            tried = "too many open files; `ulimit -n` raises the limit"
        else:
            tried = f"{stage}: {why}"
        if not starting.started.done():
            starting.started.set_exception(StartError(f"cannot start {starting.name}: {tried}"))

    def _truncated(self, request: int, reason: str, kept: int) -> None:
        if request in self._by_request:
            self._by_request[request].truncated(reason, kept)
        elif request in self._starting:  # its output was read before its keeper's word that it runs
            self._starting[request].truncated.append((reason, kept))

    def _hang_up(self, reason: str) -> None:
        """The end of the conversation: whatever still lived is dead by the guardian's hand, or will be in an instant."""
        link, self._link = self._link, None
        if link is None:
            return
        asyncio.get_running_loop().remove_reader(link)
        link.close()
        for starting in self._starting.values():
            starting.pump.close()
            if not starting.started.done():
                starting.started.set_exception(StartError(f"cannot start {starting.name}: {reason}"))
        self._starting.clear()
        for process in self._by_request.values():
            process.keeper_is_lost()
            process.is_alone()

    async def _end_of(self, guardian: subprocess.Popen[bytes]) -> None:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        pidfd = os.pidfd_open(guardian.pid)
        loop.add_reader(pidfd, _resolve, ended)
        try:
            await asyncio.wait((ended,), timeout=_END_S)
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
        if not ended.done():
            guardian.kill()
        guardian.wait()

    def _sweep(self) -> None:
        """The guardian and keepers were killed: find what they had by the tag in its environment, and kill it."""
        while found := tagged(f"{OWNER}={self._tag}", read_table()):
            if not [entry for entry in found if entry.state != "Z" and send_signal(entry, signal.SIGKILL)]:
                return


def _pids(process: Process) -> list[int]:
    return [descendant.pid for descendant in process.descendants()]


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _mapped_shared_memory(pid: int) -> set[Path]:
    """The files in /dev/shm that a process has mapped; none where it is gone.

    By inode: sem_open(3) maps a file under a name of its own, links that to the semaphore's, and removes the first one.
    """
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
        inodes = {int(line.split()[4]) for line in lines if f" {_SHM}/" in line}
        return {Path(entry.path) for entry in os.scandir(_SHM) if entry.inode() in inodes} if inodes else set()
    except OSError:
        return set()
