"""Processes that we own, on real processes, signals and pipes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ftharness.history import (
    History,
    Log,
    LogTruncated,
    ProcessExited,
    ProcessReady,
    ProcessSignalled,
    ProcessStarted,
)
from ftharness.process import (
    NotReady,
    Processes,
    ProcessGone,
    Redactor,
    StartError,
    http_ok,
    listening_socket,
    log_event,
    until_ready,
)
from ftharness.process.process_table import read_entry, read_table, tagged

PY = sys.executable
# Says that it is there, then waits for ever.
WAITS = "import signal; print('up', flush=True); signal.pause()"
# The same, and nothing but SIGKILL ends it.
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
# Starts a grandchild that leaves the process group and the session, as MPI ranks and EngineCore do.
LEAVES = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal\\nwhile True: signal.pause()"], start_new_session=True)
print(child.pid, flush=True)
signal.pause()
"""


class Output:
    """What a process printed, and waiting for it."""

    def __init__(self) -> None:
        self.data = b""
        self._more = asyncio.Event()

    def __call__(self, data: bytes, at: int) -> None:
        assert at <= time.monotonic_ns()
        self.data += data
        self.over = not data
        self._more.set()

    async def until(self, wanted: bytes) -> bytes:
        async with asyncio.timeout(20):
            while wanted not in self.data:
                self._more.clear()
                await self._more.wait()
        return self.data


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
async def processes(history: History, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(history, tmp_path) as owned:
        yield owned


def alive(pid: int) -> bool:
    entry = read_entry(pid)
    return entry is not None and entry.state != "Z"


def gone_within(pids: list[int], seconds: float) -> float:
    """How long it took until none of ``pids`` lives; asserts that it was within ``seconds``."""
    start = time.monotonic()
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() - start < seconds, f"still alive: {left}"
        time.sleep(0.005)  # a stranger's end can only be looked for
    return time.monotonic() - start


async def test_the_output_is_complete_and_the_real_exit_status_is_recorded(
    processes: Processes, history: History, tmp_path: Path
) -> None:
    """Every byte of 3 MB reaches the sink and the log, and the exit status is the program's own."""
    output = Output()
    code = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 12000); sys.stderr.write('err'); sys.exit(7)"
    process = await processes.start("noisy", [PY, "-c", code], role="worker", sink=output)
    ended = await process.exited(30)
    assert (ended.returncode, ended.signal) == (7, None)
    await asyncio.wait_for(process.alone, 5)
    assert output.data == bytes(range(256)) * 12000 + b"err"
    assert (tmp_path / "logs" / "noisy.log").read_bytes() == output.data
    assert [type(event) for event in history.events] == [ProcessStarted, ProcessExited]


async def test_the_real_signal_is_recorded(processes: Processes, history: History) -> None:
    """A process that a signal ended is recorded with that signal, at the moment that the kernel told."""
    process = await processes.start("worker", [PY, "-c", WAITS])
    at = process.signal(signal.SIGKILL, reason="fault")
    ended = await process.exited(5)
    assert ended.signal == "SIGKILL"
    event = next(history.select(ProcessExited))
    assert 0 <= event.t - (at - history.start_ns) < 1e9
    assert next(history.select(ProcessSignalled)).reason == "fault"
    with pytest.raises(ProcessGone, match="already ended by SIGKILL"):
        process.signal(signal.SIGTERM, reason="fault")


async def test_stop_escalates_after_the_grace_and_says_so(processes: Processes, history: History) -> None:
    """SIGTERM, the grace, then SIGKILL as an event of its own."""
    output = Output()
    process = await processes.start("stubborn", [PY, "-c", STUBBORN], sink=output)
    await output.until(b"up")
    await processes.stop(process, grace_s=0.2)
    assert [(e.signal, e.reason) for e in history.select(ProcessSignalled)] == [
        ("SIGTERM", "teardown"),
        ("SIGKILL", "escalation"),
    ]
    assert process.exit is not None
    assert process.exit.signal == "SIGKILL"


async def test_stop_thaws_a_frozen_process_first(processes: Processes, history: History) -> None:
    """A stopped process acts on SIGTERM only after SIGCONT, so that it comes first."""
    output = Output()
    process = await processes.start("frozen", [PY, "-c", WAITS], sink=output)
    await output.until(b"up")
    process.signal(signal.SIGSTOP, reason="fault")
    while process.state() != "T":
        await asyncio.sleep(0)
    await processes.stop(process, grace_s=10)
    assert [e.signal for e in history.select(ProcessSignalled)] == ["SIGSTOP", "SIGCONT", "SIGTERM"]
    assert process.exit is not None
    assert process.exit.signal == "SIGTERM"


async def test_a_descendant_that_left_the_session_is_found_and_killed(processes: Processes) -> None:
    """A grandchild in a session of its own survives its parent, is named as a survivor, and is killed."""
    output = Output()
    process = await processes.start("parent", [PY, "-c", LEAVES], sink=output)
    await output.until(b"\n")
    child = int(output.data)
    assert [entry.pid for entry in process.descendants()] == [child]
    process.signal(signal.SIGKILL, reason="fault")
    await process.exited(5)
    (survivor,) = await processes.survivors(0.1)
    assert (survivor.name, survivor.pid) == ("parent", child)
    assert survivor.waited_s >= 0.1
    await processes.kill_survivors()
    assert not alive(child)


async def test_a_survivor_that_is_at_work_is_told_from_one_that_hangs(processes: Processes) -> None:
    """One that takes long to end uses the CPU; what it had used before is not counted."""
    output = Output()
    busy = LEAVES.replace("import signal\\nwhile True: signal.pause()", "while True: pass")
    process = await processes.start("parent", [PY, "-c", busy], sink=output)
    await output.until(b"\n")
    process.signal(signal.SIGKILL, reason="fault")
    await process.exited(5)
    (first,) = await processes.survivors(1)
    (again,) = await processes.survivors(0.05)
    assert 0 < first.cpu_s <= first.waited_s + 0.02  # two of the kernel's ticks
    assert again.cpu_s <= again.waited_s + 0.02


async def test_a_signal_to_the_tree_reaches_the_descendants(processes: Processes) -> None:
    """With ``tree`` the grandchild in its own session is hit as well."""
    output = Output()
    process = await processes.start("parent", [PY, "-c", LEAVES], sink=output)
    await output.until(b"\n")
    process.signal(signal.SIGKILL, reason="fault", tree=True)
    await process.exited(5)
    assert await processes.survivors(5) == []


async def test_leaving_the_block_ends_everything(history: History, tmp_path: Path) -> None:
    """The end of the ``async with`` leaves no process, also when an exception ends it."""
    output = Output()
    with pytest.raises(KeyError):
        async with Processes(history, tmp_path) as processes:
            await processes.start("parent", [PY, "-c", LEAVES], sink=output)
            stubborn = await processes.start("stubborn", [PY, "-c", STUBBORN])
            await output.until(b"\n")
            raise KeyError
    assert not alive(int(output.data))
    assert not alive(stubborn.pid)


@pytest.mark.parametrize(
    "argv, said",
    [
        (["no-such-program-at-all"], "there is no program no-such-program-at-all in its PATH"),
        (["/no/such/program"], "there is no program /no/such/program"),
        (["/etc/passwd"], "/etc/passwd cannot be executed: Permission denied"),
    ],
)
async def test_a_program_that_cannot_run_says_why(processes: Processes, argv: list[str], said: str) -> None:
    """The error names the process, the program and the kernel's reason."""
    with pytest.raises(StartError, match=f"cannot start bad: {said}"):
        await processes.start("bad", argv)


async def test_a_folder_that_is_not_there_is_said(processes: Processes, tmp_path: Path) -> None:
    """A bad ``cwd`` is not taken for a missing program."""
    with pytest.raises(StartError, match="its folder cannot be entered"):
        await processes.start("bad", [PY], cwd=tmp_path / "nowhere")


async def test_a_process_that_dies_before_it_is_ready_shows_its_last_lines(
    processes: Processes, history: History
) -> None:
    """The wait ends with the process, not at its deadline, and the error has its words."""
    process = await processes.start("bad", [PY, "-c", "import sys; print('no GPU found'); sys.exit(4)"])
    start = time.monotonic()
    with pytest.raises(NotReady, match=r"(?s)bad \(pid \d+\) ended \(exit status 4\).*log event ready.*no GPU found"):
        await until_ready(process, log_event("ready"), history=history, deadline_s=30)
    assert time.monotonic() - start < 10


async def test_a_process_that_is_never_ready_is_given_up(processes: Processes, history: History) -> None:
    """The deadline ends the wait, and the error says what was seen instead."""
    process = await processes.start("slow", [PY, "-c", WAITS])
    with listening_socket() as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/health"
        with pytest.raises(NotReady, match=r"was not ready within 3 s.*last answer: ConnectError"):
            await until_ready(process, http_ok(url), history=history, deadline_s=3)


async def test_readiness_over_http_and_log(processes: Processes, history: History) -> None:
    """Both conditions hold, and the history says how."""
    with listening_socket() as sock:
        port = sock.getsockname()[1]
        code = (
            "import http.server, socket, sys, os\n"
            "class H(http.server.BaseHTTPRequestHandler):\n"
            "    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b'{\"n\": 2}')\n"
            f"s = http.server.HTTPServer(('127.0.0.1', 0), H, bind_and_activate=False)\n"
            f"import socket; s.socket = socket.socket(fileno={sock.fileno()}); s.server_activate(); s.serve_forever()"
        )
        process = await processes.start("server", [PY, "-c", code], pass_fds=[sock.fileno()], ports={"http": port})
        history.append(Log(source="server", event="ready"))
        wanted = http_ok(f"http://127.0.0.1:{port}/", lambda body: body["n"] == 2)
        await until_ready(process, wanted, log_event("ready"), history=history, deadline_s=20)
    assert next(history.select(ProcessReady)).how == f"GET http://127.0.0.1:{port}/, log event ready"


async def test_secrets_of_the_environment_and_the_arguments_are_not_stored(
    processes: Processes, history: History, tmp_path: Path
) -> None:
    """A token in the environment, a key among the arguments, and one printed by its shape: all masked."""
    code = "import os, sys; print(os.environ['HF_TOKEN'], sys.argv, 'hf_' + 'a1B2' * 8)"
    argv = [PY, "-c", code, "--api-key", "swordfish-42", "--max-tokens=100000"]
    process = await processes.start("leaky", argv, env={"HF_TOKEN": "tell-nobody"})
    await process.exited(10)
    await asyncio.wait_for(process.alone, 5)
    stored = (tmp_path / "logs" / "leaky.log").read_text() + str(next(history.select(ProcessStarted)).argv)
    for secret in ("tell-nobody", "swordfish-42", "a1B2a1B2"):
        assert secret not in stored
    assert "--max-tokens=100000" in stored


async def test_a_log_that_meets_the_limit_says_so_and_the_process_goes_on(history: History, tmp_path: Path) -> None:
    """The process is not blocked by a full log; the history says how much was kept."""
    async with Processes(history, tmp_path, log_limit=1000) as processes:
        process = await processes.start(
            "noisy", [PY, "-c", "print('x' * 79 + '\\n', end='' )\nprint(('y' * 79 + '\\n') * 9999)"]
        )
        assert (await process.exited(10)).returncode == 0
    said = next(history.select(LogTruncated))
    assert (said.source, said.kept) == ("noisy", 1000)
    assert "limit of 1,000 bytes" in said.reason
    assert (tmp_path / "logs" / "noisy.log").stat().st_size == 1000


async def test_a_full_disk_says_so(history: History, tmp_path: Path) -> None:
    """ENOSPC, from the kernel's own /dev/full, is an event, and the run goes on."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "noisy.log").symlink_to("/dev/full")
    async with Processes(history, tmp_path) as processes:
        process = await processes.start("noisy", [PY, "-c", "print('hello')"])
        assert (await process.exited(10)).returncode == 0
    assert "No space left on device" in next(history.select(LogTruncated)).reason


async def test_a_full_disk_says_so_before_the_start_is_known(history: History, tmp_path: Path) -> None:
    """A program may print before its keeper's word is heard, which is held back here: the event comes after its start's."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "noisy.log").symlink_to("/dev/full")
    output = Output()
    async with Processes(history, tmp_path) as processes:
        assert processes._link is not None
        asyncio.get_running_loop().remove_reader(processes._link)
        starting = asyncio.ensure_future(processes.start("noisy", [PY, "-c", "print('hello')"], sink=output))
        await output.until(b"hello")
        asyncio.get_running_loop().add_reader(processes._link, processes._hear)
        assert (await (await starting).exited(10)).returncode == 0
    (started,), (truncated,) = history.select(ProcessStarted), history.select(LogTruncated)
    assert started.n < truncated.n


async def test_a_name_is_free_again_once_its_process_ended(processes: Processes, history: History) -> None:
    """Two living processes of one name are refused; one after the other is a restart."""
    first = await processes.start("worker", [PY, "-c", WAITS])
    with pytest.raises(ValueError, match="still running"):
        await processes.start("worker", [PY])
    await processes.stop(first, grace_s=5)
    second = await processes.start("worker", [PY, "-c", WAITS])
    assert processes["worker"] is second
    assert len(list(history.select(ProcessStarted))) == 2


async def test_a_killed_guardian_takes_everything_with_it(history: History, tmp_path: Path) -> None:
    """Where the guardian itself is killed, its keepers end what they keep, and the harness is told."""
    output = Output()
    async with Processes(history, tmp_path) as processes:
        process = await processes.start("parent", [PY, "-c", LEAVES], sink=output)
        await output.until(b"\n")
        assert processes._guardian is not None
        processes._guardian.kill()
        await process.exited(5)
        gone_within([process.pid, int(output.data)], 2)
        with pytest.raises(StartError, match="the guardian"):
            await processes.start("more", [PY])


async def test_what_lost_guardian_and_keeper_is_ended_by_the_harness(history: History, tmp_path: Path) -> None:
    """With guardian and keeper frozen and then killed, neither can act: the harness does."""
    output = Output()
    async with Processes(history, tmp_path) as processes:
        process = await processes.start("parent", [PY, "-c", STUBBORN], sink=output)
        await output.until(b"up")
        assert processes._guardian is not None
        # Neither may act on the other's end: what is stopped cannot, and SIGKILL needs no thaw.
        for pid in (process.keeper_pid, processes._guardian.pid):
            os.kill(pid, signal.SIGSTOP)
        for pid in (process.keeper_pid, processes._guardian.pid):
            os.kill(pid, signal.SIGKILL)
        ended = await process.exited(5)
        assert ended.signal in ("SIGKILL", None)  # None: before Linux 6.15 the kernel tells nobody but the parent


async def test_what_outlived_guardian_keeper_and_parent_is_found_by_its_tag(history: History, tmp_path: Path) -> None:
    """The tag in the environment says whose a grandchild is, when all above it is gone at once."""
    output = Output()
    async with Processes(history, tmp_path) as processes:
        process = await processes.start("parent", [PY, "-c", LEAVES], sink=output)
        await output.until(b"\n")
        assert processes._guardian is not None
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in (process.keeper_pid, processes._guardian.pid):
                os.kill(pid, number)
        await process.exited(5)
        child = int(output.data)
        assert [entry.pid for entry in tagged(f"FTHARNESS_OWNER={processes._tag}", read_table())] == [child]
    gone_within([child], 2)


def test_a_process_in_the_midst_of_its_exec_is_found_by_its_tag() -> None:
    """Its parent runs on as soon as the old program is gone, and for an instant the new one seems to have no variables."""
    for _ in range(300):
        with subprocess.Popen(["/bin/sleep", "60"], env={"A": "1", "TAG": "mine"}) as child:
            entry = read_entry(child.pid)
            found = tagged("TAG=mine", {} if entry is None else {entry.pid: entry})
            child.kill()
        assert [one.pid for one in found] == [child.pid]


def test_a_process_without_variables_is_not_waited_for() -> None:
    """Nor is one of the kernel's, nor a zombie: a sweep reads all that there are."""
    with subprocess.Popen(["/bin/sleep", "60"], env={}) as bare, subprocess.Popen(["/bin/true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        table = {pid: entry for pid in (2, bare.pid, zombie.pid) if (entry := read_entry(pid)) is not None}
        began = time.monotonic()
        assert tagged("TAG=mine", table) == []
        assert time.monotonic() - began < 0.5
        bare.kill()


HARNESS = """
import asyncio, pathlib, sys, signal
from ftharness.history import History
from ftharness.process import Processes

async def main():
    async with Processes(History(), pathlib.Path(sys.argv[1])) as processes:
        said = asyncio.Event()
        pids = []
        def sink(data, at):
            pids.append(int(data))
            said.set()
        process = await processes.start("parent", [sys.executable, "-c", sys.argv[2]], sink=sink)
        await said.wait()
        print(process.pid, process.keeper_pid, processes._guardian.pid, *pids, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_when_the_harness_is_killed_all_of_it_is_gone_within_2_s(tmp_path: Path, end: signal.Signals) -> None:
    """SIGKILL of the harness leaves no process of its run, not even one that left its session."""
    argv = [PY, "-c", HARNESS, str(tmp_path), LEAVES]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as harness:
        assert harness.stdout is not None
        pids = [int(word) for word in harness.stdout.readline().split()]
        assert len(pids) == 4
        assert all(alive(pid) for pid in pids)
        harness.send_signal(end)
        harness.wait()
        gone_within(pids, 2)


def test_when_the_harness_is_killed_what_was_to_be_removed_is(tmp_path: Path) -> None:
    """A folder with what its processes left there; the guardian is the last to end, and does it then."""
    folder = tmp_path / "own folder"  # a path is any text
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text("x")
    told = HARNESS.replace("print(process.pid", f"processes.remove_at_end(Path({str(folder)!r})); print(process.pid")
    argv = [PY, "-c", f"from pathlib import Path\n{told}", str(tmp_path), LEAVES]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as harness:
        assert harness.stdout is not None
        pids = [int(word) for word in harness.stdout.readline().split()]
        harness.kill()
        harness.wait()
        gone_within(pids, 2)
    assert not folder.exists()


async def test_what_the_harness_has_removed_itself_is_nobodys_business(history: History, tmp_path: Path) -> None:
    """The guardian ends in order, and another folder that was never told of stays."""
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    kept.mkdir()
    gone.mkdir()
    async with Processes(history, tmp_path / "logs") as processes:
        processes.remove_at_end(gone)
        gone.rmdir()
        guardian = processes._guardian
    assert guardian is not None
    assert guardian.returncode == 0
    assert kept.exists()


def test_a_fork_of_the_harness_that_holds_the_socket_does_not_keep_it_alive(tmp_path: Path) -> None:
    """The guardian watches the harness's own process, since a fork of it may hold the socket open."""
    forking = HARNESS.replace("print(process.pid", "import os; (os.fork() or signal.pause()); print(process.pid")
    argv = [PY, "-W", "ignore", "-c", forking, str(tmp_path), LEAVES]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) as harness:
        assert harness.stdout is not None
        pids = [int(word) for word in harness.stdout.readline().split()]
        harness.kill()
        harness.wait()
        gone_within(pids, 2)
        os.killpg(harness.pid, signal.SIGKILL)  # the fork, which this test started


def test_a_ctrl_c_to_the_whole_group_does_not_reach_what_we_started(tmp_path: Path) -> None:
    """A terminal's Ctrl-C goes to the foreground group; processes of ours are in sessions of their own."""
    argv = [PY, "-c", HARNESS, str(tmp_path), LEAVES]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) as harness:
        assert harness.stdout is not None
        pids = [int(word) for word in harness.stdout.readline().split()]
        assert {os.getsid(pid) for pid in pids[:1]} == {pids[0]}
        harness.kill()
        harness.wait()
        gone_within(pids, 2)


async def test_a_program_gets_no_descriptor_but_its_own(processes: Processes) -> None:
    """Neither the guardian's socket nor a pipe of another process: stdin, stdout, stderr, and what was passed."""
    output = Output()
    with listening_socket() as sock:
        code = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')))"
        process = await processes.start("p", [PY, "-S", "-c", code], pass_fds=[sock.fileno()], sink=output)
        await process.exited(10)
        await asyncio.wait_for(process.alone, 5)
        assert output.data.decode().strip() == str([0, 1, 2, sock.fileno()])


async def test_many_processes_at_once(processes: Processes, history: History) -> None:
    """Thirty processes started together each get their own output and their own status."""
    outputs: list[Output] = [Output() for _ in range(30)]

    async def one(index: int) -> int | None:
        code = f"print({index}); raise SystemExit({index})"
        process = await processes.start(f"p{index}", [PY, "-S", "-c", code], sink=outputs[index])
        ended = await process.exited(60)
        await asyncio.wait_for(process.alone, 10)
        return ended.returncode

    assert await asyncio.gather(*(one(index) for index in range(30))) == list(range(30))
    assert [int(output.data) for output in outputs] == list(range(30))
    assert len(list(history.select(ProcessExited))) == 30


async def test_descriptors_do_not_pile_up(history: History, tmp_path: Path) -> None:
    """After a run everything that was opened for it is closed."""
    before = len(os.listdir("/proc/self/fd"))
    async with Processes(history, tmp_path) as processes:
        for index in range(5):
            process = await processes.start(f"p{index}", [PY, "-S", "-c", "pass"])
            await process.exited(20)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_redactor_that_is_told_nothing_knows_the_shapes() -> None:
    """Shapes alone are enough for the usual tokens."""
    redactor = Redactor({})
    assert redactor.text("Authorization: Bearer abcdef0123456789") == "Authorization: Bearer ***"
