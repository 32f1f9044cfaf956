"""A port of this machine that is a port of a pod: one websocket a connection, on loopback only."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ftharness.k8s.api import ApiError
from ftharness.k8s.container import Place
from ftharness.k8s.guard import Guard, Refused
from ftharness.k8s.needs import needed

_READ = 1 << 16
_DATA, _ERROR = 0, 1


class Forward:
    """Listens on 127.0.0.1 and carries each connection to the pod that ``where`` names at that moment.

    A connection ends when either side does. A client's half close is a close: a websocket has no other.

    Args:
        guard: Lets through what concerns this run's pods.
        where: The pod now; None while there is none, which resets the connection.
        remote_port: In the pod.
    """

    def __init__(self, guard: Guard, where: Callable[[], Place | None], remote_port: int) -> None:
        self._guard = guard
        self._where = where
        self._remote_port = remote_port
        self._server: asyncio.Server | None = None
        self._carrying: set[asyncio.Task[None]] = set()

    async def start(self, port: int) -> None:
        """Listen.

        Raises:
            OSError: The port cannot be had.
        """
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port)

    async def stop(self) -> None:
        """Listen no more, and end what is carried."""
        if self._server is not None:
            self._server.close()
        for task in self._carrying:
            task.cancel()
        if self._carrying:
            await asyncio.wait(self._carrying)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = self._where()
        try:
            if place is None:
                writer.transport.abort()
                return
            async with self._guard.forward(place.pod, place.uid, self._remote_port) as socket:
                ways = {asyncio.ensure_future(_up(reader, socket)), asyncio.ensure_future(_down(socket, writer))}
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.wait(ways)
                for way in ways:
                    if not way.cancelled():
                        way.exception()  # how it ended is the same to the client: its connection is closed
        except (ApiError, Refused):
            writer.transport.abort()  # what the client then sees is what there is: nobody to talk to
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _up(reader: asyncio.StreamReader, socket: Any) -> None:
    with suppress(OSError, needed("httpx_ws").HTTPXWSException):
        while data := await reader.read(_READ):
            await socket.send_bytes(bytes([_DATA]) + data)


async def _down(socket: Any, writer: asyncio.StreamWriter) -> None:
    begun: set[int] = set()
    with suppress(OSError, needed("httpx_ws").HTTPXWSException):
        while True:
            message = await socket.receive_bytes()
            channel = message[0]
            if channel not in begun:  # each channel begins with the port's number
                begun.add(channel)
            elif channel == _ERROR:
                return
            else:
                writer.write(message[1:])
                await writer.drain()
