"""Whether a cancellation reached the engine: ``cancelled_within``, ``aborted_in``, ``never_reached`` and what belongs to it.

A request was cancelled when its client went away; the moment is that of the socket's end. It has reached the engine when
every worker that had the request has said that it gave it up, or is gone itself.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ftharness.history import Log
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.tokens import exact, exact_so_far
from ftharness.scenario.views import RequestView

_NOBODY = Finding("unknown", "no client gave its request up")
_TOO_LATE = Finding("unknown", "the workers were done with it before its client had gone")
_LEAVING = {"disconnect", "reset", "cancel_task", "kill_client"}


class _Hold(NamedTuple):
    """A worker's having a request, or a choice of it, and how that ended; ``line`` is None where the worker itself did."""

    worker: str
    since: int
    until: int | None
    line: Log | None

    @property
    def answered(self) -> bool:
        """Whether it ended because the worker was done with it."""
        return self.line is not None and self.line.event == "request_finished"


def cancelled_within(case: Case, ms: float) -> Finding:
    """From the end of the client's connection to the engine's abort line of that request it took no longer."""
    ends = [_given_up(case, view, ms) for view in cancelled(case)]
    if not ends:
        return _NOBODY
    tested = [end for end in ends if end.finding != _TOO_LATE]
    if not tested:
        return _TOO_LATE
    if finding := short_of_passing(end.finding for end in tested):
        return finding
    slowest = max(tested, key=lambda end: end.ms).finding
    evidence = tuple(n for end in tested[:20] for n in end.finding.evidence)
    drift = tuple(dict.fromkeys(line for end in tested for line in end.finding.drift))
    late = f"; {len(ends) - len(tested)} were done with before" if len(ends) > len(tested) else ""
    return Finding("pass", f"{len(tested)} given up; the last: {slowest.reason}{late}", evidence, drift)


def aborted_in(case: Case, role: str, remote: str = "") -> Finding:
    """A worker of that role gave the request up, and no other's did; one of the role ``remote`` says that it was told so."""
    views = cancelled(case)
    if not views:
        return _NOBODY
    findings = [_said(case, view, "request_aborted", role) for view in views]
    findings += [_said(case, view, "remote_aborted", remote) for view in views if remote]
    return short_of_passing(findings) or Finding(
        "pass", findings[0].reason, tuple(n for finding in findings[:20] for n in finding.evidence)
    )


def never_reached(case: Case, role: str) -> Finding:
    """No worker of that role ever had the request that was cancelled."""
    views = cancelled(case)
    if not views:
        return _NOBODY
    for view in views:
        for line in case.claims(view):
            if case.roles.get(line.source) == role:
                return _reached(case, view, line)
    if not (case.in_contract("request_received", role=role) and case.contract_known(role=role)):
        drift = f"request_received: not to be expected of every {role} worker of this version"
        return Finding("unknown", f"the contract does not say how a {role} worker takes a request", drift=(drift,))
    return Finding("pass", f"no {role} worker took {', '.join(view.name for view in views[:5])}")


def still_serves(case: Case) -> Finding:
    """The worker that gave a request up answered the next one that it got."""
    views = cancelled(case)
    if not views:
        return _NOBODY
    findings = [_served_next(case, view) for view in views]
    return short_of_passing(findings) or Finding("pass", findings[0].reason, findings[0].evidence)


def cancellations_counted(case: Case, frontend: int | None = 1, workers: int | None = 1) -> Finding:
    """The metrics count as many cancellations as there were, in the frontend and in the workers; None: whatever they count."""
    wanted = [
        ("cancellation", "the frontend", "frontend", frontend),
        ("worker_cancellation", "the workers", "", workers),
    ]
    findings = [_counted(case, event, who, role, count) for event, who, role, count in wanted if count is not None]
    return short_of_passing(findings) or Finding("pass", "; ".join(finding.reason for finding in findings))


def ends_as_asked(case: Case) -> Finding:
    """Every request ended as its client wanted: those that were left cancelled, the others complete; all tokens exact."""
    if not case.requests:
        return Finding("unknown", "no request was sent")
    left = {
        fault.requested.request
        for fault in case.faults
        if fault.landed and fault.landed.on_target and fault.requested.fault in _LEAVING
    }
    findings = [_ended_as_asked(case, view, left=view.id in left) for view in case.requests]
    gone = sum(view.id in left for view in case.requests)
    return short_of_passing(findings) or Finding(
        "pass", f"{gone} cancelled as asked, {len(findings) - gone} complete; every token exact"
    )


def cancelled(case: Case) -> list[RequestView]:
    """The requests that are judged and whose client went away."""
    return [view for view in case.requests if view.left]


def given_up_t(case: Case, view: RequestView) -> int | None:
    """When the last worker that had a cancelled request was rid of it; None where one that should say so has not."""
    assert view.finished is not None
    holds = list(_holds(case, view))
    if any(hold.until is None and case.contract_known(source=hold.worker) for hold in holds):
        return None
    return max((hold.until for hold in holds if hold.until is not None), default=view.finished.t)


class _GivenUp(NamedTuple):
    """Whether a request was given up in time, and after how many ms."""

    finding: Finding
    ms: float = 0.0


def _given_up(case: Case, view: RequestView, ms: float) -> _GivenUp:
    assert view.finished is not None
    left_t, holds = view.finished.t, list(_holds(case, view))
    if not holds:
        return _GivenUp(_never_taken(case, view))
    for hold in holds:
        if (hold.since - left_t) / 1e6 > ms:
            after = f"{(hold.since - left_t) / 1e6:.1f} ms after its client had gone"
            return _GivenUp(Finding("fail", f"{hold.worker} took {view.name} {after}"))
        if hold.until is None:
            return _GivenUp(_not_given_up(case, view, hold))
    ends = [(hold.until, hold) for hold in holds if hold.until is not None and hold.until > left_t]
    if not ends:
        return _GivenUp(_TOO_LATE)
    until, last = max(ends, key=lambda end: end[0])
    took_ms, evidence = (until - left_t) / 1e6, tuple(hold.line.n for _, hold in ends if hold.line is not None)
    if all(hold.answered for _, hold in ends):
        return _GivenUp(_answered(case, view, last, took_ms, ms), took_ms)
    reason = f"{view.name} by {last.worker}, {took_ms:.1f} ms after its client had gone"
    if took_ms > ms:
        return _GivenUp(Finding("fail", f"{reason}; allowed: {ms:.1f} ms", evidence), took_ms)
    return _GivenUp(Finding("pass", reason, evidence), took_ms)


def _answered(case: Case, view: RequestView, hold: _Hold, took_ms: float, ms: float) -> Finding:
    """A worker was done with it after its client had gone, and did not say that it gave it up.

    Of our engine that means that it had made the whole answer; others say so in whatever way a request ends.
    """
    assert hold.line is not None
    evidence = (hold.line.n,)
    what = f"{view.name} by {hold.worker}, which was done with it {took_ms:.1f} ms after its client had gone"
    if took_ms <= ms and case.params.get("exact"):
        return _TOO_LATE
    if took_ms <= ms:
        drift = f"request_aborted: {hold.worker} did not say that it gave the request up, but that it was done with it"
        return Finding("pass", what, evidence, (drift,))
    if any(_nameless(line) for line in case.select(Log, event="request_aborted", source=hold.worker)):
        drift = f"request_aborted: the lines of {hold.worker} do not say which request"
        return Finding("unknown", what, evidence, (drift,))
    return Finding("fail", f"{hold.worker} answered {view.name}, {took_ms:.1f} ms after its client had gone", evidence)


def _never_taken(case: Case, view: RequestView) -> Finding:
    """No worker says that it had it."""
    roles = set(case.roles.values()) - {"frontend"}
    if all(case.in_contract("request_received", role=role) and case.contract_known(role=role) for role in roles):
        return Finding("pass", f"{view.name} by nobody, for no worker had it")
    drift = "request_received: no worker said that it has the request, in a form that the contract knows"
    return Finding("unknown", f"{view.name}: no worker's log says that it had it", drift=(drift,))


def _not_given_up(case: Case, view: RequestView, hold: _Hold) -> Finding:
    role = case.roles.get(hold.worker, "")
    if case.in_contract("request_aborted", role=role) and case.contract_known(source=hold.worker):
        return Finding("fail", f"{hold.worker} never said that it gave {view.name} up", pending=True)
    drift = f"request_aborted: not seen from {hold.worker}, in a form that the contract knows"
    return Finding("unknown", f"{hold.worker} left no line that it gave {view.name} up", drift=(drift,), pending=True)


def _holds(case: Case, view: RequestView) -> Iterator[_Hold]:
    """Each worker's having the request, or a choice of it: from its last claim on, to its last word or its end."""
    claims = {(line.source, line.captures.get("request", "")): line for line in case.claims(view)}
    ends = [
        line
        for event in ("request_aborted", "remote_aborted", "request_finished")
        for line in _lines(case, view, event)
    ]
    for (worker, name), claim in claims.items():
        words = [
            line
            for line in ends
            if line.source == worker and line.t >= claim.t and line.captures.get("request", name) == name
        ]
        # Some say of every request that they are done with it, beside that it was given up.
        word = min(words, key=lambda line: (line.event == "request_finished", line.t), default=None)
        if word is None and case.ended_in_phase(worker):
            yield _Hold(worker, claim.t, case.exits[worker].t, None)
        else:
            yield _Hold(worker, claim.t, word.t if word else None, word)


def _lines(case: Case, view: RequestView, event: str) -> list[Log]:
    """Those about the request; where lines name none, those of its workers after its client left, if it alone was left."""
    own = case.lines_about(view, event)
    if own or sum(view.left for view in case.phase_requests) != 1:
        return own
    assert view.finished is not None
    workers = set(case.takers(view))
    return [
        line
        for line in case.select(Log, event=event)
        if _nameless(line) and line.source in workers and line.t >= view.finished.t
    ]


def _nameless(line: Log) -> bool:
    return "request" not in line.captures


def _reached(case: Case, view: RequestView, claim: Log) -> Finding:
    """A worker took the request that should not have: unless the phase before was over when its client left."""
    assert view.finished is not None
    before = [hold for hold in _holds(case, view) if case.roles.get(hold.worker) != case.roles.get(claim.source)]
    if claim.t <= view.finished.t and before and all(_done_before(view, hold) for hold in before):
        return Finding(
            "unknown", f"{view.name}: {before[0].worker} was done with it before its client had gone", (claim.n,)
        )
    return Finding("fail", f"{view.name} was taken by {claim.source}: {claim.line[:200]}", (claim.n,))


def _done_before(view: RequestView, hold: _Hold) -> bool:
    """Whether a worker had done its part when the client went away."""
    assert view.finished is not None
    return hold.answered and hold.until is not None and hold.until <= view.finished.t


def _said(case: Case, view: RequestView, event: str, role: str) -> Finding:
    """Whether workers of that role, and of no other, said so of the request."""
    lines = _lines(case, view, event)
    its = [hold for hold in _holds(case, view) if case.roles.get(hold.worker) == role]
    if event == "request_aborted" and its and all(_done_before(view, hold) for hold in its):
        return Finding("unknown", f"{view.name}: {its[0].worker} was done with it before its client had gone")
    astray = [line for line in lines if case.roles.get(line.source) != role]
    if astray:
        where = f"{astray[0].source}, which is no {role} worker"
        return Finding("fail", f"{view.name}: {event} in {where}: {astray[0].line[:200]}", (astray[0].n,))
    if lines:
        return Finding("pass", f"{view.name}: {event} in {lines[0].source}", tuple(line.n for line in lines))
    what = f"{view.name}: no {role} worker logged {event}"
    if event == "request_aborted" and its and all(hold.answered for hold in its) and not case.params.get("exact"):
        drift = f"{event}: {its[0].worker} did not say that it gave the request up, but that it was done with it"
        return Finding("unknown", what, drift=(drift,))
    if case.in_contract(event, role=role) and case.contract_known(role=role):
        return Finding("fail", what, pending=True)
    drift = f"{event}: not seen from a {role} worker, in a form that the contract knows"
    return Finding("unknown", what, drift=(drift,), pending=True)


def _served_next(case: Case, view: RequestView) -> Finding:
    assert view.finished is not None
    workers = [name for name in dict.fromkeys(case.takers(view)) if not case.ended_in_phase(name)]
    later = [one for one in case.phase_requests if one.sent.t >= view.finished.t and not one.left]
    for worker in workers:
        served = [other for other in later if worker in case.takers(other)]
        if not served:
            return Finding("unknown", f"{worker} got no request after {view.name} had been cancelled")
        for other in served:
            if other.finished is None or other.finished.outcome != "success":
                return Finding("fail", f"{worker} gave {view.name} up, and then {other.name}: {other.how_it_ended}")
    if not workers:
        return Finding("unknown", f"{view.name}: no worker that had it is left")
    return Finding("pass", f"{', '.join(workers)} gave {view.name} up, and answered the next")


def _counted(case: Case, event: str, who: str, role: str, wanted: int) -> Finding:
    if event not in case.params.get("metrics", {}):
        drift = f"{event}: no metric of that meaning in the contract"
        return Finding("unknown", f"no contract knows how {who} count cancellations", drift=(drift,))
    rise = case.metric_rise(event)
    if rise is None:
        return Finding("unknown", f"the metrics of {who} were not read after the cancellation", pending=True)
    if rise == wanted:
        return Finding("pass", f"{who} counted {wanted}")
    what = f"{who} counted {rise:g} cancellations, not {wanted}"
    if rise == 0 and not case.contract_known(role=role):
        return Finding("unknown", what, drift=(f"{event}: the metric did not rise",), pending=True)
    return Finding("fail", what, pending=rise < wanted)


def _ended_as_asked(case: Case, view: RequestView, *, left: bool) -> Finding:
    wanted = "cancelled" if left else "success"
    if view.finished is None or view.finished.outcome != wanted:
        asked = "its client went away" if left else "its client waited for all of it"
        return Finding("fail", f"{view.name}: {asked}, but: {view.how_it_ended}")
    return exact_so_far(case, view) if left else exact(case, view)
