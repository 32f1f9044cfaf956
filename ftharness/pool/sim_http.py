"""As much of HTTP/1.1 as the simulated engine speaks: requests one after the other on a connection, answers whole or in chunks.

Standard library only.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

_MOST_BYTES = 1 << 20
_PHRASES = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Content Too Large", 503: "Service Unavailable"}


class NotFound(Exception):  # noqa: N818 - says what is the case
    """There is no such page."""


class Answer:
    """An answer: a JSON object, or pieces as they come.

    Args:
        status: HTTP's.
        told: The object.
        stream: The pieces of a stream of server-sent events.
    """

    def __init__(
        self, status: int, told: dict[str, Any] | None = None, stream: AsyncIterator[bytes] | None = None
    ) -> None:
        self.status = status
        self.told = told
        self.stream = stream


#: Method, path and body, to an answer.
Answering = Callable[[str, str, bytes], Awaitable[Answer]]


def event(told: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(told, separators=(",", ":")).encode() + b"\n\n"


class Serving:
    """A server.

    Args:
        answering: Answers a request.
    """

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._server: asyncio.Server | None = None
        self._busy: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> None:
        """Begin.

        Raises:
            OSError: The port cannot be had.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self._begin), host, port, reuse_address=True)

    async def finish(self) -> None:
        """Take no more connections, and wait for the answers that are under way."""
        assert self._server is not None
        self._server.close()
        while self._busy:
            await asyncio.wait(self._busy)

    def _begin(self, transport: asyncio.Transport, request: "_Request") -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(self._answer(transport, request))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)
        return task

    async def _answer(self, transport: asyncio.Transport, request: "_Request") -> None:
        try:
            answer = await self._answering(request.method, request.path, request.body)
        except NotFound:
            answer = Answer(404, {"error": {"message": f"no {request.path} here", "code": 404}})
        except (ValueError, TypeError, KeyError) as error:
            answer = Answer(400, {"error": {"message": str(error), "code": 400}})
        head = f"HTTP/1.1 {answer.status} {_PHRASES.get(answer.status, 'Unknown')}\r\n"
        if answer.stream is None:
            whole = json.dumps(answer.told).encode()
            length = f"content-type: application/json\r\ncontent-length: {len(whole)}\r\n\r\n"
            transport.write(f"{head}{length}".encode() + whole)
            return
        transport.write(f"{head}content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        async for piece in answer.stream:
            transport.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        transport.write(b"0\r\n\r\n")


class _Request(NamedTuple):
    method: str
    path: str
    body: bytes
    size: int  # all of it, in bytes


class _Connection(asyncio.Protocol):
    """One client's. When it goes away what is being made for it ends, and its slot is free."""

    def __init__(self, begin: Callable[[asyncio.Transport, _Request], "asyncio.Task[None]"]) -> None:
        self._begin = begin
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        if self._task is not None:
            self._task.cancel()

    def _next(self) -> None:
        """Begin the next request, if it is there and the one before is answered."""
        if self._transport is None or self._task is not None:
            return
        try:
            request = _request(self._received)
        except ValueError:
            self._transport.close()
            return
        if request is None:
            return
        del self._received[: request.size]
        self._task = self._begin(self._transport, request)
        self._task.add_done_callback(self._answered)

    def _answered(self, task: "asyncio.Task[None]") -> None:
        self._task = None
        if not task.cancelled():
            task.result()
            self._next()


def _request(received: bytearray) -> _Request | None:
    """The first request; None where it is not whole.

    Raises:
        ValueError: It is no HTTP, or too long.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        if len(received) > _MOST_BYTES:
            raise ValueError("headers too long")
        return None
    first, *lines = received[:end].decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= _MOST_BYTES:
        raise ValueError("a body that long is not taken")
    size = end + 4 + length
    body = bytes(received[end + 4 : size])
    return _Request(method, target.partition("?")[0], body, size) if len(body) == length else None
