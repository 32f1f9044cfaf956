"""What is left when a stack is stopped, on real processes and files."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ftharness.history import History, Leak
from ftharness.logs import Contract
from ftharness.process import Living, Processes, Redactor
from ftharness.stack.plan import Launch, Plan
from ftharness.stack.running import RunningStack

PY = sys.executable
# Maps a file in /dev/shm, and leaves it there, as a process does that is killed or forgets it.
MAPS = """
import mmap, os, signal, sys
file = open(sys.argv[1], "w+b")
file.truncate(4096)
mapped = mmap.mmap(file.fileno(), 4096)
open(sys.argv[2], "w").close()
signal.pause()
"""
# Has a named semaphore, as multiprocessing makes them for processes that are to find it by its name.
SEMAPHORE = """
import _multiprocessing, signal, sys
semaphore = _multiprocessing.SemLock(1, 1, 1, sys.argv[1], False)
open(sys.argv[2], "w").close()
signal.pause()
"""
# What it starts takes 1.5 s to end once it is gone: an engine that unloads.
SLOW_TO_END = """
import os, signal, subprocess, sys
child = "import sys, time; sys.stdin.read(); time.sleep(1.5)"
subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, start_new_session=True)
open(sys.argv[1], "w").close()
signal.pause()
"""
# Maps a file that is there.
READS = """
import mmap, signal, sys
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ)
open(sys.argv[2], "w").close()
signal.pause()
"""
# Leaves a temporary file, and says which.
LEAVES = """
import os, signal, sys, tempfile
handle, name = tempfile.mkstemp()
with open(sys.argv[1] + ".part", "w") as said:
    said.write(name)
os.rename(sys.argv[1] + ".part", sys.argv[1])
signal.pause()
"""
WAITS = "import signal; open(__import__('sys').argv[1], 'w').close(); signal.pause()"


class There:
    """A process has made a file of this name."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return f"{self._path} is there"

    async def met(self, process: Living, history: History) -> None:
        del process, history
        while not self._path.exists():
            await asyncio.sleep(0.02)


class Stacks:
    """Starts stacks of processes that run a script each."""

    def __init__(self, folder: Path, ends: AsyncExitStack) -> None:
        self.folder = folder
        self.history = History(start_ns=0)
        self._ends = ends

    async def start(self, scripts: dict[str, list[str]], **of_plan: float) -> RunningStack:
        """Each process makes the file whose name is the last of its script's arguments, and is ready then."""
        contract = Contract(backend="none", version="1", known=True, events={}, metrics=(), files=())
        launches = [
            Launch(
                name=name,
                role="aggregated",
                argv=[PY, "-c", script, *arguments],
                env={},
                contract=contract,
                ready=[There(Path(arguments[-1]))],
            )
            for name, (script, *arguments) in scripts.items()
        ]
        plan = Plan(
            launches=launches,
            url="http://127.0.0.1:9",
            model="m",
            ready=There(self.folder),
            count=len,
            exact=False,
            **of_plan,
        )
        processes = await self._ends.enter_async_context(Processes(self.history, self.folder))
        stack = RunningStack(plan, self.history, processes, idle_s=1, seed=0, redactor=Redactor())
        await stack.start(deadline_s=20)
        return stack

    @property
    def leaks(self) -> list[tuple[str, str, str]]:
        """What, whose, and which."""
        return [(leak.what, leak.source, leak.detail) for leak in self.history.select(Leak)]


@pytest.fixture
async def stacks(tmp_path: Path) -> AsyncIterator[Stacks]:
    """Whatever they start is ended."""
    async with AsyncExitStack() as ends:
        yield Stacks(tmp_path, ends)


async def test_a_file_in_shared_memory_that_stays_is_of_the_process_that_had_it_mapped(
    stacks: Stacks, tmp_path: Path
) -> None:
    """Also where that one ended long before the others."""
    left = Path("/dev/shm") / f"ftharness-test-{tmp_path.parent.name}-{tmp_path.name}"  # noqa: S108 - what it is about
    try:
        stack = await stacks.start(
            {
                "worker-1": [WAITS, str(tmp_path / "one")],
                "worker-2": [MAPS, str(left), str(tmp_path / "two")],
            }
        )
        stack.note_shared_memory()
        await stack.processes.stop(stack["worker-2"], grace_s=5)
        await stack.stop(grace_s=5)
        assert stacks.leaks == [("shm", "worker-2", str(left))]
        assert not left.exists()  # it is told, and given back
    finally:
        left.unlink(missing_ok=True)


async def test_a_semaphore_that_stays_is_of_the_process_that_had_it(stacks: Stacks, tmp_path: Path) -> None:
    """It is mapped under another name than it has: sem_open(3) links it to its own when it is whole."""
    name = f"ftharness-test-{tmp_path.parent.name}-{tmp_path.name}"
    left = Path("/dev/shm") / f"sem.{name}"  # noqa: S108 - as above
    try:
        stack = await stacks.start({"worker-1": [SEMAPHORE, f"/{name}", str(tmp_path / "one")]})
        stack.note_shared_memory()
        await stack.stop(grace_s=5)
        assert stacks.leaks == [("shm", "worker-1", str(left))]
        assert not left.exists()
    finally:
        left.unlink(missing_ok=True)


async def test_a_file_in_shared_memory_that_was_there_before_is_not_removed(stacks: Stacks, tmp_path: Path) -> None:
    """Whoever made it may come back for it."""
    before = Path("/dev/shm") / f"ftharness-before-{tmp_path.parent.name}-{tmp_path.name}"  # noqa: S108 - as above
    before.write_bytes(b"\0" * 4096)
    try:
        stack = await stacks.start({"worker-1": [READS, str(before), str(tmp_path / "one")]})
        stack.note_shared_memory()
        await stack.stop(grace_s=5)
        assert before.exists()
    finally:
        before.unlink(missing_ok=True)


async def test_temporary_files_go_with_the_stack(stacks: Stacks, tmp_path: Path) -> None:
    """Its processes have a folder of their own for them."""
    stack = await stacks.start({"worker-1": [LEAVES, str(tmp_path / "one")]}, scratch=True)
    (left,) = [Path(line) for line in (tmp_path / "one").read_text().split()]
    assert left.exists()
    await stack.stop(grace_s=5)
    assert not left.parent.exists()


@pytest.mark.parametrize("settle_s,leaks", [(0.1, ["process"]), (20.0, [])])
async def test_only_what_is_there_when_it_has_had_its_time_to_settle_is_a_leak(
    stacks: Stacks, tmp_path: Path, settle_s: float, leaks: list[str]
) -> None:
    """It is not waited for longer than it takes: an engine's child needs as long as its plan says to follow its owner."""
    stack = await stacks.start({"worker-1": [SLOW_TO_END, str(tmp_path / "one")]}, settle_s=settle_s)
    async with asyncio.timeout(15):
        await stack.stop(grace_s=5)
    assert [what for what, _, _ in stacks.leaks] == leaks
