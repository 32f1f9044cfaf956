"""Whether one engine of a group took the place of another: ``took_over_within``, ``one_active``, ``legal_states``, ``fenced``.

A group is a worker and its standbys, beside one failover lock. Who serves is told by the answers themselves, each chunk of which
names the engine that made it; the engines' own lines tell what came before that, and when.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, NamedTuple

import msgspec

from ftharness.failover.states import illegal_step
from ftharness.history import FaultLanded, Log, RequestChunk
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.processes import said
from ftharness.scenario.oracles.tokens import exact
from ftharness.scenario.views import FaultView

Milliseconds = Annotated[float, msgspec.Meta(ge=0)]
#: What an engine logs on its way to its turn, and what that is called.
_STEPS = {"lock_acquired": "lock", "awake": "wake", "ready": "registered"}
#: What hits no engine: it joins one, or lets one go on.
_HARMLESS = ("start_standby", "thaw")
_NO_GROUPS = Finding("unknown", "there are no shadow engines: aggregated(standbys=1) makes groups of engines")
_UNNAMED = Finding(
    "unknown", "no chunk of an answer names the engine that made it: this stack does not tell who serves"
)


class _Served(NamedTuple):
    """A time in which one engine of a group served, and no other; in ns."""

    engine: str
    first: RequestChunk
    last: RequestChunk


def one_active(case: Case) -> Finding:
    """In no group did two engines serve at the same time: the times from first to last chunk of each do not overlap."""
    groups = _groups(case)
    if not groups:
        return _NO_GROUPS
    told: list[str] = []
    for members in groups.values():
        served = list(_served(case, members))
        if not served:
            continue
        again: dict[str, _Served] = {}
        for before, now in pairwise(served):
            again[before.engine] = before
            if now.engine in again:
                return Finding(
                    "fail",
                    f"{now.engine} and {before.engine} served at the same time: {now.engine} until {_ms(now.last.t)} after the "
                    f"start, {before.engine} from {_ms(before.first.t)} on",
                    (again[now.engine].last.n, before.first.n, now.first.n),
                )
        told.append(" → ".join(one.engine for one in served))
    if not told:
        return _UNNAMED
    return Finding("pass", f"one after the other: {'; '.join(told)}")


def legal_states(case: Case) -> Finding:
    """Each engine of a group went from init to standby, waking, active and dead, in that order, and was announced when awake."""
    groups = _groups(case)
    if not groups:
        return _NO_GROUPS
    walked = 0
    for source in (name for members in groups.values() for name in members):
        lines = list(case.select(Log, event="failover_state", source=source))
        if not lines:
            continue
        walked += 1
        states = [line.captures["state"] for line in lines]
        if step := illegal_step(states):
            reason = f"{source} went from {step[0] or 'nothing'} to {step[1]}: {' → '.join(states)}"
            return Finding("fail", reason, tuple(line.n for line in lines))
        awake, ready = (next(case.select(Log, event=event, source=source), None) for event in ("awake", "ready"))
        if ready is not None and (awake is None or ready.n < awake.n):
            when = "and never was awake" if awake is None else f"{_ms(awake.t - ready.t)} before it was awake"
            return Finding("fail", f"{source} was announced {when}", (ready.n, *([awake.n] if awake else [])))
    if not walked:
        return Finding("unknown", "no engine tells its states")
    return Finding("pass", f"{walked} engines, each by its legal states")


class _Takeover(NamedTuple):
    """What a fault on the engine that served was followed by."""

    fault: FaultView
    since: int
    successor: str
    steps: dict[str, int]  # the name of each step to when it was, in ns
    evidence: tuple[int, ...]


def took_over_within(case: Case, ms: Milliseconds) -> Finding:
    """From each fault on an engine that served to the first token from another of its group; split by the steps between."""
    if not _groups(case):
        return _NO_GROUPS
    faults = [fault for fault in case.faults if fault.landed is not None and _had_its_turn(case, fault)]
    if not faults:
        return Finding("unknown", "no fault landed on an engine of a group that had its turn")
    findings = [_took_over(case, fault, ms) for fault in faults]
    return short_of_passing(findings) or Finding(
        "pass", "; ".join(finding.reason for finding in findings), tuple(n for one in findings for n in one.evidence)
    )


def _took_over(case: Case, fault: FaultView, ms: float) -> Finding:
    assert fault.landed is not None
    since, hit = fault.landed.t, fault.process
    what = f"{fault.requested.fault} of {hit}"
    members = _groups(case)[case.group(hit)]
    won = next((line for line in case.select(Log, event="lock_acquired") if _follows(line, members, hit, since)), None)
    token = next((one for one in case.select(RequestChunk) if _made_after(one, members, hit, since)), None)
    if won is None and token is None:
        if any(struck.t > since for struck in _strikes(case, members, but=fault)):
            return Finding("pass", f"{what}: whoever came next was struck as well")
        return Finding("fail", f"{what}: nobody took the lock after it", (fault.landed.n,), pending=True)
    if won is not None and _struck_in_time(case, won, token):
        return Finding(
            "pass", f"{what}: {won.source} had the lock {_ms(won.t - since)} after it, and was struck itself"
        )
    successor = won.source if won is not None else token.worker if token is not None else ""
    token = next((one for one in case.select(RequestChunk, worker=successor) if one.t >= since), None)
    parts, last, evidence = [], since, [fault.landed.n]
    for event, name in _STEPS.items():
        line = next((one for one in case.select(Log, event=event, source=successor) if one.t >= since), None)
        if line is not None:
            parts.append(f"{name} {_ms(line.t - last)}")
            last = line.t
            evidence.append(line.n)
    if token is None:
        told = f": {', '.join(parts)}" if parts else ""
        return Finding("fail", f"{what}: {successor} served nobody{told}", tuple(evidence), pending=True)
    parts.append(f"first token {_ms(token.t - last)}")
    reason = f"{what}: {successor} served {_ms(token.t - since)} after it ({', '.join(parts)})"
    slow = token.t - since > ms * 1e6
    return Finding(
        "fail" if slow else "pass", f"{reason}; allowed: {ms:g} ms" if slow else reason, (*evidence, token.n)
    )


def serves_again(case: Case) -> Finding:
    """Once the next engine has served its first token, every request that is sent gets its whole answer."""
    if not _groups(case):
        return _NO_GROUPS
    struck = [fault.landed for fault in case.faults if fault.landed is not None and _had_its_turn(case, fault)]
    if not struck:
        return Finding("unknown", "no fault landed on an engine of a group that had its turn")
    last = max(struck, key=lambda landed: landed.t)
    members = _groups(case)[case.group(last.source)]
    token = next((one for one in case.select(RequestChunk) if _made_after(one, members, last.source, last.t)), None)
    if token is None:
        return Finding("fail", "no engine of the group served anybody after the last fault", pending=True)
    since = [view for view in case.requests if view.sent.t > token.t]
    if not since:
        return Finding("unknown", f"no request was sent once {token.worker} served")
    for view in since:
        if view.finished is None or view.finished.outcome != "success":
            return Finding("fail", f"{view.name}, sent when {token.worker} served: {view.how_it_ended}", (view.sent.n,))
        finding = exact(case, view)
        if finding.verdict == "fail":
            return finding
    return Finding("pass", f"{len(since)} requests since {token.worker} served, each answered", (token.n,))


def nobody_takes_over(case: Case) -> Finding:
    """While the engine that served is frozen no other gets its turn: who freezes keeps its lock."""
    frozen = [fault for fault in case.faults if fault.landed is not None and fault.requested.fault == "freeze"]
    frozen = [fault for fault in frozen if _had_its_turn(case, fault)]
    if not frozen:
        return Finding("unknown", "no engine of a group that had its turn was frozen")
    for fault in frozen:
        assert fault.landed is not None
        members = _groups(case)[case.group(fault.process)]
        until = fault.healed.t if fault.healed else None
        for line in case.select(Log, event="lock_acquired"):
            if _follows(line, members, fault.process, fault.landed.t) and (until is None or line.t < until):
                return Finding("fail", f"{line.source} took the lock of {fault.process}, which is frozen", (line.n,))
    thawed = [fault for fault in frozen if fault.healed is not None]
    stalls = ", ".join(
        f"{fault.process} was frozen for {_ms(fault.healed.t - fault.landed.t)}"
        for fault in thawed
        if fault.healed is not None and fault.landed is not None
    )
    return Finding("pass", f"a stall, and nobody took over: {stalls or 'frozen to the end'}")


def fenced(case: Case) -> Finding:
    """A holder of the lock that was frozen and lost it changes nothing any more, thawed or not: it serves nobody."""
    frozen = [fault for fault in case.faults if fault.landed is not None and fault.requested.fault == "freeze"]
    frozen = [fault for fault in frozen if _had_its_turn(case, fault)]
    if not frozen:
        return Finding("unknown", "no engine of a group that had its turn was frozen")
    findings = [_fenced(case, fault) for fault in frozen]
    return short_of_passing(findings) or findings[0]


def _fenced(case: Case, fault: FaultView) -> Finding:
    assert fault.landed is not None
    former, since = fault.process, fault.landed.t
    members = _groups(case)[case.group(former)]
    successor = next((one for one in case.select(RequestChunk) if _made_after(one, members, former, since)), None)
    if successor is None:
        return Finding("unknown", f"{former} was frozen, and nobody took over from it", pending=True)
    token = next((one for one in case.select(RequestChunk, worker=former) if one.t > successor.t), None)
    if token is not None:
        reason = f"{former} served {_ms(token.t - successor.t)} after {successor.worker} had begun to"
        return Finding("fail", reason, (successor.n, token.n))
    ended = case.exits.get(former)
    if ended is not None and case.ended_in_phase(former):
        return Finding("pass", f"{former} was ended ({said(ended)}) {_ms(ended.t - since)} after it froze", (ended.n,))
    teardown = case.phase_t("teardown")
    if fault.healed is None or (teardown is not None and fault.healed.t >= teardown):
        return Finding("unknown", f"{former} was neither ended nor thawed before the run's end: nothing was tried")
    return Finding("pass", f"{former} was thawed, and served nobody any more", (fault.healed.n,))


def _groups(case: Case) -> dict[str, list[str]]:
    """The members of each group, in the order in which they were started."""
    groups: dict[str, list[str]] = {}
    for source in case.roles:
        if group := case.group(source):
            groups.setdefault(group, []).append(source)
    return groups


def _served(case: Case, members: list[str]) -> Iterator[_Served]:
    first = last = None
    for chunk in case.select(RequestChunk):
        if chunk.worker not in members:
            continue
        if first is None or chunk.worker != first.worker:
            if first is not None and last is not None:
                yield _Served(first.worker, first, last)
            first = chunk
        last = chunk
    if first is not None and last is not None:
        yield _Served(first.worker, first, last)


def _had_its_turn(case: Case, fault: FaultView) -> bool:
    """Whether the engine that was hit had the lock by then, and not only waited for it."""
    landed = fault.landed
    return (
        landed is not None
        and fault.requested.fault not in _HARMLESS
        and bool(case.group(fault.process))
        and any(line.t <= landed.t for line in case.select(Log, event="lock_acquired", source=fault.process))
    )


def _harmful(case: Case) -> list[FaultView]:
    return [fault for fault in case.faults if fault.requested.fault not in _HARMLESS]


def _follows(line: Log, members: list[str], hit: str, since: int) -> bool:
    return line.t >= since and line.source in members and line.source != hit


def _made_after(chunk: RequestChunk, members: list[str], hit: str, since: int) -> bool:
    return chunk.t >= since and chunk.worker in members and chunk.worker != hit


def _strikes(case: Case, members: list[str], *, but: FaultView) -> list[FaultLanded]:
    return [
        one.landed for one in _harmful(case) if one.landed is not None and one is not but and one.process in members
    ]


def _struck_in_time(case: Case, won: Log, token: RequestChunk | None) -> bool:
    """Whether a fault hit an engine that had the lock before it served anybody."""
    struck = [one.landed.t for one in _harmful(case) if one.landed is not None and one.process == won.source]
    return any(won.t <= t and (token is None or t <= token.t or token.worker != won.source) for t in struck)


def _ms(ns: float) -> str:
    return f"{ns / 1e6:.1f} ms"
