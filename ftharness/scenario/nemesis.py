"""Injects faults at their moments into a running stack, and heals them."""

import asyncio
import importlib
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from ftharness.client import Stream
from ftharness.faults import Fault, Strike, fault_kind
from ftharness.history import (
    Event,
    FaultLanded,
    FaultMissed,
    FaultRequested,
    History,
    Log,
    RequestChunk,
    RequestFinished,
    RequestSent,
)
from ftharness.process import Process
from ftharness.scenario.trigger import Injection, Trigger
from ftharness.stack import RunningStack

_CLAIM = "request_received"


class Nemesis:
    """Watches the history, and strikes when a trigger's moment comes.

    Args:
        stack: What is broken.
        history: Where the moments come from, and the evidence goes.
        speed: Tokens a second of a stream: what ``on_token`` means for an answer whose tokens the client does not see.
    """

    def __init__(self, stack: RunningStack, history: History, *, speed: float) -> None:
        self._stack = stack
        self._history = history
        self._speed = speed
        self._requests: list[Stream] = []
        self._count = 0
        self._strikes: list[Strike] = []
        self._watching: list[Callable[[], None]] = []
        self._waiting: set[asyncio.Task[None]] = set()
        self._striking: set[asyncio.Task[None]] = set()

    def follow(self, stream: Stream) -> None:
        """Count ``stream`` among the requests that targets are about; called in the order of the workload."""
        self._requests.append(stream)

    def arm(self, injections: Sequence[Injection]) -> None:
        """Wait for the moments of these faults, from now on.

        Raises:
            LookupError: There is no such kind of fault.
        """
        for place, injection in enumerate(injections):
            fault_kind(injection.fault.kind)  # looked up and imported now: at the moment itself it would cost 10 ms
            moment = _moment(injection.trigger, self._history, self._speed)
            self._count += 1
            fire = partial(self._fire, injection, f"fault-{place + 1}", _Once())
            self._watching.append(self._history.subscribe(partial(_watch, moment, fire)))

    def _fire(self, injection: Injection, fault_id: str, once: "_Once", more_delay_s: float) -> None:
        if once.first():
            delay_s = injection.trigger.delay_s + more_delay_s
            trigger = str(injection.trigger)
            if more_delay_s:
                trigger += f" (not streamed: {more_delay_s:g} s after a worker received it)"
            self._start(self._after(delay_s, injection.fault, fault_id, trigger), self._waiting)

    async def _after(self, delay_s: float, fault: Fault, fault_id: str, trigger: str) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)  # the trigger's own delay
        self._start(self.inject(fault, trigger=trigger, fault_id=fault_id), self._striking)

    def _start(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)

    async def inject(self, fault: Fault, *, trigger: str = "by the test", fault_id: str = "") -> None:
        """Inject one fault now; returns when it has landed or missed, and its own length and grace are over.

        Raises:
            LookupError: There is no such kind of fault.
        """
        kind = fault_kind(fault.kind)
        if not fault_id:
            self._count += 1
            fault_id = f"fault-{self._count}"
        place = fault.target.request
        aimed = self._requests[place].id if fault.target.role != "named" and place < len(self._requests) else ""
        asked = self._history.append(
            FaultRequested(
                source="harness",
                id=fault_id,
                fault=fault.kind,
                target=str(fault.target),
                trigger=trigger,
                request=aimed,
            )
        )
        try:
            processes = await self._stack.resolve(fault.target, self._requests)
        except LookupError as error:
            self._history.append(FaultMissed(source=asked.source, id=fault_id, reason=str(error)))
            return
        strikes = [
            Strike(fault_id, process, self._history, dict(fault.args), self._concerned(process, aimed))
            for process in processes
        ]
        self._strikes += strikes
        async with asyncio.TaskGroup() as group:
            for strike in strikes:
                group.create_task(kind(strike))

    def _concerned(self, process: Process, aimed: str) -> str:
        """The request that must still run for the fault to be on target; of a named process, the last that it took."""
        if aimed:
            return aimed
        claims = [
            event.captures.get("request", "") for event in self._history.select(Log, source=process.name, event=_CLAIM)
        ]
        return next((stream.id for stream in self._requests if claims and stream.id == claims[-1]), "")

    async def settled(self, *, deadline_s: float) -> None:
        """Wait until every fault that has begun is over; what has not begun by now never does."""
        self.disarm()
        while self._striking:
            done, self._striking = self._striking, set()
            finished, late = await asyncio.wait(done, timeout=deadline_s)
            for task in late:
                task.cancel()
            for task in finished:
                task.result()

    def disarm(self) -> None:
        """Stop waiting for moments."""
        for unsubscribe in self._watching:
            unsubscribe()
        self._watching.clear()
        for task in self._waiting:
            task.cancel()
        self._waiting.clear()

    async def heal(self) -> None:
        """Undo what is not yet undone, the last first."""
        self.disarm()
        for task in self._striking:
            task.cancel()
        if self._striking:
            await asyncio.wait(self._striking)
        for strike in reversed(self._strikes):
            await strike.heal()


class _Once:
    """Says yes once."""

    def __init__(self) -> None:
        self._said = False

    def first(self) -> bool:
        said, self._said = self._said, True
        return not said


# Whether the moment of a trigger has come with an event: None, or the seconds that must still pass.
_Moment = Callable[[Event], float | None]


def _watch(moment: _Moment, fire: Callable[[float], None], event: Event) -> None:
    more_delay_s = moment(event)
    if more_delay_s is not None:
        fire(more_delay_s)


def _moment(trigger: Trigger, history: History, speed: float) -> _Moment:
    if trigger.kind == "on_token":
        return _TokenMoment(trigger, speed)
    if trigger.kind == "when":
        module, _, name = trigger.predicate.partition(":")
        predicate = getattr(importlib.import_module(module), name)
        return lambda _: 0.0 if predicate(history.events) else None
    if trigger.kind == "at":
        return lambda event: 0.0 if isinstance(event, RequestSent) and not event.control else None
    if trigger.kind == "on_log":
        return lambda event: 0.0 if _is_log(event, trigger) else None
    fault_id = f"fault-{trigger.fault + 1}"
    return lambda event: 0.0 if isinstance(event, FaultLanded) and event.id == fault_id else None


def _is_log(event: Event, trigger: Trigger) -> bool:
    return isinstance(event, Log) and event.event == trigger.event and trigger.source in ("", event.source)


class _TokenMoment:
    """The arrival of a token; for an answer that is not streamed, the time that it takes."""

    def __init__(self, trigger: Trigger, speed: float) -> None:
        self._trigger = trigger
        self._speed = speed
        self._request: RequestSent | None = None
        self._tokens = 0

    def __call__(self, event: Event) -> float | None:
        if isinstance(event, RequestSent) and not event.control and event.index == self._trigger.request:
            self._request = event
        request = self._request
        if request is None or (isinstance(event, RequestFinished) and event.request == request.request):
            return None
        if isinstance(event, RequestChunk) and event.request == request.request:
            self._tokens += event.tokens
            return 0.0 if self._tokens >= self._trigger.token else None
        if not request.stream and isinstance(event, Log) and event.event == _CLAIM and event.t >= request.t:
            return self._trigger.token / self._speed
        return None
