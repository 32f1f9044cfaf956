"""What our frontends have in common towards their clients: the server, request ids, errors, the list of models."""

import asyncio
import contextlib
import re
import signal
import socket
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_request import Refusal
from ftharness.http_server import BACKLOG, HttpServer

#: Seconds that an idle connection is kept. Clients reuse connections, and one that closes under a request is a failure.
_KEEP_ALIVE_S = 600
#: A client's X-Request-Id goes into log lines: nothing that could forge one.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CREATED = 1_700_000_000  # a model's birthday; it is not asked for


class _Server(HttpServer):
    """Ends by our signal handlers, at once and with status 0, rather than by a flag that is looked at now and then."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """SIGTERM and SIGINT: no new requests, what runs may end; a second one ends it now."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        yield

    def stop(self) -> None:
        """The first time no new requests; the second time no more of those that run."""
        self.force_exit = self.should_exit
        super().stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """At once where nobody is connected; otherwise as ever, which takes a tenth of a second at least."""
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
        else:
            for server in self.servers:
                server.close()


def listening_socket(fd: int | None, host: str, port: int) -> socket.socket:
    """The socket that was inherited as ``fd``, or one of our own.

    Raises:
        OSError: Nothing can listen there.
    """
    if fd is not None:
        sock = socket.socket(fileno=fd)
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            sock.close()
            raise
    sock.listen(BACKLOG)
    return sock


async def serve(application: Starlette, sock: socket.socket) -> None:
    """Answers until SIGTERM or SIGINT; what runs then may end, unless it is told a second time."""
    await _Server(application, parser="h11", keep_alive_s=_KEEP_ALIVE_S).serve(sockets=[sock])


def run(serving: Coroutine[Any, Any, None], model: str) -> int:
    """The whole of a frontend's process; its exit status."""
    try:
        asyncio.run(serving)
    except OSError as error:
        FrontendLog(model).error(f"cannot listen: {error}")
        return 1
    return 0


_Endpoint = Callable[[Request], Awaitable[Response]]


def application(
    *, completions: _Endpoint, chat: _Endpoint, models: _Endpoint, health: _Endpoint, metrics: Callable[[], bytes]
) -> Starlette:
    """The endpoints that a frontend has."""

    async def measured(request: Request) -> Response:
        del request
        return Response(metrics(), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
            Route("/metrics", measured),
        ],
        exception_handlers={Refusal: _refused, HTTPException: _http_error},
    )


class RequestIds:
    """The ids of the requests that run: none is another's."""

    def __init__(self) -> None:
        self._active: set[str] = set()

    def take(self, request: Request) -> str:
        """The client's X-Request-Id if it is sound, else one of ours. One that is in use gets an ending."""
        request_id = request.headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = str(uuid.uuid4())
        elif request_id in self._active:
            request_id = f"{request_id}.{uuid.uuid4().hex[:8]}"
        self._active.add(request_id)
        return request_id

    def over(self, request_id: str) -> None:
        """That request has ended, however."""
        self._active.discard(request_id)


def models(model: str, *, serves: bool) -> Response:
    """The body of ``/v1/models``: the one model, while somebody serves it."""
    card = {"id": model, "object": "model", "created": _CREATED, "owned_by": "ftharness"}
    return JSONResponse({"object": "list", "data": [card] if serves else []})


def health(instances: list[dict[str, Any]], *, serves: bool, bug: str = "") -> Response:
    """The body of ``/health``: who is there, and whether requests are served. ``bug``: a planted one's name, or nothing."""
    status = "healthy" if serves else "unhealthy"
    code = 200 if serves or bug == "always-healthy" else 404 if bug == "health-not-found" else 503
    return JSONResponse({"status": status, "instances": instances}, code)


async def _refused(request: Request, error: Exception) -> Response:
    """How a :class:`Refusal` is answered."""
    del request
    assert isinstance(error, Refusal)
    return JSONResponse(error.body(), error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    """How a request for what is not here is answered."""
    assert isinstance(error, HTTPException)
    refusal = Refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    return JSONResponse(refusal.body(), error.status_code)
