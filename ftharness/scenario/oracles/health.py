"""What a process says of its own health while it is broken: ``health_is``, ``health_agrees``. Asked by ``check_health``."""

from http import HTTPStatus
from typing import Literal

from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.views import FaultView

NO_ANSWER, UNHEALTHY = "none", "unhealthy"


def health_is(case: Case, status: int | Literal["none", "unhealthy"]) -> Finding:
    """Each look at a process's health was answered so; ``none``: by nothing in its time; ``unhealthy``: by anything but 200."""
    looks = _looks(case)
    if not looks:
        return Finding("unknown", "nobody looked: the scenario has no check_health that landed")
    for look in looks:
        fits = _said(look) != HTTPStatus.OK if status == UNHEALTHY else _said(look) == status
        if not fits:
            return Finding("fail", f"{_what(look)}, not {status}", _events(look))
    return Finding("pass", "; ".join(_what(look) for look in looks), tuple(n for look in looks for n in _events(look)))


def health_agrees(case: Case) -> Finding:
    """What a process said of its health is what the next request met: after 200 it was answered, and after all else not.

    A load balancer goes by the one, and its users get the other.
    """
    looks = _looks(case)
    if not looks:
        return Finding("unknown", "nobody looked: the scenario has no check_health that landed")
    findings = [_agrees(case, look) for look in looks]
    return short_of_passing(findings) or Finding("pass", "; ".join(one.reason for one in findings))


def _agrees(case: Case, look: FaultView) -> Finding:
    assert look.landed is not None, "only those are looked at"
    landed = look.landed
    after_t = landed.t + int(float(landed.evidence.get("took_ms", 0)) * 1e6)
    view = next((view for view in case.phase_requests if view.sent.t >= after_t), None)
    if view is None:
        return Finding("unknown", f"{_what(look)}, and no request was sent after it")
    if view.finished is None:
        return Finding("unknown", f"{view.name}: {view.how_it_ended}", pending=True)
    healthy, served = _said(look) == HTTPStatus.OK, view.finished.outcome == "success"
    what = f"{_what(look)}, and the next request: {view.how_it_ended}"
    evidence = (*_events(look), view.sent.n, view.finished.n)
    if healthy == served:
        return Finding("pass", what, evidence)
    return Finding("fail", what, evidence)


def _looks(case: Case) -> list[FaultView]:
    return [fault for fault in case.faults if fault.requested.fault == "check_health" and fault.landed is not None]


def _said(look: FaultView) -> int | str:
    assert look.landed is not None, "only those are looked at"
    status = look.landed.evidence.get("status", NO_ANSWER)
    return status if isinstance(status, int) else NO_ANSWER


def _what(look: FaultView) -> str:
    assert look.landed is not None, "only those are looked at"
    said = _said(look)
    path = look.landed.evidence.get("path", "/health")
    answer = f"nothing: {look.landed.evidence.get('error', '')}" if said == NO_ANSWER else str(said)
    return f"{look.process} answered {path} with {answer}"


def _events(look: FaultView) -> tuple[int, ...]:
    return (look.landed.n,) if look.landed is not None else ()
