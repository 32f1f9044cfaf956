"""The answer to a frozen holder: who misses its heartbeat is killed, and nobody else ever is."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ftharness.failover.fence import Fenced, Fencer
from ftharness.failover.identity import identity_of
from ftharness.failover.lock import FlockFailoverLock
from ftharness.failover.lock.flock.record import holds, newest
from ftharness.failover.slots import Slots

_BEAT_S = 0.05
_DEADLINE_S = 0.4
_HOLDER = """
import asyncio, sys, time
from ftharness.failover.lock import FlockFailoverLock
async def main():
    lock = FlockFailoverLock(sys.argv[1], heartbeat_s=float(sys.argv[2]) or None)
    await lock.acquire("engine-0")
    print("held", flush=True)
    while order := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if order == "release":
            await lock.release()
        elif order == "block":
            print("blocks", flush=True)
            time.sleep(60)
        print(order, flush=True)
asyncio.run(main())
"""


@contextlib.contextmanager
def holder(path: Path, beat_s: float = _BEAT_S) -> Iterator[subprocess.Popen[str]]:
    with _started(_HOLDER, path, str(beat_s)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


@contextlib.asynccontextmanager
async def fencer(path: Path, deadline_s: float = _DEADLINE_S) -> AsyncIterator["asyncio.Queue[Fenced]"]:
    fenced: asyncio.Queue[Fenced] = asyncio.Queue()
    task = asyncio.create_task(Fencer(path, deadline_s=deadline_s, on_fenced=fenced.put_nowait).run())
    try:
        yield fenced
    finally:
        assert not task.done()
        task.cancel()


@contextlib.asynccontextmanager
async def lateness() -> AsyncIterator[list[float]]:
    """By how much this very process was woken too late, in seconds: what a busy machine adds to any bound."""
    late = [0.0]

    async def look() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            late.append(time.monotonic() - began - 0.005)

    task = asyncio.create_task(look())
    try:
        yield late
    finally:
        task.cancel()


# A fencer in a process of its own, which says that it runs, and then whom it killed.
_WATCHER = (
    "import asyncio, sys; from ftharness.failover.fence import Fencer; print('runs', flush=True); "
    f"asyncio.run(Fencer(sys.argv[1], deadline_s={_DEADLINE_S}, on_fenced=lambda f: print(f, flush=True)).run())"
)


@contextlib.contextmanager
def _started(code: str, path: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A process, which is killed at the end, whatever else fails."""
    argv = [sys.executable, "-c", code, str(path), *more]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            process.kill()


async def waiter_of(path: Path) -> int:
    """The pid of a process that blocks in flock on a file."""
    inode = str(path.stat().st_ino)
    while True:
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "->" and fields[-3].rpartition(":")[2] == inode:
                return int(fields[5])
        await asyncio.sleep(0.005)


def tell(process: subprocess.Popen[str], order: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(order + "\n")
    process.stdout.readline()


async def test_a_frozen_holder_is_killed_within_its_deadline(tmp_path: Path) -> None:
    """And the next has the lock, 100 ms after that at the latest."""
    path = tmp_path / "lock"
    lock = FlockFailoverLock(path)
    with holder(path) as process:
        waiting = asyncio.ensure_future(lock.acquire("engine-1"))
        async with fencer(path) as fenced:
            assert not (await asyncio.wait([waiting], timeout=3 * _DEADLINE_S))[0], "a holder that beats is not killed"
            async with lateness() as late:
                froze = time.monotonic()
                process.send_signal(signal.SIGSTOP)
                await asyncio.wait_for(waiting, 10)
                took = time.monotonic() - froze
            killed = await asyncio.wait_for(fenced.get(), 10)
        assert killed[:3] == ("engine-0", process.pid, 1)
        assert process.wait() == -signal.SIGKILL
    assert took < _DEADLINE_S + 0.1 + max(late), f"{took} s, on a machine that lets a process wait for {max(late)} s"
    assert lock.token == 2
    lock.release_nowait()


async def test_an_event_loop_that_does_not_turn_is_frozen_as_well(tmp_path: Path) -> None:
    """The heartbeat is of the loop that serves, not of a thread beside it."""
    path = tmp_path / "lock"
    with holder(path) as process:
        tell(process, "block")
        async with fencer(path) as fenced:
            assert (await asyncio.wait_for(fenced.get(), 10)).pid == process.pid


@pytest.mark.parametrize(
    "case", ["no heartbeat promised", "let go", "dead", "of another start", "of another namespace"]
)
async def test_nobody_else_is_killed(tmp_path: Path, case: str) -> None:
    """Who promised no heartbeat, who has let the lock go, and whoever may only have the number of one that had it."""
    path = tmp_path / "lock"
    with holder(path, 0 if case == "no heartbeat promised" else _BEAT_S) as process:
        if case in ("let go", "of another start"):
            tell(process, "release")
        process.send_signal(signal.SIGKILL if case == "dead" else signal.SIGSTOP)
        record = newest(path)
        assert record is not None
        if case.startswith("of another"):
            other = {"started": 1} if "start" in case else {"namespace": 1}
            _rewrite(path, record.identity._replace(**other))
        async with fencer(path, _DEADLINE_S / 4) as fenced:
            await asyncio.sleep(_DEADLINE_S)  # the window in which it must not happen: four deadlines
        assert fenced.empty()
        if case != "dead":
            assert process.poll() is None


async def test_a_fencer_that_was_frozen_itself_starts_anew(tmp_path: Path) -> None:
    """It may have been the whole machine: the holder, thawed a moment later, beats again and lives."""
    path = tmp_path / "lock"
    with holder(path) as process, _started(_WATCHER, path) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "runs\n"
        await asyncio.sleep(_DEADLINE_S)  # it watches
        for each in (process, watcher):
            each.send_signal(signal.SIGSTOP)
        await asyncio.sleep(3 * _DEADLINE_S)
        watcher.send_signal(signal.SIGCONT)
        await asyncio.sleep(_DEADLINE_S / 8)
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(2 * _DEADLINE_S)
        assert process.poll() is None
        process.send_signal(signal.SIGSTOP)  # and it still does its work
        assert str(process.pid) in await asyncio.to_thread(watcher.stdout.readline)


async def test_what_froze_with_the_fencer_and_thaws_with_it_lives(tmp_path: Path) -> None:
    """Whoever thaws first, at whatever moment of the fencer's wait: what it was not awake for is no evidence."""
    path = tmp_path / "lock"
    with holder(path) as process, _started(_WATCHER, path) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "runs\n"
        for turn in range(8):
            await asyncio.sleep(_DEADLINE_S * turn / 8)
            for each in (process, watcher):
                each.send_signal(signal.SIGSTOP)
            await asyncio.sleep(1.1 * _DEADLINE_S)
            for each in (watcher, process) if turn % 2 else (process, watcher):
                each.send_signal(signal.SIGCONT)
            await asyncio.sleep(_DEADLINE_S)
            assert process.poll() is None, f"in turn {turn}"


async def test_a_lost_heartbeat_file_is_no_silence(tmp_path: Path) -> None:
    """A holder that beats writes it anew; what was deleted says nothing of how long it was silent."""
    path = tmp_path / "lock"
    with holder(path, beat_s=_DEADLINE_S / 2) as process:
        async with fencer(path) as fenced:
            for _ in range(6):
                await asyncio.sleep(_DEADLINE_S * 0.7)
                path.with_name("lock.heartbeat").unlink(missing_ok=True)
        assert fenced.empty()
        assert process.poll() is None


async def test_a_deadline_below_the_promise_is_not_kept(tmp_path: Path) -> None:
    """Who beats as it promised is not killed by a fencer that expects more; who stops doing so is."""
    path = tmp_path / "lock"
    with holder(path, beat_s=_DEADLINE_S) as process:
        async with fencer(path, deadline_s=_DEADLINE_S / 4) as fenced:
            await asyncio.sleep(4 * _DEADLINE_S)
            assert fenced.empty()
            process.send_signal(signal.SIGSTOP)
            assert (await asyncio.wait_for(fenced.get(), 10)).pid == process.pid


async def test_who_was_granted_the_lock_and_froze_before_it_could_say_so(tmp_path: Path) -> None:
    """No record names it, and its waiting process is frozen with it, so gives nothing back: both are found by the lock itself."""
    path = tmp_path / "lock"
    lock = FlockFailoverLock(path)
    with holder(path) as first, _started(_HOLDER, path, str(_BEAT_S)) as second:
        waiter = await asyncio.wait_for(waiter_of(path), 10)
        second.send_signal(signal.SIGSTOP)  # it will not hear of the lock
        first.kill()
        while not holds(identity_of(waiter), path):
            await asyncio.sleep(0.002)
        os.kill(waiter, signal.SIGSTOP)
        async with fencer(path) as fenced:
            await asyncio.wait_for(lock.acquire("engine-2"), 20)
            assert {(await asyncio.wait_for(fenced.get(), 10)).pid for _ in range(2)} == {second.pid, waiter}
        assert second.wait() == -signal.SIGKILL
    lock.release_nowait()


async def test_a_fencer_outlives_what_it_does_not_understand(tmp_path: Path) -> None:
    """A record of another version, or a damaged one, is none that it acts upon; it watches on."""
    path = tmp_path / "lock"
    beside = Slots(path.with_name("lock.holder"))
    with holder(path) as process:
        async with fencer(path, deadline_s=_DEADLINE_S / 4) as fenced:
            process.send_signal(signal.SIGSTOP)
            good = beside.read()
            beside.write({"token": 7})
            await asyncio.sleep(_DEADLINE_S)
            assert fenced.empty()
            beside.write({**(good or {}), "of_a_later_version": True})
            assert (await asyncio.wait_for(fenced.get(), 10)).pid == process.pid


async def test_a_heartbeat_ends_with_the_lock(tmp_path: Path) -> None:
    """Nothing beats for one that has let go; nor for one that another has taken the place of."""
    path = tmp_path / "lock"
    lock = FlockFailoverLock(path, heartbeat_s=0.01)
    beat = path.with_name("lock.heartbeat")
    await lock.acquire("engine-0")
    first = beat.read_bytes()
    await asyncio.sleep(0.1)
    assert beat.read_bytes() != first
    lock.release_nowait()
    last = beat.read_bytes()
    await asyncio.sleep(0.1)
    assert beat.read_bytes() == last
    await lock.acquire("engine-0")
    path.unlink()
    usurper = FlockFailoverLock(path)
    await usurper.acquire("engine-1")
    await asyncio.sleep(0.05)
    last = beat.read_bytes()
    await asyncio.sleep(0.1)
    assert beat.read_bytes() == last
    usurper.release_nowait()
    lock.release_nowait()


@pytest.mark.parametrize("wrong", [0.0, -1.0])
def test_times_that_are_none(tmp_path: Path, wrong: float) -> None:
    """Are refused."""
    with pytest.raises(ValueError, match="more than 0 seconds"):
        Fencer(tmp_path / "lock", deadline_s=wrong)
    with pytest.raises(ValueError, match="more than 0 seconds"):
        FlockFailoverLock(tmp_path / "lock", heartbeat_s=wrong)


def _rewrite(path: Path, identity: object) -> None:
    Slots(path.with_name("lock.holder")).replace(lambda last, _: {**(last or {}), "identity": identity})
