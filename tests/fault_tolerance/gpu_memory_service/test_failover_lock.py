"""The failover lock between engines: the tests of Dynamo's own lock, by their names, and on real processes."""

import asyncio
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from ftharness.failover.lock import FailoverLockError, FlockFailoverLock

pytestmark = [pytest.mark.gpu_0, pytest.mark.pre_merge]

# A child that knows nothing of the parent's locks, and so cannot hold one by inheritance.
_SPAWN = multiprocessing.get_context("spawn")


def _hold(path: Path, engine_id: str, told: Connection) -> None:
    """An engine: acquires, says so, and serves until it is killed."""

    async def serve() -> None:
        await FlockFailoverLock(path).acquire(engine_id)  # the object is dropped, as Dynamo's workers do
        told.send(engine_id)
        await asyncio.Event().wait()

    asyncio.run(serve())


def _engine(path: Path, engine_id: str) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    told, tells = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_hold, args=(path, engine_id, tells), daemon=True)
    process.start()
    tells.close()
    return process, told


async def test_acquire_release(tmp_path: Path) -> None:
    """The file holds the engine's id and nothing else; after the release no descriptor of it is open, and it is there still."""
    path = tmp_path / "failover.lock"
    lock = FlockFailoverLock(path)
    await lock.acquire(engine_id="engine-0")
    assert path.read_bytes() == b"engine-0"
    assert _open_files(path)
    assert not lock.was_contended
    await lock.release()
    assert not _open_files(path)
    assert path.exists()
    await lock.release()  # once more is nothing


async def test_two_engines_contention(tmp_path: Path) -> None:
    """While A holds it B waits; when A lets go B has it, with a greater token, and says that it was contended."""
    path = tmp_path / "failover.lock"
    a, b = FlockFailoverLock(path), FlockFailoverLock(path)
    await a.acquire(engine_id="engine-a")
    waiting = asyncio.ensure_future(b.acquire(engine_id="engine-b"))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    assert await b.owner() == "engine-a"
    await a.release()
    await asyncio.wait_for(waiting, 10)
    assert b.was_contended
    assert not a.was_contended
    assert b.token > a.token
    assert await a.owner() == "engine-b"
    await b.release()


async def test_process_death_releases(tmp_path: Path) -> None:
    """The kernel lets go the lock of an engine that is killed by SIGKILL."""
    path = tmp_path / "failover.lock"
    process, told = _engine(path, "engine-0")
    assert await asyncio.to_thread(told.recv) == "engine-0"
    lock = FlockFailoverLock(path)
    waiting = asyncio.ensure_future(lock.acquire(engine_id="engine-1"))
    assert not (await asyncio.wait([waiting], timeout=0.1))[0]
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.wait_for(waiting, 10)
    assert await lock.owner() == "engine-1"
    await lock.release()
    process.join()
    assert process.exitcode == -signal.SIGKILL


async def test_owner(tmp_path: Path) -> None:
    """No owner without a file; then whoever took it last, who stays named after the release."""
    lock = FlockFailoverLock(tmp_path / "failover.lock")
    assert await lock.owner() is None
    await lock.acquire(engine_id="engine-7")
    assert await lock.owner() == "engine-7"
    await lock.release()
    assert await lock.owner() == "engine-7"


async def test_owner_separate_instance(tmp_path: Path) -> None:
    """An object that never acquired tells the owner as well, and takes nothing by asking."""
    path = tmp_path / "failover.lock"
    lock, asks = FlockFailoverLock(path), FlockFailoverLock(path)
    await lock.acquire(engine_id="engine-0")
    assert await asks.owner() == "engine-0"
    with pytest.raises(FailoverLockError, match=r"not free within .*engine-0 \(process \d+\)"):
        await asks.acquire(engine_id="engine-1", timeout=0)
    assert await asks.owner() == "engine-0"
    await lock.release()


async def test_cross_process_race(tmp_path: Path) -> None:
    """Of two processes that race exactly one wins, and the other has it when the winner dies."""
    path = tmp_path / "failover.lock"
    engines = dict(_engine(path, f"engine-{number}") for number in range(2))
    by_pipe = {told: process for process, told in engines.items()}
    first = await asyncio.to_thread(multiprocessing.connection.wait, list(by_pipe), 20)
    assert len(first) == 1
    winner = first[0]
    (loser,) = set(by_pipe) - {winner}
    assert await FlockFailoverLock(path).owner() == winner.recv()
    assert not loser.poll(0.2)
    by_pipe[winner].kill()
    assert await asyncio.to_thread(loser.poll, 10)
    assert await FlockFailoverLock(path).owner() == loser.recv()
    by_pipe[loser].kill()
    for process in engines:
        process.join()


def _open_files(path: Path) -> list[str]:
    folder = Path("/proc/self/fd")
    return [fd.name for fd in folder.iterdir() if fd.is_symlink() and os.path.realpath(fd) == str(path)]
