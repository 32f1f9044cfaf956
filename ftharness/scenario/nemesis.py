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
        self._requests: dict[int, Stream] = {}  # by the place in the workload
        self._count = 0
        self._strikes: list[Strike] = []
        self._watching: list[Callable[[], None]] = []
        self._waiting: set[asyncio.Task[None]] = set()
        self._striking: set[asyncio.Task[None]] = set()

    def follow(self, stream: Stream) -> None:
        """Count ``stream`` among the requests that targets are about."""
        self._requests[stream.index] = stream

    def arm(self, injections: Sequence[Injection]) -> None:
        """Wait for the moments of these faults, from now on.

        Raises:
            LookupError: There is no such kind of fault.
        """
        for place, injection in enumerate(injections):
            fault_kind(injection.fault.kind)  # looked up and imported now: at the moment itself it would cost 10 ms
            moment = _moment(injection.trigger, self._history, self._speed)
            self._count += 1
            watch = partial(self._watch, injection, f"fault-{place + 1}", moment, _Once())
            self._watching.append(self._history.subscribe(watch))

    def _watch(self, injection: Injection, fault_id: str, moment: "_Moment", once: "_Once", event: Event) -> None:
        if once.said:
            return
        try:
            more_delay_s = moment(event)
        except Exception as error:  # noqa: BLE001 - a predicate of the user's; it must not break whoever tells the history
            once.said = True
            why = f"its trigger failed: {type(error).__name__}: {error}"
            self._start(self._fails(injection, fault_id, why), self._striking)
            return
        if more_delay_s is None:
            return
        once.said = True
        trigger = str(injection.trigger)
        if more_delay_s:
            trigger += f" (not streamed: {more_delay_s:g} s after a worker received it)"
        delay_s = injection.trigger.delay_s + more_delay_s
        strike = partial(self.inject, injection.fault, trigger=trigger, fault_id=fault_id)
        if delay_s:
            self._start(self._after(delay_s, strike), self._waiting)
        else:
            self._start(strike(), self._striking)

    async def _fails(self, injection: Injection, fault_id: str, why: str) -> None:
        asked = self._ask(injection.fault, fault_id, str(injection.trigger), request="")
        self._history.append(FaultMissed(source=asked.source, id=fault_id, reason=why))

    async def _after(self, delay_s: float, strike: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await asyncio.sleep(delay_s)  # the trigger's own delay
        self._start(strike(), self._striking)

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
        aimed = "" if fault.target.role == "named" else self._id_at(fault.target.request)
        asked = self._ask(fault, fault_id, trigger, request=aimed)
        try:
            processes = await self._stack.resolve(fault.target, self._requests.get(fault.target.request))
        except LookupError as error:
            self._history.append(FaultMissed(source=asked.source, id=fault_id, reason=str(error)))
            return
        strikes = [
            Strike(fault_id, process, self._history, dict(fault.args), self._concerned(process, aimed))
            for process in processes
        ]
        self._strikes += strikes
        # Each to its own end: one that fails must not leave another half done.
        for failure in await asyncio.gather(*(kind(strike) for strike in strikes), return_exceptions=True):
            if failure is not None:
                raise failure

    def _ask(self, fault: Fault, fault_id: str, trigger: str, *, request: str) -> FaultRequested:
        target = str(fault.target)
        return self._history.append(
            FaultRequested(
                source="harness", id=fault_id, fault=fault.kind, target=target, trigger=trigger, request=request
            )
        )

    def _id_at(self, place: int) -> str:
        return self._requests[place].id if place in self._requests else ""

    def _concerned(self, process: Process, aimed: str) -> str:
        """The request that must still run for the fault to be on target; of a named one, the last that it still has."""
        if aimed:
            return aimed
        by_id = {stream.id: stream for stream in self._requests.values()}
        last = ""
        for event in reversed(list(self._history.select(Log, source=process.name, event=_CLAIM))):
            claim = event.captures.get("request", "")
            stream = by_id.get(claim) or by_id.get(claim.rpartition("-")[0])  # ID-1 is a choice of ID
            if stream is not None and stream.result is None:
                return stream.id
            last = last or (stream.id if stream is not None else "")
        return last

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
    """Whether a trigger has had its moment; it has one."""

    said = False


# Whether the moment of a trigger has come with an event: None, or the seconds that must still pass.
_Moment = Callable[[Event], float | None]


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
        return _LogMoment(trigger, {event.request for event in history.select(RequestSent, control=True)})
    fault_id = f"fault-{trigger.fault + 1}"
    return lambda event: 0.0 if isinstance(event, FaultLanded) and event.id == fault_id else None


class _LogMoment:
    """A line of that meaning; not one about a request of the control, which may be read when that is over."""

    def __init__(self, trigger: Trigger, control: set[str]) -> None:
        self._trigger = trigger
        self._control = control

    def __call__(self, event: Event) -> float | None:
        trigger = self._trigger
        if not (isinstance(event, Log) and event.event == trigger.event and trigger.source in ("", event.source)):
            return None
        about = event.captures.get("request", "")
        return None if any(about.startswith(request) for request in self._control) else 0.0


class _TokenMoment:
    """The arrival of a token; for an answer that is not streamed, the time that it takes."""

    def __init__(self, trigger: Trigger, speed: float) -> None:
        self._trigger = trigger
        self._speed = speed
        self._request: RequestSent | None = None
        self._others: set[str] = set()
        self._tokens = 0

    def __call__(self, event: Event) -> float | None:
        if isinstance(event, RequestSent):
            if event.index == self._trigger.request and not event.control:
                self._request = event
            else:
                self._others.add(event.request)
        request = self._request
        if request is None or (isinstance(event, RequestFinished) and event.request == request.request):
            return None
        if isinstance(event, RequestChunk) and event.request == request.request:
            self._tokens += event.tokens
            return 0.0 if self._tokens >= self._trigger.token else None
        if not request.stream and isinstance(event, Log) and event.event == _CLAIM and event.t >= request.t:
            about = event.captures.get("request", "")  # may be a name of the backend's own, but no other request's
            return None if any(about.startswith(other) for other in self._others) else self._trigger.token / self._speed
        return None
