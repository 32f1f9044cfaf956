"""Whether all that a cancelled request held is free, and nothing goes on: slots, KV, tokens."""

from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.holds import cancelled, given_up_t
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
    """Nothing came to a client that was gone, and the engine's own count of tokens stands still once all is over."""
    views = cancelled(case)
    if not views:
        return Finding("unknown", "no client gave its request up")
    for view in views:
        assert view.finished is not None
        late = [chunk for chunk in view.chunks if chunk.t > view.finished.t]
        if late:
            return Finding("fail", f"{view.name}: {len(late)} chunks came after its client had gone", (late[0].n,))
    given_up = {view.name: given_up_t(case, view) for view in views}
    if held := next((name for name, t in given_up.items() if t is None), ""):
        return Finding("unknown", f"{held}: a worker never said that it gave it up", pending=True)
    found = _after(case, "tokens_generated", max([_over_t(case), *(t for t in given_up.values() if t is not None)]))
    if isinstance(found, Finding):
        return found
    findings = [_stands_still(source, series) for source, (_, series) in found.items()]
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
