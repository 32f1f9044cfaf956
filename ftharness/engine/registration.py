"""A worker's place at its frontend: it dials the plane, says who it is, and does so again when the frontend was lost."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ftharness.engine.link import Link

#: Seconds between two dials of a plane that refuses.
_REDIAL_S = 0.05


class Registration:
    """The connection to the plane, whichever it is at the moment.

    Args:
        host: Where the frontend awaits its workers.
        port: The same.
        deadline_s: How long a frontend may be away.
        receive: Gets what it says.
        lost: Hears that a connection is gone, and why.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        deadline_s: float,
        receive: Callable[[Link, dict[str, Any]], None],
        lost: Callable[[Link, str], None],
    ) -> None:
        self._host = host
        self._port = port
        self._deadline_s = deadline_s
        self._receive = receive
        self._tell_lost = lost
        self._link: Link | None = None

    async def keep(self, hello: Mapping[str, object]) -> str:
        """Stays registered until the frontend has been away for longer than the deadline; says how that shows.

        Args:
            hello: Who the worker is.
        """
        loop = asyncio.get_running_loop()
        away_since = loop.time()
        while True:
            try:
                await self._once(hello)
            except OSError as error:
                if loop.time() - away_since > self._deadline_s:
                    return f"no frontend at {self._host}:{self._port}: {error}"
            else:
                away_since = loop.time()
            await asyncio.sleep(_REDIAL_S)

    def send(self, **message: object) -> None:
        """One line to the frontend, if there is one."""
        if self._link is not None:
            self._link.send(**message)

    def close(self) -> None:
        """Ends the lease."""
        if self._link is not None:
            self._link.close()

    async def _once(self, hello: Mapping[str, object]) -> None:
        """One connection, to its end.

        Raises:
            OSError: There is no frontend.
        """
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def end(link: Link, reason: str) -> None:
            del link
            if not lost.done():  # the worker's own end cancels it
                lost.set_result(reason)

        link = Link("frontend", self._receive, end)
        await link.dial(self._host, self._port)
        self._link = link
        link.send(op="hello", **hello)
        reason = await lost
        self._link = None
        self._tell_lost(link, reason)
