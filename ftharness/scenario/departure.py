"""What followed when a client went away: which worker gave its request up, how soon, and who was told beside it."""

from typing import NamedTuple

from ftharness.scenario.case import Case
from ftharness.scenario.views import RequestView


class Departure(NamedTuple):
    """By the workers' own lines.

    Attributes:
        ms: From the end of the client's connection to the worker's word, in ms; None where none said that it gave it up.
        worker: The last that said so.
        told: Those of the other phase that said that they were told.
    """

    ms: float | None = None
    worker: str = ""
    told: tuple[str, ...] = ()


def departure_of(case: Case, view: RequestView) -> Departure:
    """Of a request whose client went away."""
    assert view.finished is not None
    since = view.finished.t
    gave = [line for line in case.lines_about(view, "request_aborted") if line.t >= since]
    told = [line.source for line in case.lines_about(view, "remote_aborted") if line.t >= since]
    if not gave:
        return Departure(told=tuple(dict.fromkeys(told)))
    last = max(gave, key=lambda line: line.t)
    others = dict.fromkeys(name for name in told if name != last.source)
    return Departure(round((last.t - since) / 1e6, 3), last.source, tuple(others))


def departed(case: Case) -> list[RequestView]:
    """The requests that their clients left while the run went on, and not because it was over."""
    over = case.phase_t("teardown")
    return [
        view
        for view in case.requests
        if view.left and view.finished is not None and (over is None or view.finished.t < over)
    ]
