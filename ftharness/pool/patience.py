"""Clients that connect and say nothing: they cost the manager a file each, and its engines need some, too.

A connection that has not asked anything whole within some seconds is closed, and so is one beyond those that there is room for.
"""

import asyncio
from typing import Any, Final

#: Seconds from a connection to the end of its first request's head.
HEAD_S: Final = 10.0
_HEAD_ENDS = b"\r\n\r\n"


def patient(protocol: type[asyncio.Protocol], connections: "set[Any]", most: int) -> type[asyncio.Protocol]:
    """That protocol of an HTTP server, with bounds.

    Args:
        protocol: The server's.
        connections: Those that there are: the server's own set.
        most: Connections at once.
    """

    class Patient(protocol):  # type: ignore[valid-type,misc]  # a class that is only known here
        _timer: asyncio.TimerHandle | None = None
        _last = b""

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(connections) > most:
                transport.abort()
                return
            self._timer = asyncio.get_running_loop().call_later(HEAD_S, transport.abort)

        def data_received(self, data: bytes) -> None:
            if self._timer is not None:
                self._last = self._last[1 - len(_HEAD_ENDS) :] + data
                if _HEAD_ENDS in self._last:
                    self._stop()
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Patient
