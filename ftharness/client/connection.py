"""One HTTP/1.1 exchange on a connection of its own.

Not a general client. It exists because a fault-injection client needs what those hide: the time at which the bytes of a
token were read from the socket, hundreds of streams at little cost (the general ones take 3 to 20 times the CPU of a
bare socket for that), and, for a client that goes away, the say over how the socket ends.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

_MAX_HEAD = 64 * 1024


class ConnectionBroken(ConnectionError):  # noqa: N818 - says what happened
    """The connection ended before the response was complete, or what came is not HTTP."""


Body = Callable[[bytes, int], None]


class Connection(asyncio.Protocol):
    """Sends one request, and gives the response's body to ``on_body`` as it is read.

    Args:
        on_body: Called with each piece of the decoded body and CLOCK_MONOTONIC in ns of the read that brought it.

    Attributes:
        status: The HTTP status, once the head has arrived.
        headers: The response's, names in lower case.
        done: Ends when the body is complete; raises :class:`ConnectionBroken` when it never will be.
        read_ns: CLOCK_MONOTONIC of the last read.
    """

    def __init__(self, on_body: Body) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.read_ns = time.monotonic_ns()
        self._on_body = on_body
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._state = self._head
        self._left: int | None = None  # bytes of the body or of the chunk; None: until the connection ends

    @classmethod
    async def open(
        cls, url: str, method: str, path: str, *, headers: Mapping[str, str], body: bytes, on_body: Body
    ) -> "Connection":
        """Connect and send; returns when the request has been handed to the kernel.

        Raises:
            OSError: Nobody listens there.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"{url}: only http://HOST:PORT")
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(lambda: cls(on_body), parts.hostname, parts.port or 80)
        lines = [f"{method} {parts.path.rstrip('/')}{path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        transport.write("\r\n".join(lines).encode("latin-1") + body)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's call."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Asyncio's call, right after the read: this is where a token gets its time."""
        self.read_ns = time.monotonic_ns()
        if self.done.done():
            return
        self._buffer = self._buffer + data if self._buffer else data
        try:
            while self._buffer and not self.done.done() and self._state():
                pass
        except ValueError as error:
            self._end(ConnectionBroken(f"what the server sent is not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's call: a body without a length ends here; every other one is broken."""
        if self.done.done():
            return
        if exc is None and self._state == self._plain and self._left is None:
            self.read_ns = time.monotonic_ns()  # what ends this body is read now; it may be what a fault brought about
            self._end(None)
        else:
            why = f"{type(exc).__name__}: {exc}" if exc else "the server closed the connection"
            what = "before a response" if self.status is None else "in the middle of the response"
            self._end(ConnectionBroken(f"{why} {what}"))

    def close(self) -> None:
        """Close the socket, as a client does that goes away (FIN)."""
        if self._transport is not None:
            self._transport.close()
        self._end(ConnectionBroken("closed by the client"))

    def _end(self, error: Exception | None) -> None:
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)
                self.done.exception()  # retrieved: nobody has to await a connection that was closed on purpose
        if self._transport is not None:
            self._transport.close()

    # Each state takes what it can from the buffer, and returns whether it is worth calling the next one.

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise ValueError(f"no end of the headers within {_MAX_HEAD} bytes")
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        self._buffer = self._buffer[end + 4 :]
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(f"{first[:80]!r}")
        status = int(rest[:3])
        if 100 <= status < 200:  # noqa: PLR2004 - an interim response: the real one follows
            return True
        self.status = status
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._state = self._size
        else:
            self._state = self._plain
            length = self.headers.get("content-length")
            self._left = None if length is None else int(length)
            if self._left == 0 or status in {204, 304}:
                self._end(None)
        return True

    def _plain(self) -> bool:
        data, self._buffer = self._buffer, b""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        self._on_body(data, self.read_ns)
        if self._left == 0:
            self._end(None)
        return False

    def _size(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        line = self._buffer[:end]
        self._buffer = self._buffer[end + 2 :]
        if not line:  # the end of the chunk before
            return True
        self._left = int(line.partition(b";")[0], 16)
        if self._left == 0:
            self._end(None)  # trailers, if any, tell us nothing
            return False
        self._state = self._chunk
        return True

    def _chunk(self) -> bool:
        assert self._left is not None
        data, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(data)
        self._on_body(data, self.read_ns)
        if self._left == 0:
            self._state = self._size
        return True
