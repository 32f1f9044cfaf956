"""The begin of an interrupted answer, sent again: what is sent, and what a stack that does not answer may do."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ftharness.client import Client, Request, completion
from ftharness.engine import tokens
from ftharness.history import History, RequestFinished, RequestSent, RequestTokens, recorded
from ftharness.process import http_ok
from ftharness.scenario.resubmit import note_tokens, resubmit
from ftharness.stack import Plan
from ftharness.stack.token_ids import OurTokens

Make = Callable[..., Any]
ASKED = completion("Once", max_tokens=10, stop=["never said"], extra={"temperature": 0, "min_tokens": 8})


def plan_of(url: str) -> Plan:
    """Of a stack with nothing but an address."""
    return Plan(
        launches=[], url=url, model="any", ready=http_ok(url), count=len, exact=False, greedy=True, ids=OurTokens()
    )


@asynccontextmanager
async def server(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> AsyncIterator[str]:
    """A real listener on loopback; gives its URL."""
    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def sent_again(
    history: History, url: str, *, deadline_s: float, workload: list[Request] | None = None
) -> list[RequestSent]:
    """The requests that were sent, once it is over."""
    plan = plan_of(url)
    note_tokens(history, plan)
    client = Client(history, url, "any")
    await resubmit(client, history, plan, workload or [ASKED], deadline_s=deadline_s)
    return list(history.select(RequestSent, check="cut"))


@pytest.fixture
def migrated(story: Make, ids: list[int]) -> History:
    """A request that another worker went on with after five of ten tokens."""
    one = story(exact=False, greedy=True)
    one.migrates(ids)
    return recorded(one.end())


async def test_the_begin_is_sent_as_tokens(migrated: History, ids: list[int]) -> None:
    """With what is left of the tokens that were asked for; nothing listens, which is three errors and no exception."""
    sent = await sent_again(migrated, "http://127.0.0.1:1", deadline_s=30)
    assert [(one.control, one.check, one.cut, one.endpoint) for one in sent] == [
        (True, "cut", 5, "/v1/completions")
    ] * 3
    body = sent[0].body
    assert body["prompt"] == [*tokens.encode("Once"), *ids[:5]]
    assert (body["max_tokens"], body["min_tokens"], body["stop"], body["temperature"]) == (5, 3, ["never said"], 0)
    ends = [end for one in sent for end in migrated.select(RequestFinished, request=one.request)]
    assert [end.outcome for end in ends] == ["error"] * 3
    assert [told.request for told in migrated.select(RequestTokens)] == ["c", "r"]


async def test_a_stack_that_hangs_is_waited_for_no_longer_than_it_may(migrated: History) -> None:
    """A server that takes the connection and says nothing: the request ends as a hang, and so does the waiting."""
    hung = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hung.wait()
        writer.close()

    async with server(silent) as url:
        began = time.monotonic()
        sent = await sent_again(migrated, url, deadline_s=0.4)
        took_s = time.monotonic() - began
        hung.set()
    assert 0.4 <= took_s < 3
    assert [end.outcome for end in migrated.select(RequestFinished, request=sent[0].request)] == ["hang"]


async def test_what_cannot_be_told_as_tokens_is_not_sent(migrated: History) -> None:
    """A prompt that servers read in more than one way, and a request that asks for chance."""
    for request in (
        completion("to the <|eos|>", max_tokens=10),
        completion("Once", max_tokens=10, extra={"temperature": 1}),
    ):
        assert await sent_again(migrated, "http://127.0.0.1:1", deadline_s=5, workload=[request]) == []
