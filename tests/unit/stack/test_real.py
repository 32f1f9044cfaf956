"""When real servers, and what stands before them, may be asked."""

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ftharness.stack.real import knows_all

# As smg 1.13.0 answered: it had looked before the second server was up.
WITH_ONE = {"status": "ready", "healthy_workers": 1, "total_workers": 1}
WITH_BOTH = {"status": "ready", "healthy_workers": 2, "total_workers": 2}


class Gateway(http.server.ThreadingHTTPServer):
    """Answers every GET with what it is told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.says: dict[str, Any] = WITH_ONE
        self.asked = threading.Semaphore(0)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        body = json.dumps(self.server.says).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.asked.release()

    def log_message(self, *args: object) -> None:
        """Nowhere."""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """One that serves."""
    with Gateway() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_a_gateway_that_knows_one_of_two_servers_is_not_ready(gateway: Gateway) -> None:
    """It says that it is; whoever believed it would test a stack of one."""
    url = f"http://127.0.0.1:{gateway.server_port}"
    waiting = asyncio.create_task(knows_all(url, 2).met(None, None))  # type: ignore[arg-type]  # it asks nobody else
    for _ in range(2):  # the answer to the first has been read once the second is asked for
        assert await asyncio.to_thread(gateway.asked.acquire, timeout=20)
    assert not waiting.done()
    gateway.says = WITH_BOTH
    await asyncio.wait_for(waiting, 20)
