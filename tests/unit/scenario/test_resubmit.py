"""The begin of an interrupted answer, sent again: what is sent, and what a stack that does not answer may do."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ftharness.client import Client, Request, chat, completion
from ftharness.client.client import one_a_chunk
from ftharness.engine import tokens
from ftharness.history import History, RequestFinished, RequestSent, RequestTokens, recorded
from ftharness.process import http_ok
from ftharness.scenario.resubmit import note_tokens, resubmit
from ftharness.stack import Plan
from ftharness.stack.token_ids import OurTokens

Make = Callable[..., Any]
ASKED = completion("Once", max_tokens=10, stop=["never said"], extra={"temperature": 0, "min_tokens": 8})


def plan_of(url: str, *, known: bool = True) -> Plan:
    """Of a stack with nothing but an address, and may be a tokenizer that is known."""
    ids = OurTokens() if known else None
    return Plan(
        launches=[], url=url, model="any", ready=http_ok(url), count=one_a_chunk, exact=False, greedy=True, ids=ids
    )


@asynccontextmanager
async def server(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> AsyncIterator[str]:
    """A real listener on loopback; gives its URL."""
    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def one_word(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A whole answer, as a stream if it is asked for."""
    asked = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in asked.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    streams = b'"stream":true' in await reader.readexactly(length)
    said = b'{"choices":[{"text":" word","finish_reason":"length"}]}'
    body = b"data: " + said + b"\n\ndata: [DONE]\n\n" if streams else said
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


async def sent_again(
    history: History, url: str, *, deadline_s: float, workload: list[Request] | None = None, known: bool = True
) -> list[RequestSent]:
    """The requests that were sent, once it is over."""
    plan = plan_of(url, known=known)
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


SAID = ["The", " rain", " had", " sto", "pped", " by", " noon", ",", " and", " they"]


@pytest.mark.parametrize(
    "reference,how,begin,counted",
    [
        (SAID, {}, "The rain had stopped", 5),
        (["The rain", " had sto", "pped by", " noon, and", " they"], {}, "The rain had sto", 2),
        (["The rain had stopped by noon,", " and", " they"], {}, "The rain had stopped by noon,", 1),
        (SAID, {"stop": ["never said"]}, "The rain had stopped", 1),
        (["".join(SAID)], {"stream": False}, "The rain had", 1),
        (["天地玄黃宇宙"], {"stream": False}, "天地玄", 1),
        (["天"], {"stream": False}, None, 0),
    ],
    ids=["as tokens", "merged", "all at once", "held back", "one piece", "no spaces", "nothing to cut"],
)
async def test_where_tokens_cannot_be_told_the_begin_is_sent_as_text(
    story: Make, ids: list[int], reference: list[str], how: dict[str, Any], begin: str | None, counted: int
) -> None:
    """Cut at a chunk's end of the reference, else after a word; what is counted in it is never too much."""
    one = story(exact=False, greedy=True, stream=how.get("stream", True))
    one.events = [(t, event) for t, event in one.events if getattr(event, "request", "") != "c"]
    body = {"stop": how["stop"]} if "stop" in how else {}
    one.request(10, "c", ids, control=True, pieces=reference, step_ms=1, body=body)
    one.migrates(ids, pieces=SAID if one.stream else reference, body=body)
    history = recorded(one.end())
    request = completion("Once", max_tokens=10, **how)
    async with server(one_word) as url:
        sent = await sent_again(history, url, deadline_s=30, workload=[request], known=False)
    assert [one.body["prompt"] for one in sent] == ([] if begin is None else [f"Once{begin}"])
    for again in sent:
        assert (again.cut, again.cut_text, again.body["max_tokens"]) == (counted, len(begin or ""), 10 - counted)


async def test_a_prompt_that_cannot_be_told_as_tokens_is_sent_as_the_text_that_it_is(migrated: History) -> None:
    """One that servers read in more than one way: this one reads it as it did."""
    asked = [completion("to the <|eos|>", max_tokens=10)]
    async with server(one_word) as url:
        sent = await sent_again(migrated, url, deadline_s=30, workload=asked)
    assert (sent[0].body["prompt"][:14], sent[0].cut) == ("to the <|eos|>", 5)


async def test_what_can_be_told_neither_way_is_not_sent(migrated: History) -> None:
    """A chat, a prompt that is no text, and a request that asks for chance."""
    for request in (
        chat("to the <|eos|>", max_tokens=10),
        completion("Once", max_tokens=10, extra={"prompt": ["Once", "Twice"]}),
        completion("Once", max_tokens=10, extra={"temperature": 1}),
    ):
        assert await sent_again(migrated, "http://127.0.0.1:1", deadline_s=5, workload=[request]) == []
