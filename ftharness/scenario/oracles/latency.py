"""How long things took: ``recovers_within``, ``ttft_within``, ``silent_at_most``, ``gap_within``. In ms, as the client saw it."""

from itertools import pairwise
from typing import Annotated

import msgspec

from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.recovery import aimed_at, recovery_of
from ftharness.scenario.views import FaultView, RequestView

Milliseconds = Annotated[float, msgspec.Meta(ge=0)]


def recovers_within(case: Case, ms: Milliseconds) -> Finding:
    """After each fault tokens flowed again in time; the reason splits it into detect, reroute, first token, gap.

    Of answers that are not streamed no token is seen: there another worker's taking the request over is what counts.
    """
    landed = [fault for fault in case.faults if fault.broke and fault.process in case.roles]
    if not landed:
        return Finding("unknown", "no fault landed")
    findings = [_recovered(case, fault, ms) for fault in landed]
    return short_of_passing(findings) or Finding("pass", "; ".join(finding.reason for finding in findings))


def _recovered(case: Case, fault: FaultView, ms: Milliseconds) -> Finding:
    recovery = recovery_of(case, fault)
    what = f"{fault.requested.fault} of {fault.process}"
    parts = f"detect {_ms(recovery.detect_ms)}, reroute {_ms(recovery.reroute_ms)}"
    if any(view.sent.stream for view in aimed_at(case, fault)):
        took = recovery.first_token_ms
        if took is None:
            return Finding("fail", f"{what}: no token came after it")
        reason = f"{what}: {parts}, first token {_ms(took)}, longest gap {_ms(recovery.max_gap_ms)}"
    else:
        took = recovery.reroute_ms
        if took is None:
            return Finding("unknown", f"{what}: the answer is not streamed, and no worker said that it took it over")
        reason = f"{what}: {parts}; the answer is not streamed, so no token is seen before its end"
    return Finding("fail", f"{reason}; allowed: {ms:g} ms") if took > ms else Finding("pass", reason)


def ttft_within(case: Case, ms: Milliseconds) -> Finding:
    """The first token of every request came in time. Of an answer that is not streamed: all of it did, so its first as well."""
    worst: tuple[float, str] = (0.0, "")
    unseen: Finding | None = None
    for view in case.requests:
        if not view.sent.stream:
            whole_ms = (view.finished.t - view.sent.t) / 1e6 if view.finished and view.chunks else None
            if whole_ms is None or whole_ms > ms:
                why = f"{view.name}: the answer is not streamed, so its first token is not seen"
                unseen = unseen or Finding("unknown", f"{why}; the whole came after {_ms(whole_ms)}")
            else:
                worst = max(worst, (whole_ms, view.name))
            continue
        if not view.chunks:
            return Finding("fail", f"{view.name}: no token came; {view.how_it_ended}")
        worst = max(worst, ((view.chunks[0].t - view.sent.t) / 1e6, view.name))
    bounded = _bounded(worst, ms, "first token")
    return bounded if unseen is None or bounded.verdict == "fail" else unseen


def silent_at_most(case: Case, ms: Milliseconds) -> Finding:
    """No client of a request that a fault was aimed at was left without a word for longer, from the fault to its end.

    A fault tells nothing of it that was the client's own going away, or hit a worker that never had the request. Of a client
    that left later it is not known how long it would have waited.
    """
    findings = []
    for fault in case.faults:
        view = next((view for view in case.requests if view.id == fault.requested.request), None)
        if fault.landed is None or view is None or not _may_silence(case, fault, view):
            continue
        if view.finished is None:
            return Finding("fail", f"{view.name}: {view.how_it_ended}", pending=True)
        words = [fault.landed.t, *(chunk.t for chunk in view.chunks), view.finished.t]
        words = [t for t in words if t >= fault.landed.t]
        longest, at = max(((later - earlier) / 1e6, earlier) for earlier, later in pairwise([*words, words[-1]]))
        after = (at - fault.landed.t) / 1e6
        reason = (
            f"{view.name}: silent for {_ms(longest)}, {_ms(after)} after {fault.requested.fault} of {fault.process}"
        )
        if longest > ms:
            reason = f"{reason}; allowed: {ms:g} ms: {view.how_it_ended}"
            findings.append(Finding("fail", reason, (view.finished.n,)))
        elif view.left:
            findings.append(Finding("unknown", f"{reason}; then its client left", (view.finished.n,)))
        else:
            findings.append(Finding("pass", reason))
    if not findings:
        return Finding("unknown", "no fault landed on a request that could have kept its client waiting")
    return short_of_passing(findings) or Finding("pass", "; ".join(finding.reason for finding in findings))


def _may_silence(case: Case, fault: FaultView, view: RequestView) -> bool:
    """Whether the client may wait because of it: it did not go away by it, and the worker that was hit ever had the request."""
    if not fault.on_process:
        return not view.left
    takers = case.takers(view)
    return not takers or fault.process in takers or case.roles.get(fault.process) == "frontend"


def gap_within(case: Case, ms: Milliseconds) -> Finding:
    """No gap between two chunks of a choice is longer."""
    worst: tuple[float, str] = (0.0, "")
    for view in case.requests:
        worst = max(worst, (longest_gap_ms(view), view.name))
    return _bounded(worst, ms, "longest gap")


def longest_gap_ms(view: RequestView) -> float:
    """Between two chunks of the same choice: one that flows does not hide that another stalls."""
    return max(((later.t - earlier.t) / 1e6 for earlier, later in view.gaps()), default=0.0)


def _bounded(worst: tuple[float, str], ms: float, what: str) -> Finding:
    took, name = worst
    if not name:
        return Finding("unknown", "no request was sent")
    if took > ms:
        return Finding("fail", f"{name}: {what} {_ms(took)}, allowed: {ms:g} ms")
    return Finding("pass", f"{what} {_ms(took)} at most ({name})")


def _ms(value: float | None) -> str:
    return "not seen" if value is None else f"{value:.1f} ms"
