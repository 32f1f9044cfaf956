"""From the SIGKILL of a lock's holder to the lock held by the next, and from that of an engine to its shadow's first token.

Of engines the whole way is measured, on the simulated stack, with a waking that costs nothing: the kernel, the lock, the engine's
own steps, its registration, a client that asks as soon as that is logged, and its first token. A new shadow joins each time.
Of an engine that is frozen it is the lock in its shadow's hands, which has to wait for the heartbeat's deadline.

The holder is a process that has the flock and nothing else. Three wait for it in turn, each in this process: our lock; a loop
that asks for it each 100 ms, as failover locks usually do; and a thread that blocks in flock and reads the clock when it
returns, which no engine can do (it cannot be called off), but which is what the machine itself takes.
"""

import asyncio
import contextlib
import fcntl
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from _figures import Figures, quantile

from ftharness.client import completion
from ftharness.failover.lock import FlockFailoverLock
from ftharness.faults import active, freeze, kill, start_standby
from ftharness.history import FaultLanded, History, Log, RequestChunk
from ftharness.scenario import Scenario
from ftharness.scenario.runner import Cell, Run
from ftharness.stack import Topology, aggregated, find_stack

_POLL_S = 0.1
_BEAT_S = 0.1
#: Of the fencer; the shadow is to have the lock 100 ms after it at most.
_DEADLINE_S = 0.5
_HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
os.write(1, b".")
os.read(0, 1)
"""


@contextlib.contextmanager
def _holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-I", "-S", "-c", _HOLDER, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.read(1)
        try:
            yield holder
        finally:
            holder.kill()


async def _ours(path: Path) -> tuple[int, Callable[[], None]]:
    lock = FlockFailoverLock(path)
    await lock.acquire("next")
    return time.perf_counter_ns(), lock.release_nowait


async def _polled(path: Path) -> tuple[int, Callable[[], None]]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(_POLL_S)
        else:
            return time.perf_counter_ns(), lambda: os.close(fd)


async def _blocking(path: Path) -> tuple[int, Callable[[], None]]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def block() -> int:
        fcntl.flock(fd, fcntl.LOCK_EX)
        return time.perf_counter_ns()

    return await asyncio.to_thread(block), lambda: os.close(fd)


async def _round(
    wait: Callable[[Path], Awaitable[tuple[int, Callable[[], None]]]], path: Path, pause_s: float
) -> float:
    """Milliseconds from the SIGKILL to the lock held."""
    with _holder(path) as holder:
        waiting = asyncio.ensure_future(wait(path))
        while wait is not _polled and not _someone_blocks(path):
            await asyncio.sleep(0.005)
        await asyncio.sleep(pause_s)  # at whatever moment of the poll's period
        killed = time.perf_counter_ns()
        holder.kill()
        held, release = await waiting
        release()
    return (held - killed) / 1e6


def _someone_blocks(path: Path) -> bool:
    """/proc/locks shows who waits for a lock below it, with an arrow (proc(5))."""
    inode = str(path.stat().st_ino)
    waiting = (line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line)
    return any(fields[6].rpartition(":")[2] == inode for fields in waiting)


async def _locks(figures: Figures, folder: Path) -> None:
    rounds = 40 if figures.quick else 200
    moments = random.Random(7)  # noqa: S311 - not for secrets
    contestants = {"ours": _ours, "poll": _polled, "flock": _blocking}
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name in sorted(contestants, key=lambda _: moments.random()):
            path = folder / f"{name}.lock"
            taken[name].append(await _round(contestants[name], path, moments.uniform(0.0, _POLL_S)))
    for q, poll_bound, flock_bound in ((0.5, "ratio <= 0.04", "ratio <= 2"), (0.99, "", "")):
        ours, poll, flock = (quantile(taken[name], q) for name in contestants)
        figure = f"failover/lock_kill_to_held_p{round(q * 100)}"
        figures.tell(figure, ours, "ms", n=rounds, bound=poll_bound, peer="a 100 ms poll", peer_value=poll)
        figures.tell(
            figure, ours, "ms", n=rounds, bound=flock_bound, peer="a thread that blocks in flock", peer_value=flock
        )


async def _rounds(
    folder: Path, topology: Topology, one: Callable[[Run, History], Awaitable[float]], rounds: int
) -> list[float]:
    """Milliseconds, one value a round, of a stack of one group to which a new shadow joins each time."""
    scenario = Scenario(name="benchmark/failover", topology=topology, workload=[], deadline_s=600)
    found: list[float] = []
    with History(folder / "history.jsonl") as history:
        run = Run(Cell(scenario=scenario, stack="sim"), find_stack("sim"), folder, history, lambda _: None)
        try:
            await run.launch()
            await run.begin_faults()
            for _ in range(rounds):
                found.append(await one(run, history))
                await run.nemesis.inject(start_standby())
            run.ended("complete")
        finally:
            await run.teardown()
    return found


def _line(history: History, name: str) -> "asyncio.Future[Log]":
    """The next line that means that."""
    return asyncio.ensure_future(
        history.wait_for(
            lambda event: isinstance(event, Log) and event.event == name, deadline_s=20, what=name, past=False
        )
    )  # type: ignore[return-value]


async def _killed(run: Run, history: History) -> float:
    """From the SIGKILL of the engine that serves to its shadow's first token."""
    ready = _line(history, "ready")
    killing = asyncio.ensure_future(run.nemesis.inject(kill(active)))
    taken_over = await ready
    stream = await run.send(completion(max_tokens=1))
    await stream.token(1)
    await killing
    chunk = next(history.select(RequestChunk, request=stream.id))
    assert chunk.worker == taken_over.source
    return (chunk.t - list(history.select(FaultLanded))[-1].t) / 1e6


async def _frozen(run: Run, history: History) -> float:
    """From the SIGSTOP of the engine that serves to the lock in its shadow's hands, by way of the fencer's SIGKILL."""
    acquired, ready = _line(history, "lock_acquired"), _line(history, "ready")
    freezing = asyncio.ensure_future(run.nemesis.inject(freeze(active)))
    held = await acquired
    await freezing
    await ready
    return (held.t - list(history.select(FaultLanded))[-1].t) / 1e6


def main() -> None:
    figures = Figures(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_locks(figures, Path(folder)))
    rounds = 20 if figures.quick else 100
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_rounds(Path(folder), aggregated(workers=1, standbys=1, wake_s=0.0), _killed, rounds))
    figures.tell("failover/kill_to_first_token_p50", quantile(found, 0.5), "ms", n=rounds)
    figures.tell("failover/kill_to_first_token_p95", quantile(found, 0.95), "ms", n=rounds, bound="value <= 100")
    rounds = 5 if figures.quick else 20
    fencing = aggregated(workers=1, standbys=1, wake_s=0.0, heartbeat_s=_BEAT_S, fence_s=_DEADLINE_S)
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_rounds(Path(folder), fencing, _frozen, rounds))
    bound = f"value <= {_DEADLINE_S * 1e3 + 100:g}"
    figures.tell("failover/freeze_to_held_max", max(found), "ms", n=rounds, bound=bound)
    figures.end()


if __name__ == "__main__":
    main()
