"""The shape of a run: who lived when, who served what, when tokens came. What every picture of it is drawn from."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from itertools import accumulate

import msgspec

from ftharness.history import (
    Event,
    Log,
    ProcessExited,
    ProcessReady,
    ProcessSignalled,
    ProcessStarted,
    RequestChunk,
    RequestFinished,
    RequestSent,
    RunFinished,
    RunPhase,
)
from ftharness.report.pool_reading import pools_of
from ftharness.report.pools import PoolLane
from ftharness.report.served import HELD, Served, serving


class Phase(msgspec.Struct, frozen=True):
    """A stretch of the run, in ns since its start."""

    name: str
    start: int
    end: int


class Signal(msgspec.Struct, frozen=True):
    """A signal that was sent to a process; ``reason`` as in the history."""

    t: int
    signal: str
    reason: str


class ProcessLane(msgspec.Struct, frozen=True, kw_only=True):
    """The life of one process.

    Attributes:
        color: Which of the workers it is, from 0; None for what serves no request.
        end: When it exited, or the end of what is known.
        status: How it ended (``exit 0``, ``SIGKILL``), empty while that is not known.
    """

    name: str
    pid: int
    role: str
    started: int
    ready: int | None
    end: int
    status: str
    signals: list[Signal]
    logged: list[Log]
    served: list[Served]
    color: int | None


class RequestLane(msgspec.Struct, frozen=True, kw_only=True):
    """The life of one request; ``times``, ``firsts`` and ``counts`` are its chunks in order of time.

    Attributes:
        name: What to call it in a picture, by its place in the workload as oracles count it: ``control 0``, ``request 0``.
        check: What it checks of the run without the fault, as in the history.
        end: When it ended, or the end of what is known.
        status: How it ended, empty while that is not known.
        ok: Whether it ended in success.
        firsts: The number of each chunk's first token.
        counts: How many tokens each chunk holds.
    """

    id: str
    name: str
    control: bool
    check: str
    endpoint: str
    stream: bool
    sent: int
    end: int
    status: str
    ok: bool
    times: list[int]
    firsts: list[int]
    counts: list[int]
    served: list[Served]

    def tokens(self, start: int | None = None, end: int | None = None) -> int:
        """How many tokens came after ``start`` and up to ``end``."""
        low = 0 if start is None else bisect_right(self.times, start)
        high = len(self.times) if end is None else bisect_right(self.times, end)
        return sum(self.counts[low:high])

    def longest_gap(self, start: int = 0) -> tuple[int, int] | None:
        """The longest time without a token that ended after ``start``; None when it got less than two chunks."""
        gaps = [(a, b) for a, b in zip(self.times, self.times[1:], strict=False) if b > start]
        return max(gaps, key=lambda gap: gap[1] - gap[0], default=None)

    def worker_at(self, t: int) -> str:
        """Who served it at ``t``, empty when nobody is known to have: of two, who did not only keep its KV for the other."""
        return next((span.worker for span in self._at(t)), "")

    def phase_at(self, t: int) -> str:
        """In which phase it was at ``t`` and where, ``kv_transfer in decode-1``; empty when that is not known."""
        return next(
            (f"{phase} in {span.worker}" for span in self._at(t) if t <= span.end and (phase := span.phase_at(t))), ""
        )

    def _at(self, t: int) -> list[Served]:
        begun = [span for span in self.served if span.start <= t]
        return sorted(
            begun, key=lambda span: (t < span.end, span.phase_at(t) not in (HELD, "queued"), span.start), reverse=True
        )


class Timeline(msgspec.Struct, frozen=True):
    """A run in lanes. ``finished`` is False when the history ends without saying that the run did."""

    start: int
    end: int
    phases: list[Phase]
    processes: list[ProcessLane]
    requests: list[RequestLane]
    finished: bool
    pools: list[PoolLane] = []

    def color_of(self, worker: str) -> int | None:
        """The colour of a worker by its name."""
        return next((lane.color for lane in self.processes if lane.name == worker), None)

    def request(self, name: str) -> RequestLane | None:
        """A request by its id."""
        return next((lane for lane in self.requests if lane.id == name), None)


def exit_text(event: ProcessExited) -> str:
    """How a process ended, from its real wait status."""
    if event.signal:
        return event.signal
    return f"exit {event.returncode}" if event.returncode is not None else "exit status not known"


def outcome_text(event: RequestFinished) -> str:
    """How a request ended, in few words: ``200 · length``, ``error 503``, ``error 500 in the stream``, ``hang``."""
    if event.outcome == "success":
        return " · ".join(str(part) for part in (event.status, event.finish_reason or "no finish_reason") if part)
    if event.outcome != "error":
        return event.outcome  # its status, where it had one, is not what ended it
    if event.error_code is not None:
        return f"error {event.error_code} in the stream"
    if event.status == HTTPStatus.OK:
        return "error after HTTP 200"  # as when a connection breaks in the middle of an answer
    return f"error {event.status}" if event.status is not None else "error"


def timeline(events: Sequence[Event]) -> Timeline:
    """The lanes of a history, in whatever order its events stand."""
    ordered = sorted(events, key=lambda event: event.t)
    start = min(0, ordered[0].t) if ordered else 0
    end = max(ordered[-1].t, start + 1) if ordered else 1
    served = serving(ordered, end)
    return Timeline(
        start=start,
        end=end,
        phases=_phases(ordered, end),
        processes=_processes(ordered, end, served),
        requests=_requests(ordered, end, served),
        finished=any(isinstance(event, RunFinished) for event in ordered),
        pools=pools_of(ordered, end),
    )


def _phases(ordered: Iterable[Event], end: int) -> list[Phase]:
    begun = [(event.phase, event.t) for event in ordered if isinstance(event, RunPhase)]
    ends = [*(t for _, t in begun[1:]), end]
    return [Phase(name, t, until) for (name, t), until in zip(begun, ends, strict=False)]


class _Life:
    """What is known of one process while the history is read."""

    def __init__(self, start: ProcessStarted) -> None:
        self.start = start
        self.ready: int | None = None
        self.exit: ProcessExited | None = None
        self.signals: list[Signal] = []
        self.logged: list[Log] = []


def _processes(ordered: Iterable[Event], end: int, served: Iterable[Served]) -> list[ProcessLane]:
    lives: list[_Life] = []
    current: dict[str, _Life] = {}
    for event in ordered:
        if isinstance(event, ProcessStarted):
            current[event.source] = _Life(event)
            lives.append(current[event.source])
            continue
        life = current.get(event.source)
        if life is None:
            continue
        if isinstance(event, ProcessReady):
            life.ready = event.t if life.ready is None else life.ready
        elif isinstance(event, ProcessSignalled):
            life.signals.append(Signal(event.t, event.signal, event.reason))
        elif isinstance(event, ProcessExited):
            life.exit = event
        elif isinstance(event, Log):
            life.logged.append(event)
    spans: dict[str, list[Served]] = {}
    for span in served:
        spans.setdefault(span.worker, []).append(span)
    workers: list[str] = []
    for life in lives:
        name, role = life.start.source, life.start.role
        if (name in spans or role in ("aggregated", "prefill", "decode", "worker")) and name not in workers:
            workers.append(name)
    return [
        ProcessLane(
            name=life.start.source,
            pid=life.start.pid,
            role=life.start.role,
            started=life.start.t,
            ready=life.ready,
            end=life.exit.t if life.exit else end,
            status=exit_text(life.exit) if life.exit else "",
            signals=life.signals,
            logged=life.logged,
            served=[
                span
                for span in spans.get(life.start.source, ())
                if life.start.t <= span.start <= (life.exit.t if life.exit else end)
            ],
            color=workers.index(life.start.source) if life.start.source in workers else None,
        )
        for life in lives
    ]


def _requests(ordered: Sequence[Event], end: int, served: Iterable[Served]) -> list[RequestLane]:
    sent = [event for event in ordered if isinstance(event, RequestSent)]
    finished = {event.request: event for event in ordered if isinstance(event, RequestFinished)}
    chunks: dict[str, list[RequestChunk]] = {}
    for event in ordered:
        if isinstance(event, RequestChunk):
            chunks.setdefault(event.request, []).append(event)
    spans: dict[str, list[Served]] = {}
    for span in served:
        spans.setdefault(span.request, []).append(span)
    lanes: list[RequestLane] = []
    names: set[str] = set()
    for event in sent:
        last = finished.get(event.request)
        parts = chunks.get(event.request, [])
        name = f"{event.check or ('control' if event.control else 'request')} {event.index}"
        if name in names:  # sent by a test of one's own, where there is no workload to have a place in
            name = f"{name} ({event.request[:8]})"
        names.add(name)
        lanes.append(
            RequestLane(
                id=event.request,
                name=name,
                control=event.control,
                check=event.check,
                endpoint=event.endpoint,
                stream=event.stream,
                sent=event.t,
                end=last.t if last else end,
                status=outcome_text(last) if last else "",
                ok=last is not None and last.outcome == "success",
                times=[chunk.t for chunk in parts],
                firsts=_numbers(parts),
                counts=[chunk.tokens for chunk in parts],
                served=spans.get(event.request, []),
            )
        )
    return lanes


def _numbers(parts: Sequence[RequestChunk]) -> list[int]:
    """Each chunk's first token; of several choices, whose chunks come in turns, counted over all of them."""
    if all(chunk.choice == 0 for chunk in parts):
        return [chunk.first for chunk in parts]
    return list(accumulate((chunk.tokens for chunk in parts[:-1]), initial=0))
