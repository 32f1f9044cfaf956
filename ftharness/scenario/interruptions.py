"""Where an answer was interrupted: after which of its tokens another worker went on with it."""

from collections.abc import Iterator
from itertools import pairwise

from ftharness.history import Log
from ftharness.scenario.case import Case
from ftharness.scenario.recovery import struck_t
from ftharness.scenario.views import RequestView


def interruptions(case: Case, view: RequestView) -> list[int]:
    """After how many tokens another worker, or may be another, went on with an answer; in order, none twice.

    That is the number that its client had before the first token of the next worker, which is what that worker was given: by
    the word of the chunks themselves, else by the workers' claims. Where neither tells who had the request, by the longest
    wait since each fault that hit it. What was interrupted before its first token, or after the last that came, was not gone
    on with, and is left out. An answer in one piece shows no token's time: it counts as interrupted in its middle. Of several
    choices the first is looked at.
    """
    came = _came(view) if view.sent.stream else _made(view)
    control = case.control_of(view)
    whole = came if control is None else min(came, _made(control))
    named, claims = _named(view), case.claims(view)
    moved = _moves(case, view, claims)
    told = bool(named) or (bool(claims) and case.contract_known())
    struck = [] if told else list(_strikes(case, view))
    if not view.sent.stream:
        found = {whole // 2} if moved or struck else set()
    else:
        found = set(named or (_first_since(view, t) for t in moved)) | {_longest_wait(view, t) for t in struck}
    return sorted(tokens for tokens in found if 0 < tokens < whole)


def _came(view: RequestView) -> int:
    return sum(chunk.tokens for chunk in view.chunks if chunk.choice == 0)


def _made(view: RequestView) -> int:
    """As the server says, where that is more: who does not know the vocabulary counts one of all that came at once."""
    usage = view.finished.usage if view.finished else None
    return max(_came(view), ((usage or {}).get("completion_tokens") or 0) // view.choices)


def _strikes(case: Case, view: RequestView) -> Iterator[int]:
    """When faults on processes took effect that were aimed at the request, or hit a worker that had it."""
    takers = case.takers(view)
    for fault in case.faults:
        t = struck_t(case, fault) if fault.on_process else None
        if t is None or t < view.sent.t or (view.finished is not None and view.finished.t < t):
            continue
        aimed = fault.requested.request
        if aimed == view.id or fault.process in takers or not (aimed or takers):
            yield t


def _moves(case: Case, view: RequestView, claims: list[Log]) -> list[int]:
    """When a worker took it, or a choice of it, that another of its role had had before."""
    seen: set[tuple[str, str]] = set()
    moves = []
    for claim in claims:
        name = claim.captures.get("request", "") if view.choices > 1 else ""
        key = (case.roles.get(claim.source, ""), name)
        if key in seen:
            moves.append(claim.t)
        seen.add(key)
    return moves


def _named(view: RequestView) -> list[int]:
    """The first token of each worker after the first, where chunks name theirs."""
    chunks = [chunk for chunk in view.chunks if chunk.choice == 0 and chunk.worker]
    return [now.first for before, now in pairwise(chunks) if now.worker != before.worker]


def _first_since(view: RequestView, t: int) -> int:
    """How many tokens came before the first one since ``t``."""
    return sum(chunk.tokens for chunk in view.chunks if chunk.choice == 0 and chunk.t < t)


def _longest_wait(view: RequestView, t: int) -> int:
    """The same of the longest wait for a token that ended since ``t``: what was on its way then still came."""
    waits = [
        (later.t - max(earlier.t, t), later.first)
        for earlier, later in view.gaps()
        if later.t >= t and later.choice == 0
    ]
    return max(waits)[1] if waits else _first_since(view, t + 1)
