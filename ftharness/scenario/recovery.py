"""How a fault was recovered from: detected, rerouted, first token after it, longest gap."""

import math

from ftharness.faults import HARMLESS
from ftharness.history import Log, ProcessSignalled
from ftharness.scenario.case import Case
from ftharness.scenario.departure import departure_of
from ftharness.scenario.record import Recovery
from ftharness.scenario.views import FaultView, RequestView

_DETECTION = {"migration_started", "migration_exhausted", "worker_left"}


def struck_t(case: Case, fault: FaultView) -> int | None:
    """When the fault took effect, in ns: what followed the end of a grace period counts from that moment."""
    if fault.landed is None:
        return None
    # Until the next fault on the same process, whose grace is another, or the teardown.
    others = [other.landed.t for other in case.faults if other.landed and other.process == fault.process]
    until = min([t for t in (*others, case.phase_t("teardown")) if t is not None and t > fault.landed.t], default=None)
    signals = case.select(ProcessSignalled, source=fault.process, reason="escalation")
    return next((e.t for e in signals if e.t >= fault.landed.t and (until is None or e.t < until)), fault.landed.t)


def recovery_of(case: Case, fault: FaultView) -> Recovery:
    """The figures of one fault, in ms since it took effect; None for what did not happen, or could not be seen.

    Of an answer that is not streamed the client sees no token before the end: it has no first token and no gaps.
    """
    since = struck_t(case, fault)
    if fault.requested.fault in HARMLESS:
        return Recovery()  # nothing was broken
    if since is not None and fault.process == "client":
        return _given_up(case, fault)
    if since is None or not fault.on_process:
        return Recovery()
    aimed = aimed_at(case, fault)
    streamed = [view for view in aimed if view.sent.stream]
    until = case.fault_end_t or math.inf  # in which workers leave because we end them
    detect = next(
        (
            e.t
            for e in case.select(Log)
            if since <= e.t < until and e.event in _DETECTION and case.roles.get(e.source) == "frontend"
        ),
        None,
    )
    taken_over = next(
        (
            line
            for line in case.select(Log, event="request_received")
            if since <= line.t < until and line.source != fault.process and _about(line, aimed)
        ),
        None,
    )
    reroute = taken_over.t if taken_over else None
    first = _first_token_t(streamed, since, reroute or detect, _choice(taken_over, aimed))
    gaps = [
        (later.t - earlier.t) / 1e6
        for view in case.requests
        if view.sent.stream
        for earlier, later in view.gaps()
        if later.t >= since
    ]

    def ms(t: int | None) -> float | None:
        return None if t is None else round((t - since) / 1e6, 3)

    return Recovery(
        detect_ms=ms(detect),
        reroute_ms=ms(reroute),
        first_token_ms=ms(first),
        max_gap_ms=round(max(gaps), 3) if gaps else None,
    )


def _given_up(case: Case, fault: FaultView) -> Recovery:
    """Of its client's going away nothing recovers: the request is given up."""
    left = next((view for view in case.requests if view.id == fault.requested.request and view.left), None)
    if left is None:
        return Recovery()
    ms, worker, told = departure_of(case, left)
    return Recovery(given_up_ms=ms, given_up_by=worker, told=", ".join(told))


def aimed_at(case: Case, fault: FaultView) -> list[RequestView]:
    """The request that the fault was aimed at; all, where it names none."""
    return [view for view in case.requests if view.id == fault.requested.request] or case.requests


def _about(line: Log, views: list[RequestView]) -> bool:
    return len(views) == 1 or any(view.is_named_in(line) for view in views)


def _choice(line: Log | None, views: list[RequestView]) -> int | None:
    """The choice that a worker took over, where workers get the choices of a request one by one (as ID-0, ID-1)."""
    request = line.captures.get("request", "") if line else ""
    own = next((view for view in views if view.choices > 1 and request.startswith(f"{view.id}-")), None)
    place = request[len(own.id) + 1 :] if own else ""
    return int(place) if place.isdecimal() else None


def _first_token_t(aimed: list[RequestView], since: int, rerouted: int | None, choice: int | None) -> int | None:
    """The first token that came after the reroute; where none was seen, the one that ended the longest wait.

    What was in flight when the fault struck arrives after it, and is no sign of recovery.
    """
    if rerouted is not None:
        after = (chunk for view in aimed for chunk in view.chunks if chunk.t >= rerouted)
        return min((chunk.t for chunk in after if choice in (None, chunk.choice)), default=None)
    waits = [
        (later.t - max(earlier.t, since), later.t)
        for view in aimed
        for earlier, later in view.gaps()
        if later.t >= since
    ]
    return max(waits)[1] if waits else None
