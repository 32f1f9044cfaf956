"""Whether engines that share a failover lock keep to it: ``one_active``, ``legal_states``, ``nobody_takes_over``, ``fenced``.

A group is a worker and its standbys, beside one failover lock. Who serves is told by the answers themselves, each chunk of which
names the engine that made it; the engines' own lines tell what came before that, and when.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ftharness.failover.states import illegal_step
from ftharness.history import Log, RequestChunk
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.processes import said
from ftharness.scenario.oracles.takeover import serves_again, took_over_within
from ftharness.scenario.oracles.turns import (
    NO_GROUPS,
    alive_in,
    groups,
    had_its_turn,
    in_ms,
    over_by,
    served_after,
    thawed_t,
    was_fenced_t,
)
from ftharness.scenario.views import FaultView

__all__ = ["fenced", "legal_states", "nobody_takes_over", "one_active", "serves_again", "took_over_within"]

#: By which lines an engine says that it has its turn, the first of which counts; the last says so where its state is active.
_TURN = ("lock_acquired", "awake", "failover_state")
_UNNAMED = Finding(
    "unknown", "no chunk of an answer names the engine that made it: this stack does not tell who serves"
)
_NONE_FROZEN = Finding("unknown", "no engine of a group that had its turn was frozen")


class _Served(NamedTuple):
    """A time in which one engine of a group served, and no other; in ns."""

    engine: str
    first: RequestChunk
    last: RequestChunk


def one_active(case: Case) -> Finding:
    """In no group did two engines serve at the same time: the times from first to last chunk of each do not overlap.

    Nor, by their own lines, did one have its turn while another still had it, whether there was anybody to serve or not.
    """
    every = groups(case)
    if not every:
        return NO_GROUPS
    told: list[str] = []
    for members in every.values():
        served = list(_served(case, members))
        if not served:
            continue
        again: dict[str, _Served] = {}
        for before, now in pairwise(served):
            again[before.engine] = before
            if now.engine in again:
                return Finding(
                    "fail",
                    f"{now.engine} and {before.engine} served at the same time: {now.engine} until {in_ms(now.last.t)} after the "
                    f"start, {before.engine} from {in_ms(before.first.t)} on",
                    (again[now.engine].last.n, before.first.n, now.first.n),
                )
        told.append(" → ".join(one.engine for one in served))
    for members in every.values():
        if finding := _two_turns(case, members):
            return finding
    if not told:
        return _UNNAMED
    return Finding("pass", f"one after the other: {'; '.join(told)}")


def legal_states(case: Case) -> Finding:
    """Each engine of a group went from init to standby, waking, active and dead, in that order, and was announced when awake."""
    every = groups(case)
    if not every:
        return NO_GROUPS
    walked = 0
    for source in (name for members in every.values() for name in members):
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
            when = "and never was awake" if awake is None else f"{in_ms(awake.t - ready.t)} before it was awake"
            return Finding("fail", f"{source} was announced {when}", (ready.n, *([awake.n] if awake else [])))
        if ready is not None and "active" not in states:  # which is said before that
            reason = f"{source} was announced and never said to be active: {' → '.join(states)}"
            return Finding("fail", reason, (ready.n, lines[-1].n))
    if not walked:
        return Finding("unknown", "no engine tells its states")
    return Finding("pass", f"{walked} engines, each by its legal states")


def _frozen_in_turn(case: Case) -> list[FaultView]:
    """The freezes that landed on an engine that had the lock."""
    return [fault for fault in case.faults if fault.requested.fault == "freeze" and had_its_turn(case, fault)]


def nobody_takes_over(case: Case) -> Finding:
    """While the engine that served is frozen no other gets its turn: who freezes keeps its lock."""
    frozen = _frozen_in_turn(case)
    if not frozen:
        return _NONE_FROZEN
    findings = [_kept(case, fault) for fault in frozen]
    return short_of_passing(findings) or Finding(
        "pass", f"a stall, and nobody took over: {', '.join(finding.reason for finding in findings)}"
    )


def _kept(case: Case, fault: FaultView) -> Finding:
    assert fault.landed is not None
    hit, since, until, end = fault.process, fault.landed.t, _frozen_until(case, fault), case.phase_t("teardown")
    others = [one for one in groups(case)[case.group(hit)] if one != hit]
    until = end if until is None else until
    for line in case.select(Log, event="lock_acquired"):
        if line.source in others and line.t >= since and (until is None or line.t < until):
            return Finding("fail", f"{line.source} took the lock of {hit}, which is frozen", (line.n,))
    if not any(alive_in(case, one, since, until) for one in others):
        return Finding("unknown", f"{hit} was frozen, and no other engine of its group was alive to take over")
    how = "to the end" if until is None or until == end else f"for {in_ms(until - since)}"
    return Finding("pass", f"{hit} was frozen {how}")


def _frozen_until(case: Case, fault: FaultView) -> int | None:
    """When it was thawed, or ended: by whatever but an engine that wanted its lock. None: it was frozen to the end."""
    ends = [thawed_t(case, fault), None if was_fenced_t(case, fault.process) else case.gone_t(fault.process)]
    return min((t for t in ends if t is not None), default=None)


def fenced(case: Case) -> Finding:
    """A holder of the lock that was frozen and lost it changes nothing any more, thawed or not: it serves nobody."""
    frozen = _frozen_in_turn(case)
    if not frozen:
        return _NONE_FROZEN
    findings = [_fenced(case, fault) for fault in frozen]
    return short_of_passing(findings) or findings[0]


def _fenced(case: Case, fault: FaultView) -> Finding:
    assert fault.landed is not None
    former, since = fault.process, fault.landed.t
    members = groups(case)[case.group(former)]
    successor = served_after(case, members, former, since)
    if successor is None:
        return Finding("unknown", f"{former} was frozen, and nobody took over from it", pending=True)
    token = next((one for one in case.select(RequestChunk, worker=former) if one.t > successor.t), None)
    if token is not None:
        reason = f"{former} served {in_ms(token.t - successor.t)} after {successor.worker} had begun to"
        return Finding("fail", reason, (successor.n, token.n))
    ended = case.exits.get(former)
    if ended is not None and case.ended_in_phase(former):
        return Finding(
            "pass", f"{former} was ended ({said(ended)}) {in_ms(ended.t - since)} after it froze", (ended.n,)
        )
    teardown = case.phase_t("teardown")
    if fault.healed is None or (teardown is not None and fault.healed.t >= teardown):
        return Finding("unknown", f"{former} was neither ended nor thawed before the run's end: nothing was tried")
    return Finding("pass", f"{former} was thawed, and served nobody any more", (fault.healed.n,))


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


def _two_turns(case: Case, members: list[str]) -> Finding | None:
    """Where two said that they had their turn, and the former had neither ended, nor been struck, nor said that it is done."""
    teardown = case.phase_t("teardown")
    turns = sorted(
        (
            line
            for line in (_turn(case, one) for one in members)
            if line is not None and (teardown is None or line.t < teardown)
        ),
        key=lambda line: line.t,
    )
    for place, later in enumerate(turns):
        for former in turns[:place]:
            if not any(over_by(case, one.source, later.t) for one in (former, later)):
                reason = (
                    f"by their own lines {former.source} and {later.source} had their turn at the same time: {later.source} "
                    f"from {in_ms(later.t)} after the start on, when {former.source}, which had it since {in_ms(former.t)}, "
                    "had neither ended nor been struck, nor said that it is done"
                )
                return Finding("fail", reason, (former.n, later.n), pending=True)
    return None


def _turn(case: Case, source: str) -> Log | None:
    """The line by which an engine first said that it has its turn."""
    lines = (line for event in _TURN for line in case.select(Log, event=event, source=source))
    return min(
        (one for one in lines if one.event != "failover_state" or one.captures.get("state") == "active"),
        key=lambda line: line.t,
        default=None,
    )
