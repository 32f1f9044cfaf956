"""How requests ended: ``succeeds``, ``fails_with``, ``every_request_ends``, ``ends_cleanly``."""

from http import HTTPStatus

from ftharness.client import GIVEN_UP
from ftharness.history import RequestFinished, RunFinished
from ftharness.scenario.case import Case, Finding, Part, short_of_passing
from ftharness.scenario.oracles.tokens import doubtful, exact, exact_so_far
from ftharness.scenario.views import RequestView


def succeeds(case: Case) -> Finding:
    """Every request got a complete answer."""
    if not case.requests:
        return Finding("unknown", "no request was sent")
    for view in case.requests:
        if view.finished is None or view.finished.outcome != "success":
            return Finding("fail", f"{view.name}: {view.how_it_ended}", _events(view))
    tokens = sum(view.tokens for view in case.requests)
    count = len(case.requests)
    return Finding("pass", f"{count} of {count} complete, {tokens} tokens", _events(case.requests[0]))


def fails_with(case: Case, status: int | str) -> Finding:
    """Each request that a fault was aimed at failed so, and says whether by HTTP status or by an SSE error event."""
    views = case.hit_requests()
    if not views:
        return Finding("unknown", "no request was sent")
    findings = [_failed(case, status, view) for view in views]
    if finding := short_of_passing(findings):
        return finding
    return Finding("pass", f"{views[0].name} failed with {findings[0].reason}", findings[0].evidence)


def _failed(case: Case, status: int | str, view: RequestView) -> Finding:
    """Whether one did so, and how."""
    wanted, source = _wanted(case, status, view)
    if wanted is None:
        return Finding("unknown", source)
    end, evidence = view.finished, _events(view)
    if end is None or end.outcome != "error":
        reason = f"{view.name}: expected an error {wanted}{source}, but: {view.how_it_ended}"
        return Finding("fail", reason, evidence)
    if status == "broken" and _broke(end):
        return Finding("pass", f"a broken connection: {end.error}", evidence)
    if end.status == wanted:
        return Finding("pass", f"HTTP status {wanted}{source}", evidence)
    if end.error_code == wanted:
        return Finding("pass", f"an SSE error event with code {wanted} under HTTP {end.status}{source}", evidence)
    return Finding("fail", f"{view.name}: expected {wanted}{source}, but: {view.how_it_ended}", evidence)


def every_request_ends(case: Case) -> Finding:
    """No request hangs; in the run without the fault neither, nor when that is repeated."""
    whole = case.requests == case.phase_requests
    views = [view for view in case.all_requests if view.sent.check != "cut"] if whole else case.requests
    over = next(case.select(RunFinished), None) is not None
    if hangs := [view for view in views if (over if view.finished is None else view.finished.outcome == "hang")]:
        # Each is named, and in which phase: what is known of a fault explains none that hangs without it.
        parts = tuple(Part(f"{_with_phase(view)}: {view.how_it_ended}") for view in hangs)
        evidence = tuple(n for view in hangs for n in _events(view))
        return Finding("fail", "; ".join(part.said for part in parts), evidence, parts=parts)
    if open_ones := [view for view in views if view.finished is None]:
        return Finding("unknown", f"{open_ones[0].name}: it had not ended when the history did")
    return Finding("pass", f"all {len(views)} requests ended" if views else "none was sent")


def ends_cleanly(case: Case) -> Finding:
    """Every request got its whole answer, or an error that says so; and what came of it is the right one's begin."""
    if not case.requests:
        return Finding("unknown", "no request was sent")
    whole = failed = 0
    doubts: list[Finding] = []
    for view in case.requests:
        end = view.finished
        if end is None:
            return Finding("unknown", f"{view.name}: {view.how_it_ended}", _events(view), pending=True)
        if end.outcome == "success":
            whole += 1
            finding = exact(case, view)
        elif end.outcome == "error" and not _broke(end):
            failed += 1
            finding = exact_so_far(case, view)
        else:
            return Finding("fail", f"{view.name}: neither an answer nor an error: {view.how_it_ended}", _events(view))
        if finding.verdict == "fail":
            return finding
        doubts += [finding] if doubtful(case, finding) else []
    return doubts[0] if doubts else Finding("pass", f"{whole} answered, {failed} failed and were told so")


def _with_phase(view: RequestView) -> str:
    """Its name, which says of the run without the fault that it is of that, or of its repetition."""
    phase = view.sent.check or ("control" if view.sent.control else "")
    return f"{phase} {view.sent.index} ({view.id[:8]})" if phase else view.name


def _events(view: RequestView) -> tuple[int, ...]:
    ends = [view.finished] if isinstance(view.finished, RequestFinished) else []
    return tuple(event.n for event in (view.sent, *ends))


def _broke(end: RequestFinished) -> bool:
    """Whether the connection ended before an answer did that says what went wrong."""
    told = end.told or end.error_code is not None or GIVEN_UP in (end.finish_reason, *end.finish_reasons)
    return not told and end.status in (None, HTTPStatus.OK)


def _wanted(case: Case, status: int | str, view: RequestView) -> tuple[int | str | None, str]:
    """What is expected, and where it is from when it depends on the version."""
    if isinstance(status, int) or status == "broken":
        return status, ""
    documented = case.params.get("behaviour", {})
    name = f"{status}_stream" if view.sent.stream else f"{status}_unary"
    if name not in documented:
        return None, f"what {name} is on this version of the stack is not known"
    version = case.started.sut_version if case.started else ""
    return int(documented[name]), f" (documented for {version})"
