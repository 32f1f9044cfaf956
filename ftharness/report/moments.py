"""The points of one fault's story: asked for, landed, noticed, moved elsewhere, the first token after."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import msgspec

from ftharness.faults import HARMLESS
from ftharness.history import Event, Log
from ftharness.report.clean import one_line
from ftharness.report.pools import OPERATIONS
from ftharness.report.recovered import next_token_ms
from ftharness.report.takeover import Takeover, takeover_of
from ftharness.report.timeline import RequestLane, Timeline
from ftharness.report.units import NS_PER_MS
from ftharness.scenario.case import Case
from ftharness.scenario.record import FaultRecord, Recovery
from ftharness.scenario.recovery import struck_t
from ftharness.scenario.views import FaultView

# Where a frontend says that it noticed: a process that is lost, a client that is.
NOTICED = ("migration_started", "worker_left")
_CLIENT_NOTICED = ("client_disconnected",)
# What starts a process rather than breaks one, and how that is said.
_LOOK = "check_health"
_JOINS = {"start_standby": "joins", "restart": "starts"}
# What an operator does, or whoever ends what goes on until it is told.
_ASKS = ("ask", "count_engines", "end_job")


class Moments(msgspec.Struct, frozen=True, kw_only=True):
    """One fault; times in ns since the run's start, None for what did not happen.

    Attributes:
        fault: As the run recorded it.
        process: The name of the process that it hit or was meant to hit, empty when that is not known.
        requested: When its trigger fired.
        landed: When it verifiably happened.
        struck: When it took effect, which its recovery counts from: for a grace that ended, the end of that grace.
        request: What it was aimed at, None when that is not known.
        healed: When what it did was undone.
        at_end: Whether that was the teardown's doing, which lets go on what is to end: nothing recovered.
        detected: When the frontend said that it noticed.
        rerouted: When another worker said that it got the request; ``rerouted_to`` is that worker.
        first_token: When the first token after it came.
        given_up: Of a client that went away: when the last worker said that it gave its request up.
        takeover: Of an engine that had the lock: how another took its place.
        noticed: Of an engine of a pool: when its manager said that it was lost, or not ready.
        restored: When its slot had an engine that was ready again.
        gap: The two chunks around the longest time without a token from when it struck until then.
    """

    fault: FaultRecord
    process: str = ""
    request: RequestLane | None = None
    requested: int | None = None
    landed: int | None = None
    struck: int | None = None
    healed: int | None = None
    at_end: bool = False
    detected: int | None = None
    rerouted: int | None = None
    rerouted_to: str = ""
    first_token: int | None = None
    given_up: int | None = None
    takeover: Takeover | None = None
    noticed: int | None = None
    restored: int | None = None
    gap: tuple[int, int] | None = None

    @property
    def what(self) -> str:
        """For a label: ``kill worker-2``, ``disconnect client of request 3``."""
        if self.joined:
            return f"{self.fault.evidence.get('started', 'one more')} {_JOINS.get(self.fault.kind, 'joins')}"
        if self.looked:
            return f"health of {self.process or self.fault.target}: {self.answer}"
        if self.asked:
            return self.call
        if slot := self.slot:
            return f"{self.fault.kind} {slot} of {self.process or self.fault.target}"
        if self.left and self.request:
            return f"{self.fault.kind} client of {self.request.name}"
        return f"{self.fault.kind} {self.process or self.fault.target}"

    @property
    def joined(self) -> bool:
        """Whether nothing was broken: a process was started."""
        return self.fault.kind in _JOINS and self.landed is not None

    @property
    def looked(self) -> bool:
        """Whether nothing was broken: it was asked how a process is."""
        return self.fault.kind == _LOOK and self.landed is not None

    @property
    def asked(self) -> bool:
        """Whether nothing was broken: somebody asked a process for something, or told it something."""
        return self.fault.kind in _ASKS and self.landed is not None

    @property
    def slot(self) -> str:
        """Of an engine of a pool the slot that was hit; else empty."""
        return one_line(str(self.fault.evidence.get("engine", "")), 40)

    @property
    def operation(self) -> str:
        """Of what a manager of pools was asked for: ``resume: ready``; empty of all else.

        Of a drain or a reload ``drain asked for``: when it begins, and what it comes to, is in its pool's own lane.
        """
        kind = one_line(str(self.fault.evidence.get("operation", "")), 30) if self.asked else ""
        if not kind or kind in OPERATIONS:
            return f"{kind} asked for" if kind else ""
        return f"{kind}: {one_line(str(self.fault.evidence.get('detail', '')), 30)}"

    @property
    def call(self) -> str:
        """Of what was asked or told, for a label: ``POST /v1/pools/main/drain: drained``."""
        evidence, who = self.fault.evidence, self.process or self.fault.target
        if self.fault.kind == "ask":
            came_to = evidence.get("detail") or evidence.get("status", "")
            return one_line(f"{evidence.get('asked', '')}: {came_to}", 100)
        if self.fault.kind == "count_engines":
            engines = evidence.get("engines")
            counts = [f"{slot} {len(pids)}" for slot, pids in engines.items()] if isinstance(engines, dict) else []
            return one_line(f"engines of {who}: {', '.join(counts) or 'none'}", 100)
        return f"{who} told to end"

    @property
    def answer(self) -> str:
        """What a process answered that was asked how it is: a status, or ``no answer``."""
        status = one_line(str(self.fault.evidence.get("status", "none")), 20)
        return "no answer" if status == "none" else status

    @property
    def harmless(self) -> bool:
        """Whether nothing was broken by it, so that nothing follows from it."""
        return self.joined or self.looked or self.asked

    @property
    def left(self) -> bool:
        """Whether it was a client that it hit, and not a process."""
        return self.process == "client"

    @property
    def phase(self) -> str:
        """In which phase its request was, and where, when it struck: ``kv_transfer in decode-1``; or empty."""
        return self.request.phase_at(self.struck) if self.request and self.struck is not None else ""

    @property
    def at(self) -> int | None:
        """Where it stands on the clock: where it landed, or else where it was asked for."""
        return self.landed if self.landed is not None else self.requested

    @property
    def last(self) -> int:
        """The last of its points."""
        until = self.gap[1] if self.gap else None
        taken = [t for _, t in self.takeover.steps] if self.takeover else []
        points = (*taken, self.struck, self.detected, self.rerouted, self.first_token, self.given_up, until)
        return max((point for point in points if point is not None), default=self.at or 0)


def moments(faults: Iterable[FaultRecord], events: Sequence[Event], lanes: Timeline) -> list[Moments]:
    """The points of every fault, in order of time; those that nothing is known of come last.

    Where the run's record has recovery figures, they say where the points are, so that the picture and the figures beside
    it agree; otherwise the history does.
    """
    case = Case(events)
    found = [_moments(fault, case, _view(fault, case), lanes) for fault in faults]
    return sorted(found, key=lambda one: (one.at is None, one.at or 0))


def _view(fault: FaultRecord, case: Case) -> FaultView | None:
    """Its events; one that was aimed at several processes has its own on each."""

    def is_of(view: FaultView) -> bool:
        # What an earlier version stored names the process only behind the target: "serving (worker-1)".
        return view.process == fault.process or (not fault.process and fault.target.endswith(f"({view.process})"))

    return next((view for view in case.faults if view.requested.id == fault.id and is_of(view)), None)


def _moments(fault: FaultRecord, case: Case, view: FaultView | None, lanes: Timeline) -> Moments:
    request = lanes.request(view.requested.request) if view else None
    requested = fault.requested_ns if fault.requested_ns is not None else view.requested.t if view else None
    landed, process = fault.landed_ns, view.process if view else fault.process
    if landed is None:
        return Moments(fault=fault, process=process, requested=requested, request=request)
    if request is None:
        request = next((lane for lane in lanes.requests if not lane.control and lane.sent <= landed <= lane.end), None)
    if fault.kind in HARMLESS:  # nothing was broken, and what follows is not its doing
        none = msgspec.structs.replace(fault, recovery=Recovery())
        return Moments(fault=none, process=process, requested=requested, landed=landed, struck=landed)
    healed = view.healed.t if view and view.healed and view.healed.t >= landed else None
    teardown = case.phase_t("teardown")
    struck = (struck_t(case, view) if view else None) or landed
    until = case.fault_end_t or math.inf  # in which workers leave because we end them
    seen = [e for e in case.events if isinstance(e, Log) and struck <= e.t < until]
    if view is not None and not view.on_process:  # a client went away: nothing goes on elsewhere
        name, rerouted, token = request.id if request else "", None, None
        detected = _first(
            seen, lambda log: log.event in _CLIENT_NOTICED and log.captures.get("request", name).startswith(name)
        )
    else:
        detected = _first(seen, lambda log: log.event in NOTICED)
        rerouted = _first(
            seen,
            lambda log: (
                log.event == "request_received"
                and log.source != process
                and (request is None or log.captures.get("request", request.id).startswith(request.id))
            ),
        )
        token = _token_after(request, struck, detected, rerouted)
    points = _points(fault.recovery, struck, detected, rerouted, token)
    noticed, restored = _in_slot(fault, struck, lanes)
    return Moments(
        fault=fault,
        process=process,
        requested=requested,
        request=request,
        landed=landed,
        struck=struck,
        healed=healed,
        at_end=healed is not None and teardown is not None and healed >= teardown,
        detected=points[0],
        rerouted=points[1],
        rerouted_to=rerouted.source if rerouted and points[1] is not None else "",
        first_token=points[2],
        takeover=takeover_of(case, view) if view is not None and view.on_process else None,
        noticed=noticed,
        restored=restored,
        given_up=None if (ms := fault.recovery.given_up_ms) is None else struck + round(ms * NS_PER_MS),
        gap=_touching(request, struck, points[2]) if request and points[2] is not None else None,
    )


def _in_slot(fault: FaultRecord, struck: int, lanes: Timeline) -> tuple[int | None, int | None]:
    """Of an engine of a pool: when that was noticed, and when its slot had one that was ready again."""
    named = fault.evidence.get("engine")
    slot = next((slot for pool in lanes.pools for slot in pool.slots if slot.name == named), None)
    noticed = slot.noticed(str(fault.evidence.get("engine_pid", "")), struck) if slot is not None else None
    return noticed, slot.ready_after(noticed) if slot is not None and noticed is not None else None


def _first(ordered: Iterable[Log], wanted: Callable[[Log], bool]) -> Log | None:
    return next((log for log in ordered if wanted(log)), None)


def _token_after(request: RequestLane | None, struck: int, detected: Log | None, rerouted: Log | None) -> int | None:
    """The first chunk that the fault cannot have let through: after it was moved, or else noticed, or else struck."""
    if request is None:
        return None
    since = rerouted.t if rerouted else detected.t if detected else struck
    return next((t for t in request.times if t > since), None)


def _points(
    recovery: Recovery, struck: int, detected: Log | None, rerouted: Log | None, token: int | None
) -> tuple[int | None, int | None, int | None]:
    if any(ms is not None for ms in (recovery.detect_ms, recovery.reroute_ms, recovery.first_token_ms)):
        figures = (recovery.detect_ms, recovery.reroute_ms, next_token_ms(recovery))
        detect, reroute, first = (None if ms is None else struck + round(ms * NS_PER_MS) for ms in figures)
        return detect, reroute, first
    return (detected.t if detected else None, rerouted.t if rerouted else None, token)


def _touching(request: RequestLane, struck: int, first_token: int) -> tuple[int, int] | None:
    """The gap that most of the time from the fault to its first token is in: what was in flight may come in between."""
    # A figure in ms is rounded, so the first token need not lie exactly on its chunk.
    near = [(a, b) for a, b in pairwise(request.times) if b >= struck and a < first_token - NS_PER_MS // 1_000]
    return max(near, key=lambda gap: gap[1] - max(gap[0], struck), default=None)
