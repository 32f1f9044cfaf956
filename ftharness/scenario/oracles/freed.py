"""Whether all that a cancelled request held is free, and nothing goes on: slots, KV, tokens."""

from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.generated import accounted_for
from ftharness.scenario.oracles.holds import (
    LEAVING,
    ONE_MOMENT_MS,
    TOO_LATE,
    cancelled,
    given_up_t,
    left_t,
    tested,
    untested,
)
from ftharness.scenario.readings import Reading, readings

# Of two readings that are to show that nothing is made any more: at 20 tokens a second, the slowest that is likely, five.
_WATCHED_MS = 250.0


def slots_freed(case: Case) -> Finding:
    """No engine has more slots busy, once all requests are over, than before the first was sent."""
    return _back_to_before(case, "slots_busy")


def kv_freed(case: Case) -> Finding:
    """No engine has more KV blocks in use, once all requests are over, than before the first was sent."""
    return _back_to_before(case, "kv_used")


def no_tokens_after_abort(case: Case) -> Finding:
    """Nothing came to a client that was gone, and the engines' own counts of tokens show none that were made for nobody.

    They stand still once all is over; and where each token is known, they rose by no more than clients got, and than may have
    been on its way to those that left: other requests, which run on, hide nothing.
    """
    for view in cancelled(case):
        late = [chunk for chunk in view.chunks if chunk.t > left_t(view)]
        if late:
            return Finding("fail", f"{view.name}: {len(late)} chunks came after its client had gone", (late[0].n,))
    if finding := untested(case):
        return finding
    given_up = {view.name: given_up_t(case, view) for view in tested(case)}
    if held := next((name for name, t in given_up.items() if t is None), ""):
        return Finding("unknown", f"{held}: a worker never said that it gave it up", pending=True)
    # A handler may say that it gives a request up just before its engine does.
    over_t = max(t for t in given_up.values() if t is not None) + int(ONE_MOMENT_MS * 1e6)
    found = _after(case, "tokens_generated", max(_over_t(case), over_t))
    if isinstance(found, Finding):
        return found
    findings = [_stands_still(source, series) for source, (_, series) in found.items()]
    if short_of_passing(findings) is None:
        findings.append(accounted_for(case, found, over_t))
    return short_of_passing(findings) or Finding(
        "pass", "; ".join(finding.reason for finding in findings), tuple(n for one in findings for n in one.evidence)
    )


def _stands_still(source: str, series: list[Reading]) -> Finding:
    first, last = series[0], series[-1]
    watched_ms, evidence = (last.t - first.t) / 1e6, (first.n, last.n)
    if last.value != first.value:
        more = f"{last.value - first.value:g} more tokens in {watched_ms:.0f} ms after all requests were over"
        return Finding("fail", f"the engine of {source} made {more}", evidence)
    if watched_ms < _WATCHED_MS:
        what = f"the tokens of {source} were read twice within {watched_ms:.0f} ms: too soon to tell"
        return Finding("unknown", what, evidence, pending=True)
    return Finding("pass", f"{source} made none for {watched_ms:.0f} ms", evidence)


def _back_to_before(case: Case, event: str) -> Finding:
    if not tested(case) and not _broken(case) and not _at_rest(case):
        return TOO_LATE if cancelled(case) else Finding("unknown", "nothing was cancelled, and nothing was broken")
    found = _after(case, event, _over_t(case))
    if isinstance(found, Finding):
        return found
    for source, (before, series) in found.items():
        last = series[-1]
        if last.value > before:
            what = f"{source}: {event} = {last.value:g} with no request left, and {before:g} before"
            return Finding("fail", what, (last.n,), pending=True)
    levels = ", ".join(f"{source} {series[-1].value:g}" for source, (_, series) in found.items())
    return Finding("pass", f"{event} as before: {levels}", tuple(series[-1].n for _, series in found.values()))


def _broken(case: Case) -> bool:
    """Whether a fault landed that was no client's leaving, so that something may have been left behind."""
    return any(fault.landed is not None and fault.requested.fault not in LEAVING for fault in case.faults)


def _at_rest(case: Case) -> bool:
    """Whether a scenario has no faults at all, and asks what a stack at rest holds; the record says that it is one."""
    return case.phase_t("control") is not None and not case.faults


def _over_t(case: Case) -> int:
    """When the last request had ended."""
    return max((view.finished.t for view in case.phase_requests if view.finished is not None), default=0)


def _after(case: Case, event: str, over_t: int) -> dict[str, tuple[float, list[Reading]]] | Finding:
    """Of each process that is left: the value before, and the readings since ``over_t``; or why there are none."""
    found = readings(case, event)
    if found is None:
        drift = f"{event}: no metric of that meaning in the contract"
        return Finding("unknown", f"no contract knows a metric for {event}", drift=(drift,))
    if any(view.finished is None for view in case.phase_requests):
        return Finding("unknown", "a request had not ended", pending=True)
    left = {source: one for source, one in found.items() if not case.ended_in_phase(source)}
    if not left:
        return Finding("unknown", f"no process that is left told its {event}", pending=True)
    since = {source: (one.before, [at for at in one.since if at.t > over_t]) for source, one in left.items()}
    if unread := next((source for source, (_, series) in since.items() if not series), ""):
        return Finding("unknown", f"{event} of {unread} was not read after the last request had ended", pending=True)
    return since
