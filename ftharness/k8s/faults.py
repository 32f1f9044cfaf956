"""How a container is hit where it runs: signals sent inside it, by a script; and its pod deleted.

The evidence is what the script saw in the container's /proc, and what the kubelet then says of the container: its exit code, its
reason, how often it was restarted.
"""

import asyncio
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ftharness.faults import Fault, Strike, Target
from ftharness.faults.strike import FaultKind
from ftharness.history import Log
from ftharness.k8s.api import ApiError
from ftharness.k8s.container import ContainerProcess
from ftharness.k8s.exec import run_in
from ftharness.k8s.guard import Guard, Refused

_SCRIPT = Path(__file__).with_name("in_pod.py")
_EXIT_S = 15.0  # the kubelet looks at its containers once a second, unless the runtime tells it events
_EXEC_S = 20.0
_POD_S = 90.0  # a pod has a grace of 30 s, unless its spec says otherwise


class _Sent(NamedTuple):
    """A signal that was sent, as the script told it.

    Attributes:
        at: CLOCK_MONOTONIC (ns), when the line that it is being sent was read.
        before: The first line: the process, and its state before.
        after: The second: what was seen afterwards; empty where the script died with its container.
        window_ms: Milliseconds from the call to that line; the signal was sent at its end.
    """

    at: int
    before: dict[str, Any]
    after: dict[str, Any]
    window_ms: int


def delete_pod(target: Target | Any) -> Fault:
    """The pod is deleted, as an eviction or a drained node does it: SIGTERM, its grace, SIGKILL. On ``k8s`` only."""
    aimed = target if isinstance(target, Target) else Target(role="named", name=target.name)
    return Fault(kind="delete_pod", target=aimed)


async def pods_only(strike: Strike) -> None:
    """What ``delete_pod`` is on a stack without pods."""
    strike.missed(f"{strike.source} is in no pod: only the stack k8s has them")


def kinds_for(guard: Guard) -> Mapping[str, FaultKind]:
    """The kinds of faults that reach a container."""
    return {
        "kill": partial(_kill, guard),
        "kill_engine": partial(_kill_engine, guard),
        "terminate": partial(_terminate, guard),
        "interrupt": partial(_interrupt, guard),
        "freeze": partial(_freeze, guard),
        "thaw": partial(_thaw, guard),
        "delete_pod": partial(_delete_pod, guard),
    }


def _container(strike: Strike) -> ContainerProcess:
    assert isinstance(strike.hits, ContainerProcess)
    return strike.hits


async def _kill(guard: Guard, strike: Strike) -> None:
    """SIGKILL to the container's main process; the evidence is how the kubelet says that the container ended."""
    sent = await _send(guard, strike, signal.SIGKILL)
    if sent is None:
        return
    container = _container(strike)
    try:
        ended = await container.exited(_EXIT_S)
    except TimeoutError as error:
        strike.missed(f"SIGKILL was sent, but {error}")
        return
    if ended.signal == "SIGKILL":
        strike.landed(at=sent.at, wait_status="SIGKILL", **_evidence(sent), **container.evidence)
    else:
        strike.missed(f"SIGKILL was sent, but the container ended by {ended}: {container.evidence}")


async def _kill_engine(guard: Guard, strike: Strike) -> None:
    """SIGKILL to the engine below the main process; the evidence is that its pidfd told its end, or its container's."""
    sent = await _send(guard, strike, signal.SIGKILL, which="engine")
    if sent is None:
        return
    if not sent.after:  # its handler ended for it, and the container with it
        try:
            await _container(strike).exited(_EXIT_S)
        except TimeoutError as error:
            strike.missed(f"SIGKILL was sent to the engine, and what came of it was not told; {error}")
            return
    elif not sent.after.get("ended"):
        strike.missed(f"SIGKILL was sent to the engine {sent.before['pid']}, but it lives")
        return
    strike.landed(at=sent.at, engine_pid=sent.before["pid"], **_evidence(sent), **_container(strike).evidence)


async def _terminate(guard: Guard, strike: Strike) -> None:
    """SIGTERM; the evidence is that it is no longer pending, and whether the process has a handler for it."""
    sent = await _send(guard, strike, signal.SIGTERM)
    if sent is None or not _taken(strike, sent):
        return
    strike.landed(at=sent.at, signal="SIGTERM", **_evidence(sent))
    container = _container(strike)
    try:
        await container.exited(float(strike.args.get("grace_s", 10.0)))
    except TimeoutError:
        if strike.args.get("then", "kill") == "kill":
            await _send(guard, strike, signal.SIGKILL, reason="escalation", quietly=True)
            await container.exited(_EXIT_S)


async def _interrupt(guard: Guard, strike: Strike) -> None:
    """SIGINT; the evidence is as for SIGTERM."""
    sent = await _send(guard, strike, signal.SIGINT)
    if sent is not None and _taken(strike, sent):
        strike.landed(at=sent.at, signal="SIGINT", **_evidence(sent))


async def _freeze(guard: Guard, strike: Strike) -> None:
    """SIGSTOP; the evidence is state T in the container's /proc."""
    sent = await _send(guard, strike, signal.SIGSTOP)
    if sent is None:
        return
    _container(strike).frozen = True
    strike.heals_by(partial(_continue, guard, strike))
    if sent.after.get("state") != "T":
        strike.missed(f"SIGSTOP was sent, but its state is {sent.after.get('state') or 'not known'}, not T")
        return
    strike.landed(at=sent.at, signal="SIGSTOP", state="T", **_evidence(sent))
    duration_s = strike.args.get("duration_s")
    if duration_s is not None:
        await asyncio.sleep(float(duration_s))  # the fault's own length
        await strike.heal()


async def _thaw(guard: Guard, strike: Strike) -> None:
    """SIGCONT; the evidence is that its state was T and is not any more."""
    sent = await _send(guard, strike, signal.SIGCONT, reason="heal")
    if sent is None:
        return
    if sent.before["before"] != "T":
        strike.missed(f"it was not frozen: its state was {sent.before['before']}")
    elif sent.after.get("state") in ("T", None):
        strike.missed(f"SIGCONT was sent, but its state is {sent.after.get('state') or 'not known'}")
    else:
        _container(strike).frozen = False
        strike.landed(at=sent.at, before="T", signal="SIGCONT", state=sent.after["state"])


async def _continue(guard: Guard, strike: Strike) -> dict[str, Any]:
    container = _container(strike)
    if container.exit is not None:
        return {"process": "has ended"}
    sent = await _send(guard, strike, signal.SIGCONT, reason="heal", quietly=True)
    container.frozen = False
    return {"signal": "SIGCONT", "state": sent.after.get("state")} if sent else {"process": "was not reached"}


async def _delete_pod(guard: Guard, strike: Strike) -> None:
    """The API server's delete; the evidence is that it took it, and how the container then ended."""
    container, at = _container(strike), time.monotonic_ns()
    try:
        await guard.delete_pod(container.place.pod, container.place.uid)
    except (ApiError, Refused) as why:
        strike.missed(str(why))
        return
    container.signalled(signal.SIGTERM, pid=container.pid, reason="fault", at=at)  # by the kubelet, on our behalf
    try:
        ended = await container.exited(_POD_S)
    except TimeoutError as error:
        strike.missed(f"the API server accepted the deletion, but {error}")
        return
    strike.landed(at=at, pod=container.place.pod, wait_status=str(ended), **container.evidence)


async def _send(
    guard: Guard,
    strike: Strike,
    number: signal.Signals,
    *,
    which: str = "main",
    reason: str = "fault",
    quietly: bool = False,
) -> _Sent | None:
    """Send it, and return what was seen; None (and missed) where it was not sent."""
    container, tree = _container(strike), bool(strike.args.get("tree"))
    began, told = time.monotonic_ns(), _Told()
    arguments = [number.name, which, "tree" if tree else "", _engine_pid(strike) if which == "engine" else "0"]
    command = ["python3", "-c", _SCRIPT.read_text(encoding="utf-8"), *arguments]
    try:
        async with asyncio.timeout(_EXEC_S):
            trouble = await run_in(guard, container.place, command, told)
    except TimeoutError:
        trouble = f"nothing was heard of it for {_EXEC_S:g} s"
    except (ApiError, Refused) as why:
        trouble = str(why)
    if told.before is None:
        ended = f"; it has ended by {container.exit}" if container.exit else ""
        if not quietly:
            strike.missed(
                told.missed or f"{number.name} was not sent in {container.place.pod}: {trouble or 'no answer'}{ended}"
            )
        return None
    # Two connections: what it brought about may have been read before the line that says it.
    told_at = min(told.at, container.ended_ns - 1) if container.ended_ns else told.at
    if (
        which == "main"
    ):  # one to a child is the fault's own evidence: it is no signal to the process that bears the name
        container.signalled(number, pid=told.before["pid"], reason=reason, at=told_at, tree=tree)
    return _Sent(told_at, told.before, told.after, (told_at - began) // 1_000_000)


class _Told:
    """Takes the script's lines."""

    def __init__(self) -> None:
        self.at = 0
        self.before: dict[str, Any] | None = None
        self.after: dict[str, Any] = {}
        self.missed = ""

    def __call__(self, line: bytes, at: int) -> None:
        said = msgspec.json.decode(line)
        if "missed" in said:
            self.missed = said["missed"]
        elif "sending" in said:
            self.at, self.before = at, said
        else:
            self.after = said


def _engine_pid(strike: Strike) -> str:
    """As its log names it, which is in the container's own process ids; "0" where it does not."""
    named = [
        event.captures.get("pid", "")
        for event in strike.history.select(Log, source=strike.source, event="engine_started")
    ]
    return next((pid for pid in reversed(named) if pid.isdigit()), "0")


def _taken(strike: Strike, sent: _Sent) -> bool:
    if sent.after.get("pending"):
        strike.missed(f"{sent.before['sending']} was sent, but is still pending: the process is blocked or frozen")
        return False
    return True


def _evidence(sent: _Sent) -> dict[str, Any]:
    before = {key: sent.before[key] for key in ("pid", "disposition", "command")}
    return {**before, **{f"after_{key}": value for key, value in sent.after.items()}, "window_ms": sent.window_ms}
