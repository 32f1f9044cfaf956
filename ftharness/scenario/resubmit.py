"""The begin of each interrupted answer, sent again as tokens: does the engine go on with it as it did?

A worker that takes a request over reads the prompt and the tokens so far at once, where the first had made them one by one.
An engine may come to other numbers that way, and so to other tokens, with nobody at fault. So it is asked, without a fault,
on what still serves.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ftharness.client import Client, Request
from ftharness.history import History, RequestTokens
from ftharness.scenario.case import Case
from ftharness.scenario.interruptions import interruptions
from ftharness.scenario.oracles.reference import samples
from ftharness.scenario.views import RequestView
from ftharness.stack import Plan

# A stack that has just lost a worker may still send it requests for a while, and does not say until when.
_TRIES = 3
_PAUSE_S = 0.5
# What one try may take: so much, and so many times as long as the whole answer took. Fewer workers serve now.
_TRY_S, _TIMES = 5.0, 3.0

# Of a request's own fields those that are another's here, or only a chat's.
_REPLACED = {"prompt", "messages", "max_tokens", "max_completion_tokens", "n", "stream", "logprobs", "top_logprobs"}


class Cut(NamedTuple):
    """One to send: the place of the request in the workload, and how many tokens of its answer it begins with."""

    place: int
    tokens: int
    request: Request


def note_tokens(history: History, plan: Plan) -> None:
    """Write down which tokens the answers so far are made of: the plan can tell, and a judge of the stored run cannot ask it."""
    if plan.ids is None:
        return
    case = Case(history.events)
    for view in case.all_requests:
        for choice in range(view.choices):
            known = view.finished is None or case.ids_of(view, choice) is not None
            ids = None if known else plan.ids.of_answer(view.text(choice))
            if ids is not None:
                history.append(RequestTokens(source="harness", request=view.id, ids=ids, choice=choice))


def interrupted(history: History) -> list[RequestView]:
    """The requests of the fault phase that were interrupted, and whose answers can be expected once more."""
    case = Case(history.events)
    return [view for view in case.phase_requests if not samples(view.sent.body) and interruptions(case, view)]


async def resubmit(
    client: Client, history: History, plan: Plan, workload: Sequence[Request], *, deadline_s: float
) -> None:
    """Send all that can be sent, at once, and wait for the answers. One that fails or hangs is tried again.

    Whatever the stack does, this returns within ``deadline_s`` seconds and what it takes to close connections; how it went is in
    the history.
    """
    case = Case(history.events)
    left = list(_cuts(case, plan, workload))
    took = max((view.finished.t - view.sent.t for view in case.control if view.finished is not None), default=0) / 1e9
    until = time.monotonic() + deadline_s
    for number in range(_TRIES):
        try_s = min(_TRY_S + _TIMES * took, until - time.monotonic())
        if not left or try_s <= 0:
            break
        if number:
            await asyncio.sleep(_PAUSE_S)
        left = await _sent(client, left, try_s)


async def _sent(client: Client, cuts: Sequence[Cut], try_s: float) -> list[Cut]:
    """Those that were not answered."""
    left = list(cuts)

    async def one(cut: Cut) -> None:
        stream = await client.send(cut.request, control=True, index=cut.place, check="cut", cut=cut.tokens)
        if (await stream.finished()).outcome == "success":
            left.remove(cut)

    try:
        async with asyncio.timeout(try_s), asyncio.TaskGroup() as group:
            for cut in cuts:
                group.create_task(one(cut))
    except TimeoutError:
        await client.close(hang=f"it had not ended within {try_s:.1f} s")
    return left


def _cuts(case: Case, plan: Plan, workload: Sequence[Request]) -> Iterator[Cut]:
    for view in case.phase_requests:
        control, request = case.control_of(view), workload[view.sent.index]
        body = request.body(plan.model, plan.asks)
        right = None if control is None or samples(body) else case.ids_of(control)
        prompt = None if right is None or plan.ids is None else plan.ids.of_prompt(body)
        if right is None or prompt is None:
            continue
        most = int(body.get("max_completion_tokens") or body["max_tokens"])
        extra = {name: value for name, value in request.extra.items() if name not in _REPLACED}
        for tokens in interruptions(case, view):
            if tokens >= len(right):
                continue
            own = extra | {"prompt": [*prompt, *right[:tokens]]}
            if "min_tokens" in extra:
                own["min_tokens"] = max(0, int(extra["min_tokens"]) - tokens)
            yield Cut(
                view.sent.index,
                tokens,
                Request(max_tokens=most - tokens, stream=request.stream, stop=request.stop, extra=own),
            )
