"""How a fault was recovered from: detected, rerouted, first token after it, longest gap."""

from itertools import pairwise

from ftharness.history import Log, ProcessSignalled
from ftharness.scenario.case import Case, FaultView, RequestView
from ftharness.scenario.record import Recovery

_DETECTION = {"migration_started", "migration_exhausted", "worker_left"}


def struck_t(case: Case, fault: FaultView) -> int | None:
    """When the fault took effect, in ns: what followed the end of a grace period counts from that moment."""
    if fault.landed is None:
        return None
    escalated = next((e.t for e in case.select(ProcessSignalled, source=fault.process, reason="escalation")), None)
    teardown = case.phase_t("teardown")
    if escalated is not None and (teardown is None or escalated < teardown):
        return escalated
    return fault.landed.t


def recovery_of(case: Case, fault: FaultView) -> Recovery:
    """The figures of one fault, in ms since it took effect; None for what did not happen, or could not be seen.

    Of an answer that is not streamed the client sees no token before the end: it has no first token and no gaps.
    """
    since = struck_t(case, fault)
    if since is None:
        return Recovery()
    aimed = aimed_at(case, fault)
    streamed = [view for view in aimed if view.sent.stream]
    detect = next(
        (
            e.t
            for e in case.select(Log)
            if e.t >= since and e.event in _DETECTION and case.roles.get(e.source) == "frontend"
        ),
        None,
    )
    reroute = next(
        (
            line.t
            for line in case.select(Log, event="request_received")
            if line.t >= since and line.source != fault.process and _about(line, aimed)
        ),
        None,
    )
    first = _first_token_t(streamed, since, reroute or detect)
    gaps = [
        (later.t - earlier.t) / 1e6
        for view in case.requests
        if view.sent.stream
        for earlier, later in pairwise(view.chunks)
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


def aimed_at(case: Case, fault: FaultView) -> list[RequestView]:
    """The request that the fault was aimed at; all, where it names none."""
    return [view for view in case.requests if view.id == fault.requested.request] or case.requests


def _about(line: Log, views: list[RequestView]) -> bool:
    request = line.captures.get("request", "")
    return len(views) == 1 or any(request.startswith(view.id) for view in views)


def _first_token_t(aimed: list[RequestView], since: int, rerouted: int | None) -> int | None:
    """The first token that came after the reroute; where none was seen, the one that ended the longest wait.

    What was in flight when the fault struck arrives after it, and is no sign of recovery.
    """
    if rerouted is not None:
        return min((chunk.t for view in aimed for chunk in view.chunks if chunk.t >= rerouted), default=None)
    waits = [
        (later.t - max(earlier.t, since), later.t)
        for view in aimed
        for earlier, later in pairwise(view.chunks)
        if later.t >= since
    ]
    return max(waits)[1] if waits else None
