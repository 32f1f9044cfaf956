"""The HTTP server in the manager's own event loop."""

import contextlib
import socket
from collections.abc import Iterator

from starlette.types import ASGIApp

from ftharness.http_server import BACKLOG, HttpServer
from ftharness.pool.open_files import in_one_go
from ftharness.pool.patience import Patient

#: Seconds that a connection is kept on which there is no request: those who place work are usually idle for less between two
#: leases.
IDLE_S = 75
#: And that calls which are under way get to end, when the manager does.
_LAST_CALLS_S = 2


class Server(HttpServer):
    """Answers until it is told to stop; signals are the caller's, who has more to end than this.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        burst = min(BACKLOG, in_one_go())
        super().__init__(app, parser=Patient, keep_alive_s=IDLE_S, last_calls_s=_LAST_CALLS_S, burst=burst)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield


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
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror, f"{host} port {port}") from error
    return sock


def url_of(sock: socket.socket) -> str:
    """Where it is reached."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
