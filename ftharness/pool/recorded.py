"""Each call of the HTTP API in the log and the metrics, with how it ended."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftharness.pool.log_events import Log
from ftharness.pool.metrics import OTHER, PoolMetrics

#: Where in a call's scope its endpoint's name stands: a path is no label, whoever calls can make one up.
CALL = "ftharness.call"


class Recorded:
    """ASGI: counts, measures and logs what it passes on.

    Args:
        app: What answers.
        metrics: What counts.
        log: What is told.
    """

    def __init__(self, app: ASGIApp, metrics: PoolMetrics, log: Log) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        what = {"method": scope["method"], "path": scope["path"]}
        try:
            await self._app(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - the caller has its 500; one call's mistake is not the manager's end
            self._log.event("request_failed", **what, reason=f"{type(error).__name__}: {error}")
        finally:
            took = time.perf_counter() - began
            self._metrics.called(scope.get(CALL, OTHER), status, took)
            self._log.event("request", **what, status=status, duration_ms=round(took * 1000, 3))
