"""Faults that hit a process below a worker: ``kill_engine``, ``freeze_engine``, ``kill_rank``. The worker itself is not hit.

A manager of pools has several engines, each in a slot; those of one that was killed may be another one's now.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ftharness.faults.strike import Strike
from ftharness.history import Log
from ftharness.process import Ended, Entry
from ftharness.process.pidfd import wait_status
from ftharness.process.process_table import below, command_line, read_entry, send_signal

#: What a manager says of the process that it has in a slot.
_IN_SLOT = ("engine_started", "engine_adopted")
_EXIT_S = 10.0
_STATE_S = 2.0


async def kill_engine(strike: Strike) -> None:
    """SIGKILL to the engine child: the handler lives on, and has to notice."""
    slot = _slot(strike)
    await _kill(strike, engine_of(strike), f"engine {slot}" if slot else "engine", signal.SIGKILL, **_said(strike))


async def kill_rank(strike: Strike) -> None:
    """A signal to one of the processes among which the model, or a job, is divided; the evidence is as for ``kill_engine``."""
    number = int(strike.args.get("rank", 0))
    by = signal.Signals[str(strike.args.get("signal", "SIGKILL"))]
    await _kill(strike, _rank_of(strike, number), f"rank {number}", by, rank=number)


async def freeze_engine(strike: Strike) -> None:
    """SIGSTOP to the engine child and to what is below it; the evidence is its state T in /proc."""
    engine = engine_of(strike)
    if engine is None:
        slot = _slot(strike)
        strike.missed(f"{strike.process.name} has no engine child process{f' in the slot {slot}' if slot else ''}")
        return
    # Of what is the worker's alone: the pid of an engine that ended meanwhile may be a stranger's.
    frozen = [engine, *below(engine.pid, {entry.pid: entry for entry in _descendants(strike)})]
    at = time.monotonic_ns()
    for entry in frozen:
        send_signal(entry, signal.SIGSTOP)
    strike.heals_by(lambda: go_on(frozen))
    if not await _state(engine, "T"):
        now = read_entry(engine.pid)
        strike.missed(
            f"SIGSTOP was sent to the engine child {engine.pid}, but its state is {now.state if now else 'gone'}"
        )
        return
    strike.landed(at=at, engine_pid=engine.pid, **_said(strike), signal="SIGSTOP", state="T", processes=len(frozen))
    duration_s = strike.args.get("duration_s")
    if duration_s is not None:
        await asyncio.sleep(float(duration_s))  # the fault's own length
        await strike.heal()


def stopped_below(strike: Strike) -> list[Entry]:
    """What the process started, and is in state T; parents first."""
    return [entry for entry in strike.process.descendants() if entry.state == "T"]


async def go_on(frozen: list[Entry]) -> dict[str, Any]:
    """SIGCONT to each; the evidence is what the first one's state is then, and whether none is stopped any more."""
    for entry in frozen:
        send_signal(entry, signal.SIGCONT)
    thawed = all([await _state(entry, "T", wanted=False) for entry in frozen])
    now = read_entry(frozen[0].pid)
    return {"signal": "SIGCONT", "state": now.state if now else "", "thawed": thawed}


def engine_of(strike: Strike) -> Entry | None:
    """The worker's engine process: the one that its log names, else its only or first child.

    Python's own helper of multiprocessing, which is the first child of many, is none. Of a manager of pools the one in the slot
    that is meant, by what it said last of that.
    """
    if slot := _slot(strike):
        found = _descendants(strike)
        return next(iter(_named(strike, found, *_IN_SLOT, engine=slot)[::-1]), None)
    found = [entry for entry in strike.process.descendants() if not _is_a_helper(entry)]
    by_log = _named(strike, found, "engine_started")
    children = [descendant for descendant in found if descendant.ppid == strike.process.pid]
    return next(iter(by_log or children or found), None)


def _is_a_helper(entry: Entry) -> bool:
    return any("multiprocessing.resource_tracker" in word for word in command_line(entry))


def _slot(strike: Strike) -> str:
    return str(strike.args.get("engine", ""))


def _said(strike: Strike) -> dict[str, object]:
    """The slot, for the evidence, where one is meant."""
    return {"engine": slot} if (slot := _slot(strike)) else {}


def _descendants(strike: Strike) -> list[Entry]:
    """What the process started, and what its earlier lives did: an engine may outlive its manager."""
    return [entry for process in (strike.process, *strike.earlier) for entry in process.descendants()]


def _rank_of(strike: Strike, number: int) -> Entry | None:
    """The process of that rank; only a log tells which it is."""
    found = strike.process.descendants()
    return next(iter(_named(strike, found, "rank_started", rank=str(number))), None)


def _named(strike: Strike, found: list[Entry], *events: str, **captures: str) -> list[Entry]:
    """Those of ``found`` whose pid stands in a line of such a meaning."""
    said = {
        line.captures.get("pid")
        for line in strike.history.select(Log, source=strike.process.name)
        if line.event in events and all(line.captures.get(name) == value for name, value in captures.items())
    }
    return [entry for entry in found if str(entry.pid) in said]


async def _kill(
    strike: Strike, victim: Entry | None, what: str, by: signal.Signals = signal.SIGKILL, **more: object
) -> None:
    """A signal to a process below the worker, by a pidfd that was opened before it is known to be ours still."""
    worker = strike.process
    if victim is None:
        strike.missed(f"{worker.name} has no {what} child process")
        return
    with _pidfd(victim) as pidfd:
        # The pidfd names one process for good; that it is the right one is checked after it was opened.
        if pidfd is None or not _is_there(strike, victim):
            strike.missed(f"the {what} child {victim.pid} of {worker.name} ended before it could be hit")
            return
        at = time.monotonic_ns()
        signal.pidfd_send_signal(pidfd, by)
        if not await _ended(pidfd):
            strike.missed(f"{by.name} was sent to the {what} child {victim.pid}, but it lives after {_EXIT_S:g} s")
            return
        if by is not signal.SIGKILL:
            more["signal"] = by.name
        strike.landed(at=at, engine_pid=victim.pid, **more, **_how_it_ended(pidfd))


@contextmanager
def _pidfd(entry: Entry) -> Iterator[int | None]:
    try:
        pidfd = os.pidfd_open(entry.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _is_there(strike: Strike, entry: Entry) -> bool:
    return any(one.identity == entry.identity for one in _descendants(strike))


async def _state(entry: Entry, state: str, *, wanted: bool = True) -> bool:
    """Whether a process gets into a state, or out of it; the kernel tells nobody but the parent, hence the short looks."""
    deadline = time.monotonic() + _STATE_S
    while True:
        now = read_entry(entry.pid)
        if now is None or now.start_time != entry.start_time:
            return not wanted
        if (now.state == state) is wanted:
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.001)


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
