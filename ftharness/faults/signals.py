"""Faults that are signals: kill, terminate, interrupt, freeze, thaw; and ``end_job``, which harms nobody."""

import asyncio
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ftharness.faults.engine import go_on, stopped_below
from ftharness.faults.strike import Strike
from ftharness.process import Entry, Process, ProcessGone

_EXIT_S = 10.0  # how long the kernel may take to end a process that got SIGKILL; a big one frees memory first
_STATE_S = 2.0


async def kill(strike: Strike) -> None:
    """SIGKILL; the evidence is the wait status."""
    at = _send(strike, signal.SIGKILL)
    if at is not None:
        await _landed_by_exit(strike, at)


async def terminate(strike: Strike) -> None:
    """SIGTERM; the evidence is that the signal is no longer pending, and whether the process has a handler for it."""
    grace_s, then = float(strike.args.get("grace_s", 10.0)), strike.args.get("then", "kill")
    evidence: dict[str, Any] = _dispositions(strike.process.pid, signal.SIGTERM)
    at = _send(strike, signal.SIGTERM)
    if at is None or not await _taken(strike, signal.SIGTERM):
        return
    strike.landed(at=at, signal="SIGTERM", **evidence)
    try:
        await strike.process.exited(grace_s)
    except TimeoutError:
        if then == "kill":
            with suppress(ProcessGone):  # it ended as its grace did
                strike.process.signal(signal.SIGKILL, reason="escalation", tree=bool(strike.args.get("tree")))
            await strike.process.exited(_EXIT_S)


async def interrupt(strike: Strike) -> None:
    """SIGINT; the evidence is as for ``terminate``."""
    evidence = _dispositions(strike.process.pid, signal.SIGINT)
    at = _send(strike, signal.SIGINT)
    if at is not None and await _taken(strike, signal.SIGINT):
        strike.landed(at=at, signal="SIGINT", **evidence)


async def end_job(strike: Strike) -> None:
    """SIGTERM to what goes on until it is told to end; the evidence is that it is taken, and that the process handles it."""
    disposition = _dispositions(strike.process.pid, signal.SIGTERM)["disposition"]
    if disposition != "handled":
        strike.missed(f"{strike.process.name} does not end by itself at SIGTERM, which is {disposition} there")
        return
    at = _send(strike, signal.SIGTERM)
    if at is not None and await _taken(strike, signal.SIGTERM):
        strike.landed(at=at, told="to end", signal="SIGTERM")


async def freeze(strike: Strike) -> None:
    """SIGSTOP; the evidence is state T in /proc."""
    at = _send(strike, signal.SIGSTOP)
    if at is None:
        return
    strike.heals_by(lambda: _continue(strike))  # from here on, whatever comes of it: it may stop later than we look
    if not await _state(strike.process, "T"):
        strike.missed(f"SIGSTOP was sent, but its state is {strike.process.state() or 'gone'}, not T")
        return
    strike.landed(at=at, signal="SIGSTOP", state="T")
    duration_s = strike.args.get("duration_s")
    if duration_s is not None:
        await asyncio.sleep(float(duration_s))  # the fault's own length
        await strike.heal()


async def thaw(strike: Strike) -> None:
    """SIGCONT, to the process or, where that runs, to what it started and is stopped; the evidence is that its state was T."""
    before = strike.process.state()
    if before != "T":
        # Its engine may have been stopped, and it not.
        stopped = stopped_below(strike) if strike.args.get("tree", True) else []
        if stopped:
            await _thaw_below(strike, stopped)
        else:
            strike.missed(f"it was not frozen: its state is {before or 'gone'}")
        return
    at = time.monotonic_ns()
    evidence = await _continue(strike)
    if strike.process.state() == "T":
        strike.missed("SIGCONT was sent, but its state is still T")
    elif "signal" not in evidence:
        strike.missed("it ended before it could be thawed")
    else:
        strike.landed(at=at, before="T", **evidence)


async def _thaw_below(strike: Strike, stopped: list[Entry]) -> None:
    at = time.monotonic_ns()
    evidence = await go_on(stopped)
    if evidence["thawed"]:
        strike.landed(at=at, before="T", pid=stopped[0].pid, processes=len(stopped), **evidence)
    else:
        strike.missed(f"SIGCONT was sent to {stopped[0].pid}, below {strike.process.name}, but its state is still T")


def _send(strike: Strike, number: signal.Signals) -> int | None:
    """Send it, and return when; None (and missed) where the process was gone before."""
    try:
        return strike.process.signal(number, reason="fault", tree=bool(strike.args.get("tree")))
    except ProcessGone as gone:
        strike.missed(str(gone))
        return None


async def _landed_by_exit(strike: Strike, at: int) -> None:
    try:
        ended = await strike.process.exited(_EXIT_S)
    except TimeoutError as error:
        strike.missed(f"SIGKILL was sent, but {error}")
        return
    if ended.signal == "SIGKILL":
        strike.landed(at=at, wait_status="SIGKILL", pid=strike.process.pid)
    else:
        how = ended.signal or f"exit status {ended.returncode}"
        strike.missed(f"SIGKILL was sent, but the process had ended by {how}")


async def _state(process: Process, wanted: str) -> bool:
    """Whether the process gets into the state; the kernel tells nobody but the parent, hence the short looks."""
    deadline = time.monotonic() + _STATE_S
    while process.state() != wanted:
        if process.exit is not None or time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.001)
    return True


async def _taken(strike: Strike, number: signal.Signals) -> bool:
    """Whether the signal was delivered: it is not pending any more, or the process has ended."""
    deadline = time.monotonic() + _STATE_S
    while strike.process.exit is None and _pending(strike.process.pid, number):
        if time.monotonic() > deadline:
            strike.missed(f"{number.name} was sent, but is still pending: the process is blocked or frozen")
            return False
        await asyncio.sleep(0.001)
    return True


def _masks(pid: int) -> dict[str, int]:
    """The signal masks of /proc/PID/status (proc(5)); empty when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {name: int(fields[name], 16) for name in ("SigPnd", "ShdPnd", "SigIgn", "SigCgt") if name in fields}


def _pending(pid: int, number: signal.Signals) -> bool:
    masks = _masks(pid)
    return bool((masks.get("SigPnd", 0) | masks.get("ShdPnd", 0)) >> (number - 1) & 1)


def _dispositions(pid: int, number: signal.Signals) -> dict[str, Any]:
    masks, bit = _masks(pid), number - 1
    if masks.get("SigIgn", 0) >> bit & 1:
        return {"disposition": "ignored"}
    return {"disposition": "handled" if masks.get("SigCgt", 0) >> bit & 1 else "default"}


async def _continue(strike: Strike) -> dict[str, Any]:
    try:
        strike.process.signal(signal.SIGCONT, reason="heal", tree=bool(strike.args.get("tree", True)))
    except ProcessGone:
        return {"process": "has ended"}
    deadline = time.monotonic() + _STATE_S
    while strike.process.state() == "T" and time.monotonic() < deadline:
        await asyncio.sleep(0.001)
    return {"signal": "SIGCONT", "state": strike.process.state()}
