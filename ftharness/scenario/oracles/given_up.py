"""Whether one cancelled request was given up in time by every worker that had it."""

from typing import NamedTuple

from ftharness.history import Log
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.oracles.holds import Hold, heard_t, holds, left_t, nameless
from ftharness.scenario.views import RequestView


class GivenUp(NamedTuple):
    """Whether a request was given up in time, and after how many ms; ``gone``: nobody was left to give it up."""

    finding: Finding
    ms: float = 0.0
    gone: bool = False


def given_up(case: Case, view: RequestView, ms: float) -> GivenUp:
    """What each worker that had it says, against the moment when its client went away."""
    left, found = left_t(view), list(holds(case, view))
    if not found:
        return GivenUp(_never_taken(case, view))
    for hold in found:
        if (hold.since - left) / 1e6 > ms:
            after = f"{(hold.since - left) / 1e6:.1f} ms after its client had gone"
            return GivenUp(Finding("fail", f"{hold.worker} took {view.name} {after}"))
        if hold.until is None:
            return GivenUp(_not_given_up(case, view, hold))
    ends = [(hold.until, hold) for hold in found if hold.until is not None and hold.until > left and hold.line]
    if not ends:
        gone = next(hold.worker for hold in found if hold.gone)
        what = f"{view.name}: {gone}, which had it, was gone itself: it had nothing to give up"
        return GivenUp(Finding("unknown", what), gone=True)
    until, last = max(ends, key=lambda end: end[0])
    took_ms, evidence = (until - left) / 1e6, tuple(hold.line.n for _, hold in ends if hold.line is not None)
    if finding := _finished(case, view, ms, [hold for _, hold in ends]):
        return GivenUp(finding, took_ms)
    reason = f"{view.name} by {last.worker}, {took_ms:.1f} ms after its client had gone"
    if took_ms > ms:
        return GivenUp(Finding("fail", f"{reason}; allowed: {ms:g} ms", evidence), took_ms)
    return GivenUp(Finding("pass", reason, evidence), took_ms)


def _finished(case: Case, view: RequestView, ms: float, ends: list[Hold]) -> Finding | None:
    """Where a worker was done with it after its client had gone, and did not say that it gave it up; None: none was.

    Of our engine that means that it had made the whole answer; others say so in whatever way a request ends. A worker that
    prefills says so, too, when the one that decodes gives it up.
    """
    exact, alone = case.params.get("exact"), all(hold.answered for hold in ends)
    heard = heard_t(case, view, ms)
    late = [hold for hold in ends if hold.answered and hold.until is not None and hold.until > heard]
    if exact:
        late = [hold for hold in late if alone or hold.role != "prefill"]
        # One that decodes has made the answer; one that prefills may say that it is done only after it.
        blamed = max(late, key=lambda hold: (hold.role != "prefill", hold.until or 0), default=None)
        return _whole_answer(case, view, blamed) if blamed else None
    return _done_somehow(case, view, ends[-1], ms) if alone else None


def _whole_answer(case: Case, view: RequestView, hold: Hold) -> Finding:
    assert hold.line is not None
    if finding := _unnamed(case, view, hold):
        return finding
    what = "its part of" if hold.role == "prefill" else "the whole answer to"
    after = f"{_ms(view, hold):.1f} ms after its client had gone"
    reason = f"{hold.worker} finished {what} {view.name}, {after}, and never said that it gave it up"
    return Finding("fail", reason, (hold.line.n,))


def _done_somehow(case: Case, view: RequestView, hold: Hold, ms: float) -> Finding:
    assert hold.line is not None
    took_ms, evidence = _ms(view, hold), (hold.line.n,)
    what = f"{view.name} by {hold.worker}, which was done with it {took_ms:.1f} ms after its client had gone"
    if took_ms <= ms:
        drift = f"request_aborted: {hold.worker} did not say that it gave the request up, but that it was done with it"
        return Finding("unknown", what, evidence, (drift,))
    return _unnamed(case, view, hold) or Finding(
        "fail", f"{hold.worker} answered {view.name}, {took_ms:.1f} ms after its client had gone", evidence
    )


def _unnamed(case: Case, view: RequestView, hold: Hold) -> Finding | None:
    """Where a worker that was done with it also said of others that it gave them up, but not of which."""
    if not any(nameless(line) for line in case.select(Log, event="request_aborted", source=hold.worker)):
        return None
    what = f"{view.name} by {hold.worker}, which was done with it {_ms(view, hold):.1f} ms after its client had gone"
    drift = f"request_aborted: the lines of {hold.worker} do not say which request"
    return Finding("unknown", what, (hold.line.n,) if hold.line else (), (drift,))


def _ms(view: RequestView, hold: Hold) -> float:
    assert hold.until is not None
    return (hold.until - left_t(view)) / 1e6


def _never_taken(case: Case, view: RequestView) -> Finding:
    """No worker says that it had it."""
    roles = set(case.roles.values()) - {"frontend"}
    if all(case.in_contract("request_received", role=role) and case.contract_known(role=role) for role in roles):
        return Finding("pass", f"{view.name} by nobody, for no worker had it")
    drift = "request_received: no worker said that it has the request, in a form that the contract knows"
    return Finding("unknown", f"{view.name}: no worker's log says that it had it", drift=(drift,))


def _not_given_up(case: Case, view: RequestView, hold: Hold) -> Finding:
    if case.in_contract("request_aborted", role=hold.role) and case.contract_known(source=hold.worker):
        return Finding("fail", f"{hold.worker} never said that it gave {view.name} up", pending=True)
    drift = f"request_aborted: not seen from {hold.worker}, in a form that the contract knows"
    return Finding("unknown", f"{hold.worker} left no line that it gave {view.name} up", drift=(drift,), pending=True)
