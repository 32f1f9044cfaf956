"""A stack of Dynamo's keeps to itself: loopback only, ready when it says so, and gone when the harness is."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftharness.client import chat, completion
from ftharness.history import History, Log
from ftharness.process import Process
from ftharness.process.process_table import below, read_table
from ftharness.scenario import Scenario
from ftharness.scenario.runner import Cell, Run
from ftharness.stack import aggregated, find_stack

LISTEN = "0A"  # the state's number in /proc/net/tcp
LOOPBACK6 = "00000000000000000000000001000000"


def listeners(pids: set[int]) -> Iterator[str]:
    """The local address of every TCP socket on which one of these processes listens, as /proc/net writes it."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(fd.readlink()).removeprefix("socket:[").removesuffix("]"))
            except FileNotFoundError:
                continue
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and fields[9] in inodes:
                yield fields[1].partition(":")[0]


def off_loopback(pids: set[int]) -> list[str]:
    """Those of them that others than this machine can reach; an IPv4 address stands there as a little-endian number."""
    return [address for address in listeners(pids) if address != LOOPBACK6 and not address.endswith("7F")]


def test_a_listener_on_every_interface_would_be_seen() -> None:
    """The look itself sees one, and takes one on loopback for what it is."""
    with socket.create_server(("127.0.0.1", 0)):
        assert off_loopback({os.getpid()}) == []
        with socket.create_server(("0.0.0.0", 0)):  # noqa: S104 - the point
            assert off_loopback({os.getpid()}) == ["00000000"]


async def launched(stack: str, python: Path, folder: Path) -> tuple[list[str], int, list[str], set[str]]:
    """Launch a stack and use it at once: its listeners off loopback, how many in all, how requests ended, who had them."""
    scenario = Scenario(name="own/house", topology=aggregated(workers=2), workload=[])
    cell = Cell(scenario=scenario, stack=stack, sut_python=str(python))
    with History(folder / "history.jsonl") as history:
        run = Run(cell, find_stack(stack), folder, history, lambda _: None)
        try:
            await run.launch()
            await run.begin_faults()
            ends = []
            for place in range(4):
                stream = await run.send((completion, chat)[place % 2](max_tokens=3))
                ends.append((await stream.finished()).outcome)
            pids = {pid for process in [run.stack.frontend, *run.stack.workers] for pid in pids_of(process)}
            found, count = off_loopback(pids), len(list(listeners(pids)))
            run.ended("complete")
        finally:
            await run.teardown()
        return found, count, ends, {line.source for line in history.select(Log, event="request_received")}


def pids_of(process: Process) -> set[int]:
    return {process.pid, *(descendant.pid for descendant in process.descendants())}


@pytest.mark.parametrize("version", ["1.4.2", "1.6.1"])
@pytest.mark.parametrize("stack", ["dynamo-sim", "dynamo-mocker"])
def test_it_listens_on_loopback_only_and_serves_at_once(
    tmp_path: Path, python_of: Callable[[str], Path], stack: str, version: str
) -> None:
    """No socket that anybody else could reach; the first requests succeed, both endpoints, on both workers."""
    found, count, ends, workers = asyncio.run(launched(stack, python_of(version), tmp_path))
    assert found == []
    assert count >= 4  # two workers' request planes, the frontend and its response stream: the look saw them
    assert ends == ["success"] * 4
    assert workers == {"worker-1", "worker-2"}


@pytest.mark.parametrize("stack", ["dynamo-sim", "dynamo-mocker"])
def test_a_killed_harness_leaves_nothing(tmp_path: Path, python_of: Callable[[str], Path], stack: str) -> None:
    """SIGKILL in mid-stream: within 2 s every process of the stack is gone."""
    argv = [sys.executable, "-m", "ftharness", "run", "migration/drain"]
    argv += ["--stack", stack, "--sut-python", str(python_of("1.4.2")), "--out", str(tmp_path / "run")]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as harness:
        history = tmp_path / "run" / "history.jsonl"
        wait_for(lambda: history.exists() and b'"request.chunk"' in history.read_bytes(), 30)
        started = [entry for entry in below(harness.pid, read_table()) if entry.pid != harness.pid]
        assert len(started) >= 4  # the guardian, the frontend, two workers, and what these have started
        harness.send_signal(signal.SIGKILL)
    wait_for(lambda: not alive({(entry.pid, entry.start_time) for entry in started}), 2)


def alive(those: set[tuple[int, int]]) -> set[tuple[int, int]]:
    return {(entry.pid, entry.start_time) for entry in read_table().values() if entry.state != "Z"} & those


def wait_for(holds: Callable[[], bool], deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {deadline_s:g} s"
        time.sleep(0.01)  # processes that are not ours any more, and a file that somebody else writes


@pytest.mark.parametrize("stack", ["dynamo-sim", "dynamo-mocker"])
def test_no_temporary_file_is_left(
    run: Callable[..., object], stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by any process of the stack; what is left is in the run's own folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    run("migration/worker_failure", stack, "1.4.2", max_tokens=60, token=20)
    assert list(temporary.iterdir()) == []
