"""What it costs to look after engines: 50 of them idle, their crashes noticed, a thousand restarts of one.

The peer looks at the same 50 engines every 100 ms, as most supervisors do: whether the process is there, and whether its health
answers, by the manager's own question. The manager asks for health as often as its configuration says by default, every 5 s, for
of an exit the kernel tells. What its shims take counts as its own.
"""

import asyncio
import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _figures import Figures, quantile

from ftharness.pool.changes import Change
from ftharness.pool.config import BackoffConfig, BreakerConfig, ManagerConfig, PoolConfig, ProbeConfig, WarmupConfig
from ftharness.pool.manager import Manager
from ftharness.pool.probe import look
from ftharness.pool.registry import Registry

ENGINES = 50
POLL_S = 0.1
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") / 1024


class Noticed:
    """What the manager noticed, and when."""

    def __init__(self) -> None:
        self.lost: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        self.restarts = 0

    def event(self, name: str, *, pool_id: str = "", engine_id: str = "", **says: Any) -> None:
        """Note what is measured."""
        del pool_id, engine_id, says
        self.restarts += name == "restart_scheduled"

    def changed(self, change: Change) -> None:
        """An engine is not called ready any more, and its leases are revoked."""
        if change.what == "state" and change.after == "stopped":
            self.lost.put_nowait((change.engine_id, time.perf_counter()))


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far, in seconds; a tick is 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


async def _poller(words: list[str], seconds: float) -> float:
    """The peer, for so long; the CPU that it took. Its arguments are ``PID=URL``."""
    engines = [(int(pid), url) for pid, _, url in (word.partition("=") for word in words)]
    began = time.process_time()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for pid, _ in engines:
            os.kill(pid, 0)
        await asyncio.gather(*(look(f"{url}/health", 2.0) for _, url in engines))
        await asyncio.sleep(POLL_S)
    return time.process_time() - began


def _polled(seconds: float, processes: list[subprocess.Popen[bytes]]) -> float:
    """The peer that looks at processes alone."""
    began = time.process_time()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for process in processes:
            process.poll()
        time.sleep(POLL_S)
    return time.process_time() - began


def _poll_latency(samples: int) -> list[float]:
    """From a kill to its being noticed, by the peer; seconds."""
    found = []
    chance = random.Random(1)  # noqa: S311 - moments
    for _ in range(samples):
        with subprocess.Popen(["/bin/sleep", "60"]) as process:
            kill_at = time.perf_counter() + chance.uniform(0, POLL_S)
            killed = 0.0
            next_look = time.perf_counter() + POLL_S
            while True:
                if not killed:
                    time.sleep(max(0.0, kill_at - time.perf_counter()))
                    process.kill()
                    killed = time.perf_counter()
                time.sleep(max(0.0, next_look - time.perf_counter()))
                next_look += POLL_S
                if process.poll() is not None:
                    found.append(time.perf_counter() - killed)
                    break
    return found


async def _idle(figures: Figures, folder: Path) -> None:
    seconds = 5.0 if figures.quick else 20.0
    pool = PoolConfig(id="p", engine="sim", replicas=ENGINES, warmup=WarmupConfig(requests=0))
    config = ManagerConfig(pools=[pool], state_dir=str(folder / "idle"))
    async with Manager(config, registry=Registry(config.pools)) as manager:
        entries = manager.registry.pool("p").engines.values()
        await _until_all_are_ready(manager)
        supervisors = manager.pool("p").supervisors
        records = [one.slot.record() for one in supervisors.values()]
        shims = [record.shim.pid for record in records if record is not None]
        before, shims_before = time.process_time(), sum(map(_cpu_s, shims))
        await asyncio.sleep(seconds)
        ours = time.process_time() - before + sum(map(_cpu_s, shims)) - shims_before
        pids = {engine_id: one.process.pid for engine_id, one in supervisors.items() if one.process}
        words = [f"{pids[one.id]}={one.url}" for one in entries]
        peer = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--poller", str(seconds), *words, stdout=subprocess.PIPE
        )
        output, _ = await peer.communicate()
        figures.tell(
            "pool/idle_supervision_cpu",
            ours / seconds * 100,
            "percent of a core",
            n=ENGINES,
            bound="ratio <= 0.2",
            peer="a 100 ms poller of exit and health",
            peer_value=float(output) / seconds * 100,
        )


async def _until_all_are_ready(manager: Manager) -> None:
    while not all(one.state == "ready" for one in manager.registry.pool("p").engines.values()):
        await asyncio.sleep(0.01)


def _bare_latency() -> float:
    """From a kill to the kernel's word, with nothing between; seconds."""
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        pidfd = os.pidfd_open(process.pid)
        time.sleep(0.02)  # it is to sleep, as an engine that is idle
        killed = time.perf_counter()
        process.kill()
        select.select([pidfd], [], [])
        found = time.perf_counter() - killed
        os.close(pidfd)
    return found


async def _crashes(figures: Figures, folder: Path) -> None:
    """Small engines: of a large one the kernel frees the memory first, which takes some milliseconds of a Python interpreter.

    On a busy machine most of it is the wait for a core. So the bare pidfd is asked in turn, under the same load, and what is the
    manager's own, from the kernel's word in its loop to the registry's, is told by itself.
    """
    samples = 40 if figures.quick else 200
    pool = PoolConfig(
        id="p",
        engine="command",
        command=["/bin/sleep", "600"],
        replicas=4,
        backoff=BackoffConfig(initial_s=0.01, max_s=0.01),
        breaker=BreakerConfig(restarts=1_000_000),
    )
    noticed = Noticed()
    config = ManagerConfig(pools=[pool], state_dir=str(folder / "crashes"), fail_mode="open")
    latencies, own, bare = [], [], []
    async with Manager(config, registry=Registry(config.pools), log=noticed) as manager:
        manager.registry.subscribe(noticed.changed)
        supervisors = list(manager.pool("p").supervisors.values())
        for number in range(samples):
            while not all(one.process is not None and one.process.exit is None for one in supervisors):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)  # the starts are over
            supervisor = supervisors[number % len(supervisors)]
            engine = supervisor.process
            assert engine is not None
            killed = time.perf_counter()
            os.kill(engine.pid, signal.SIGKILL)
            engine_id, at = await noticed.lost.get()
            assert engine_id == supervisor.engine_id
            latencies.append(at - killed)
            own.append(at - engine.ended.result() / 1e9)  # perf_counter is CLOCK_MONOTONIC here, too
            bare.append(await asyncio.to_thread(_bare_latency))
    poller = _poll_latency(10 if figures.quick else 40)
    for name, share, bound in (("p50", 0.5, ""), ("p99", 0.99, "value <= 5")):
        ours = quantile(latencies, share) * 1000
        peers = {"a 100 ms poller": poller, "a bare pidfd": bare}
        for peer, values in peers.items():
            figures.tell(
                f"pool/crash_to_detection_{name}",
                ours,
                "ms",
                n=samples,
                bound=bound,
                peer=peer,
                peer_value=quantile(values, share) * 1000,
            )
        figures.tell(f"pool/crash_to_detection_own_{name}", quantile(own, share) * 1000, "ms", n=samples)


async def _exits_alone(figures: Figures, folder: Path) -> None:
    """50 engines of which nothing is asked: no moment of the manager's is spent on them."""
    seconds = 5.0 if figures.quick else 10.0
    pool = PoolConfig(
        id="p", engine="sim", replicas=ENGINES, warmup=WarmupConfig(requests=0), probe=ProbeConfig(interval_s=3600)
    )
    config = ManagerConfig(pools=[pool], state_dir=str(folder / "exits"))
    async with Manager(config, registry=Registry(config.pools)) as manager:
        await _until_all_are_ready(manager)
        before = time.process_time()
        await asyncio.sleep(seconds)
        ours = time.process_time() - before
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen(["/bin/sleep", "600"])) for _ in range(ENGINES)]  # noqa: ASYNC220
        try:
            peer = await asyncio.to_thread(_polled, seconds, processes)
        finally:
            for process in processes:
                process.kill()
    figures.tell(
        "pool/exit_supervision_cpu",
        ours / seconds * 100,
        "percent of a core",
        n=ENGINES,
        bound="ratio <= 0.2",
        peer="a 100 ms poller of exit alone",
        peer_value=peer / seconds * 100,
    )


async def _restarts(figures: Figures, folder: Path) -> None:
    restarts = 100 if figures.quick else 1000
    pool = PoolConfig(
        id="p",
        engine="command",
        command=["false"],
        replicas=2,
        backoff=BackoffConfig(initial_s=0.001, max_s=0.001),
        breaker=BreakerConfig(restarts=1_000_000),
    )
    noticed = Noticed()
    config = ManagerConfig(pools=[pool], state_dir=str(folder / "restarts"), fail_mode="open")
    async with Manager(config, registry=Registry(config.pools), log=noticed) as manager:
        manager.registry.subscribe(noticed.changed)

        async def until(count: int) -> tuple[float, int]:
            while noticed.restarts < count:
                await noticed.lost.get()
            return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_KIB, len(os.listdir("/proc/self/fd"))  # noqa: PTH208

        warm, descriptors = await until(restarts // 2)
        began = time.perf_counter()
        end, descriptors_at_end = await until(restarts // 2 + restarts)
        took = time.perf_counter() - began
    figures.tell("pool/memory_over_1000_restarts", end - warm, "KiB", n=restarts, bound="value <= 1024")
    figures.tell(
        "pool/descriptors_over_1000_restarts", descriptors_at_end - descriptors, "", n=restarts, bound="value <= 8"
    )
    figures.tell("pool/restart", took / restarts * 1000, "ms", n=restarts)


async def main() -> None:
    """All of them."""
    if sys.argv[1:2] == ["--poller"]:
        print(await _poller(sys.argv[3:], float(sys.argv[2])))
        return
    figures = Figures(__doc__)
    with tempfile.TemporaryDirectory(prefix="ftharness-pool-") as folder:
        await _restarts(figures, Path(folder))
        await _crashes(figures, Path(folder))
        await _idle(figures, Path(folder))
        await _exits_alone(figures, Path(folder))
    figures.end()


if __name__ == "__main__":
    asyncio.run(main())
