"""``trace.json``: a scenario in the Chrome trace event format, which Perfetto and chrome://tracing open.

A track for the run (its phases, its faults), one for every request, one for every process with a row below it for each request
that it has at the same time, and one for every pool of engines with a row for each slot. Times there are in microseconds.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ftharness.report.clean import one_line
from ftharness.report.moments import Moments
from ftharness.report.pools import PoolLane
from ftharness.report.served import Served
from ftharness.report.stored import Stored
from ftharness.report.timeline import ProcessLane, RequestLane

_RUN, _REQUESTS, _FIRST_PROCESS = 1, 2, 10
# A page of counters is enough: a viewer draws pixels, and a trace of a million points opens slowly.
_MOST_SAMPLES = 12_000
_NS_PER_US = 1_000

Entry = dict[str, Any]


def trace(stored: Stored) -> bytes:
    """The file's bytes."""
    record = stored.record
    events = [
        *_named(_RUN, f"run: {one_line(record.name, 80)}", 0),
        *_phases(stored),
        *_faults(stored.faults),
        *_named(_REQUESTS, "requests", 1),
        *_requests(stored.lanes.requests),
    ]
    names = {lane.id: lane.name for lane in stored.lanes.requests}
    for place, lane in enumerate(stored.lanes.processes):
        events += _process(lane, _FIRST_PROCESS + place, names)
    first = _FIRST_PROCESS + len(stored.lanes.processes)
    for place, pool in enumerate(stored.lanes.pools, first):
        events += _pool(pool, place)
    events += _moves(stored)
    about = {"scenario": record.name, "stack": record.stack, "engine": record.engine, "verdict": record.verdict}
    return msgspec.json.encode({"traceEvents": events, "displayTimeUnit": "ms", "otherData": about})


def _us(ns: float) -> float:
    return ns / _NS_PER_US


def _named(pid: int, name: str, place: int, *, tid: int = 0, thread: str = "") -> Iterator[Entry]:
    if not thread:
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": place}}
        return
    yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": thread}}
    yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": tid}}


def _slice(pid: int, tid: int, name: str, start: int, end: int, **args: object) -> Entry:
    duration = _us(max(end - start, 0))
    return {
        "ph": "X",
        "cat": "run",
        "name": name,
        "pid": pid,
        "tid": tid,
        "ts": _us(start),
        "dur": duration,
        "args": args,
    }


def _instant(pid: int, tid: int, name: str, t: int, scope: str = "t", **args: object) -> Entry:
    return {"ph": "i", "cat": "run", "name": name, "pid": pid, "tid": tid, "ts": _us(t), "s": scope, "args": args}


def _phases(stored: Stored) -> Iterator[Entry]:
    yield from _named(_RUN, "", 0, tid=1, thread="phases")
    for phase in stored.lanes.phases:
        yield _slice(_RUN, 1, one_line(phase.name, 60), phase.start, phase.end)


def _faults(faults: Sequence[Moments]) -> Iterator[Entry]:
    """What is seen across all tracks: the fault, and each step of its recovery."""
    yield from _named(_RUN, "", 0, tid=2, thread="faults")
    for one in faults:
        what = one_line(one.what, 80)
        if one.requested is not None:
            yield _instant(_RUN, 2, f"{what} asked for", one.requested, trigger=one.fault.trigger)
        if one.landed is not None:
            yield _instant(_RUN, 2, f"{what} landed", one.landed, "g", evidence=one.fault.evidence)
            if not one.harmless:
                yield _slice(_RUN, 2, f"recovery from {what}", one.landed, one.last)
        else:
            yield _instant(_RUN, 2, f"{what} did not land", one.requested or 0, "g", reason=one.fault.missed)
        steps = (
            (one.struck if one.struck != one.landed else None, "its grace is over"),
            (one.detected, "detected"),
            (one.rerouted, f"rerouted to {one_line(one.rerouted_to, 60)}" if one.rerouted_to else "rerouted"),
            (one.first_token, "first token after the fault"),
            (one.noticed, "its manager noticed"),
            (one.restored, "ready again"),
            (one.healed, "let go on by the teardown" if one.at_end else "healed"),
            *_taken(one),
        )
        yield from (_instant(_RUN, 2, name, t, "p") for t, name in steps if t is not None)


def _taken(one: Moments) -> Iterator[tuple[int, str]]:
    if one.takeover is not None:
        yield from ((t, f"{one_line(one.takeover.engine, 60)}: {name}") for name, t in one.takeover.steps)
        if one.takeover.fenced is not None:
            yield one.takeover.fenced, one.takeover.fencing


def _requests(lanes: Sequence[RequestLane]) -> Iterator[Entry]:
    chunks = sum(len(lane.times) for lane in lanes)
    step = max(1, -(-chunks // _MOST_SAMPLES))
    for tid, lane in enumerate(lanes, 1):
        name = one_line(lane.name, 80)
        yield from _named(_REQUESTS, "", 0, tid=tid, thread=name)
        known = {
            "request": lane.id,
            "endpoint": lane.endpoint,
            "tokens": lane.tokens(),
            "outcome": lane.status or "not known",
        }
        yield _slice(_REQUESTS, tid, name, lane.sent, lane.end, **known)
        if lane.times:
            yield _slice(_REQUESTS, tid, "waits for its first token", lane.sent, lane.times[0])
            yield _slice(_REQUESTS, tid, "tokens", lane.times[0], lane.times[-1])
            yield _instant(_REQUESTS, tid, "first token", lane.times[0])
        if lane.status and not lane.ok:
            yield _instant(_REQUESTS, tid, one_line(lane.status, 80), lane.end)
        yield from _tokens(lane, name, step)


def _tokens(lane: RequestLane, name: str, step: int) -> Iterator[Entry]:
    """The tokens received so far; every ``step``-th chunk and the last."""
    total, last = 0, len(lane.times) - 1
    for place, (t, count) in enumerate(zip(lane.times, lane.counts, strict=True)):
        total += count
        if place % step == 0 or place == last:
            yield {"ph": "C", "name": f"tokens of {name}", "pid": _REQUESTS, "ts": _us(t), "args": {"tokens": total}}


def _process(lane: ProcessLane, pid: int, names: dict[str, str]) -> Iterator[Entry]:
    yield from _named(pid, f"{one_line(lane.name, 60)} (pid {lane.pid})", pid)
    yield from _named(pid, "", 0, tid=1, thread=one_line(lane.role, 40) or "process")
    ready = lane.ready if lane.ready is not None else lane.end
    yield _slice(pid, 1, "starts", lane.started, ready)
    if lane.ready is not None:
        yield _slice(pid, 1, "ready", lane.ready, lane.end)
    for signal in lane.signals:
        yield _instant(pid, 1, signal.signal, signal.t, "p", reason=signal.reason)
    for log in lane.logged:
        yield _instant(pid, 1, one_line(log.event, 80), log.t, line=one_line(log.line, 300))
    if lane.status:
        yield _instant(pid, 1, f"exited: {lane.status}", lane.end, "p")
    rows = _rows(lane.served)
    for tid in sorted(set(rows.values())):
        yield from _named(pid, "", 0, tid=tid, thread=f"serving {tid - 1}")
    for span, tid in rows.items():
        name = names.get(span.request, one_line(span.request, 60))
        yield _slice(pid, tid, name, span.start, span.end, request=span.request)
        for part in span.parts:  # within it
            yield _slice(pid, tid, one_line(part.phase, 40), part.start, part.end, request=name)


def _pool(pool: PoolLane, pid: int) -> Iterator[Entry]:
    """A track for what was done to it, and one for each slot; another for a breaker, whose states run across lives."""
    yield from _named(pid, f"pool {one_line(pool.name, 60)}", pid)
    yield from _named(pid, "", 0, tid=1, thread="drains and reloads")
    for one in pool.operations:
        yield _slice(pid, 1, one.words, one.start, one.end, outcome=one.outcome)
    for gap in pool.unmanaged:
        yield _slice(pid, 1, "no manager", gap.start, gap.end)
    tid = 1
    for slot in pool.slots:
        tid, name = tid + 1, one_line(slot.name, 60)
        yield from _named(pid, "", 0, tid=tid, thread=name)
        for life in slot.lives:
            known = {"process": life.pid, "model": one_line(life.model, 60)}
            yield from (_slice(pid, tid, one.what, one.start, one.end, **known) for one in life.stretches)
            if life.status:
                yield _instant(pid, tid, f"ended: {one_line(life.status, 80)}", life.end, why=one_line(life.why, 300))
        yield from (_slice(pid, tid, f"waits {wait.words}", wait.start, wait.end) for wait in slot.waits)
        if slot.breaker:
            tid += 1
            yield from _named(pid, "", 0, tid=tid, thread=f"{name}: breaker")
            yield from (_slice(pid, tid, one.what, one.start, one.end) for one in slot.breaker)


def _rows(served: Iterable[Served]) -> dict[Served, int]:
    """A row for each span, such that those in one row do not overlap: slices of one row must nest."""
    free: list[int] = []
    rows: dict[Served, int] = {}
    for span in sorted(served, key=lambda one: (one.start, one.end)):
        place = next((place for place, until in enumerate(free) if until <= span.start), len(free))
        free[place : place + 1] = [span.end]
        rows[span] = place + 2
    return rows


def _moves(stored: Stored) -> Iterator[Entry]:
    """An arrow for every request that went from one worker to another."""
    places = {
        lane.name: (_FIRST_PROCESS + place, _rows(lane.served)) for place, lane in enumerate(stored.lanes.processes)
    }
    number = 0
    for lane in stored.lanes.requests:
        for before, after in zip(lane.served, lane.served[1:], strict=False):
            sides = [(*places[span.worker], span) for span in (before, after) if span.worker in places]
            if before.end > after.start:  # it has both, as where one decodes what the other has read
                continue
            if len(sides) != 2 or any(span not in rows for _, rows, span in sides):  # noqa: PLR2004 - an arrow has two ends
                continue
            number += 1
            (pid, rows, span), (to_pid, to_rows, to_span) = sides
            move = {"cat": "moved", "name": "moved", "id": number}
            yield move | {"ph": "s", "pid": pid, "tid": rows[span], "ts": _us(span.end)}
            yield move | {"ph": "f", "bp": "e", "pid": to_pid, "tid": to_rows[to_span], "ts": _us(to_span.start)}
