"""Injects faults at their moments into a running stack, and heals them."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, NamedTuple

from ftharness.client import Stream
from ftharness.faults import HARMLESS, ROLE_OF, TURNS, Fault, Strike, Target, WrongTarget, fault_kind
from ftharness.faults.strike import FaultKind, kind_for
from ftharness.history import (
    Event,
    FaultMissed,
    FaultRequested,
    History,
    Log,
    RequestChunk,
    RequestSent,
)
from ftharness.process import Living, Process
from ftharness.scenario.moments import CLAIM, Moment, moment_of
from ftharness.scenario.trigger import Injection
from ftharness.stack import RunningStack
from ftharness.stack.holders import Holders
from ftharness.stack.lives import first_life

_DUE_S = 10.0  # how long a fault that needs no request may come after the last of them


class _Armed(NamedTuple):
    """A fault that waits for its moment."""

    id: str
    injection: Injection
    moment: Moment


class _Due(NamedTuple):
    """A fault whose moment has come, and whose trigger's delay still runs; ``at`` is on time.monotonic, in seconds."""

    injection: Injection
    trigger: str
    at: float
    task: asyncio.Task[None]


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
        self._holders = Holders(history, {})
        self._requests: dict[int, Stream] = {}  # by the place in the workload
        self._count = 0
        self._strikes: list[Strike] = []
        self._armed: dict[str, _Armed] = {}
        self._due: dict[str, _Due] = {}
        self._on_token: dict[int, list[str]] = {}  # by the request's place: the faults that wait for its tokens
        self._on_any: list[str] = []  # those that may wait for anybody's
        self._places: dict[str, int] = {}
        self._unsubscribe: Callable[[], None] = lambda: None
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
            trigger, fault_id = injection.trigger, f"fault-{place + 1}"
            self._armed[fault_id] = _Armed(fault_id, injection, moment_of(trigger, self._history, self._speed))
            waiting = self._on_token.setdefault(trigger.request, []) if trigger.kind == "on_token" else self._on_any
            waiting.append(fault_id)
        self._count += len(injections)
        self._unsubscribe = self._history.subscribe(self._see)

    def _see(self, event: Event) -> None:
        """Ask those whose moment it may be: of the many tokens only those that wait for that request's."""
        if isinstance(event, RequestChunk):
            place = self._places.get(event.request)
            ids = [*self._on_any, *(self._on_token.get(place, ()) if place is not None else ())]
        else:
            if isinstance(event, RequestSent) and not event.control:
                self._places[event.request] = event.index
            ids = list(self._armed)
        for fault_id in ids:
            if fault_id in self._armed:
                self._ask_whether(self._armed[fault_id], event)

    def _ask_whether(self, armed: _Armed, event: Event) -> None:
        injection, fault_id = armed.injection, armed.id
        try:
            more_delay_s = armed.moment(event)
        except Exception as error:  # noqa: BLE001 - a predicate of the user's; it must not break whoever tells the history
            del self._armed[fault_id]
            why = f"its trigger failed: {type(error).__name__}: {error}"
            self._start(self._fails(injection, fault_id, why), self._striking)
            return
        if more_delay_s is None:
            return
        del self._armed[fault_id]
        trigger = str(injection.trigger)
        if more_delay_s:
            trigger += f" (not streamed: {more_delay_s:g} s after a worker received it)"
        delay_s = injection.trigger.delay_s + more_delay_s
        strike = partial(self.inject, injection.fault, trigger=trigger, fault_id=fault_id)
        if delay_s:
            task = self._start(self._after(fault_id, delay_s, strike), self._waiting)
            self._due[fault_id] = _Due(injection, trigger, time.monotonic() + delay_s, task)
        else:
            self._start(strike(), self._striking)

    async def _fails(self, injection: Injection, fault_id: str, why: str) -> None:
        asked = self._ask(injection.fault, fault_id, str(injection.trigger), request="")
        self._history.append(FaultMissed(source=asked.source, id=fault_id, reason=why))

    async def _after(self, fault_id: str, delay_s: float, strike: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await asyncio.sleep(delay_s)  # the trigger's own delay
        del self._due[fault_id]
        self._start(strike(), self._striking)

    def _start(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        return task

    async def inject(self, fault: Fault, *, trigger: str = "by the test", fault_id: str = "") -> None:
        """Inject one fault now; returns when it has landed or missed, and its own length and grace are over.

        Raises:
            LookupError: There is no such kind of fault.
        """
        kind = fault_kind(fault.kind)
        if not fault_id:
            self._count += 1
            fault_id = f"fault-{self._count}"
        aimed = self._id_at(fault.target.request) if _at_a_request(fault) else ""
        asked = self._ask(fault, fault_id, trigger, request=aimed)
        try:
            targets = await self._found(fault.target)
        except LookupError as error:
            self._history.append(FaultMissed(source=asked.source, id=fault_id, reason=str(error)))
            return
        strikes = [self._strike(fault, fault_id, target, aimed) for target in targets]
        self._strikes += strikes
        kinds = [kind_for(kind, fault.kind, target) for target in targets]
        # Each to its own end: one that fails must not leave another half done.
        for failure in await asyncio.gather(*map(_struck, kinds, strikes), return_exceptions=True):
            if failure is not None:
                raise failure

    def _strike(self, fault: Fault, fault_id: str, target: Living | Stream, aimed: str) -> Strike:
        args = dict(fault.args)
        if isinstance(target, Stream):
            return Strike(fault_id, target, self._history, args, aimed)
        # Of one that is hit for its turn it does not matter whether it has a request just now.
        beside = fault.target.role in TURNS or fault.kind in HARMLESS
        had = (lambda _: "") if beside else partial(self._had, target.name)
        joins = partial(self._stack.join, target.name)
        restarts = partial(self._stack.restart, target.name)
        data = self._stack.data_of(target.name)
        by_hold = fault.target.role in ("serving", "named", *ROLE_OF)  # the others are hit beside a request
        holds = partial(self._holders.has, target.name) if by_hold else lambda *_: True
        undoes = partial(self._undo, target.name)
        lives = self._stack.lives(first_life(target.name))
        earlier = [life for life in lives if isinstance(life, Process) and life is not target]
        return Strike(fault_id, target, self._history, args, aimed, had, joins, restarts, holds, data, undoes, earlier)

    async def _undo(self, process: str, kind: str) -> dict[str, Any] | None:
        """Heal the last fault of that kind that a life of the process was hit by, and that is not healed yet."""
        asked = {event.id for event in self._history.select(FaultRequested, fault=kind)}
        first = first_life(process)
        for strike in reversed(self._strikes):
            if strike.id in asked and first_life(strike.source) == first and (done := await strike.heal()):
                return done
        return None

    async def _found(self, target: Target) -> Sequence[Living | Stream]:
        """Whom a target means now.

        Raises:
            LookupError: There is none; says why.
        """
        request = self._requests.get(target.request)
        if target.role != "client":
            return await self._stack.resolve(target, request)
        if request is None:
            raise LookupError(f"{target}: request {target.request} had not been sent")
        return [request]

    def _ask(self, fault: Fault, fault_id: str, trigger: str, *, request: str) -> FaultRequested:
        target = str(fault.target)
        return self._history.append(
            FaultRequested(
                source="harness", id=fault_id, fault=fault.kind, target=target, trigger=trigger, request=request
            )
        )

    def _id_at(self, place: int) -> str:
        return self._requests[place].id if place in self._requests else ""

    def _had(self, process: str, t: int) -> str:
        """Of the requests that a process took the last that it had at ``t``; else the last that still ran; else the last."""
        by_id = {stream.id: stream for stream in self._requests.values()}
        held = self._holders.held(process, t)
        runs = last = ""
        for event in reversed(list(self._history.select(Log, source=process, event=CLAIM))):
            claim = event.captures.get("request", "")
            stream = by_id.get(claim) or by_id.get(claim.rpartition("-")[0])  # ID-1 is a choice of ID
            if stream is None:
                continue
            if stream.result is None or stream.result.t >= t:
                if claim in held:
                    return stream.id
                runs = runs or stream.id
            last = last or stream.id
        return runs or last

    async def quiet(self) -> None:
        """Wait until every fault whose moment has come is over, delays included. Others may still come to their moment."""
        while busy := [due.task for due in self._due.values()] + [one for one in self._striking if not one.done()]:
            await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)

    async def settled(self, *, deadline_s: float) -> None:
        """Wait until every fault that has begun is over; no request is left.

        Of those whose moment has come, and whose delay still runs, the ones that need no request are waited for, 10 s at most;
        the others miss, and say why. What has not come to its moment by then never does.
        """
        until = time.monotonic() + min(deadline_s, _DUE_S)
        while waited := self._still_of_use(until):
            await asyncio.wait(waited)
        self.disarm()
        while self._striking:
            done, self._striking = self._striking, set()
            finished, late = await asyncio.wait(done, timeout=deadline_s)
            for task in late:
                task.cancel()
            for task in finished:
                task.result()

    def _still_of_use(self, until: float) -> list[asyncio.Task[None]]:
        """The delays of those that can be on target without a request, and by ``until``; the others miss."""
        for fault_id, due in list(self._due.items()):
            fault = due.injection.fault
            if _at_a_request(fault) or fault.target.needs_request or due.at > until:
                due.task.cancel()
                del self._due[fault_id]
                asked = self._ask(fault, fault_id, due.trigger, request="")
                why = f"the last request had ended {max(due.at - time.monotonic(), 0):.2f} s before it was due"
                self._history.append(FaultMissed(source=asked.source, id=fault_id, reason=why))
        return [due.task for due in self._due.values()]

    def disarm(self) -> None:
        """Stop waiting for moments."""
        self._unsubscribe()
        self._armed.clear()
        self._on_token.clear()
        self._on_any.clear()
        for task in self._waiting:
            task.cancel()
        self._waiting.clear()
        self._due.clear()

    async def heal(self) -> None:
        """Undo what is not yet undone, the last first."""
        self.disarm()
        for task in self._striking:
            task.cancel()
        if self._striking:
            await asyncio.wait(self._striking)
        for strike in reversed(self._strikes):
            await strike.heal()


def _at_a_request(fault: Fault) -> bool:
    """Whether it is meant to hit a request, and shows nothing where that had ended; what breaks nothing is meant for none."""
    return fault.target.by_request and fault.kind not in HARMLESS


async def _struck(kind: FaultKind, strike: Strike) -> None:
    try:
        await kind(strike)
    except WrongTarget as why:
        strike.missed(str(why))
