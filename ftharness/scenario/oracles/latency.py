"""How long things took: ``recovers_within``, ``ttft_within``, ``gap_within``. All in milliseconds, on the client's clock."""

from itertools import pairwise

from ftharness.scenario.case import Case, Finding, RequestView
from ftharness.scenario.recovery import recovery_of


def recovers_within(case: Case, ms: float) -> Finding:
    """After each fault tokens flowed again in time; the reason splits it into detect, reroute, first token, gap."""
    landed = [fault for fault in case.faults if fault.landed is not None]
    if not landed:
        return Finding("unknown", "no fault landed")
    reasons = []
    for fault in landed:
        recovery = recovery_of(case, fault)
        took = recovery.first_token_ms
        if took is None:
            return Finding("fail", f"{fault.requested.fault} of {fault.process}: no token came after it")
        parts = f"detect {_ms(recovery.detect_ms)}, reroute {_ms(recovery.reroute_ms)}, first token {_ms(took)}"
        reasons.append(f"{fault.requested.fault} of {fault.process}: {parts}, longest gap {_ms(recovery.max_gap_ms)}")
        if took > ms:
            return Finding("fail", f"{reasons[-1]}; allowed: {_ms(ms)}")
    return Finding("pass", "; ".join(reasons))


def ttft_within(case: Case, ms: float) -> Finding:
    """The first token of every request came in time."""
    worst: tuple[float, str] = (0.0, "")
    for view in case.requests:
        if not view.chunks:
            return Finding("fail", f"{view.name}: no token came; {view.how_it_ended}")
        worst = max(worst, ((view.chunks[0].t - view.sent.t) / 1e6, view.name))
    return _bounded(worst, ms, "first token")


def gap_within(case: Case, ms: float) -> Finding:
    """No gap between two chunks of a request is longer."""
    worst: tuple[float, str] = (0.0, "")
    for view in case.requests:
        worst = max(worst, (longest_gap_ms(view), view.name))
    return _bounded(worst, ms, "longest gap")


def longest_gap_ms(view: RequestView) -> float:
    """Between two chunks of the same request."""
    return max(((later.t - earlier.t) / 1e6 for earlier, later in pairwise(view.chunks)), default=0.0)


def _bounded(worst: tuple[float, str], ms: float, what: str) -> Finding:
    took, name = worst
    if not name:
        return Finding("unknown", "no request was sent")
    if took > ms:
        return Finding("fail", f"{name}: {what} {_ms(took)}, allowed: {_ms(ms)}")
    return Finding("pass", f"{what} {_ms(took)} at most ({name})")


def _ms(value: float | None) -> str:
    return "not seen" if value is None else f"{value:.1f} ms"
