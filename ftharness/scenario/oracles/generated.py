"""Whether the engines made tokens for nobody: their counts, against what clients got and what may have been on its way."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from ftharness.scenario.case import Case, Finding
from ftharness.scenario.oracles.holds import ONE_MOMENT_MS, Hold, holds
from ftharness.scenario.readings import Reading
from ftharness.scenario.views import RequestView

# By how much a worker's line may be read after it was written, or written before its engine has done what it says.
_LATE_NS = int(ONE_MOMENT_MS * 1e6)
#: Chunks of a stream by which its speed is measured, and the least seconds that they count for: they may come at once.
_STRETCH, _SHORT_S = 16, 0.01


def accounted_for(case: Case, found: Mapping[str, tuple[float, list[Reading]]], over_t: int) -> Finding:
    """Whether all that engines made in the phase was for somebody.

    Of our engine: each token that it made came to a client, or was made before its worker said that it gave the request up.
    A stream has a speed, so there is a bound to that: of an engine that decodes greedily, and whose tokens can be told, the
    fastest that one of its streams was in this run. Of others nothing is known but the count.

    Args:
        case: The run.
        found: Of each process that is left the value before the phase, and the readings after all requests were over.
        over_t: When the last of the cancelled requests had been given up.
    """
    rise = sum(series[-1].value - before for before, series in found.values())
    got = sum(_received(case, view, found) for view in case.phase_requests)
    extra, evidence = rise - got, tuple(series[-1].n for _, series in found.values())
    fastest = None if case.params.get("exact") else _fastest(case)
    if not case.params.get("exact") and fastest is None:
        return _unwatched(case, over_t)
    counts = f"of the {rise:g} tokens of all clients got {got}"
    if extra <= 0:
        return Finding("pass", counts, evidence)
    if fastest is None:
        allowed = [_on_its_way(case, view, found) for view in case.phase_requests]
    else:
        allowed = [_since_the_last(case, view, fastest) for view in case.phase_requests]
    may = sum(one.tokens for one in allowed)
    if extra > may:
        reason = f"{counts}, and at most {may:.0f} more were on their way to requests that were given up: the engines went on"
        return Finding("fail", reason, evidence)
    if not all(one.known for one in allowed):
        why = "a worker never said that it was done, or the speed of its streams is not known"
        return Finding("unknown", f"{counts}, and how many were on their way cannot be told: {why}", evidence)
    return Finding("pass", f"{counts}, {extra:g} were on their way", evidence)


def _unwatched(case: Case, over_t: int) -> Finding:
    later = [view for view in case.phase_requests if view.finished is not None and view.finished.t > over_t]
    if not later:
        return Finding("pass", "nothing else ran")
    what = f"{later[0].name} ran on when the last had been given up: whose tokens were made meanwhile is not known"
    return Finding("unknown", what)


def _received(case: Case, view: RequestView, left: Mapping[str, object]) -> int:
    """How many tokens came to a client from workers that are left."""
    claims = [line for line in case.claims(view) if case.roles.get(line.source) != "prefill"]
    mine = [line.source in left for line in claims]
    if all(mine) or (any(mine) and view.choices > 1):
        return view.tokens
    if not any(mine):
        return 0
    count = 0
    for chunk in view.chunks:
        claim = next((line for line in reversed(claims) if line.t <= chunk.t), claims[0])
        count += chunk.tokens if claim.source in left else 0
    return count


class _Most(NamedTuple):
    """A bound to a number of tokens; ``known``: it is what there was time for, not only what was asked for."""

    tokens: float
    known: bool = True


def _on_its_way(case: Case, view: RequestView, left: Mapping[str, object]) -> _Most:
    """How many more the workers that are left can have made for it than came: all that they had the time for."""
    decodes = sorted((hold for hold in holds(case, view) if hold.role != "prefill"), key=lambda hold: hold.since)
    whole = view.finished is not None and view.finished.outcome == "success" and not view.stops
    if whole and len(decodes) == view.choices and all(hold.answered for hold in decodes):
        return _Most(0.0)
    places = [(place, hold) for place, hold in enumerate(decodes) if hold.worker in left]
    most = [_most(case, view, hold, first=place < view.choices) for place, hold in places]
    more = sum(one.tokens for one in most) - _received(case, view, left)
    return _Most(max(0.0, more), all(one.known for one in most))


def _most(case: Case, view: RequestView, hold: Hold, *, first: bool) -> _Most:
    """How many tokens a worker can have made for it: from its being sent, or from another worker's losing it, to its end."""
    speed, asked = case.params.get("speed"), view.sent.body.get("max_tokens") or math.inf
    if hold.until is None or speed is None:
        return _Most(asked, known=False)
    since = view.sent.t if first else hold.since - _LATE_NS
    return _Most(min(asked, (hold.until + _LATE_NS - since) / 1e9 * speed + 1))


def _fastest(case: Case) -> float | None:
    """The tokens a second of the fastest stretch of a stream of this run, on an engine whose tokens can be told; else None."""
    if not case.params.get("tokens_told"):
        return None
    rates = [
        sum(chunk.tokens for chunk in stretch[1:]) / max((stretch[-1].t - stretch[0].t) / 1e9, _SHORT_S)
        for view in case.all_requests
        if view.sent.stream
        for stretch in (view.chunks[start : start + _STRETCH] for start in range(0, len(view.chunks), _STRETCH))
        if len(stretch) == _STRETCH
    ]
    return max(rates, default=None)


def _since_the_last(case: Case, view: RequestView, fastest: float) -> _Most:
    """How many an engine may have made of a request after what came: none of a whole answer; else until it was given up."""
    if view.finished is not None and view.finished.outcome == "success":
        return _Most(0.0)
    ends = [hold.until for hold in holds(case, view) if hold.role != "prefill"]
    last = view.chunks[-1].t if view.chunks else view.sent.t
    until = max((end for end in ends if end is not None), default=None)
    if until is None:
        return _Most(view.sent.body.get("max_tokens") or math.inf, known=False)
    return _Most(max(0.0, until + _LATE_NS - last) / 1e9 * fastest + 1)
