"""The begin of each interrupted answer, sent again: does the engine go on with it as it did?

A worker that takes a request over reads the prompt and the tokens so far at once, where the first had made them one by one.
An engine may come to other numbers that way, and so to other tokens, with nobody at fault. So it is asked, without a fault,
on what still serves.

It is sent as tokens where they can be told, else as text behind the prompt's. What is read of a text need not be the tokens
that were made: so if the engine goes on with it as it did, that is seen; if not, nothing is.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from ftharness.client import Client, Request
from ftharness.history import History, RequestTokens
from ftharness.scenario.case import Case
from ftharness.scenario.interruptions import interruptions
from ftharness.scenario.oracles.reference import is_text, samples
from ftharness.scenario.views import RequestView
from ftharness.stack import Plan

# A stack that has just lost a worker may still send it requests for a while, and does not say until when.
_TRIES = 3
_PAUSE_S = 0.5
# What one try may take: so much, and so many times as long as the whole answer took. Fewer workers serve now.
_TRY_S, _TIMES = 5.0, 3.0

# Of a request's own fields those that are another's here, or only a chat's.
_REPLACED = {"prompt", "messages", "max_tokens", "max_completion_tokens", "n", "stream", "logprobs", "top_logprobs"}


class Begin(NamedTuple):
    """A prompt and the begin of its answer, of so many tokens; ``text``: of so many characters, where it is text."""

    prompt: str | list[int]
    tokens: int
    text: int = 0


class Cut(NamedTuple):
    """One to send: the place of the request in the workload, and what it begins with."""

    place: int
    begin: Begin
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
        _, tokens, text = cut.begin
        stream = await client.send(cut.request, control=True, index=cut.place, check="cut", cut=tokens, cut_text=text)
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
        if control is None or samples(body):
            continue
        most = int(body.get("max_completion_tokens") or body["max_tokens"])
        extra = {name: value for name, value in request.extra.items() if name not in _REPLACED}
        for begin in _begins(case, plan, view, control, body):
            own = extra | {"prompt": begin.prompt}
            if "min_tokens" in extra:
                own["min_tokens"] = max(0, int(extra["min_tokens"]) - begin.tokens)
            # A text has as many tokens as were counted in it, or more: what is left is enough for the rest, or too much.
            left = max(1, most - begin.tokens)
            yield Cut(
                view.sent.index, begin, Request(max_tokens=left, stream=request.stream, stop=request.stop, extra=own)
            )


def _begins(
    case: Case, plan: Plan, view: RequestView, control: RequestView, body: Mapping[str, Any]
) -> Iterator[Begin]:
    """One for each place where the answer was interrupted, if the stack or the prompt allows any."""
    due, right = interruptions(case, view), case.ids_of(control)
    prompt = None if right is None or plan.ids is None else plan.ids.of_prompt(body)
    if right is not None and prompt is not None:
        yield from (Begin([*prompt, *right[:tokens]], tokens) for tokens in due if tokens < len(right))
    elif is_text(body):
        said = control.text()
        seams = (_seam(view, control, tokens, plan.count) for tokens in due)
        for seam in dict.fromkeys(found for found in seams if found is not None):
            yield Begin(body["prompt"] + said[: seam[0]], seam[1], seam[0])


def _seam(view: RequestView, control: RequestView, tokens: int, count: Callable[[str], int]) -> tuple[int, int] | None:
    """Where the reference's text is cut for an answer that was interrupted after so many tokens.

    After how many characters, and how many tokens the client counts in them; None where nothing can be cut. It is at a
    chunk's end, which is a token's, the last one that is no longer than what the client had. Not of an answer in one piece,
    nor where a string is to end it, for which a server holds back some characters: those are cut after a word, before
    its space, where a tokenizer cuts, too.
    """
    text, chunks = control.text(), [chunk for chunk in control.chunks if chunk.choice == 0]
    if view.sent.stream:
        had = sum(len(c.text) for c in view.chunks if c.choice == 0 and c.first + c.tokens <= tokens)
    else:
        had = len(text) // 2
    if len(chunks) > 1 and not control.stops:
        ends = accumulate(len(chunk.text) for chunk in chunks)
        seams = [(end, chunk.first + chunk.tokens) for end, chunk in zip(ends, chunks, strict=True)]
    else:
        found = [word.end() for word in re.finditer(r"\S+", text)]
        seams = [(end, count(text[:end])) for end in (found if len(found) > 1 else [had])]
    inside = [seam for seam in seams if 0 < seam[0] < len(text)]
    return max((seam for seam in inside if seam[0] <= had), default=min(inside, default=None))
