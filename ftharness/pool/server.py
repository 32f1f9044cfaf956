"""The HTTP server in the manager's own event loop."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

#: Connections that may wait to be accepted.
_BACKLOG = 1024
#: Seconds that an idle connection is kept: longer than those who place work are usually idle between two leases.
_KEEP_ALIVE_S = 75
#: And that calls which are under way get to end, when the manager does.
_LAST_CALLS_S = 2


class Server(uvicorn.Server):
    """Answers until it is told to stop; signals are the caller's, who has more to end than this.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        # With httptools, which the extra brings, its parser; else h11, which takes half as many calls a second.
        config = uvicorn.Config(
            app,
            loop="none",
            http="auto",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_LAST_CALLS_S,
        )
        super().__init__(config)
        self._told = asyncio.Event()

    def stop(self) -> None:
        """No new calls; those under way may end."""
        self.should_exit = True
        self._told.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield

    async def main_loop(self) -> None:
        """Until it is told to stop, rather than looking each 100 ms whether it was."""
        await self._told.wait()


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        OSError: None can.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror, f"{host} port {port}") from error
    return sock


def url_of(sock: socket.socket) -> str:
    """Where it is reached."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
