"""A worker's connection to the frontend, or to another worker: JSON, a message a line, over TCP on loopback."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Protocol, cast


class Party(Protocol):
    """Who takes what is said of a request: the other end of a link, or the one who asked in this very process.

    Attributes:
        name: Who it is.
    """

    name: str

    def send(self, **message: object) -> None:
        """One message to it."""


class Link(asyncio.Protocol):
    """One connection. What is sent before it is made waits for it; what is sent after its end is lost, as it would be.

    Attributes:
        name: Who is at the other end; empty until that is known.
    """

    def __init__(
        self, name: str, receive: Callable[["Link", dict[str, Any]], None], lost: Callable[["Link", str], None]
    ) -> None:
        self.name = name
        self._receive = receive
        self._tell_lost = lost
        self._partial = b""
        self._waiting: list[bytes] = []
        self._ended = False
        self._transport: asyncio.WriteTransport | None = None

    def send(self, **message: object) -> None:
        """One line to the other end."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        if self._transport is not None:
            self._transport.write(line)
        elif not self._ended:
            self._waiting.append(line)

    async def dial(self, host: str, port: int) -> None:
        """Connects.

        Raises:
            OSError: Nobody listens there.
        """
        await asyncio.get_running_loop().create_connection(lambda: self, host, port)

    def close(self) -> None:
        """Ends it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there: what waited goes first."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._transport.writelines(self._waiting)
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        """Some lines; a line may be split."""
        *complete, self._partial = (self._partial + data).split(b"\n")
        for line in complete:
            self._receive(self, json.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        """Whichever end it was."""
        self._ended, self._transport = True, None
        self._tell_lost(self, str(exc or "closed"))
