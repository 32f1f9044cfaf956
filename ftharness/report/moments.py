"""The points of one fault's story: asked for, landed, noticed, moved elsewhere, the first token after."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from ftharness.history import Event, FaultHealed, FaultRequested, Log
from ftharness.report.timeline import RequestLane, Timeline
from ftharness.report.units import NS_PER_MS
from ftharness.scenario.record import FaultRecord, Recovery

# Where a frontend says that it noticed.
NOTICED = ("migration_started", "worker_left")


class Moments(msgspec.Struct, frozen=True, kw_only=True):
    """One fault; times in ns since the run's start, None for what did not happen.

    Attributes:
        fault: As the run recorded it.
        requested: When its trigger fired.
        request: What it was aimed at, None when that is not known.
        healed: When what it did was undone.
        detected: When the frontend said that it noticed.
        rerouted: When another worker said that it got the request; ``rerouted_to`` is that worker.
        first_token: When the first token after it came.
        gap: The two chunks around the longest time without a token that touches the fault's consequences.
    """

    fault: FaultRecord
    request: RequestLane | None = None
    requested: int | None = None
    landed: int | None = None
    healed: int | None = None
    detected: int | None = None
    rerouted: int | None = None
    rerouted_to: str = ""
    first_token: int | None = None
    gap: tuple[int, int] | None = None

    @property
    def at(self) -> int | None:
        """Where it stands on the clock: where it landed, or else where it was asked for."""
        return self.landed if self.landed is not None else self.requested

    @property
    def last(self) -> int:
        """The last of its points."""
        points = (self.landed, self.detected, self.rerouted, self.first_token, self.gap[1] if self.gap else None)
        return max((point for point in points if point is not None), default=self.at or 0)


def moments(faults: Iterable[FaultRecord], events: Sequence[Event], lanes: Timeline) -> list[Moments]:
    """The points of every fault, in order of time; those that nothing is known of come last.

    Where the run's record has recovery figures, they say where the points are, so that the picture and the figures beside
    it agree; otherwise the history does.
    """
    ordered = sorted(events, key=lambda event: event.t)
    found = [_moments(fault, ordered, lanes) for fault in faults]
    return sorted(found, key=lambda one: (one.at is None, one.at or 0))


def _moments(fault: FaultRecord, ordered: Sequence[Event], lanes: Timeline) -> Moments:
    asked = next((e for e in ordered if isinstance(e, FaultRequested) and e.id == fault.id), None)
    request = lanes.request(asked.request) if asked else None
    requested = fault.requested_ns if fault.requested_ns is not None else asked.t if asked else None
    landed = fault.landed_ns
    if landed is None:
        return Moments(fault=fault, requested=requested, request=request)
    if request is None:
        request = next((lane for lane in lanes.requests if not lane.control and lane.sent <= landed <= lane.end), None)
    healed = next((e.t for e in ordered if isinstance(e, FaultHealed) and e.id == fault.id and e.t >= landed), None)
    served_by = request.worker_at(landed) if request else ""
    detected = _first(ordered, landed, lambda log: log.event in NOTICED)
    rerouted = _first(
        ordered,
        landed,
        lambda log: (
            log.event == "request_received"
            and log.source not in (served_by, fault.target)
            and (request is None or log.captures.get("request", request.id) == request.id)
        ),
    )
    points = _points(fault.recovery, landed, detected, rerouted, _token_after(request, landed, detected, rerouted))
    return Moments(
        fault=fault,
        request=request,
        requested=requested,
        landed=landed,
        healed=healed,
        detected=points[0],
        rerouted=points[1],
        rerouted_to=rerouted.source if rerouted and points[1] is not None else "",
        first_token=points[2],
        gap=_ending_at(request, points[2]) if request and points[2] is not None else None,
    )


def _first(ordered: Iterable[Event], since: int, wanted: Callable[[Log], bool]) -> Log | None:
    return next((e for e in ordered if isinstance(e, Log) and e.t >= since and wanted(e)), None)


def _token_after(request: RequestLane | None, landed: int, detected: Log | None, rerouted: Log | None) -> int | None:
    """The first chunk that the fault cannot have let through: after it was moved, or else noticed, or else landed."""
    if request is None:
        return None
    since = rerouted.t if rerouted else detected.t if detected else landed
    return next((t for t in request.times if t > since), None)


def _points(
    recovery: Recovery, landed: int, detected: Log | None, rerouted: Log | None, token: int | None
) -> tuple[int | None, int | None, int | None]:
    figures = (recovery.detect_ms, recovery.reroute_ms, recovery.first_token_ms)
    if any(figure is not None for figure in figures):
        detect, reroute, first = (None if ms is None else landed + round(ms * NS_PER_MS) for ms in figures)
        return detect, reroute, first
    return (detected.t if detected else None, rerouted.t if rerouted else None, token)


def _ending_at(request: RequestLane, t: int) -> tuple[int, int] | None:
    """The gap that the chunk nearest to ``t`` ended: a figure in ms is rounded, so it need not hit its chunk exactly."""
    if len(request.times) < 2:  # noqa: PLR2004 - a gap has two ends
        return None
    place = min(range(1, len(request.times)), key=lambda index: abs(request.times[index] - t))
    return request.times[place - 1], request.times[place]
