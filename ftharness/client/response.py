"""The response half of an HTTP/1.1 exchange, read from bytes as they come: where they come from is somebody else's."""

from collections.abc import Callable

_MAX_HEAD = 64 * 1024

Body = Callable[[bytes, int], None]


class Response:
    """Takes the bytes of one response, and gives its body to ``on_body`` piece by piece.

    Args:
        on_body: Called with each piece of the decoded body and CLOCK_MONOTONIC in ns of the read that brought it.

    Attributes:
        status: The HTTP status, once the head has arrived.
        headers: Names in lower case.
        complete: Whether the body has ended.
    """

    def __init__(self, on_body: Body) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.complete = False
        self._on_body = on_body
        self._buffer = b""
        self._at = 0
        self._state = self._head
        self._left: int | None = None  # bytes of the body or of the chunk; None: until the connection ends

    def feed(self, data: bytes, at: int) -> None:
        """More bytes, which were read at ``at`` (CLOCK_MONOTONIC, ns).

        Raises:
            ValueError: They are not HTTP.
        """
        self._buffer = self._buffer + data if self._buffer else data
        self._at = at
        while self._buffer and not self.complete and self._state():
            pass

    def end(self) -> None:
        """There are no more: a body without a length is complete with that, every other one is not."""
        if self._state == self._plain and self._left is None:
            self.complete = True

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
            self.complete = self._left == 0 or status in {204, 304}
        return True

    def _plain(self) -> bool:
        data, self._buffer = self._buffer, b""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        self._on_body(data, self._at)
        self.complete = self._left == 0
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
        self.complete = self._left == 0  # trailers, if any, tell us nothing
        self._state = self._chunk
        return True

    def _chunk(self) -> bool:
        assert self._left is not None
        data, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(data)
        self._on_body(data, self._at)
        if self._left == 0:
            self._state = self._size
        return True
