"""A worker's status server: ``GET /health`` and ``GET /metrics`` on loopback, in the standard library."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping

#: Path -> (status, content type, body).
Page = Callable[[], Awaitable[tuple[int, str, str]]]

_REASONS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}
#: Seconds that a client may take for its request.
_PATIENCE_S = 10.0


class Counters:
    """What a worker counts since its start."""

    def __init__(self) -> None:
        self.received = 0
        self.finished = 0
        self.cancelled = 0
        self.seconds = 0.0  # in which the finished ones ran


def metrics_text(status: Mapping[str, int], counters: Counters, labels: Mapping[str, str]) -> str:
    """The worker's metrics as Prometheus text.

    Args:
        status: As :meth:`EngineChild.status` says it.
        counters: As the handler counts.
        labels: On every sample.
    """
    label = ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items())
    rows = [
        ("ftsim_slots_busy", "gauge", status["slots_busy"]),
        ("ftsim_slots_total", "gauge", status["slots_total"]),
        ("ftsim_queued", "gauge", status["queued"]),
        ("ftsim_kv_used", "gauge", status["kv_used"]),
        ("ftsim_generated_tokens_total", "counter", status["generated"]),
        ("ftsim_paused", "gauge", status["paused"]),
        ("dynamo_component_requests_total", "counter", counters.received),
        ("dynamo_component_cancellation_total", "counter", counters.cancelled),
    ]
    lines = [f"# TYPE {name} {kind}\n{name}{{{label}}} {value}" for name, kind, value in rows]
    duration = "dynamo_component_request_duration_seconds"
    lines += [
        f"# TYPE {duration} summary",
        f"{duration}_count{{{label}}} {counters.finished}",
        f"{duration}_sum{{{label}}} {counters.seconds:.6f}",
    ]
    return "\n".join(lines) + "\n"


async def serve_status(port: int, pages: Mapping[str, Page]) -> tuple[asyncio.Server, int]:
    """Serves ``pages`` on 127.0.0.1; a connection gets one answer.

    Args:
        port: 0 for any.
        pages: What to answer, by path.

    Returns:
        The server and its port.

    Raises:
        OSError: The port is in use.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _PATIENCE_S)
            path = head.split(b" ", 2)[1].decode("latin-1").partition("?")[0]
            status, kind, body = 404, "text/plain", "not found\n"
            if path in pages:
                status, kind, body = await pages[path]()
            payload = body.encode()
            writer.write(
                f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\n"
                f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n".encode()
            )
            writer.write(payload)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    return server, server.sockets[0].getsockname()[1]
