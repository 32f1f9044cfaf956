"""One HTTP/1.1 exchange on a connection of its own, and every way in which a client ends one.

Not a general client. It exists because a fault-injection client needs what those hide: the time at which the bytes of a
token were read from the socket, hundreds of streams at little cost (the general ones take 3 to 20 times the CPU of a
bare socket for that), and, for a client that goes away, the say over how the socket ends.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import SplitResult, urlsplit

from ftharness.client.response import Body, Response

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, and nothing is waited for
# include/net/tcp_states.h, from 1 on.
_STATES = (
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
)


class Left(NamedTuple):
    """How a client ended its side of a connection.

    Attributes:
        at: CLOCK_MONOTONIC in ns of the socket's end, taken where it happened.
        how: For a person: what the client did.
        evidence: What shows it.
    """

    at: int
    how: str
    evidence: dict[str, Any]


class CannotLeave(Exception):  # noqa: N818 - says what is the case
    """A client of this kind cannot go away in this way; the message says which can."""


class ConnectionBroken(ConnectionError):  # noqa: N818 - says what happened
    """The connection ended before the response was complete, or what came is not HTTP."""


class ClientLeft(ConnectionBroken):
    """The client ended it."""

    def __init__(self, left: Left) -> None:
        super().__init__(f"the client {left.how}")
        self.left = left


class Connection(asyncio.Protocol):
    """Sends one request, and gives the response's body to ``on_body`` as it is read.

    Attributes:
        done: Ends when the body is complete; raises :class:`ConnectionBroken` when it never will be.
        read_ns: CLOCK_MONOTONIC of the last read.
    """

    def __init__(self, on_body: Body) -> None:
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = loop.create_future()
        self.read_ns = time.monotonic_ns()
        self._response = Response(on_body)
        self._leaving: Left | None = None  # what the client does, once it does
        self._resets = False
        self._transport: asyncio.Transport | None = None
        self._closed: asyncio.Future[int] = loop.create_future()

    @property
    def status(self) -> int | None:
        """The HTTP status, once the head has arrived."""
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The response's, names in lower case."""
        return self._response.headers

    @classmethod
    async def open(
        cls, url: str, method: str, path: str, *, headers: Mapping[str, str], body: bytes, on_body: Body
    ) -> Self:
        """Connect and send; returns when the request has been handed to the kernel.

        Raises:
            OSError: Nobody listens there.
        """
        parts = checked_url(url)
        loop = asyncio.get_running_loop()
        host, port = parts.hostname or "", parts.port or 80
        transport, connection = await loop.create_connection(lambda: cls(on_body), host, port)
        transport.write(request_bytes(parts, method, path, headers, body))
        return connection

    async def leave(self, how: str = "closed the connection", *, reset: bool = False) -> Left | None:
        """End the connection, whatever is still to come; returns when it is closed. None: it was over before.

        Args:
            how: What is told of it.
            reset: By an RST: what close(2) does with SO_LINGER of 0 s. Otherwise by a FIN.
        """
        if self._over:
            return None
        assert self._transport is not None
        sock, at = self._transport.get_extra_info("socket"), time.monotonic_ns()
        try:
            if _state(sock) != "ESTABLISHED":
                return None  # the server has ended it, and we have yet to read that
            evidence = {"local_port": sock.getsockname()[1]}
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            else:  # by itself, for after close(2) nobody can ask what became of it
                sock.shutdown(socket.SHUT_RDWR)
                evidence["socket"] = _state(sock)
        except OSError:
            return None  # the same, by a reset
        self._leaving, self._resets = Left(at, how, evidence), reset
        self._transport.abort()  # what is not sent yet is dropped; the loop closes the socket in its next turn
        # asyncio calls connection_lost just before close(2), and whoever awaits is called after both. Whoever is called off
        # meanwhile has left all the same.
        await asyncio.shield(self._closed)
        return self._leaving

    async def half_close(self) -> Left | None:
        """Say that nothing more will be asked (shutdown(2), SHUT_WR); the answer may still come. None: it was over before.

        Raises:
            CannotLeave: The request itself has not been sent yet.
        """
        if self._over:
            return None
        assert self._transport is not None
        if self._transport.get_write_buffer_size():
            raise CannotLeave("half a close was asked for before the whole request had been sent")
        sock, at = self._transport.get_extra_info("socket"), time.monotonic_ns()
        try:
            if _state(sock) != "ESTABLISHED":
                return None
            self._transport.write_eof()
        except OSError:
            return None
        evidence = {"local_port": sock.getsockname()[1], "socket": _state(sock)}
        return Left(at, "shut down its sending side", evidence)

    async def kill(self) -> Left | None:
        """Kill the process that has the socket. None: it was over before.

        Raises:
            CannotLeave: That is our own.
        """
        raise CannotLeave("the request was not sent by a process of its own: ask with own_process=True")

    async def close(self) -> None:
        """Let go of it, if it is not over; returns when nothing is left of it on our side."""
        if self._transport is not None:
            self._transport.abort()
            await asyncio.shield(self._closed)
        self._end(ConnectionBroken("closed"))

    @property
    def _over(self) -> bool:
        return bool(self.done.done() or self._leaving or self._closed.done())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's call."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Asyncio's call, right after the read: this is where a token gets its time."""
        self._take(data, time.monotonic_ns())

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's call, when the socket is closed: by us or by the server."""
        at = time.monotonic_ns()
        self._closed.set_result(at)
        if self._leaving is None:
            self._server_left(exc, at)
            return
        if self._resets:
            evidence = {**self._leaving.evidence, "socket": "closed with SO_LINGER 0"}
            self._leaving = self._leaving._replace(at=at, evidence=evidence)
        self._end(ClientLeft(self._leaving))

    def _take(self, data: bytes, at: int) -> None:
        self.read_ns = at
        if self.done.done():
            return
        try:
            self._response.feed(data, at)
        except ValueError as error:
            self._end(ConnectionBroken(f"what the server sent is not HTTP: {error}"))
        if self._response.complete:
            self._end(None)

    def _server_left(self, exc: Exception | None, at: int) -> None:
        """A body without a length ends here; every other one is broken."""
        if self.done.done():
            return
        if exc is None:
            self._response.end()
        if self._response.complete:
            self.read_ns = at  # what ends this body is read now; it may be what a fault brought about
            self._end(None)
            return
        why = f"{type(exc).__name__}: {exc}" if exc else "the server closed the connection"
        what = "before a response" if self.status is None else "in the middle of the response"
        self._end(ConnectionBroken(f"{why} {what}"))

    def _end(self, error: Exception | None) -> None:
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)
                self.done.exception()  # retrieved: nobody has to await a connection that was closed on purpose
        if self._transport is not None:
            self._transport.close()


def _state(sock: socket.socket) -> str:
    """What the kernel says of our end (tcp(7), TCP_INFO: its first byte)."""
    (number,) = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return _STATES[number - 1]


def request_bytes(url: SplitResult, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A whole request, after which the connection is not used again."""
    lines = [f"{method} {url.path.rstrip('/')}{path} HTTP/1.1", f"Host: {url.netloc}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def checked_url(url: str) -> SplitResult:
    """The parts of a base URL.

    Raises:
        ValueError: It is none that is served here.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise ValueError(f"{url}: only http://HOST:PORT")
    return parts
