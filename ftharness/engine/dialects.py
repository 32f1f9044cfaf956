"""The engines' log lines: each engine's handlers say the same thing in their own words.

The receipt and abort lines are those that the real handlers print (so the same contract reads both); the others are in
their manner. One line a time, whole, unbuffered, on standard error, under the request's own id.
"""

import os
import time
from typing import NamedTuple


class Dialect(NamedTuple):
    """The words of one engine's handlers, after the timestamp, level and logger.

    Attributes:
        logger: The module that speaks.
        received: Per role, the line that a request's arrival prints.
        finished: The line that its end prints.
        engine: What the engine child is called.
    """

    logger: str
    received: dict[str, str]
    finished: str
    engine: str


DIALECTS = {
    "vllm": Dialect(
        logger="handlers",
        received={
            "aggregated": "New Request ID: {request}",
            "prefill": "Prefill Request ID: {request}",
            "decode": "Decode Request ID: {request}",
        },
        finished="Finished Request ID: {request}",
        engine="EngineCore",
    ),
    "sglang": Dialect(
        logger="handler_base",
        received=dict.fromkeys(("aggregated", "prefill", "decode"), "New SGLang Request ID: {request}"),
        finished="Finished SGLang Request ID: {request}",
        engine="Scheduler",
    ),
    "trtllm": Dialect(
        logger="aggregated_handler",
        received={
            "aggregated": "AggregatedHandler Request ID: {request}",
            "prefill": "Prefill Request ID: {request}",
            "decode": "Decode Request ID: {request}",
        },
        finished="Finished Request ID: {request}",
        engine="MPI rank 0",
    ),
}


def write_line(level: str, logger: str, message: str) -> None:
    """One line on standard error, in one write: ``2026-01-31T12:00:00.123456Z  INFO handlers.generate: …``."""
    now = time.time_ns()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
    text = message.replace("\r", "\\r").replace("\n", "\\n")
    data = f"{stamp}.{now // 1000 % 1_000_000:06d}Z {level:>5} {logger}: {text}\n".encode("utf-8", "replace")
    try:
        os.write(2, data)
    except BrokenPipeError:
        return  # whoever read it is gone; the stack is not to fail of that


class HandlerLog:
    """What a worker's handler logs: one method an event."""

    def __init__(self, engine: str, role: str = "aggregated") -> None:
        self._words = DIALECTS[engine]
        self._role = role

    def _write(self, level: str, function: str, message: str) -> None:
        write_line(level, f"{self._words.logger}.{function}", message)

    def listening(self, port: int) -> None:
        """The status server accepts connections."""
        self._write("INFO", "init", f"Starting status server on 127.0.0.1:{port}")

    def awaiting_peers(self, port: int) -> None:
        """The workers of the other phase can connect."""
        self._write("INFO", "peers", f"Awaiting other workers on 127.0.0.1:{port}")

    def engine_started(self, pid: int) -> None:
        """The engine child runs."""
        self._write("INFO", "init", f"{self._words.engine} started pid={pid}")

    def ready(self, worker: str, model: str) -> None:
        """The worker is registered and serves."""
        self._write("INFO", "init", f"Worker {worker} is ready, serving {model}")

    def received(self, request_id: str) -> None:
        """A request came in."""
        self._write("DEBUG", "generate", self._words.received[self._role].format(request=request_id))

    def phase(self, request_id: str, phase: str) -> None:
        """The engine moved a request to ``queued``, ``prefill``, ``kv_transfer`` or ``decode``."""
        self._write("DEBUG", "generate", f"Request ID: {request_id} phase={phase}")

    def finished(self, request_id: str) -> None:
        """A request ended as it should."""
        self._write("DEBUG", "generate", self._words.finished.format(request=request_id))

    def aborted(self, request_id: str) -> None:
        """The engine gave a request up: its slot and its KV blocks are free."""
        self._write("DEBUG", "_monitor_abort", f"Aborted Request ID: {request_id}")

    def remote_aborted(self, request_id: str) -> None:
        """A request was given up in the other phase's worker."""
        self._write("DEBUG", "_monitor_abort", f"Aborted Remote Request ID: {request_id}")

    def lost(self, request_id: str, reason: str) -> None:
        """A request cannot go on without the other phase's worker."""
        self._write("WARN", "generate", f"Lost Request ID: {request_id}: {reason}")

    def released(self, request_id: str, reason: str) -> None:
        """A KV that was held is free again: whom it was for is gone."""
        self._write("WARN", "generate", f"Released KV of Request ID: {request_id}: {reason}")

    def draining(self, running: int, drain_s: float) -> None:
        """No new requests; those that run may end within ``drain_s`` seconds."""
        self._write("INFO", "graceful_shutdown", f"Draining, {running} requests running, at most {drain_s:g} s")

    def drained(self, running: int) -> None:
        """The drain is over, with so many requests left behind."""
        self._write("INFO", "graceful_shutdown", f"Drained, {running} requests left")

    def engine_died(self, reason: str) -> None:
        """The engine child is gone, and the worker goes too."""
        self._write("ERROR", "engine_monitor", f"{self._words.engine} died: {reason}")

    def plane_lost(self, reason: str) -> None:
        """The connection to the frontend is gone."""
        self._write("WARN", "plane", f"Connection to the frontend lost: {reason}")

    def peer_lost(self, worker: str, reason: str) -> None:
        """The connection to another worker is gone."""
        self._write("WARN", "peers", f"Connection to worker {worker} lost: {reason}")

    def error(self, message: str) -> None:
        """Anything else that ends a worker."""
        self._write("ERROR", "main", message)
