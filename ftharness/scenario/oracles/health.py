"""What a process says of its own health while it is broken: ``health_is``, ``health_agrees``. Asked by ``check_health``."""

import math
from http import HTTPStatus
from typing import Literal

from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.views import FaultView
from ftharness.stack.lives import first_life

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
    """What a process said of its health is what the next request to it met: after 200 it was answered, and after all else not.

    A load balancer goes by the one, and its users get the other. Whatever is asked of the stack goes to its frontend, or its
    only process; to a worker among others what that worker said that it took. A request tells of the last look before it.
    """
    looks = _looks(case)
    if not looks:
        return Finding("unknown", "nobody looked: the scenario has no check_health that landed")
    findings = [_agrees(case, look) for look in looks]
    return short_of_passing(findings) or Finding("pass", "; ".join(one.reason for one in findings))


def _agrees(case: Case, look: FaultView) -> Finding:
    later = [_answered_t(other) for other in _looks(case) if other.process == look.process]
    until_t = min((t for t in later if t > _answered_t(look)), default=math.inf)
    sent = [view for view in case.phase_requests if _answered_t(look) <= view.sent.t < until_t]
    among_others = _among_others(case, look.process)
    view = next((one for one in sent if not among_others or look.process in case.takers(one)), None)
    if view is None:
        whom = f" that {look.process} took" if among_others else ""
        before = "" if math.isinf(until_t) else " and before the next look"
        return Finding("unknown", f"{_what(look)}, and no request{whom} was sent after it{before}")
    if view.finished is None:
        return Finding("unknown", f"{view.name}: {view.how_it_ended}", pending=True)
    takers = list(dict.fromkeys(case.takers(view)))
    by = f"; taken by {', '.join(takers)}" if takers else ""
    what = f"{_what(look)}, and the next request: {view.how_it_ended}{by}"
    evidence = (*_events(look), view.sent.n, view.finished.n)
    if view.left:
        return Finding("unknown", f"{what}: its client did not wait for what it would have met", evidence)
    role = case.roles.get(look.process)
    if among_others and any(case.roles.get(name) == role for name in takers if name != look.process):
        return Finding("unknown", f"{what}: what it met is not {look.process}'s alone", evidence)
    healthy, served = _said(look) == HTTPStatus.OK, view.finished.outcome == "success"
    return Finding("pass" if healthy == served else "fail", what, evidence)


def _answered_t(look: FaultView) -> int:
    """When it was answered, or given up."""
    assert look.landed is not None, "only those are looked at"
    return look.landed.t + int(float(look.landed.evidence.get("took_ms", 0)) * 1e6)


def _among_others(case: Case, process: str) -> bool:
    """Whether what is asked of the stack may go to others: it is no frontend, and there is more than it and its other lives."""
    lives = {first_life(name) for name in case.roles}
    return case.roles.get(process) != "frontend" and len(lives) > 1


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
