"""Whether another engine of the group took over from one that was lost, how soon, and whether it serves."""

from typing import Annotated, NamedTuple

import msgspec

from ftharness.history import Log, RequestChunk
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.tokens import doubtful, exact
from ftharness.scenario.oracles.turns import (
    NO_GROUPS,
    alive_in,
    groups,
    had_its_turn,
    harmful,
    in_ms,
    served_after,
    thawed_t,
    won_after,
    wrote_before,
)
from ftharness.scenario.recovery import struck_t
from ftharness.scenario.views import FaultView

Milliseconds = Annotated[float, msgspec.Meta(ge=0)]
#: What an engine logs on its way to its turn, and what that is called.
_STEPS = {"lock_acquired": "lock", "awake": "wake", "ready": "registered"}
_NO_TURN = "no fault landed on an engine of a group that had its turn"


class _Due(NamedTuple):
    """A fault that another engine has to take over from, and since when, in ns."""

    fault: FaultView
    since: int


def took_over_within(case: Case, ms: Milliseconds) -> Finding:
    """From each fault on an engine that served to the first token from another of its group; split by the steps between."""
    if not groups(case):
        return NO_GROUPS
    due, needless = _due(case)
    findings = [_took_over(case, one, ms) for one in due]
    tested = [finding for finding in findings if finding.verdict != "unknown"]
    if not tested:
        return Finding("unknown", "; ".join([*(finding.reason for finding in findings), *needless]) or _NO_TURN)
    return short_of_passing(tested) or Finding(
        "pass", "; ".join(finding.reason for finding in findings), tuple(n for one in tested for n in one.evidence)
    )


def serves_again(case: Case) -> Finding:
    """Once the next engine has served its first token, every request that is sent gets its whole answer."""
    if not groups(case):
        return NO_GROUPS
    due, needless = _due(case)
    if not due:
        return Finding("unknown", "; ".join(needless) or _NO_TURN)
    last = max(due, key=lambda one: one.since)
    members = groups(case)[case.group(last.fault.process)]
    token = served_after(case, members, last.fault.process, last.since)
    if token is None:
        return Finding("fail", "no engine of the group served anybody after the last fault", pending=True)
    since = [view for view in case.requests if view.sent.t > token.t]
    if not since:
        return Finding("unknown", f"no request was sent once {token.worker} served")
    doubts: list[Finding] = []
    for view in since:
        if view.finished is None or view.finished.outcome != "success":
            return Finding("fail", f"{view.name}, sent when {token.worker} served: {view.how_it_ended}", (view.sent.n,))
        finding = exact(case, view)
        if finding.verdict == "fail":
            return finding
        doubts += [finding] if doubtful(case, finding) else []
    if doubts:
        return doubts[0]
    return Finding("pass", f"{len(since)} requests since {token.worker} served, each answered", (token.n,))


def _due(case: Case) -> tuple[list[_Due], list[str]]:
    """The faults that somebody has to take over from, in order; and why not from others.

    Not from one that was thawed before anybody did. Of several on one engine the last before the takeover counts, and of a
    SIGTERM that was escalated the SIGKILL, where the takeover followed that.
    """
    due: list[_Due] = []
    needless: list[str] = []
    struck = [(fault, fault.landed) for fault in case.faults if fault.landed is not None and had_its_turn(case, fault)]
    for fault, landed in sorted(struck, key=lambda one: one[1].t, reverse=True):
        hit, members = fault.process, groups(case)[case.group(fault.process)]
        found = (find(case, members, hit, landed.t) for find in (won_after, served_after))
        taken = min((one.t for one in found if one is not None), default=None)
        thawed, gone = thawed_t(case, fault), case.gone_t(hit)
        if thawed is not None and (taken is None or taken > thawed) and (gone is None or gone > thawed):
            needless.append(f"{hit} was frozen for {in_ms(thawed - landed.t)}, and nobody had to take over")
        elif not any(later.fault.process == hit and (taken is None or later.since <= taken) for later in due):
            since = struck_t(case, fault) or landed.t
            due.append(_Due(fault, landed.t if taken is not None and taken < since else since))
    return due[::-1], needless[::-1]


def _took_over(case: Case, due: _Due, ms: float) -> Finding:
    fault, since = due
    assert fault.landed is not None
    hit, what = fault.process, f"{fault.requested.fault} of {fault.process}"
    members = groups(case)[case.group(hit)]
    won, token = won_after(case, members, hit, since), served_after(case, members, hit, since)
    if won is None and token is None:
        return _nobody(case, due, what, ms)
    if won is not None and (struck := _struck_t(case, won, since)) and (token is None or struck <= token.t):
        reason = f"{what}: {won.source} had the lock {in_ms(won.t - since)} after it, and was struck itself"
        if struck - since <= ms * 1e6:
            return Finding("pass", reason)
        late = f"{reason} {in_ms(struck - since)} after it, when it had served nobody; allowed: {ms:g} ms"
        return Finding("fail", late, (fault.landed.n, won.n))
    # Who served is who took over: where two believe that they have the lock, it need not be the first that says so.
    successor = token.worker if token is not None else won.source if won is not None else ""
    parts, last, evidence = [], since, [fault.landed.n]
    for event, name in _STEPS.items():
        line = next((one for one in case.select(Log, event=event, source=successor) if one.t >= since), None)
        if line is not None:
            parts.append(f"{name} {in_ms(line.t - last)}")
            last = line.t
            evidence.append(line.n)
    if token is None:
        told = f": {', '.join(parts)}" if parts else ""
        return Finding("fail", f"{what}: {successor} served nobody{told}", tuple(evidence), pending=True)
    return _served(what, token, ms, since, [*parts, f"first token {in_ms(token.t - last)}"], evidence)


def _served(what: str, token: RequestChunk, ms: float, since: int, parts: list[str], evidence: list[int]) -> Finding:
    reason = f"{what}: {token.worker} served {in_ms(token.t - since)} after it ({', '.join(parts)})"
    if token.t - since > ms * 1e6:
        return Finding("fail", f"{reason}; allowed: {ms:g} ms", (*evidence, token.n))
    return Finding("pass", reason, (*evidence, token.n))


def _nobody(case: Case, due: _Due, what: str, ms: float) -> Finding:
    """Nobody took the lock: which is nobody's failure only where nobody could, in the time that there was."""
    assert due.fault.landed is not None
    members = groups(case)[case.group(due.fault.process)]
    others = [one for one in members if one != due.fault.process and alive_in(case, one, due.since)]
    if not others:
        return Finding("unknown", f"{what}: no other engine of its group was left to take over")
    if all(_struck_for_good(case, one, due.since + int(ms * 1e6)) for one in others):
        return Finding("unknown", f"{what}: whoever could come next was struck as well: {', '.join(others)}")
    return Finding("fail", f"{what}: nobody took the lock after it", (due.fault.landed.n,), pending=True)


def _struck_for_good(case: Case, source: str, until: int) -> bool:
    return any(
        fault.process == source and fault.landed.t <= until and thawed_t(case, fault) is None
        for fault in harmful(case)
        if fault.landed is not None
    )


def _struck_t(case: Case, won: Log, since: int) -> int | None:
    """When the first fault hit an engine that had the lock."""
    return min(
        (
            fault.landed.t
            for fault in harmful(case)
            if fault.landed is not None and fault.landed.t >= since and wrote_before(case, won, fault)
        ),
        default=None,
    )
