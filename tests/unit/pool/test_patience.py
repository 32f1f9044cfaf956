"""Clients that say nothing, on real sockets of the manager's HTTP server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ftharness.pool import patience
from ftharness.pool.server import Server, listening

WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def _ok(request: Request) -> PlainTextResponse:
    del request
    return PlainTextResponse("ok")


async def _close(*writers: asyncio.StreamWriter) -> None:
    """Whatever became of the other end."""
    for writer in writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Where a server listens that waits 0.3 s for a whole head, and has room for three connections."""
    monkeypatch.setattr(patience, "HEAD_S", 0.3)
    monkeypatch.setattr("ftharness.pool.server.for_connections", lambda: 3)
    with listening("127.0.0.1", 0) as sock:
        server = Server(Starlette(routes=[Route("/", _ok)]))
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        yield int(sock.getsockname()[1])
        server.stop()
        await serving


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET"])
async def test_who_does_not_ask_anything_whole_is_let_go(port: int, said: bytes) -> None:
    """After the time for a head, no sooner; there is no answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = asyncio.get_running_loop().time()
    writer.write(said)
    async with asyncio.timeout(5):
        assert await reader.read(1) == b""
    assert asyncio.get_running_loop().time() - began > 0.25
    await _close(writer)


async def test_who_has_asked_is_kept(port: int) -> None:
    """Also where the head came in pieces, split within its end; the connection serves for longer than that time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in (WHOLE[:10], WHOLE[10:-2], WHOLE[-2:-1], WHOLE[-1:]):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await reader.readuntil(b"\r\n\r\nok")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.6)  # longer than the time for a head: it is not closed
        writer.write(WHOLE)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    await _close(writer)


async def test_who_comes_when_there_is_no_room_is_not_served(port: int) -> None:
    """The fourth connection is closed at once, the three others are as they were."""
    three = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    reader, fourth = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        assert await reader.read(1) == b""
        for one, writer in three:
            writer.write(WHOLE)
            assert await one.readline() == b"HTTP/1.1 200 OK\r\n"
    await _close(fourth, *(writer for _, writer in three))
