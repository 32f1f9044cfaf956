"""Who had which request when, from the workers' own words."""

from collections.abc import Iterable, Mapping

import msgspec

from ftharness.history import Event, Log, ProcessExited, RequestFinished, RequestSent


class Served(msgspec.Struct, frozen=True):
    """A worker had a request from ``start`` to ``end``, in ns since the run's start."""

    worker: str
    request: str
    start: int
    end: int


def serving(ordered: Iterable[Event], end: int) -> list[Served]:
    """In order of their ends: from a worker's own word to its end, the request's, or the next worker's word.

    Args:
        ordered: The history, in order of time.
        end: The end of what is known.
    """
    spans: list[Served] = []
    open_: dict[str, tuple[str, int]] = {}
    running: dict[str, None] = {}

    def close(request: str, t: int) -> None:
        worker, start = open_.pop(request)
        spans.append(Served(worker, request, start, t))

    for event in ordered:
        if isinstance(event, RequestSent):
            running[event.request] = None
        elif isinstance(event, Log):
            request = _whose(event.captures.get("request", ""), open_, running)
            if event.event == "request_received":
                if request in open_:
                    close(request, event.t)
                open_[request] = (event.source, event.t)
            elif (
                event.event in ("request_finished", "request_aborted") and open_.get(request, ("",))[0] == event.source
            ):
                close(request, event.t)
        elif isinstance(event, RequestFinished):
            running.pop(event.request, None)
            if event.request in open_:
                close(event.request, event.t)
        elif isinstance(event, ProcessExited):
            for request in [name for name, (worker, _) in open_.items() if worker == event.source]:
                close(request, event.t)
    for request in list(open_):
        close(request, end)
    return spans


def _whose(name: str, open_: Mapping[str, object], running: Mapping[str, object]) -> str:
    """The client's name for what a worker calls ``name``: the same, its beginning, or the only one that runs."""
    if name in running or name in open_:
        return name
    own = next((request for request in running if name.startswith(request)), "")
    return own or (next(iter(running)) if len(running) == 1 else name)
