"""Clients that say nothing, or half of it, on real sockets of the manager's HTTP server."""

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
SLOW = WHOLE.replace(b"/ ", b"/slow ")
#: One that is answered before its body is there: with 405.
EARLY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab"
READS = EARLY.replace(b"/ ", b"/read ")
HALVES = [b"GET", b"GET / HTTP/1.1\r\nHost: x\r\n", READS, EARLY]
OK = b"HTTP/1.1 200 OK\r\n"

#: Seconds that the server waits for a request, and keeps a connection on which there is none.
REQUEST_S, IDLE_S = 0.4, 1.2
_FOR_EVER_S = 5.0


async def _ok(request: Request) -> PlainTextResponse:
    del request
    return PlainTextResponse("ok")


async def _slow(request: Request) -> PlainTextResponse:
    del request
    await asyncio.sleep(1.5 * REQUEST_S)
    return PlainTextResponse("ok")


async def _read(request: Request) -> PlainTextResponse:
    await request.body()
    return PlainTextResponse("ok")


class Client:
    """A connection, whose end is waited for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, data: bytes) -> float:
        """Send that; says when."""
        self._writer.write(data)
        return asyncio.get_running_loop().time()

    async def answer(self) -> bytes:
        """The next answer's first line, when it has come whole."""
        async with asyncio.timeout(_FOR_EVER_S):
            first = await self._reader.readline()
            await self._reader.readuntil(b"\r\n\r\n")
            await self._reader.readexactly(2 if first == OK else len("Method Not Allowed"))
            return first

    async def let_go(self, since: float) -> float:
        """Wait for the server's end of it; how many seconds after ``since`` that came."""
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(_FOR_EVER_S):
                while await self._reader.read(100):
                    pass
        return asyncio.get_running_loop().time() - since

    async def close(self) -> None:
        """Whatever became of the other end."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class Clients:
    """Of one server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._all: list[Client] = []

    async def one(self, *, served: bool = False) -> Client:
        """A connection; on one that is ``served`` there was a request, which was answered."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self._port))
        self._all.append(client)
        if served:
            client.say(WHOLE)
            assert await client.answer() == OK
        return client

    async def close(self) -> None:
        for client in self._all:
            await client.close()


@pytest.fixture
async def clients(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clients]:
    """Of a server that has room for three connections, and as much patience as stands above."""
    monkeypatch.setattr(patience, "REQUEST_S", REQUEST_S)
    monkeypatch.setattr("ftharness.pool.server.IDLE_S", IDLE_S)
    monkeypatch.setattr("ftharness.pool.patience.for_connections", lambda: 3)
    routes = [Route("/", _ok), Route("/slow", _slow), Route("/read", _read, methods=["POST"])]
    with listening("127.0.0.1", 0) as sock:
        server = Server(Starlette(routes=routes))
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        clients = Clients(int(sock.getsockname()[1]))
        yield clients
        await clients.close()
        server.stop()
        await serving


@pytest.mark.parametrize("said", [b"", *HALVES])
async def test_who_does_not_ask_anything_whole_is_let_go(clients: Clients, said: bytes) -> None:
    """After the time for a request, no sooner."""
    client = await clients.one()
    assert REQUEST_S - 0.05 < await client.let_go(client.say(said)) < IDLE_S


@pytest.mark.parametrize("said", HALVES)
async def test_nor_is_who_has_asked_before(clients: Clients, said: bytes) -> None:
    """Half of a second request, on a connection that was kept after the first: the same time, from its first byte on."""
    client = await clients.one(served=True)
    await asyncio.sleep(REQUEST_S)  # idle, which is no fault
    assert REQUEST_S - 0.05 < await client.let_go(client.say(said)) < IDLE_S


async def test_bytes_that_trickle_in_win_no_time(clients: Clients) -> None:
    """The time is for all of a request, not for the next byte of it."""
    client = await clients.one(served=True)
    began = client.say(b"G")
    ended = asyncio.create_task(client.let_go(began))
    for byte in WHOLE[1:]:
        if (await asyncio.wait({ended}, timeout=REQUEST_S / 4))[0]:
            break
        client.say(bytes([byte]))
    assert REQUEST_S - 0.05 < await ended < IDLE_S


async def test_half_a_request_behind_a_whole_one_is_no_excuse(clients: Clients) -> None:
    """Both in one piece: the whole one is answered, and the time for the other is the same."""
    client = await clients.one()
    began = client.say(WHOLE + b"GET")
    assert await client.answer() == OK
    assert REQUEST_S - 0.05 < await client.let_go(began) < IDLE_S


@pytest.mark.parametrize(
    "said, more",
    [(WHOLE, b""), (READS + b"cd", b""), (EARLY, b"cd"), (WHOLE, b"\r\n")],
    ids=["head", "body", "body behind the answer", "empty line"],
)
async def test_who_has_asked_is_kept(clients: Clients, said: bytes, more: bytes) -> None:
    """Also where it came byte by byte; the connection is kept for the time that an idle one has, and ends with that."""
    client = await clients.one(served=True)
    for byte in said:
        client.say(bytes([byte]))
        await asyncio.sleep(0)
    assert await client.answer() == (b"HTTP/1.1 405 Method Not Allowed\r\n" if said == EARLY else OK)
    assert IDLE_S - 0.1 < await client.let_go(client.say(more)) < 3 * IDLE_S


async def test_who_waits_for_an_answer_is_kept(clients: Clients) -> None:
    """However long it takes: the request was whole."""
    client = await clients.one()
    for _ in range(2):
        client.say(SLOW)
        assert await client.answer() == OK


async def test_what_is_not_read_yet_may_be_there(clients: Clients) -> None:
    """Behind requests that wait for an earlier one's answer nothing is read, and the time is that of who could be heard."""
    client = await clients.one()
    client.say(SLOW + WHOLE + WHOLE[:9])
    await asyncio.sleep(0.2 * REQUEST_S)
    client.say(WHOLE[9:])
    for _ in range(3):
        assert await client.answer() == OK


async def test_who_comes_when_there_is_no_room_is_not_served(clients: Clients) -> None:
    """The fourth connection is closed at once, the three others are as they were."""
    three = [await clients.one(served=True) for _ in range(3)]
    fourth = await clients.one()
    assert await fourth.let_go(asyncio.get_running_loop().time()) < REQUEST_S
    for client in three:
        client.say(WHOLE)
        assert await client.answer() == OK
