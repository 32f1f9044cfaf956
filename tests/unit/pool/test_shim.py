"""One engine below its shim: real processes, signals, pipes, sockets and files."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftharness.failover.identity import identity_of
from ftharness.failover.slots import Slots
from ftharness.pool.engine_process import EngineProcess
from ftharness.pool.engine_start import CannotStart, connect, start
from ftharness.pool.privileges import privileges
from ftharness.pool.slot import Slot, SlotHeld
from ftharness.process import Ended
from ftharness.process.process_table import read_entry

PY = sys.executable
WAITS = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
# A child that leaves the process group and the session, as MPI ranks and EngineCore do, and outlives its parent.
LEAVES = """
import subprocess, sys, signal
waits = "import signal\\nfor number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)\\nwhile True: signal.pause()"
child = subprocess.Popen([sys.executable, "-c", waits], start_new_session=True)
print(child.pid, flush=True)
signal.pause()
"""
# A manager of one engine: starts it, says its pid and its shim's, and waits for ever.
MANAGER = """
import asyncio, sys
from pathlib import Path
from ftharness.pool.engine_start import start
from ftharness.pool.privileges import privileges
from ftharness.pool.slot import Slot

async def main():
    slot = Slot(Path(sys.argv[1]), "pool-1", sys.argv[2])
    said = asyncio.Queue()
    engine = await start(slot, [sys.executable, "-c", sys.argv[4]], environment={}, cwd="/", survive=sys.argv[3] == "survive",
                         about={"model": "m"}, on_line=said.put_nowait)
    print(engine.pid, slot.record().shim.pid, await said.get(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Lines:
    """What an engine printed, and waiting for it."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.all.append(line)
        self._more.set()

    async def until(self, holds: Callable[[list[str]], bool]) -> list[str]:
        async with asyncio.timeout(20):
            while not holds(self.all):
                self._more.clear()
                await self._more.wait()
        return self.all


async def _start(slot: Slot, program: str, *, survive: bool = False, **more: Any) -> tuple[EngineProcess, Lines]:
    lines = Lines()
    engine = await start(
        slot, [PY, "-c", program], environment={}, cwd="/", survive=survive, about={"model": "m"}, on_line=lines, **more
    )
    return engine, lines


def _lives(pid: int) -> bool:
    entry = read_entry(pid)
    return entry is not None and entry.state not in "ZX"


async def _until_gone(*pids: int) -> None:
    """Wait for the kernel's word that these are gone; the time is what the design gives everything that is ours."""
    async with asyncio.timeout(2):
        for pid in pids:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            gone = asyncio.Event()
            asyncio.get_running_loop().add_reader(fd, gone.set)
            try:
                await gone.wait()
            finally:
                asyncio.get_running_loop().remove_reader(fd)
                os.close(fd)


def _manager(slot: Slot, mode: str, program: str) -> tuple["subprocess.Popen[str]", list[str]]:
    slot.make()
    words = [PY, "-c", MANAGER, str(slot.folder), slot.tag.split("=")[1].split("/pool-1/")[0], mode, program]
    manager = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert manager.stdout is not None
    return manager, manager.stdout.readline().split()


def _kill(manager: "subprocess.Popen[str]") -> None:
    manager.kill()
    manager.wait()
    assert manager.stdout is not None
    manager.stdout.close()


async def test_the_wait_status_is_the_engines_own(slot: Slot) -> None:
    """An engine that exits 3 is seen to exit 3, one that is killed by a signal to be killed by that signal."""
    engine, _ = await _start(slot, "raise SystemExit(3)")
    assert (await engine.gone()).how == Ended(3, None)
    assert not slot.is_held()
    engine, lines = await _start(slot, WAITS)
    await lines.until(lambda said: said == ["up"])
    os.kill(engine.pid, signal.SIGSEGV)
    assert (await engine.gone()).how == Ended(None, "SIGSEGV")


async def test_all_that_it_said_comes_before_its_end(slot: Slot) -> None:
    """The last line of an engine is there when its end is known, though no newline ends it."""
    engine, lines = await _start(slot, "import sys; print('one'); sys.stderr.write('two'); raise SystemExit(1)")
    await engine.exited
    assert sorted(lines.all) == ["one", "two"]
    assert engine.tail() == lines.all
    await engine.gone()
    assert "two" in slot.log_path.read_text()


async def test_stop_asks_first_and_kills_after_the_grace(slot: Slot) -> None:
    """An engine that heeds SIGTERM ends by it; one that does not is killed when the grace is over."""
    engine, lines = await _start(slot, WAITS)
    await lines.until(lambda said: said == ["up"])
    assert await engine.stop(grace_s=20) == Ended(None, "SIGTERM")
    engine, lines = await _start(slot, STUBBORN)
    await lines.until(lambda said: said == ["up"])
    assert await engine.stop(grace_s=0.1) == Ended(None, "SIGKILL")


async def test_an_engine_that_is_stopped_by_a_signal_is_stopped_all_the_same(slot: Slot) -> None:
    """SIGTERM reaches an engine in state T: it is thawed first."""
    engine, lines = await _start(slot, WAITS)
    await lines.until(lambda said: said == ["up"])
    os.kill(engine.pid, signal.SIGSTOP)
    assert await engine.stop(grace_s=20) == Ended(None, "SIGTERM")


async def test_what_an_engine_leaves_behind_goes_with_it(slot: Slot) -> None:
    """A child in a session of its own, deaf to all that can be ignored, is gone when `alone` is done."""
    engine, lines = await _start(slot, LEAVES, settle_s=0.1)
    (child,) = await lines.until(lambda said: len(said) == 1)
    os.kill(engine.pid, signal.SIGKILL)
    assert (await engine.exited).how == Ended(None, "SIGKILL")
    assert not engine.alone.done()
    await engine.gone()
    assert not _lives(int(child))


async def test_one_slot_has_one_engine(slot: Slot) -> None:
    """A second start in a slot that has an engine is refused, and starts nothing; the first is not touched."""
    engine, lines = await _start(slot, WAITS)
    await lines.until(lambda said: said == ["up"])
    marker = slot.folder / "second"
    with pytest.raises(CannotStart, match="another shim holds this slot"):
        await _start(slot, f"open({str(marker)!r}, 'w')")
    assert not marker.exists()
    assert _lives(engine.pid)
    await engine.stop(grace_s=20)


@pytest.mark.parametrize(
    "argv, cwd, says",
    [
        (["/no/such/program"], "/", "/no/such/program cannot be executed: No such file or directory"),
        (["true"], "/no/such/folder", "its folder /no/such/folder cannot be entered"),
    ],
)
async def test_a_start_that_fails_says_why(slot: Slot, argv: list[str], cwd: str, says: str) -> None:
    """What cannot be executed is an error with the reason, and the slot is free afterwards."""
    with pytest.raises(CannotStart, match=says):
        await start(slot, argv, environment={"PATH": os.defpath}, cwd=cwd, survive=True, about={})
    assert await slot.wait_until_free(5)


async def test_nothing_is_started_where_its_record_cannot_be_written(slot: Slot) -> None:
    """A slot's folder that takes no record (here: a folder is in its place) is an error before anything runs."""
    slot.make()
    (slot.folder / "shim").mkdir()
    marker = slot.folder / "ran"
    with pytest.raises(CannotStart, match="Is a directory"):
        await _start(slot, f"open({str(marker)!r}, 'w')")
    assert not marker.exists()


async def test_output_that_cannot_be_kept_is_said_and_passed_on(slot: Slot) -> None:
    """With a disk that takes nothing (/dev/full in the log's place) the engine runs on, its lines come, and it is told once."""
    slot.make()
    slot.log_path.symlink_to("/dev/full")
    program = "import sys\nfor n in range(3): print('line', n, flush=True); sys.stdin\nraise SystemExit(0)"
    engine, lines = await _start(slot, program)
    await engine.gone()
    told = [line for line in lines.all if line.startswith("[ftharness] its output is not kept")]
    assert len(told) == 1
    assert "No space left on device" in told[0]
    assert [line for line in lines.all if line.startswith("line")] == ["line 0", "line 1", "line 2"]


async def test_the_log_has_a_limit(slot: Slot) -> None:
    """Two files share the limit, and the last line is in the newer one."""
    program = "for n in range(4000): print('x' * 90, n)\nprint('the end')"
    engine, lines = await _start(slot, program, log_limit=64 << 10)
    await engine.gone()
    kept = [slot.log_path, slot.log_path.with_name("engine.log.1")]
    assert sum(path.stat().st_size for path in kept) <= (64 << 10) + (64 << 10)  # a piece of a pipe is kept whole
    assert kept[0].read_text().endswith("the end\n")
    assert kept[0].stat().st_mode & 0o077 == 0
    assert lines.all[-1] == "the end" or engine.missed


async def test_a_manager_that_does_not_listen_stops_nobody(slot: Slot) -> None:
    """Megabytes that the manager does not read pass through the shim: the engine ends, and what was missed is counted."""
    program = "import os\nfor _ in range(200): os.write(1, b'y' * 65535 + b'\\n')"
    engine, _ = await _start(slot, program, log_limit=1 << 20)
    pidfd = os.pidfd_open(engine.pid)
    ended, _, _ = select.select([pidfd], [], [], 20)  # our loop reads nothing meanwhile: that is the point
    os.close(pidfd)
    assert ended
    assert (await engine.gone()).how == Ended(0, None)
    assert engine.missed > 1 << 20


async def test_an_engine_dies_with_its_manager(slot: Slot) -> None:
    """After a SIGKILL of the manager its engine, what that had started and the shim are gone; so the design says, within 2 s."""
    manager, (engine, shim, child) = _manager(slot, "die", LEAVES)
    _kill(manager)
    await _until_gone(int(engine), int(child), int(shim))
    assert await slot.wait_until_free(2)
    record = slot.record()
    assert record is not None
    assert (record.phase, record.exit) == ("gone", Ended(None, "SIGKILL"))


async def test_an_engine_survives_its_manager_and_is_found(slot: Slot) -> None:
    """After a SIGKILL of the manager the next finds the same engine, its last lines, its notes, and later its wait status."""
    manager, (engine_pid, shim, _) = _manager(slot, "survive", STUBBORN)
    _kill(manager)
    lines = Lines()
    engine = await connect(slot, lines)
    assert engine is not None
    assert engine.pid == int(engine_pid)
    assert engine.about == {"model": "m"}
    assert (await lines.until(bool)) == ["up"]
    os.kill(engine.pid, signal.SIGABRT)
    assert (await engine.gone()).how == Ended(None, "SIGABRT")
    await _until_gone(int(shim))


async def test_an_end_that_no_manager_saw_is_written_down(slot: Slot) -> None:
    """An engine that ends while it has no manager leaves its wait status, and no process."""
    manager, (engine_pid, shim, _) = _manager(slot, "survive", WAITS)
    _kill(manager)
    os.kill(int(engine_pid), signal.SIGBUS)
    await _until_gone(int(shim))
    record = slot.record()
    assert record is not None
    assert (record.phase, record.exit, record.told) == ("gone", Ended(None, "SIGBUS"), False)
    assert not (slot.folder / "shim.sock").exists()
    assert await connect(slot) is None


async def test_an_engine_dies_with_its_shim(slot: Slot) -> None:
    """The shim is SIGKILLed: the engine is killed, what it had started is found by its tag, and the end is known."""
    engine, lines = await _start(slot, LEAVES)
    (child,) = await lines.until(lambda said: len(said) == 1)
    record = slot.record()
    assert record is not None
    os.kill(record.shim.pid, signal.SIGKILL)
    exit_ = await engine.gone()
    assert exit_.how in (
        Ended(None, "SIGKILL"),
        Ended(None, None),
    )  # the kernel tells of a stranger's from Linux 6.15 on
    assert not _lives(engine.pid)
    assert not _lives(int(child))


async def test_what_a_dead_shim_and_a_dead_manager_left_is_swept(slot: Slot) -> None:
    """With the manager and then the shim SIGKILLed, a child of the engine's lives on; the next manager finds and ends it."""
    manager, (engine, shim, child) = _manager(slot, "survive", LEAVES)
    _kill(manager)
    os.kill(int(shim), signal.SIGKILL)
    await _until_gone(int(shim), int(engine))
    assert _lives(int(child))
    assert not slot.is_held()
    assert await slot.sweep() == [int(child)]
    assert not _lives(int(child))


async def test_the_sweep_takes_nobody_elses(slot: Slot, tmp_path: Path) -> None:
    """A process of another slot whose name begins alike, or of another state folder, is left alone."""
    others = [Slot(tmp_path / "a", "pool-11", tmp_path.as_posix()), Slot(tmp_path / "b", "pool-1", "another")]
    engines = [(await _start(other, WAITS))[0] for other in others]
    assert await slot.sweep() == []
    for engine in engines:
        assert _lives(engine.pid)
        await engine.stop(grace_s=20)


async def test_a_shim_that_does_not_answer_is_evicted(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen shim is no manager's; it is killed by what it wrote down of itself, and its engine goes with it."""
    monkeypatch.setattr("ftharness.pool.engine_start._HELLO_S", 0.2)
    manager, (engine, shim, _) = _manager(slot, "survive", WAITS)
    _kill(manager)
    os.kill(int(shim), signal.SIGSTOP)
    assert await connect(slot) is None
    assert slot.is_held()
    await slot.evict()
    await slot.sweep()
    await _until_gone(int(engine))
    assert not slot.is_held()


async def test_a_lock_whose_holder_is_not_known_is_left_alone(slot: Slot) -> None:
    """Where the record does not name a living shim, nobody is killed: the pid in it may be a stranger's by now."""
    slot.make()
    stranger = await asyncio.create_subprocess_exec(PY, "-c", "import signal; signal.pause()")
    try:
        holder = await asyncio.create_subprocess_exec(
            "flock", slot.folder / "lock", "-c", "echo held; read x", stdin=-1, stdout=-1
        )
        assert holder.stdout is not None
        await holder.stdout.readline()
        earlier = identity_of(stranger.pid)._replace(started=1)
        record = {"phase": "running", "shim": list(earlier), "engine": None, "status": None, "told": False}
        Slots(slot.folder / "shim").write(record)
        with pytest.raises(SlotHeld, match="not by the shim"):
            await slot.evict()
        assert stranger.returncode is None
        assert holder.stdin is not None
        holder.stdin.close()
        await holder.wait()
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_start_that_is_called_off_leaves_nothing(slot: Slot) -> None:
    """A manager that stops waiting, while its shim starts, has no engine to survive it."""
    starting = asyncio.create_task(_start(slot, STUBBORN, survive=True))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    async with asyncio.timeout(10):
        while (record := slot.record()) is None or record.phase != "gone":
            await asyncio.sleep(0.01)  # the shim was only just executed: nothing else tells how far it is
    assert await slot.wait_until_free(5)
    assert await slot.sweep() == []


async def test_no_secret_is_on_the_shims_command_line(slot: Slot) -> None:
    """What an engine gets in its environment is not to be read by others: not in arguments, not on the disk."""
    lines = Lines()
    engine = await start(
        slot,
        [PY, "-c", WAITS],
        environment={"HF_TOKEN": "hf_topsecret"},
        cwd="/",
        survive=True,
        about={},
        on_line=lines,
    )
    await lines.until(bool)
    record = slot.record()
    assert record is not None
    assert b"hf_topsecret" not in Path(f"/proc/{record.shim.pid}/cmdline").read_bytes()
    assert b"hf_topsecret" in Path(f"/proc/{engine.pid}/environ").read_bytes()
    assert not [path for path in slot.folder.iterdir() if path.is_file() and b"hf_topsecret" in path.read_bytes()]
    await engine.stop(grace_s=20)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start an engine as somebody else")
async def test_an_engine_of_another_user_dies_with_its_shim_too(slot: Slot) -> None:
    """What the kernel is to do at the shim's end is asked for after the change of user, which would undo it."""
    rights = privileges("nobody").plain()
    path = {"PATH": os.defpath}  # the tests' interpreter may be where nobody else may look
    engine = await start(slot, ["sleep", "60"], environment=path, cwd="/", survive=True, about={}, privileges=rights)
    status = Path(f"/proc/{engine.pid}/status").read_text()
    assert f"Uid:\t{rights['uid']}\t{rights['uid']}" in status
    assert "NoNewPrivs:\t1" in status
    assert "CapBnd:\t0000000000000000" in status
    record = slot.record()
    assert record is not None
    engine.close()  # no manager is there to look after it: it is the kernel's doing alone
    os.kill(record.shim.pid, signal.SIGKILL)
    await _until_gone(engine.pid)
