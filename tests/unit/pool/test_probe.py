"""One look at an engine's health, and its warm-up, on real sockets."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ftharness.pool.config import WarmupConfig
from ftharness.pool.probe import CannotLook, look
from ftharness.pool.warmup import NotWarm, warm_up

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def _server(*pieces: bytes, hang: bool = False, seen: list[bytes] | None = None) -> AsyncIterator[str]:
    """Answers each request with these pieces; then closes, or hangs with the connection open."""
    open_ends: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(request)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if hang:
            open_ends.append(writer)
        else:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in open_ends:
            writer.close()


@pytest.mark.parametrize(
    "answer, says",
    [
        (_OK, ""),
        (b"HTTP/1.0 200 OK\r\n\r\n", ""),
        (b"HTTP/1.1 200\r\nX: y\r\n\r\n", ""),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "status 503"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "is not HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "2 bytes read"),
        (b"", "closed at once"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "many"),
        (b"H" * 40_000, "limit"),
    ],
)
async def test_what_an_answer_means(answer: bytes, says: str) -> None:
    """Only a whole answer with 200 is a good one; of another it is said what came."""
    async with _server(answer) as url:
        seen = await look(f"{url}/health", 5.0)
    assert (says in seen) if says else seen == ""


async def test_an_answer_may_come_in_pieces_and_the_connection_may_stay() -> None:
    """A server that leaves the connection open, though it was asked to close it, is well all the same."""
    seen: list[bytes] = []
    async with _server(*(_OK[at : at + 1] for at in range(len(_OK))), hang=True, seen=seen) as url:
        assert await look(f"{url}/health?deep=1", 5.0) == ""
    assert seen[0].startswith(b"GET /health?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:")


async def test_no_answer_and_nobody_there() -> None:
    """An answer that does not come is waited for until the timeout; a port that is closed is said at once."""
    async with _server(hang=True) as url:
        began = asyncio.get_running_loop().time()
        assert "no answer within 0.1 s" in await look(f"{url}/health", 0.1)
        assert asyncio.get_running_loop().time() - began < 1
    assert "onnect" in await look(f"{url}/health", 5.0)


def _stream(*lines: str) -> bytes:
    body = "".join(f"{line}\n\n" for line in lines).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + body


_CHUNK = 'data: {"choices": [{"text": "a"}]}'


@pytest.mark.parametrize(
    "answer, says",
    [
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops", "status 500: oops"),
        (_stream(_CHUNK, 'data: {"error": {"message": "CUDA"}}'), "CUDA"),
        (_stream("data: [DONE]"), "without a token"),
        (_stream("data: {nothing"), "is not JSON"),
        (b"", "Error"),
    ],
)
async def test_a_warm_up_that_fails_says_how(answer: bytes, says: str) -> None:
    """An error, also one in the stream of an answer with 200, and an answer without a token: the engine is not warm."""
    async with _server(answer) as url:
        with pytest.raises(NotWarm, match=says):
            await warm_up(url, "m", WarmupConfig())


async def test_a_warm_up_that_takes_too_long() -> None:
    """All requests together have so much time."""
    async with _server(hang=True) as url:
        with pytest.raises(NotWarm, match=r"not over within 0\.1 s"):
            await warm_up(url, "m", WarmupConfig(timeout_s=0.1))


async def test_what_is_measured_is_told_by_usage_where_chunks_are_merged() -> None:
    """Ten tokens in two chunks are ten: the usage says so, not the number of chunks."""
    usage = 'data: {"choices": [], "usage": {"completion_tokens": 10}}'
    async with _server(_stream(_CHUNK), f"{_CHUNK}\n\n{usage}\n\ndata: [DONE]\n\n".encode()) as url:
        (speed,) = await warm_up(url, "m", WarmupConfig())
    async with _server(_stream(_CHUNK), f"{_CHUNK}\n\ndata: [DONE]\n\n".encode()) as url:
        (few,) = await warm_up(url, "m", WarmupConfig())
    assert speed.first_token_ms > 0
    assert speed.tokens_per_s == 0 or speed.tokens_per_s > few.tokens_per_s


@pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed", "501 Not Implemented"])
async def test_an_engine_without_completions_is_not_measured(status: str) -> None:
    """It is no worse an engine."""
    async with _server(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()) as url:
        assert await warm_up(url, "m", WarmupConfig()) == []


async def test_a_want_of_files_says_nothing_of_the_engine() -> None:
    """With as many files open as we may have, nothing is asked, and that is no bad answer."""
    async with _server(_OK) as url:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            with pytest.raises(CannotLook, match="Too many open files"):
                await look(url, 5.0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await look(url, 5.0) == ""
