"""What happened, in words and in order: the picture's text alternative, and what a story is told from."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ftharness.faults import HARMLESS
from ftharness.history import (
    Event,
    FaultHealed,
    FaultLanded,
    FaultMissed,
    FaultRequested,
    Leak,
    Log,
    LogTruncated,
    ProcessExited,
    ProcessReady,
    ProcessSignalled,
    ProcessStarted,
    RequestChunk,
    RequestFinished,
    RequestSent,
    RunFinished,
    RunPhase,
    RunStarted,
)
from ftharness.report.clean import one_line, plain
from ftharness.report.moments import Moments
from ftharness.report.pool_words import line_of_pools
from ftharness.report.timeline import RequestLane, Timeline, exit_text, outcome_text
from ftharness.report.units import NS_PER_MS, amount, milliseconds, pairs

# What every account of a run must hold, whatever else there is no room for.
_ALWAYS = ("fault", "look", "exit", "end", "leak", "phase")
# And of the rest: what a manager of pools does before what others say, and last what it does for each lease.
_NEXT = {"pool": 0, "lease": 2}
# What ``check_health`` has as evidence: nothing was broken by it.
_OF_A_LOOK = {"path", "took_ms"}
_OF_A_CALL = {"asked", "engines", "told"}


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened.

    Attributes:
        n: The number of its event in the history; 0 for what is told of several.
        t: Nanoseconds since the run's start.
        source: Who it is about.
        what: In a few words.
        line: The log line itself, made plain; empty for what is not a log line.
        kind: What it is: ``fault``, ``exit``, ``end``, ``leak``, ``phase``, ``log``, ``request``, ``token`` or ``process``;
            of log lines of managers of pools, and of those who lease, ``pool`` or ``lease``.
        request: The request that it is about, by id, or empty.
        proves: The oracles that rest on it.
    """

    n: int
    t: int
    source: str
    what: str
    line: str = ""
    kind: str = "process"
    request: str = ""
    proves: tuple[str, ...] = ()


def chronicle(
    events: Iterable[Event], lanes: Timeline, faults: Sequence[Moments], evidence: dict[int, list[str]] | None = None
) -> list[Entry]:
    """Everything but the single tokens, in order of time; of those, the ones that a fault stands between.

    Args:
        events: The history.
        lanes: Its lanes.
        faults: Its faults' moments.
        evidence: The oracles by the event (its number) that they rest on.
    """
    names = {lane.id: lane.name for lane in lanes.requests}
    proofs = evidence or {}
    entries: list[Entry] = []
    for event in events:
        proves = tuple(proofs.get(event.n, ()))
        if isinstance(event, RequestChunk) and not proves:
            continue
        told = _told(event, names)
        if told:
            kind, what, line, request = told
            source = one_line(event.source or _SOURCES.get(kind, "harness"), 40)
            entries.append(
                Entry(
                    n=event.n, t=event.t, source=source, what=what, line=line, kind=kind, request=request, proves=proves
                )
            )
    for lane in lanes.requests:
        entries += [_token(lane, t, f"first token after {_ms(t - lane.sent)}") for t in lane.times[:1]]
    for one in faults:
        if one.request and one.gap and one.landed is not None:
            before = one.request.tokens(end=one.gap[0])
            entries.append(_token(one.request, one.gap[0], f"the last token before the gap, {before:,} so far"))
            gap = _ms(one.gap[1] - one.gap[0])
            entries.append(_token(one.request, one.gap[1], f"the first token after {one.fault.kind}: gap of {gap}"))
    return sorted(entries, key=lambda entry: (entry.t, entry.n or 1 << 60))


_SOURCES = {"request": "client", "token": "client", "end": "client"}


def choose(entries: Sequence[Entry], limit: int, around: Sequence[int]) -> list[Entry]:
    """At most ``limit`` entries in order: what must be told and what proves something, then what is nearest to a fault."""
    if len(entries) <= limit:
        return list(entries)

    def rank(entry: Entry) -> tuple[bool, bool, int, int]:
        distance = min((abs(entry.t - t) for t in around), default=entry.t)
        return not entry.proves, entry.kind not in _ALWAYS, _NEXT.get(entry.kind, 1), distance

    kept = set(map(id, sorted(entries, key=rank)[:limit]))
    return [entry for entry in entries if id(entry) in kept]


def _token(lane: RequestLane, t: int, what: str) -> Entry:
    return Entry(n=0, t=t, source="client", what=f"{lane.name}: {what}", kind="token", request=lane.id)


def asked(body: dict[str, Any]) -> str:
    """What a request asked for, without its prompt's whole length: ``max_tokens 300, stream yes, prompt "Once…"``."""
    said = {key: value for key, value in body.items() if key in _SAID}
    prompt = body.get("prompt")
    if prompt is None:
        messages = body.get("messages")
        last = messages[-1] if isinstance(messages, list) and messages else None
        prompt = last.get("content") if isinstance(last, dict) else None
    quoted = f"“{one_line(prompt, 40)}”" if isinstance(prompt, str) else ""
    return ", ".join(part for part in (pairs(said, 100), quoted) if part)


_SAID = ("max_tokens", "stream", "n", "stop", "logprobs", "temperature")


def _told(event: Event, names: dict[str, str]) -> tuple[str, str, str, str] | None:  # noqa: C901, PLR0911, PLR0912 - one case a kind
    """Of one event: its kind of entry, what to say of it, its log line, and its request."""
    match event:
        case RunStarted():
            return None
        case RunPhase():
            return "phase", f"{one_line(event.phase, 40)} begins", "", ""
        case RunFinished():
            reason = f": {one_line(event.reason, 200)}" if event.reason else ""
            return "phase", f"the run is over, {event.outcome}{reason}", "", ""
        case ProcessStarted():
            ports = f", ports {pairs(event.ports, 80)}" if event.ports else ""
            return "process", f"started, pid {event.pid}{ports}", "", ""
        case ProcessReady():
            return "process", f"ready: {one_line(event.how, 100)}" if event.how else "ready", "", ""
        case ProcessSignalled():
            tree = " and all it started" if event.tree else ""
            kind = "fault" if event.reason == "fault" else "process"
            return kind, f"{event.signal} sent{tree} ({event.reason})", "", ""
        case ProcessExited():
            return "exit", f"exited: {exit_text(event)}", "", ""
        case Log():
            request = event.captures.get("request", "")
            name, phase = names.get(request, ""), event.captures.get("phase", "")
            said = one_line(event.event, 60).replace("_", " ")
            what = f"{said}: {name}" if name else said
            if event.event == "request_phase" and phase:
                what = f"{name or said}: {one_line(phase, 40)}"
            kind, words = line_of_pools(event)
            return kind or "log", f"{what}: {words}" if words else what, plain(event.line).strip("\n"), request
        case LogTruncated():
            return "process", f"its log is not complete from here on: {one_line(event.reason, 120)}", "", ""
        case RequestSent():
            what = f"{names[event.request]}: {one_line(event.endpoint, 60)} ({asked(event.body)})"
            return "request", what, "", event.request
        case RequestChunk():
            name = names.get(event.request, one_line(event.request, 40))
            return "token", f"{name}: {amount(event.tokens, 'token')} from token {event.first:,}", "", event.request
        case RequestFinished():
            name = names.get(event.request, one_line(event.request, 40))
            error = f": {one_line(event.error, 200)}" if event.error else ""
            return "end", f"{name} ended: {outcome_text(event)}{error}", "", event.request
        case FaultRequested():
            why = f" ({one_line(event.trigger, 80)})" if event.trigger else ""
            kind = "look" if event.fault in HARMLESS else "fault"
            return kind, f"{event.fault} {one_line(event.target, 40)} asked for{why}", "", event.request
        case FaultLanded():
            ended = ", but not on what it was aimed at: that request had ended"
            done = ", but that process was done with the request"
            aim = "" if event.on_target else done if event.evidence.get("request") == "was done with there" else ended
            proof = pairs(event.evidence, 200)
            if event.evidence.keys() >= _OF_A_LOOK:
                return "look", f"answered: {proof}", "", ""
            if event.evidence.keys() & _OF_A_CALL:
                return "look", proof, "", ""
            return "fault", f"fault landed{': ' if proof else ''}{proof}{aim}", "", ""
        case FaultMissed():
            return "fault", f"fault did not land: {one_line(event.reason, 200)}", "", ""
        case FaultHealed():
            proof = pairs(event.evidence, 120)
            return "fault", f"fault healed{': ' if proof else ''}{proof}", "", ""
        case Leak():
            return "leak", f"leak, {one_line(event.what, 40)}: {one_line(event.detail, 200)}", "", ""
        case _:
            return None


def _ms(ns: int) -> str:
    return milliseconds(ns / NS_PER_MS)
