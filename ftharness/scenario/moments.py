"""Whether a trigger's moment has come, asked of one event after the other."""

from collections.abc import Callable

from ftharness.history import (
    Event,
    FaultLanded,
    History,
    Log,
    ProcessExited,
    ProcessStarted,
    RequestChunk,
    RequestFinished,
    RequestSent,
)
from ftharness.scenario.trigger import Trigger, find_predicate
from ftharness.stack.job import JOB

CLAIM = "request_received"

#: Whether the moment of a trigger has come with an event: None, or the seconds that must still pass.
Moment = Callable[[Event], float | None]


def moment_of(trigger: Trigger, history: History, speed: float) -> Moment:
    """What says of each event of the fault phase, one after the other, whether the trigger's moment has come with it.

    Args:
        trigger: Which.
        history: With all that was before.
        speed: Tokens a second of a stream: what ``on_token`` means for an answer whose tokens the client does not see.
    """
    if trigger.kind == "on_token":
        return _TokenMoment(trigger, speed)
    if trigger.kind == "when":
        predicate = find_predicate(trigger.predicate)
        return lambda _: 0.0 if predicate(history.events) else None
    if trigger.kind == "at":
        return lambda event: 0.0 if _begins(event) else None
    if trigger.kind == "on_exit":
        return lambda event: 0.0 if isinstance(event, ProcessExited) and event.source == trigger.source else None
    if trigger.kind == "on_log":
        return _LogMoment(trigger, {event.request for event in history.select(RequestSent, control=True)})
    fault_id = f"fault-{trigger.fault + 1}"
    return lambda event: 0.0 if isinstance(event, FaultLanded) and event.id == fault_id else None


def _begins(event: Event) -> bool:
    """Whether the work of the fault phase begins with it."""
    if isinstance(event, ProcessStarted):
        return event.role == JOB
    return isinstance(event, RequestSent) and not event.control


class _LogMoment:
    """A line of that meaning; not one about a request of the control, which may be read when that is over."""

    def __init__(self, trigger: Trigger, control: set[str]) -> None:
        self._trigger = trigger
        self._control = control
        self._count = 0

    def __call__(self, event: Event) -> float | None:
        trigger = self._trigger
        if not (isinstance(event, Log) and event.event == trigger.event and trigger.source in ("", event.source)):
            return None
        about = event.captures.get("request", "")
        if any(about.startswith(request) for request in self._control):
            return None
        if any(event.captures.get(name) != value for name, value in trigger.captures.items()):
            return None
        self._count += 1
        return 0.0 if self._count == trigger.nth else None


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
        if not request.stream and isinstance(event, Log) and event.event == CLAIM and event.t >= request.t:
            about = event.captures.get("request", "")  # may be a name of the backend's own, but no other request's
            return None if any(about.startswith(other) for other in self._others) else self._trigger.token / self._speed
        return None
