"""Histories made by hand: a control and a fault on a stack of a frontend and two workers, which each test bends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from ftharness.engine import tokens
from ftharness.history import (
    ContractChosen,
    Event,
    FaultLanded,
    FaultRequested,
    History,
    Log,
    Metric,
    ProcessExited,
    ProcessSignalled,
    ProcessStarted,
    RequestChunk,
    RequestFinished,
    RequestSent,
    RunFinished,
    RunPhase,
    RunStarted,
)
from ftharness.scenario.case import Case

MS = 1_000_000
PROMPT = "Once"
IDS = tokens.generate(0, tokens.encode(PROMPT), 10)


@dataclass
class Story:
    """A run in which worker-1 is killed at token 5 of 10 and worker-2 goes on; ``events`` are (t in ms, event)."""

    exact: bool = True
    greedy: bool = False
    stream: bool = True
    behaviour: dict[str, Any] = field(default_factory=lambda: {"migration_exhausted_stream": 500})
    events: list[tuple[float, Event]] = field(default_factory=list)

    def __post_init__(self) -> None:
        params = {"exact": self.exact, "seed": 0, "behaviour": self.behaviour, "metrics": {}}
        params |= {"greedy": True} if self.greedy else {}
        self.add(0, RunStarted(source="harness", scenario="a/b", stack="sim", sut_version="1.0", params=params))
        for name, role in (("frontend", "frontend"), ("worker-1", "aggregated"), ("worker-2", "aggregated")):
            known = ["request_received", "migration_started", "migration_exhausted", "request_aborted"]
            self.add(1, ContractChosen(source=name, backend="sim", version="1.0", events=known))
            self.add(1, ProcessStarted(source=name, pid=1, role=role))
        self.add(10, RunPhase(source="harness", phase="control"))
        self.request(10, "c", IDS, control=True)
        self.add(100, RunPhase(source="harness", phase="fault"))

    def add(self, t_ms: float, event: Event) -> None:
        """One event at ``t_ms``."""
        self.events.append((t_ms, event))

    def request(
        self,
        t_ms: float,
        name: str,
        ids: list[int],
        *,
        control: bool = False,
        check: str = "",
        cut: int = 0,
        cut_text: int = 0,
        outcome: str = "success",
        index: int = 0,
        step_ms: float = 5,
        gap_before: int | None = None,
        gap_ms: float = 0,
        body: dict[str, Any] | None = None,
        choices: Sequence[int] = (),
        pieces: Sequence[str] = (),
        **end: Any,
    ) -> float:
        """A request of ``ids``, a token each ``step_ms``; returns when it ended. ``outcome`` "" never ends.

        ``choices`` says of each token of which choice it is, and ``pieces`` its text, if it is not the token's own.
        """
        body = {"prompt": PROMPT, "max_tokens": 10} | (body or {})
        sent = RequestSent(
            source="client",
            request=name,
            endpoint="/v1/completions",
            body=body,
            stream=self.stream,
            control=control,
            index=index,
            check=check,
            cut=cut,
            cut_text=cut_text,
        )
        self.add(t_ms, sent)
        t = t_ms
        for place, text in enumerate(pieces or [tokens.decode([token]) for token in ids]):
            t += step_ms + (gap_ms if place == gap_before else 0)
            choice = choices[place] if choices else 0
            chunk = RequestChunk(source="client", request=name, first=place, tokens=1, text=text, choice=choice)
            self.add(t, chunk)
        if outcome:
            usage = {"prompt_tokens": 4, "completion_tokens": len(ids), "total_tokens": 4 + len(ids)}
            said: dict[str, Any] = {"status": 200, "finish_reason": "length", "usage": usage}
            self.add(t + 1, RequestFinished(source="client", request=name, outcome=outcome, **{**said, **end}))
        return t + 1

    def taken(self, t_ms: float, worker: str, name: str = "r") -> None:
        """A worker says that it received the request."""
        self.add(t_ms, Log(source=worker, event="request_received", captures={"request": name}))

    def killed(self, t_ms: float = 125, *, on_target: bool = True, process: str = "worker-1", aimed: str = "r") -> None:
        """The fault: a kill of the serving worker that landed at ``t_ms``."""
        asked = FaultRequested(source="harness", id="fault-1", fault="kill", target="serving", request=aimed)
        self.add(t_ms - 1, asked)
        self.add(t_ms, ProcessSignalled(source=process, pid=1, signal="SIGKILL", reason="fault"))
        evidence = {"wait_status": "SIGKILL"}
        self.add(t_ms, FaultLanded(source=process, id="fault-1", evidence=evidence, on_target=on_target))
        self.add(t_ms + 1, ProcessExited(source=process, pid=1, signal="SIGKILL"))

    def migrates(self, ids: list[int] = IDS, **request: Any) -> None:
        """The whole of a good migration, whose answer is ``ids``."""
        self.taken(101, "worker-1")
        self.killed()
        self.add(127, Log(source="frontend", event="migration_started", captures={"request": "r"}))
        self.taken(128, "worker-2")
        self.request(100, "r", ids, **request)

    def end(self, outcome: str = "complete", reason: str = "") -> list[Event]:
        """The teardown, and all events in the order in which they were seen."""
        last = max(t for t, _ in self.events) + 10
        self.add(last, RunPhase(source="harness", phase="teardown"))
        for name in ("frontend", "worker-2"):
            self.add(last + 1, ProcessSignalled(source=name, pid=1, signal="SIGTERM", reason="teardown"))
            self.add(last + 2, ProcessExited(source=name, pid=1, returncode=0))
        self.add(last + 3, RunFinished(source="harness", outcome=outcome, reason=reason))
        history = History(start_ns=0)
        for t, event in sorted(self.events, key=lambda pair: pair[0]):
            history.append(event, at=int(t * MS))
        return list(history.events)


METRICS = {
    "slots_busy": "slots",
    "kv_used": "kv",
    "tokens_generated": "tokens",
    "cancellation": "front_cancels",
    "worker_cancellation": "work_cancels",
}
WORDS = ["request_received", "request_aborted", "remote_aborted", "request_finished"]


@dataclass
class Left:
    """A run in which the client of the first of two requests went away after 5 of 10 tokens, 126 ms after the begin.

    Each test changes what it is about; a time of None takes the event out.
    """

    story: Any
    ids: list[int]
    known: bool = True
    metrics: dict[str, str] = field(default_factory=lambda: dict(METRICS))
    words: list[str] = field(default_factory=lambda: list(WORDS))
    took: float | None = 101
    aborted: float | None = 130
    abort: Log = field(
        default_factory=lambda: Log(source="worker-1", event="request_aborted", captures={"request": "r"})
    )
    outcome: str = "cancelled"
    next_by: str = "worker-1"
    next_outcome: str = "success"
    faults: tuple[str, ...] = ("r",)
    values: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {
            "slots": (0, 0, 0),
            "kv": (4, 4, 4),
            "tokens": (10, 25, 25),
            "work_cancels": (0, 1, 1),
            "front_cancels": (0, 1, 1),
        }
    )
    readings: tuple[float, float, float] = (99, 200, 500)
    more: list[tuple[float, Any]] = field(default_factory=list)

    def case(self, only: str = "") -> Case:
        """The run as an oracle sees it."""
        one = self.story
        one.events[0][1].params["metrics"] |= self.metrics
        for process in ("frontend", "worker-1", "worker-2"):
            one.add(2, ContractChosen(source=process, backend="sim", known=self.known, events=self.words))
        if not self.known:
            one.events = [(t, e) for t, e in one.events if not isinstance(e, ContractChosen) or e.events is self.words]
        one.request(10, "d", self.ids, control=True, index=1)
        one.request(100, "r", self.ids[:5], outcome=self.outcome, finish_reason=None)
        if self.took is not None:
            one.taken(self.took, "worker-1")
        for number, request in enumerate(self.faults, 1):
            asked = FaultRequested(
                source="harness", id=f"fault-{number}", fault="disconnect", target="", request=request
            )
            one.add(125, asked)
            one.add(126, FaultLanded(source="client", id=f"fault-{number}", evidence={}))
        if self.aborted is not None:
            one.add(self.aborted, self.abort)
        one.request(131, "s", self.ids, index=1, outcome=self.next_outcome)
        one.taken(132, self.next_by, "s")
        one.add(182, Log(source=self.next_by, event="request_finished", captures={"request": "s"}))
        for name, values in self.values.items():
            source = "frontend" if name == "front_cancels" else "worker-1"
            for t, value in zip(self.readings, values, strict=True):
                one.add(t, Metric(source=source, name=name, value=value))
        for t, event in self.more:
            one.add(t, event)
        return Case(one.end()).about(only)


@pytest.fixture
def story() -> Callable[..., Story]:
    """Makes a :class:`Story`."""
    return Story


@pytest.fixture
def ids() -> list[int]:
    """The ten tokens of the right answer."""
    return list(IDS)


@pytest.fixture
def left() -> Callable[..., Left]:
    """``left(**changes)``: a :class:`Left`; ``exact`` as of a :class:`Story`."""
    return lambda exact=True, **changes: Left(Story(exact=exact), list(IDS), **changes)
