"""The fault ``kill_engine``: the engine process of a worker is killed, its handler is not."""

import asyncio
import os
import signal
import time
from typing import Any

from ftharness.faults.strike import Strike
from ftharness.history import Log
from ftharness.process import Ended, Entry
from ftharness.process.pidfd import wait_status

_EXIT_S = 10.0


async def kill_engine(strike: Strike) -> None:
    """SIGKILL to the engine child, by a pidfd that was opened before it is known to be ours still."""
    worker = strike.process
    engine = engine_of(strike)
    if engine is None:
        strike.missed(f"{worker.name} has no engine child process")
        return
    try:
        pidfd = os.pidfd_open(engine.pid)
    except ProcessLookupError:
        strike.missed(f"the engine child {engine.pid} of {worker.name} has already ended")
        return
    try:
        # The pidfd names one process for good; that it is the right one is checked after it was opened.
        if all(found.pid != engine.pid or found.start_time != engine.start_time for found in worker.descendants()):
            strike.missed(f"the engine child {engine.pid} of {worker.name} ended before it could be hit")
            return
        at = time.monotonic_ns()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not await _ended(pidfd):
            strike.missed(f"SIGKILL was sent to the engine child {engine.pid}, but it lives")
            return
        strike.landed(at=at, engine_pid=engine.pid, **_how_it_ended(pidfd))
    finally:
        os.close(pidfd)


def engine_of(strike: Strike) -> Entry | None:
    """The worker's engine process: the one that its log names, else its only or first child."""
    found = strike.process.descendants()
    said = {
        event.captures.get("pid")
        for event in strike.history.select(Log, source=strike.process.name, event="engine_started")
    }
    by_log = [descendant for descendant in found if str(descendant.pid) in said]
    children = [descendant for descendant in found if descendant.ppid == strike.process.pid]
    return next(iter(by_log or children or found), None)


async def _ended(pidfd: int) -> bool:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, _resolve, ended)
    try:
        await asyncio.wait((ended,), timeout=_EXIT_S)
    finally:
        loop.remove_reader(pidfd)
    return ended.done()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _how_it_ended(pidfd: int) -> dict[str, Any]:
    """The wait status where this kernel tells it of a process that is not our child."""
    status = wait_status(pidfd)
    if status is None:
        return {"exit_seen_by": "pidfd"}
    return {"wait_status": str(Ended.of(status)), "exit_seen_by": "pidfd"}
