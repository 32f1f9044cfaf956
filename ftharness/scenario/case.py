"""A run as an oracle sees it: the events, sorted into requests, faults, exits and log lines."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast

from ftharness.history import (
    ContractChosen,
    Event,
    FaultHealed,
    FaultLanded,
    FaultMissed,
    FaultRequested,
    Log,
    Metric,
    ProcessExited,
    ProcessSignalled,
    ProcessStarted,
    RequestChunk,
    RequestFinished,
    RequestSent,
    RequestTokens,
    RunPhase,
    RunStarted,
)
from ftharness.scenario.record import Verdict
from ftharness.scenario.views import FaultView, RequestView
from ftharness.stack.groups import group_of

E = TypeVar("E", bound=Event)


class Part(NamedTuple):
    """One of several things that an oracle found.

    Attributes:
        said: For a person.
        source: The process whose it is; "" where it is no process's.
    """

    said: str
    source: str = ""


class Finding(NamedTuple):
    """What an oracle says.

    Attributes:
        verdict: ``pass``, ``fail`` or ``unknown``.
        reason: For a person.
        evidence: The numbers ``n`` of the events that it rests on.
        drift: Log lines or metrics that this version of the backend should have, by the contract, and did not show.
        pending: What is missing may still come: a run that goes on waits for it, for some seconds, before it ends.
        invariant: A failure that is one whatever the faults of the run came to.
        parts: Of an oracle that lists what it found, each of it: what is known of one excuses no other.
    """

    verdict: Verdict
    reason: str
    evidence: tuple[int, ...] = ()
    drift: tuple[str, ...] = ()
    pending: bool = False
    invariant: bool = False
    parts: tuple[Part, ...] = ()


def short_of_passing(findings: Iterable[Finding]) -> Finding | None:
    """Of what is found about several requests or faults the first failure, or else the first unknown; None: all pass."""
    found = list(findings)
    return next((one for verdict in ("fail", "unknown") for one in found if one.verdict == verdict), None)


class Case:
    """The events of one run of a scenario, from its start to its end. Pure: made from events, changes nothing.

    Args:
        events: Of one ``history.jsonl``, in any order.
        only: The id of the request that an oracle is asked about; "" for all.
    """

    def __init__(self, events: Sequence[Event], *, only: str = "") -> None:
        self.events = sorted(events, key=lambda event: (event.t, event.n))
        self._only = only

    def about(self, request: str, place: int | None = None) -> "Case":
        """The same case, for an oracle that is asked about one request only: by its id, or by its place in the workload."""
        if place is not None:
            found = (view.id for view in self.phase_requests if view.sent.index == place)
            request = next(found, f"request {place}, which was not sent")
        return Case(self.events, only=request) if request else self

    def select(self, kind: type[E], **fields: object) -> Iterator[E]:
        """The events of a kind whose fields have these values, in order of time."""
        for event in self._by_kind.get(kind, ()):
            if all(getattr(event, name) == value for name, value in fields.items()):
                yield cast("E", event)

    @cached_property
    def _by_kind(self) -> dict[type[Event], list[Event]]:
        found: dict[type[Event], list[Event]] = {}
        for event in self.events:
            found.setdefault(type(event), []).append(event)
        return found

    @cached_property
    def started(self) -> RunStarted | None:
        """The run's first event."""
        return next(self.select(RunStarted), None)

    @property
    def params(self) -> dict[str, Any]:
        """What the runner noted of the stack: ``exact``, ``seed``, ``behaviour`` and so on."""
        return self.started.params if self.started else {}

    def phase_t(self, phase: str) -> int | None:
        """When a phase began, in ns."""
        found = next(self.select(RunPhase, phase=phase), None)
        return found.t if found else None

    @property
    def fault_end_t(self) -> int | None:
        """When the fault phase was over, in ns: what came later is the checks' of the reference, or the teardown's."""
        cut = self.phase_t("cut")
        return self.phase_t("teardown") if cut is None else cut

    def in_cut(self, t: int) -> bool:
        """Whether something happened in the phase in which the reference is resubmitted, cut."""
        cut, teardown = self.phase_t("cut"), self.phase_t("teardown")
        return cut is not None and cut <= t and (teardown is None or t < teardown)

    @cached_property
    def all_requests(self) -> list[RequestView]:
        """Every request of the run, also those that check its reference, in the order in which they were sent."""
        chunks: dict[str, list[RequestChunk]] = {}
        for chunk in self.select(RequestChunk):
            chunks.setdefault(chunk.request, []).append(chunk)
        ends = {end.request: end for end in self.select(RequestFinished)}
        return [
            RequestView(sent, chunks.get(sent.request, []), ends.get(sent.request)) for sent in self.select(RequestSent)
        ]

    @cached_property
    def _ids(self) -> dict[tuple[str, int], list[int]]:
        return {(told.request, told.choice): told.ids for told in self.select(RequestTokens)}

    def ids_of(self, view: RequestView, choice: int = 0) -> list[int] | None:
        """The tokens of its answer by the model's tokenizer; None where the run did not ask, or they cannot be told."""
        return self._ids.get((view.id, choice))

    @cached_property
    def requests(self) -> list[RequestView]:
        """The requests that are judged: those of the fault phase, or the one that was asked about."""
        return [view for view in self.phase_requests if self._only in ("", view.id)]

    @cached_property
    def phase_requests(self) -> list[RequestView]:
        """Every request of the fault phase, whichever was asked about."""
        return [view for view in self.all_requests if not view.sent.control]

    @cached_property
    def control(self) -> list[RequestView]:
        """The requests of the run without the fault; not those that only check it."""
        return [view for view in self.all_requests if view.sent.control and not view.sent.check]

    def control_of(self, view: RequestView) -> RequestView | None:
        """The same request without the fault."""
        return next((control for control in self.control if control.sent.index == view.sent.index), None)

    def checks_of(self, view: RequestView, check: str) -> list[RequestView]:
        """The requests that checked that answer: ``repeat`` or ``cut``."""
        return [one for one in self._checks if (one.sent.check, one.sent.index) == (check, view.sent.index)]

    @cached_property
    def _checks(self) -> list[RequestView]:
        return [view for view in self.all_requests if view.sent.check]

    @cached_property
    def faults(self) -> list[FaultView]:
        """Every fault that was requested, in order; one that was aimed at several processes once for each of them."""
        landed = {(event.id, event.source): event for event in self.select(FaultLanded)}
        missed = {(event.id, event.source): event for event in self.select(FaultMissed)}
        healed = {(event.id, event.source): event for event in self.select(FaultHealed)}
        views = []
        for event in self.select(FaultRequested):
            hit = [key for key in dict.fromkeys((*landed, *missed)) if key[0] == event.id]
            views += [FaultView(event, landed.get(key), missed.get(key), healed.get(key)) for key in hit]
            if not hit:
                views.append(FaultView(event, None, None, None))
        return views

    def fault_trouble(self, *, expecting: bool = True) -> str:
        """Why nothing can be concluded from the faults that were asked for; "" when all landed where they were aimed.

        Args:
            expecting: Whether something is expected of the requests. If not, a fault that was aimed at a process by its name
                was on target though the last request that the process had was over.
        """
        relevant = [fault for fault in self.faults if expecting or fault.landed is None or fault.requested.request]
        return next((fault.trouble for fault in relevant if fault.trouble), "")

    def hit_requests(self) -> list[RequestView]:
        """The requests that a fault was aimed at; all, where no fault names one."""
        aimed = {fault.requested.request for fault in self.faults if fault.requested.request}
        return [view for view in self.requests if view.id in aimed] or self.requests

    @cached_property
    def roles(self) -> dict[str, str]:
        """The role of each process."""
        return {event.source: event.role for event in self.select(ProcessStarted)}

    def group(self, source: str) -> str:
        """The group of engines beside one failover lock that a process is in, by its worker's name; "" where it is in none."""
        return group_of(source, int(self.params.get("groups", 0)))

    @cached_property
    def exits(self) -> dict[str, ProcessExited]:
        """How each process ended."""
        return {event.source: event for event in self.select(ProcessExited)}

    def ended_in_phase(self, source: str) -> bool:
        """Whether a process ended before the teardown, in which all do."""
        ended, teardown = self.exits.get(source), self.phase_t("teardown")
        return ended is not None and (teardown is None or ended.t < teardown)

    def gone_t(self, source: str) -> int | None:
        """When a process ended, before the teardown; killed by a signal of ours: when that was sent, not when it was seen."""
        if not self.ended_in_phase(source):
            return None
        ended = self.exits[source]
        sent = (one.t for one in self.signals_to(source) if one.signal == ended.signal and one.t <= ended.t)
        return next(sent, ended.t)

    def signals_to(self, source: str) -> list[ProcessSignalled]:
        """The signals that we sent to a process."""
        return list(self.select(ProcessSignalled, source=source))

    def logs(self, event: str, *, role: str = "", source: str = "", fault_phase: bool = True) -> list[Log]:
        """Log events of that name, from processes of that role or name; only those of the fault phase, if asked.

        While the reference is checked after it, a line is of the fault phase if it names a request of that.
        """
        since = (self.phase_t("fault") or 0) if fault_phase else 0
        return [
            line
            for line in self.select(Log, event=event)
            if not (line.t < since or (fault_phase and self._of_the_control(line)))
            and role in ("", self.roles.get(line.source))
            and source in ("", line.source)
        ]

    def takers(self, view: RequestView) -> list[str]:
        """The workers that logged that they received the request, in order."""
        return [line.source for line in self.claims(view)]

    def claims(self, view: RequestView) -> list[Log]:
        """The lines by which workers said that they received the request, or a choice of it."""
        return self.lines_about(view, "request_received")

    def lines_about(self, view: RequestView, event: str) -> list[Log]:
        """The log events of that name about a request, or a choice of it; in order."""
        own = self._named[event].get(view.id, [])
        if own or len(self.phase_requests) != 1:
            return own
        # A backend with request names of its own, or with none: of one request in the phase, every line is about it.
        lines = (line for line in self.select(Log, event=event) if line.t >= view.sent.t)
        return [line for line in lines if not (self._owner(line) or self.in_cut(line.t))]

    @cached_property
    def _named(self) -> dict[str, dict[str, list[Log]]]:
        """The lines that name a request of the run: by event, then by that request."""
        found: dict[str, dict[str, list[Log]]] = defaultdict(dict)
        for line in self.select(Log):
            if owner := self._owner(line):
                found[line.event].setdefault(owner, []).append(line)
        return found

    def _owner(self, line: Log) -> str:
        """The request that a line names, by itself or by the name of a choice, which begins with the request's; or ""."""
        name = line.captures.get("request", "")
        if name not in self._owners:
            self._owners[name] = next((view.id for view in self.all_requests if view.is_named_in(line)), "")
        return self._owners[name]

    @cached_property
    def _owners(self) -> dict[str, str]:
        return {"": "", **{view.id: view.id for view in self.all_requests}}

    def _of_the_control(self, line: Log) -> bool:
        """Whether a line is about a request of the run without the fault: what ends it may be read when that is over."""
        owner = self._owner(line)
        return owner in self._control_ids or (not owner and self.in_cut(line.t))

    @cached_property
    def _control_ids(self) -> set[str]:
        return {view.id for view in self.all_requests if view.sent.control}

    def contract_known(self, source: str = "", role: str = "") -> bool:
        """Whether every contract that reads those processes was written for their version."""
        return all(
            chosen.known
            for chosen in self.select(ContractChosen)
            if source in ("", chosen.source) and role in ("", self.roles.get(chosen.source, role))
        )

    def in_contract(self, event: str, source: str = "", role: str = "") -> bool:
        """Whether the contract of some of those processes has lines of that meaning."""
        return any(
            event in chosen.events
            for chosen in self.select(ContractChosen)
            if source in ("", chosen.source) and role in ("", self.roles.get(chosen.source))
        )

    def metric_rise(self, event: str) -> float | None:
        """By how much the metric that the contract calls ``event`` rose in the fault phase; None where none was read."""
        name = self.params.get("metrics", {}).get(event)
        since = self.phase_t("fault")
        if name is None or since is None:
            return None
        before: dict[tuple[str, str], float] = {}
        after: dict[tuple[str, str], float] = {}
        cut = self.phase_t("cut")
        end = math.inf if cut is None else cut  # the checks that follow are counted, too
        for sample in self.select(Metric, name=name):
            key = (sample.source, str(sorted(sample.labels.items())))
            if sample.t < end:
                (before if sample.t < since else after)[key] = sample.value
        read_after = any(since <= sample.t < end for sample in self.select(Metric))
        if not read_after:
            return None
        return sum(value - before.get(key, 0.0) for key, value in after.items())
