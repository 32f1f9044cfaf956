"""Clients that connect and say nothing, or half of it: they cost the manager a file each, and its engines need some, too.

A connection on which a request is not whole within some seconds is closed, and so is one beyond those that there is room for.
Between two requests it may be idle for longer, as the server says.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ftharness.pool.open_files import for_connections

#: Seconds from a request's first byte to its last, of head and body; of the first one, from the connection on.
REQUEST_S: Final = 10.0


class Patient(HttpToolsProtocol):
    """uvicorn's side of one connection, with bounds: uvicorn itself waits for ever for the rest of a request."""

    _timer: asyncio.TimerHandle | None = None
    _is_due = True  # a request is: the first one, or one that has begun

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for the first request, if there is room."""
        super().connection_made(transport)
        if len(self.connections) > for_connections():
            transport.abort()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest, where that is not all."""
        super().data_received(data)
        if self._is_due:
            if self._timer is None:
                self._wait()
        elif self.timeout_keep_alive_task is None and self.cycle.response_complete and not self.transport.is_closing():
            # What came was the rest of a request that was answered before, or an empty line: uvicorn has taken it for the
            # next request, and has stopped its own clock.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_message_begin(self) -> None:
        """The parser has seen a request's first byte."""
        super().on_message_begin()
        self._is_due = True

    def on_message_complete(self) -> None:
        """And its last."""
        super().on_message_complete()
        self._is_due = False
        if self._timer is not None:  # most requests come in one piece
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing comes any more."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(REQUEST_S, self._is_late)

    def _is_late(self) -> None:
        # Behind requests that wait for their turn nothing is read: the rest may well be there.
        if self.flow.read_paused:
            self._wait()
        else:
            self.transport.abort()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
