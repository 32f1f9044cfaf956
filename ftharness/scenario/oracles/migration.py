"""Whether requests moved to another worker: ``migrated``, ``not_migrated``.

Behaviour first: a request that goes on after the worker that had it is gone has moved. How often it moved is counted by
the workers that say they received it, by the frontend's metric, and by the frontend's log lines; where these differ, or
one is missing, that is drift.
"""

from typing import Annotated, NamedTuple

import msgspec

from ftharness.history import Log
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.views import RequestView


class _Moves(NamedTuple):
    """How often requests moved, by each kind of evidence; None where there is none of that kind."""

    behaviour: int
    claims: int | None
    metric: int | None
    lines: int | None
    evidence: tuple[int, ...]
    each: list[tuple[RequestView, int]]  # of the requests that a worker claims

    @property
    def said(self) -> str:
        names = {"workers' claims": self.claims, "metric": self.metric, "log lines": self.lines}
        return ", ".join(f"{name}: {'no evidence' if count is None else count}" for name, count in names.items())

    @property
    def times(self) -> int:
        """The best count: a worker's claim to have received the request is closest to behaviour, then the metric."""
        for count in (self.claims, self.metric, self.lines):
            if count is not None:
                return max(count, self.behaviour)
        return self.behaviour


def migrated(case: Case, times: Annotated[int, msgspec.Meta(ge=0)] = 1) -> Finding:
    """Each request that a fault was aimed at moved exactly so often."""
    views = case.hit_requests()
    if not views:
        return Finding("unknown", "no request was sent")
    moves, wanted = _moves(case, views), times * len(views)
    if moves.claims is None and moves.metric is None and moves.lines is None and moves.behaviour < wanted:
        return Finding("unknown", "neither the workers nor the frontend left evidence of where the request went")
    if moves.times != wanted:
        reason = f"expected {wanted}, but it moved {moves.times} times ({moves.said})"
        # The frontend says that it moves it, and the next worker's word may still be on its way.
        begun = max(moves.metric or 0, moves.lines or 0) >= wanted > moves.times
        return Finding("fail", reason, moves.evidence, pending=begun)
    if astray := next(((view, count) for view, count in moves.each if count != times), None):
        reason = f"expected {times} of each, but {astray[0].name} moved {astray[1]} times ({moves.said})"
        return Finding("fail", reason, moves.evidence)
    drift = _drift(case, moves, wanted)
    path = " → ".join(case.takers(views[0])) or "unknown workers"
    return Finding("pass", f"{views[0].name} moved {path} ({moves.said})", moves.evidence, drift)


def not_migrated(case: Case) -> Finding:
    """No request moved."""
    if not case.requests:
        return Finding("unknown", "no request was sent")
    moves = _moves(case, case.requests)
    # What a frontend began and no worker took over has not moved; nor does a metric prove it that the contract does not know.
    contradicted = bool(moves.metric) and (moves.claims == 0 or not case.contract_known(role="frontend"))
    if moves.times or (moves.metric and not contradicted):
        return Finding("fail", f"it moved {moves.times or moves.metric} times ({moves.said})", moves.evidence)
    drift = ("migration: the metric rose, though no other worker received the request",) if contradicted else ()
    return Finding("pass", f"nothing moved ({moves.said})", moves.evidence, drift)


def _moves(case: Case, views: list[RequestView]) -> _Moves:
    behaviour = claimed = 0
    each = []
    for view in views:
        claims = case.claims(view)
        outlived = _outlived_its_worker(case, view, claims)
        behaviour += outlived
        if claims:
            # Where prefill and decode are apart each has its worker: that is no move; another attempt has one of each again.
            moves = max(len(part) - _begins(view, part) for part in _by_role(case, claims).values())
            claimed += moves
            each.append((view, max(moves, outlived)))
    refused = _refused(case)
    rise = case.metric_rise("migration")
    alone = len(views) == len(case.requests)
    lines = case.logs("migration_started", role="frontend")
    evidence = [line.n for line in lines]
    evidence += [line.n for line in case.select(Log, event="request_received") if _is_about(line, views)]
    return _Moves(
        behaviour=behaviour,
        claims=claimed if each else None,
        metric=max(0, int(rise) - refused) if rise is not None and alone else None,
        lines=max(0, len(lines) - refused) if alone and (lines or case.contract_known(role="frontend")) else None,
        evidence=tuple(sorted(evidence)),
        each=each,
    )


def _by_role(case: Case, claims: list[Log]) -> dict[str, list[Log]]:
    parts: dict[str, list[Log]] = {}
    for claim in claims:
        parts.setdefault(case.roles.get(claim.source, ""), []).append(claim)
    return parts


def _begins(view: RequestView, claims: list[Log]) -> int:
    """How many of the claims are no move: the first of the request, or of each choice that workers get one by one."""
    if not all(view.is_named_in(line) for line in claims):
        return 1
    return len({line.captures["request"] for line in claims})


def _refused(case: Case) -> int:
    """How often a frontend that logs and counts a migration before it looks at the limit then said that it may not."""
    counts_refused = case.params.get("behaviour", {}).get("migration_counts_refused", False)
    return len(case.logs("migration_exhausted", role="frontend")) if counts_refused else 0


def _is_about(line: Log, views: list[RequestView]) -> bool:
    return any(view.is_named_in(line) for view in views)


def _outlived_its_worker(case: Case, view: RequestView, claims: list[Log]) -> int:
    """1 when its tokens went on, to the last one, after the end of the worker that had it first.

    That it was called a success then is not enough: a frontend may give up quietly, just after the worker's end was seen.
    """
    if not claims or view.finished is None or view.finished.outcome != "success":
        return 0
    # A prefill worker may go when it has handed over: it is the decode's that had the stream.
    first = _by_role(case, claims).get("decode", claims)[0].source
    ended, control = case.exits.get(first), case.control_of(view)
    cut_short = control is not None and view.tokens < control.tokens
    return int(ended is not None and any(chunk.t > ended.t for chunk in view.chunks) and not cut_short)


def _drift(case: Case, moves: _Moves, wanted: int) -> tuple[str, ...]:
    drift = []
    if moves.lines is None or (moves.lines != wanted and moves.lines == 0):
        drift.append("migration_started: the frontend did not log it in a form that the contract knows")
    metric_known = "migration" in case.params.get("metrics", {})
    if metric_known and moves.metric is not None and moves.metric != wanted:
        drift.append(f"migration: the metric rose by {moves.metric}, not by {wanted}")
    return tuple(drift)
