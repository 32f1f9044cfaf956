"""Who had a request, from when to when, and how that ended: what the oracles of cancellation rest on."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from ftharness.history import Log
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.views import RequestView

#: What an abort may take on its way from the frontend to the engine: three processes, each of which may have to wait for its
#: turn; 194 ms have been seen on a busy machine. A worker that is done with a request meanwhile had no chance to give it up.
ON_ITS_WAY_MS = 250.0
#: What lies so close together is one moment: two lines of one process, a token on its way to one socket.
ONE_MOMENT_MS = 50.0

#: The faults by which a client goes away.
LEAVING = {"disconnect", "reset", "cancel_task", "kill_client"}
#: What an oracle says where no request was cancelled, and where each was over for the workers by then.
NOBODY = Finding("unknown", "no client gave its request up")
TOO_LATE = Finding("unknown", "the workers were done with it before they could hear that its client had gone")


class Hold(NamedTuple):
    """A worker's having a request, or a choice of it, and how that ended; ``line`` is None where the worker itself did."""

    worker: str
    role: str
    since: int
    until: int | None
    line: Log | None

    @property
    def answered(self) -> bool:
        """Whether it ended because the worker was done with it."""
        return self.line is not None and self.line.event == "request_finished"

    @property
    def gone(self) -> bool:
        """Whether it ended because the worker did, without a word about it."""
        return self.until is not None and self.line is None


def cancelled(case: Case) -> list[RequestView]:
    """The requests that are judged and whose client went away."""
    return [view for view in case.requests if view.left]


def tested(case: Case) -> list[RequestView]:
    """Those of them that a worker still had, or may have had, when it could hear of that."""
    return [view for view in cancelled(case) if not over_before(case, view)]


def untested(case: Case) -> Finding | None:
    """Why nothing is to be said of the requests that were cancelled; None where there is."""
    if not cancelled(case):
        return NOBODY
    return None if tested(case) else TOO_LATE


def over_before(case: Case, view: RequestView, ms: float = math.inf) -> bool:
    """Whether the workers had ended with a request before they could hear that its client had gone.

    Args:
        case: The run.
        view: One that was cancelled.
        ms: Within how many ms of that they have to give it up.
    """
    ended = [_ended_before(hold, left_t(view), heard_t(case, view, ms)) for hold in holds(case, view)]
    return all(ended) and any(hold.line is not None for hold in holds(case, view))


def _ended_before(hold: Hold, left: int, heard: int) -> bool:
    return hold.until is not None and hold.until <= (heard if hold.answered else left)


def heard_t(case: Case, view: RequestView, ms: float = math.inf) -> int:
    """Until when a worker need not have heard that its client is gone; ``ms`` after that at the most.

    An engine that is not ours may say only that it is done with a request when it has given it up.
    """
    if not case.params.get("exact"):
        return left_t(view)
    left, noticed = left_t(view), _noticed_t(case, view)
    told = (left if noticed is None else max(left, noticed)) + ON_ITS_WAY_MS * 1e6
    return int(min(told, left + ms * 1e6))


def _noticed_t(case: Case, view: RequestView) -> int | None:
    """When the frontend said that it saw the client gone: Dynamo's says of which request only where it counts its errors."""
    seen = case.lines_about(view, "client_disconnected")
    failed = [line for line in case.lines_about(view, "request_failed") if line.captures.get("error") == "cancelled"]
    return min((line.t for line in (*seen, *failed)), default=None)


def done_before(view: RequestView, hold: Hold) -> bool:
    """Whether a worker had done its part when the client went away."""
    return hold.answered and hold.until is not None and hold.until <= left_t(view)


def left_t(view: RequestView) -> int:
    """When its client went away."""
    assert view.finished is not None, "it was cancelled"
    return view.finished.t


def given_up_t(case: Case, view: RequestView) -> int | None:
    """When the last worker that had a cancelled request was rid of it; None where one that should say so has not."""
    found = list(holds(case, view))
    if any(hold.until is None and case.contract_known(source=hold.worker) for hold in found):
        return None
    return max((hold.until for hold in found if hold.until is not None), default=left_t(view))


def holds(case: Case, view: RequestView) -> Iterator[Hold]:
    """Each time that a worker had the request, or a choice of it: from its claim to its word that it has it no more.

    One that has it twice has to say so twice. What ended without a word ended with the worker, if that has ended.
    """
    claims: dict[tuple[str, str], list[Log]] = {}
    for line in case.claims(view):
        claims.setdefault((line.source, line.captures.get("request", "")), []).append(line)
    given_up = [line for event in ("request_aborted", "remote_aborted") for line in lines_of(case, view, event)]
    done = lines_of(case, view, "request_finished")
    for (worker, name), its in claims.items():
        ends = _ends(_said_by(given_up, its[0], name), _said_by(done, its[0], name), len(its))
        role = case.roles.get(worker, "")
        for claim in its:
            end = next((line for line in ends if line.t >= claim.t), None)
            if end is not None:
                ends.remove(end)
                yield Hold(worker, role, claim.t, end.t, end)
            else:
                yield Hold(worker, role, claim.t, case.gone_t(worker), None)


def _said_by(lines: list[Log], claim: Log, name: str) -> list[Log]:
    """What the worker of that claim said since, of that name or of none."""
    return [
        line
        for line in lines
        if line.source == claim.source and line.t >= claim.t and line.captures.get("request", name) == name
    ]


def _ends(given_up: list[Log], done: list[Log], count: int) -> list[Log]:
    """The words that end so many holds, in order.

    Some backends say of every request that they are done with it, beside that it was given up, in one moment: of more words
    than there are holds that is no end of its own. A later one is, whatever was said before.
    """
    spare = len(given_up) + len(done) - count
    for line in sorted(done, key=lambda line: line.t):
        beside = any(abs(line.t - one.t) <= ONE_MOMENT_MS * 1e6 for one in given_up)
        if spare > 0 and beside:
            done, spare = [one for one in done if one is not line], spare - 1
    first = sorted(given_up, key=lambda line: line.t)[: max(0, count - len(done))]
    return sorted([*first, *done], key=lambda line: line.t)


def lines_of(case: Case, view: RequestView, event: str) -> list[Log]:
    """Those about the request; where lines name none, those of its workers after its client left, if it alone was left."""
    own = case.lines_about(view, event)
    if own or sum(view.left for view in case.phase_requests) != 1 or not view.left:
        return own
    workers = set(case.takers(view))
    return [
        line
        for line in case.select(Log, event=event)
        if nameless(line) and line.source in workers and line.t >= left_t(view) and not case.in_cut(line.t)
    ]


def nameless(line: Log) -> bool:
    """Whether a line does not say which request it is about."""
    return "request" not in line.captures
