"""Whether a cancellation reached the engine: ``cancelled_within``, ``aborted_in``, ``never_reached`` and what belongs to it.

A request was cancelled when its client went away; the moment is that of the socket's end. It has reached the engine when
every worker that had the request has said that it gave it up, or is gone itself.
"""

from typing import Annotated

import msgspec

from ftharness.history import Log
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.given_up import given_up
from ftharness.scenario.oracles.holds import (
    LEAVING,
    NOBODY,
    TOO_LATE,
    cancelled,
    done_before,
    holds,
    left_t,
    lines_of,
    over_before,
    tested,
    untested,
)
from ftharness.scenario.oracles.latency import Milliseconds
from ftharness.scenario.oracles.tokens import exact, exact_so_far
from ftharness.scenario.views import RequestView

Count = Annotated[int, msgspec.Meta(ge=0)]


def cancelled_within(case: Case, ms: Milliseconds) -> Finding:
    """From the end of the client's connection to the engine's abort line of that request it took no longer."""
    views = cancelled(case)
    if not views:
        return NOBODY
    said = [given_up(case, view, ms) for view in views if not over_before(case, view, ms)]
    if not said:
        return TOO_LATE
    ends = [end for end in said if not end.gone] or said
    if finding := short_of_passing(end.finding for end in ends):
        return finding
    slowest = max(ends, key=lambda end: end.ms).finding
    evidence = tuple(n for end in ends[:20] for n in end.finding.evidence)
    counts = {"were done with before": len(views) - len(said), "had lost their workers": len(said) - len(ends)}
    others = "".join(f"; {count} {what}" for what, count in counts.items() if count)
    return Finding("pass", f"{len(ends)} given up; the last: {slowest.reason}{others}", evidence)


def aborted_in(case: Case, role: str, remote: str = "") -> Finding:
    """A worker of that role gave the request up, and no other's did; one of the role ``remote`` says that it was told so."""
    if finding := untested(case):
        return finding
    views = tested(case)
    findings = [_said(case, view, "request_aborted", role) for view in views]
    findings += [_said(case, view, "remote_aborted", remote) for view in views if remote]
    return short_of_passing(findings) or Finding(
        "pass", findings[0].reason, tuple(n for finding in findings[:20] for n in finding.evidence)
    )


def never_reached(case: Case, role: str) -> Finding:
    """No worker of that role ever had the request that was cancelled."""
    if finding := untested(case):
        return finding
    views = tested(case)
    for view in views:
        for line in case.claims(view):
            if case.roles.get(line.source) == role:
                return _reached(case, view, line)
    if not (case.in_contract("request_received", role=role) and case.contract_known(role=role)):
        if role not in case.roles.values():
            return Finding("unknown", f"there is no {role} worker")
        drift = f"request_received: not to be expected of every {role} worker of this version"
        return Finding("unknown", f"the contract does not say how a {role} worker takes a request", drift=(drift,))
    named = ", ".join(view.name for view in views[:5])
    return short_of_passing(_over_elsewhere(case, view) for view in views) or Finding(
        "pass", f"no {role} worker took {named}"
    )


def still_serves(case: Case) -> Finding:
    """The worker that gave a request up answered the next one that it got."""
    if finding := untested(case):
        return finding
    findings = [_served_next(case, view) for view in tested(case)]
    return short_of_passing(findings) or Finding("pass", findings[0].reason, findings[0].evidence)


def cancellations_counted(case: Case, frontend: Count | None = 1, workers: Count | None = 1) -> Finding:
    """The metrics count as many cancellations as there were, in the frontend and in the workers; None: whatever they count."""
    if cancelled(case) and not tested(case):
        return TOO_LATE
    wanted = [
        ("cancellation", "the frontend", "frontend", frontend),
        ("worker_cancellation", "the workers", "", workers),
    ]
    findings = [_counted(case, event, who, role, count) for event, who, role, count in wanted if count is not None]
    return short_of_passing(findings) or Finding("pass", "; ".join(finding.reason for finding in findings))


def ends_as_asked(case: Case) -> Finding:
    """Every request ended as its client wanted: those that were left cancelled, the others complete; all tokens exact.

    One that failed though nothing had been done to it is a failure whatever became of the run's faults.
    """
    if not case.requests:
        return Finding("unknown", "no request was sent")
    if harmed := next((view for view in case.requests if _harmed(case, view)), None):
        assert harmed.finished is not None
        what = f"{harmed.name}: no fault had touched it, but: {harmed.how_it_ended}"
        return Finding("fail", what, (harmed.finished.n,), invariant=True)
    left = {
        fault.requested.request
        for fault in case.faults
        if fault.landed and fault.landed.on_target and fault.requested.fault in LEAVING
    }
    if case.phase_t("control") is None:  # a test drives it, and may have a client go by itself: nobody else can
        left |= {view.id for view in cancelled(case)}
    findings = [_ended_as_asked(case, view, left=view.id in left) for view in case.requests]
    gone = sum(view.id in left for view in case.requests)
    return short_of_passing(findings) or Finding(
        "pass", f"{gone} cancelled as asked, {len(findings) - gone} complete; every token exact"
    )


def _over_elsewhere(case: Case, view: RequestView) -> Finding:
    """Whether those that had it have given it up: while one goes on with it, it may still hand it on."""
    found = list(holds(case, view))
    for hold in found:
        if hold.until is None:
            known = case.in_contract("request_aborted", role=hold.role) and case.contract_known(source=hold.worker)
            drift = (
                () if known else (f"request_aborted: not seen from {hold.worker}, in a form that the contract knows",)
            )
            what = f"{view.name}: {hold.worker} never said that it gave it up, and may still hand it on"
            return Finding("unknown", what, drift=drift, pending=True)
        if hold.answered and hold.until > left_t(view) and not over_before(case, view):
            own = bool(case.params.get("exact"))
            drift = (
                ()
                if own
                else (f"request_aborted: {hold.worker} said that it was done with it, not that it gave it up",)
            )
            what = f"{view.name}: {hold.worker} finished its part when its client had gone, and may still hand it on"
            return Finding("unknown", what, drift=drift, pending=own)
    if not found:
        return Finding("unknown", f"{view.name}: no worker has said that it had it", pending=True)
    return Finding("pass", "")


def _reached(case: Case, view: RequestView, claim: Log) -> Finding:
    """A worker took the request that should not have: unless the phase before was over when its client left."""
    before = [hold for hold in holds(case, view) if hold.role != case.roles.get(claim.source)]
    if claim.t <= left_t(view) and before and all(done_before(view, hold) for hold in before):
        return Finding(
            "unknown", f"{view.name}: {before[0].worker} was done with it before its client had gone", (claim.n,)
        )
    return Finding("fail", f"{view.name} was taken by {claim.source}: {claim.line[:200]}", (claim.n,))


def _said(case: Case, view: RequestView, event: str, role: str) -> Finding:
    """Whether workers of that role, and of no other, said so of the request."""
    lines = lines_of(case, view, event)
    its = [hold for hold in holds(case, view) if hold.role == role]
    if event == "request_aborted" and its and all(done_before(view, hold) for hold in its):
        return Finding("unknown", f"{view.name}: {its[0].worker} was done with it before its client had gone")
    astray = [line for line in lines if case.roles.get(line.source) != role]
    if astray:
        where = f"{astray[0].source}, which is no {role} worker"
        return Finding("fail", f"{view.name}: {event} in {where}: {astray[0].line[:200]}", (astray[0].n,))
    if lines:
        return Finding("pass", f"{view.name}: {event} in {lines[0].source}", tuple(line.n for line in lines))
    if its and all(hold.gone or done_before(view, hold) for hold in its):
        gone = next((hold.worker for hold in its if hold.gone), its[0].worker)
        return Finding("unknown", f"{view.name}: {gone}, which had it, was gone itself: it had nothing to say")
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


def _harmed(case: Case, view: RequestView) -> bool:
    """Whether a request failed that no fault was aimed at, and no worker of which was hit, on a stack that can serve it."""
    teardown = case.phase_t("teardown")
    if view.finished is None or view.finished.outcome != "error" or (teardown and view.finished.t > teardown):
        return False
    before = [fault for fault in case.faults if fault.requested.t <= view.finished.t]
    hit, takers = {fault.process for fault in before if fault.on_process}, set(case.takers(view))
    beside = not hit or (takers and not hit & takers and all(case.roles.get(one) != "frontend" for one in hit))
    aimed = any(fault.requested.request == view.id for fault in before)
    served = bool(case.control) and all(one.finished and one.finished.outcome == "success" for one in case.control)
    return bool(beside) and not aimed and served


def _ended_as_asked(case: Case, view: RequestView, *, left: bool) -> Finding:
    wanted = "cancelled" if left else "success"
    if view.finished is None or view.finished.outcome != wanted:
        asked = "its client went away" if left else "its client waited for all of it"
        return Finding("fail", f"{view.name}: {asked}, but: {view.how_it_ended}")
    return exact_so_far(case, view) if left else exact(case, view)
