"""Who had which request when, and in what phase, from the workers' own words."""

from collections.abc import Iterable, Mapping

import msgspec

from ftharness.history import ContractChosen, Event, Log, ProcessExited, ProcessStarted, RequestFinished, RequestSent

#: A prefill worker's phase once the decode has the KV, or fetches it: it keeps it until it is told. No line says so.
HELD = "held"
#: Those that are told apart in a picture, in their order.
PHASES = ("queued", "prefill", "kv_transfer", "decode", HELD)
_ENDS = ("request_finished", "request_aborted", "remote_aborted", "request_lost")
_DECODING = ("kv_transfer", "decode")


class Part(msgspec.Struct, frozen=True):
    """A request was in this phase on a worker, from ``start`` to ``end``, in ns since the run's start."""

    phase: str
    start: int
    end: int


class Served(msgspec.Struct, frozen=True):
    """A worker had a request from ``start`` to ``end``, in ns since the run's start; ``parts`` are its phases, if it told any."""

    worker: str
    request: str
    start: int
    end: int
    parts: tuple[Part, ...] = ()

    def phase_at(self, t: int) -> str:
        """Its phase at ``t``, empty when that is not known."""
        return next((part.phase for part in reversed(self.parts) if part.start <= t < part.end), "")


class _Open:
    """A worker's having a request, or a choice of it, while the history is read."""

    def __init__(self, request: str, worker: str, start: int) -> None:
        self.request, self.worker, self.start = request, worker, start
        self.phases: list[tuple[str, int]] = []

    def closed(self, t: int) -> Served:
        ends = [*(start for _, start in self.phases[1:]), t]
        parts = [Part(name, start, end) for (name, start), end in zip(self.phases, ends, strict=False) if end > start]
        return Served(self.worker, self.request, self.start, t, tuple(parts))


def serving(ordered: Iterable[Event], end: int) -> list[Served]:
    """In order of their ends: from a worker's own word to its end, the request's, or the word of another in its role.

    Args:
        ordered: The history, in order of time.
        end: The end of what is known.
    """
    spans: list[Served] = []
    open_: dict[tuple[str, str], _Open] = {}  # by the worker, and by what it calls the request
    running: dict[str, None] = {}
    roles: dict[str, str] = {}
    tell: set[str] = set()  # those who say when they give a request up

    def close(which: Iterable[tuple[str, str]], t: int) -> None:
        spans.extend(open_.pop(key).closed(t) for key in list(which))

    for event in ordered:
        if isinstance(event, RequestSent):
            running[event.request] = None
        elif isinstance(event, ProcessStarted):
            roles[event.source] = event.role
        elif isinstance(event, ContractChosen) and "request_aborted" in event.events:
            tell.add(event.source)
        elif isinstance(event, Log):
            name = event.captures.get("request", "")
            if event.event == "request_received":
                role = roles.get(event.source)
                close([key for key in open_ if key[1] == name and roles.get(key[0]) == role], event.t)
                request = _whose(name, {one.request: one for one in open_.values()}, running)
                open_[event.source, name] = _Open(request, event.source, event.t)
            elif event.event == "request_phase":
                _enters(event, name, open_)
            elif event.event in _ENDS:
                own = [key for key in open_ if key[0] == event.source]
                close([key for key in own if key[1] == name] or (own if len(own) == 1 and not name else []), event.t)
        elif isinstance(event, RequestFinished):
            running.pop(event.request, None)
            # Of one whose client went away it is the worker's word that counts: it may work on for nobody.
            left = event.outcome == "cancelled"
            own = [key for key, one in open_.items() if one.request == event.request]
            close([key for key in own if not (left and key[0] in tell)], event.t)
        elif isinstance(event, ProcessExited):
            close([key for key in open_ if key[0] == event.source], event.t)
    close(list(open_), end)
    return spans


def _enters(line: Log, name: str, open_: Mapping[tuple[str, str], _Open]) -> None:
    """The request is in another phase; what prefilled it for a decode elsewhere keeps its KV from then on."""
    phase, own = line.captures.get("phase", ""), open_.get((line.source, name))
    if own is not None and phase:
        own.phases.append((phase, line.t))
    if phase in _DECODING:
        for (worker, other), one in open_.items():
            if other == name and worker != line.source and one.phases and one.phases[-1][0] == "prefill":
                one.phases.append((HELD, line.t))


def _whose(name: str, open_: Mapping[str, object], running: Mapping[str, object]) -> str:
    """The client's name for what a worker calls ``name``: the same, its beginning, or the only one that runs."""
    if name in running or name in open_:
        return name
    own = next((request for request in running if name.startswith(request)), "")
    return own or (next(iter(running)) if len(running) == 1 else name)
