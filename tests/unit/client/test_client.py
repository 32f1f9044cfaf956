"""The client, against real sockets that say exactly what a test tells them to."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftharness.client import Client, Request, chat, completion
from ftharness.history import History, RequestChunk, RequestFinished, RequestSent

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(text: str, finish: str | None = None, index: int = 0, **more: object) -> bytes:
    choice = {"index": index, "text": text, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


DONE = b"data: [DONE]\n\n"
GOOD = HEAD + chunked(
    event(" one"), b": a comment\n\n", event(" two three"), event("", "length", usage={"completion_tokens": 3}), DONE
)

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@asynccontextmanager
async def server(*pieces: bytes, end: str = "close") -> AsyncIterator[str]:
    """Answers every request with ``pieces``, each in a write of its own; then closes, resets, or says nothing more."""
    writers = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if end == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if end != "silent":
            writer.close()

    serving = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{serving.sockets[0].getsockname()[1]}"
    finally:
        serving.close()
        for writer in writers:
            writer.close()
        await serving.wait_closed()


async def ask(
    url: str, request: Request | None = None, *, idle_s: float = 20.0
) -> tuple[RequestFinished, list[RequestChunk], History]:
    history = History()
    client = Client(history, url, "m", count=lambda text: len(text.split()), idle_s=idle_s, seed=1)
    stream = await client.send(request or completion(max_tokens=3))
    end = await stream.finished()
    await client.close()
    return end, list(history.select(RequestChunk)), history


async def test_a_streamed_answer_is_told_token_by_token() -> None:
    """Merged tokens are counted, the usage and the finish reason are kept, and the outcome is success."""
    async with server(GOOD) as url:
        end, chunks, history = await ask(url)
    assert [(chunk.first, chunk.tokens, chunk.text) for chunk in chunks] == [(0, 1, " one"), (1, 2, " two three")]
    assert (end.outcome, end.status, end.finish_reason, end.usage) == (
        "success",
        200,
        "length",
        {"completion_tokens": 3},
    )
    sent = next(history.select(RequestSent))
    assert (sent.endpoint, sent.body["stream_options"]) == ("/v1/completions", {"include_usage": True})
    assert [type(item) for item in history.events] == [RequestSent, RequestChunk, RequestChunk, RequestFinished]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, len(GOOD) - 1), max_size=12, unique=True))
def test_any_split_of_the_response_is_read_alike(cuts: list[int]) -> None:
    """Wherever the network cuts the bytes, the chunks and the outcome are the same."""

    async def main() -> None:
        ends = sorted(cuts)
        pieces = [GOOD[a:b] for a, b in zip([0, *ends], [*ends, len(GOOD)], strict=True)]
        async with server(*pieces) as url:
            end, chunks, _ = await ask(url)
        assert "".join(chunk.text for chunk in chunks) == " one two three"
        assert end.outcome == "success"

    asyncio.run(main())


@pytest.mark.parametrize(
    "body, said",
    [
        (HEAD + chunked(event(" one"), event("", "length")), "the stream ended without [DONE]"),
        (HEAD + chunked(event(" one"), DONE), "no finish_reason for choice 0"),
        (HEAD + chunked(event(" one"), event("", "abort"), DONE), "the engine gave it up: finish_reason abort"),
        (HEAD + chunked(b"data: {not json\n\n", DONE), "an event that is no answer"),
        (HEAD + chunked(event(" one"))[:-5], "the server closed the connection in the middle of the response"),
        (b"", "the server closed the connection before a response"),
        (b"SMTP ready\r\n\r\n", "what the server sent is not HTTP"),
        (HEAD + b"zz\r\n", "what the server sent is not HTTP"),
    ],
)
async def test_an_answer_that_is_not_whole_is_an_error(body: bytes, said: str) -> None:
    """HTTP 200 alone is no success: the end mark and a finish reason belong to it, and the error says what is missing."""
    async with server(body) as url:
        end, _, _ = await ask(url)
    assert end.outcome == "error"
    assert said in end.error
    assert not end.told


async def test_an_error_event_under_http_200_has_its_own_code() -> None:
    """The SSE error's code and message are kept apart from the HTTP status."""
    error = b'data: {"error":{"message":"Migration limit exhausted","code":500}}\n\n'
    async with server(HEAD + chunked(event(" one"), error, DONE)) as url:
        end, chunks, _ = await ask(url)
    assert (end.outcome, end.status, end.error_code, end.error) == ("error", 200, 500, "Migration limit exhausted")
    assert len(chunks) == 1


async def test_an_error_event_without_a_code_is_a_word_all_the_same() -> None:
    """As the gateway smg writes it: the client was told."""
    error = b'data: {"error":{"message":"Stream error: broken","type":"stream_error"}}\n\n'
    async with server(HEAD + chunked(event(" one"), error, DONE)) as url:
        end, _, _ = await ask(url)
    assert (end.outcome, end.error_code, end.error, end.told) == ("error", None, "Stream error: broken", True)


async def test_an_http_error_keeps_its_status_and_message() -> None:
    """The body of an OpenAI error is told as its message."""
    body = b'{"error":{"message":"no such model","code":"model_not_found"}}'
    async with server(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as url:
        end, _, _ = await ask(url)
    assert (end.outcome, end.status, end.error) == ("error", 404, "no such model")


async def test_a_silent_server_is_a_hang() -> None:
    """No byte for the idle time, and the request ends as what it is."""
    async with server(HEAD, b"%x\r\n%s\r\n" % (len(event(" one")), event(" one")), end="silent") as url:
        end, chunks, _ = await ask(url, idle_s=0.3)
    assert (end.outcome, end.error) == ("hang", "no byte for 0.3 s")
    assert len(chunks) == 1


async def test_a_reset_connection_is_an_error() -> None:
    """An RST in mid-stream says so."""
    async with server(HEAD + b"5\r\nhello", end="reset") as url:
        end, _, _ = await ask(url)
    assert end.outcome == "error"
    assert "in the middle of the response" in end.error


async def test_a_refused_connection_is_the_requests_outcome() -> None:
    """Nobody listens: an outcome, not an exception."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        end, _, _ = await ask(f"http://127.0.0.1:{bound.getsockname()[1]}")
    assert (end.outcome, end.status) == ("error", None)
    assert "no connection" in end.error


async def test_an_answer_in_one_body() -> None:
    """Not streamed: chat's message, two choices, log probabilities and usage."""
    choices = [
        {"index": i, "message": {"content": f" w{i}"}, "finish_reason": "stop", "logprobs": {"content": [{}]}}
        for i in (0, 1)
    ]
    body = json.dumps({"choices": choices, "usage": {"total_tokens": 9}}).encode()
    async with server(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as url:
        end, chunks, _ = await ask(url, chat(stream=False, n=2, logprobs=True))
    assert (end.outcome, end.finish_reasons, end.logprobs) == ("success", ["stop", "stop"], [1, 1])
    assert [(chunk.choice, chunk.text) for chunk in chunks] == [(0, " w0"), (1, " w1")]


async def test_going_away_is_cancelled_and_closes_the_socket() -> None:
    """The server sees the end of the connection, the history sees ``cancelled``."""
    gone: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
        writer.write(HEAD + b"%x\r\n%s\r\n" % (len(event(" one")), event(" one")))
        gone.set_result(await reader.read())
        writer.close()

    serving = await asyncio.start_server(answer, "127.0.0.1", 0)
    history = History()
    client = Client(history, f"http://127.0.0.1:{serving.sockets[0].getsockname()[1]}", "m")
    stream = await client.complete()
    await stream.token(1)
    await stream.cancel()
    assert await asyncio.wait_for(gone, 5) == b""
    assert next(history.select(RequestFinished)).outcome == "cancelled"
    serving.close()
    await serving.wait_closed()


async def test_waiting_for_a_token_that_never_comes_says_how_many_came() -> None:
    """The error names the count and how the request ended."""
    async with server(GOOD) as url:
        client = Client(History(), url, "m", count=lambda text: len(text.split()))
        stream = await client.complete()
        with pytest.raises(TimeoutError, match="3 of the 9 awaited tokens came: it ended as success"):
            await stream.token(9)
        await client.close()


async def test_ids_follow_from_the_seed() -> None:
    """The same seed, the same request ids: a run can be compared with its replay."""
    async with server(GOOD) as url:
        ids = [next((await ask(url))[2].select(RequestSent)).request for _ in range(2)]
    assert ids[0] == ids[1]


async def test_a_secret_in_a_request_is_not_stored() -> None:
    """What the history keeps of a body went through the redactor; what was sent did not."""
    async with server(GOOD) as url:
        history = History()
        client = Client(history, url, "m", redact=lambda text: text.replace("sesame", "***"))
        stream = await client.complete("open sesame")
        await stream.finished()
        await client.close()
    assert next(history.select(RequestSent)).body["prompt"] == "open ***"


async def test_a_body_without_a_length_ends_when_its_end_is_read() -> None:
    """Not when its last byte was: what ends it may be what a fault brought about."""
    ready, go_on = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + event(" one"))
        ready.set()
        await go_on.wait()
        writer.close()

    serving = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with serving:
        history = History()
        client = Client(history, f"http://127.0.0.1:{serving.sockets[0].getsockname()[1]}", "m")
        stream = await client.send(completion())
        await stream.token(1)
        await ready.wait()
        before = history.now()
        go_on.set()
        end = await stream.finished()
    assert (end.outcome, end.error) == ("error", "the stream ended without [DONE]")
    assert end.t > before
