"""What our HTTP servers have in common: uvicorn in a loop that is already there, without logs, headers and looks of its own."""

import asyncio
import socket
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

#: Connections that may wait to be accepted: a burst of streams is opened at once.
BACKLOG = 1024


class HttpServer(uvicorn.Server):
    """Answers until it is told to stop, rather than looking each 100 ms whether it was.

    Args:
        app: What answers.
        parser: What is made of a connection's bytes: ``h11``, or a class of one's own.
        keep_alive_s: Seconds that an idle connection is kept.
        last_calls_s: Seconds that calls under way get to end; None: as long as they take.
        burst: Connections that are accepted in one go, before the first of them is looked at.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        parser: Literal["h11"] | type[asyncio.Protocol],
        keep_alive_s: int,
        last_calls_s: int | None = None,
        burst: int = BACKLOG,
    ) -> None:
        config = uvicorn.Config(
            app,
            loop="none",
            http=parser,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=burst,  # asyncio's word for both; how many wait is set once it listens
            timeout_keep_alive=keep_alive_s,
            timeout_graceful_shutdown=last_calls_s,
        )
        super().__init__(config)
        self._told = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        for sock in sockets or ():
            sock.listen(BACKLOG)

    def stop(self) -> None:
        """No new calls; those under way may end."""
        self.should_exit = True
        self._told.set()

    async def main_loop(self) -> None:
        """Until it is told to stop."""
        await self._told.wait()
