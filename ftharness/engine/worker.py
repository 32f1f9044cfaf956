"""A worker of the simulated stack: the handler process between the frontend and its engine child.

It dials the frontend's plane (TCP on loopback, JSON lines, many requests on one connection). The connection is the
lease: when it goes, the worker is gone for the frontend, at once and without a word.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
from typing import Any, cast

from ftharness.engine.dialects import HandlerLog
from ftharness.engine.engine_child import EngineChild, EngineDied, Made
from ftharness.engine.settings import EngineSettings, add_worker_arguments, settings_of
from ftharness.engine.status import Counters, Page, metrics_text, serve_status

#: Seconds between two dials of a plane that refuses.
_REDIAL_S = 0.05
#: Seconds by which a planted bug is late.
_STALL_S = 3.0


class _Link(asyncio.Protocol):
    """One connection to the plane."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._partial = b""
        self.transport: asyncio.WriteTransport
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)

    def send(self, **message: object) -> None:
        """One line to the frontend."""
        self.transport.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def data_received(self, data: bytes) -> None:
        *complete, self._partial = (self._partial + data).split(b"\n")
        for line in complete:
            self._worker.on_message(json.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(str(exc or "closed"))


class Worker:
    """The handler: takes requests from the plane, gives them to the engine, passes on what it makes."""

    def __init__(self, arguments: argparse.Namespace, settings: EngineSettings) -> None:
        self._name: str = arguments.name
        self._model: str = arguments.model
        self._role: str = arguments.role
        self._drain_s: float = arguments.drain_s
        self._plane_deadline_s: float = arguments.plane_deadline_s
        self._host, _, port = arguments.plane.rpartition(":")
        self._port = int(port)
        self._status_port: int = arguments.status_port
        self._seed: int = arguments.seed
        self._settings = settings
        self._log = HandlerLog(settings.engine, self._role)
        self._counters = Counters()
        self._running: dict[str, float] = {}  # request id -> loop time of its arrival
        self._resumed: set[str] = set()  # those that another worker had before
        self._stopped: set[str] = set()  # those that ended by a stop string: no cancellation
        self._engine: EngineChild
        self._link: _Link | None = None
        self._registered = False
        self._draining = False
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[int] = self._loop.create_future()

    async def run(self) -> int:
        """Serves until a signal, the engine's death or a frontend that stays away; the exit status."""
        for number, handler in ((signal.SIGTERM, self._drain), (signal.SIGINT, self._quit)):
            self._loop.add_signal_handler(number, handler)
        try:
            self._engine = await EngineChild.start(self._settings, on_tokens=self._on_tokens, on_phase=self._log.phase)
        except EngineDied as death:
            self._log.engine_died(str(death))
            return 1
        self._log.engine_started(self._engine.pid)
        pages: dict[str, Page] = {"/health": self._health, "/metrics": self._metrics}
        try:
            server, port = await serve_status(self._status_port, pages)
        except OSError as error:
            self._log.error(f"cannot serve status on 127.0.0.1:{self._status_port}: {error}")
            await self._engine.stop()
            return 1
        self._log.listening(port)
        self._engine.died.add_done_callback(self._on_engine_died)
        dialling = asyncio.create_task(self._keep_registered())
        status = await self._end
        dialling.cancel()
        if self._link is not None:
            self._link.transport.close()
        server.close()
        if not self._engine.died.done():
            await self._engine.stop()
        return status

    async def _keep_registered(self) -> None:
        """Dials, and dials again when the frontend is lost, until it stays away for longer than the deadline."""
        away_since = self._loop.time()
        while True:
            try:
                _, link = await self._loop.create_connection(lambda: _Link(self), self._host, self._port)
            except OSError as error:
                if self._loop.time() - away_since > self._plane_deadline_s:
                    self._log.error(f"no frontend at {self._host}:{self._port}: {error}")
                    self._finish(1)
                    return
                await asyncio.sleep(_REDIAL_S)
                continue
            self._link = link
            link.send(op="hello", worker=self._name, role=self._role, model=self._model, engine=self._settings.engine)
            reason = await link.lost
            self._link, self._registered, away_since = None, False, self._loop.time()
            self._log.plane_lost(reason)
            for request_id in self._running:  # nobody is left to read them
                self._engine.abort(request_id)
            await asyncio.sleep(_REDIAL_S)

    def on_message(self, message: dict[str, Any]) -> None:
        """One line of the frontend's."""
        if message["op"] == "generate":
            self._generate(message)
        elif message["op"] == "cancel":
            if not message["kill"] and message["id"] in self._running:  # otherwise it has ended: nothing follows
                self._stopped.add(message["id"])
            self._engine.abort(message["id"])
        elif message["op"] == "welcome":
            self._registered = True
            self._log.ready(self._name, self._model)
            if self._draining:  # SIGTERM came while we dialled
                self._send(op="draining")
        else:
            self._log.error(f"the frontend refuses this worker: {message.get('reason')}")
            self._finish(1)

    def _generate(self, message: dict[str, Any]) -> None:
        request_id = message["id"]
        if self._draining:
            self._send(op="refused", id=request_id, reason="draining")
            return
        resumed = message.get("attempt", 0) > 0
        seed = message.get("seed", self._seed)
        try:
            self._engine.submit(request_id, message["token_ids"], message["max_tokens"], seed, resumed=resumed)
        except (ValueError, EngineDied) as error:
            self._send(op="refused", id=request_id, reason=str(error))
            return
        self._send(op="accepted", id=request_id)
        self._log.received(request_id)
        self._running[request_id] = self._loop.time()
        self._counters.received += 1
        if resumed:
            self._resumed.add(request_id)

    def _send(self, **message: object) -> None:
        if self._link is not None:
            self._link.send(**message)

    def _on_tokens(self, batch: list[Made]) -> None:
        if self._draining and self._settings.bug == "stall-in-drain":
            self._loop.call_later(_STALL_S, self._pass_on, batch)
        else:
            self._pass_on(batch)

    def _pass_on(self, batch: list[Made]) -> None:
        ended = [made for made in batch if made[2] is not None]
        self._send(op="tokens", batch=batch)  # aborts too: the frontend then knows that no more comes of those
        for request_id, _, reason in ended:
            self._ended(request_id, str(reason))

    def _ended(self, request_id: str, reason: str) -> None:
        started = self._running.pop(request_id)
        if reason == "abort" and request_id not in self._stopped:
            self._counters.cancelled += 1
            self._log.aborted(request_id)
        else:
            self._counters.finished += 1
            self._counters.seconds += self._loop.time() - started
            self._log.finished(request_id)
        self._stopped.discard(request_id)
        if self._settings.bug == "crash-after-success" and request_id in self._resumed and reason == "length":
            os._exit(3)
        self._resumed.discard(request_id)
        if self._draining and not self._running:
            self._drained()

    def _drain(self) -> None:
        """SIGTERM: takes nothing new, finishes what it has within the drain time. A second one ends it at once."""
        if self._draining:
            self._quit()
            return
        self._draining = True
        self._log.draining(len(self._running), self._drain_s)
        if self._settings.bug == "false-abort":
            for request_id in self._running:
                self._log.aborted(request_id)
        self._send(op="draining")
        if self._running:
            self._loop.call_later(self._drain_s, self._drained)
        else:
            self._drained()

    def _drained(self) -> None:
        if not self._end.done():
            self._log.drained(len(self._running))
            self._finish(7 if self._settings.bug == "wrong-exit" else 0)

    def _quit(self) -> None:
        """SIGINT: the same without the drain."""
        self._draining = True
        self._drained()

    def _on_engine_died(self, died: "asyncio.Future[int]") -> None:
        if self._end.done():
            return
        code = died.result()
        self._log.engine_died(signal.Signals(-code).name if code < 0 else f"exit status {code}")
        self._finish(1)

    def _finish(self, status: int) -> None:
        if not self._end.done():
            self._end.set_result(status)

    async def _health(self) -> tuple[int, str, str]:
        state = "draining" if self._draining else "ready" if self._registered else "starting"
        body = {"status": state, "worker": self._name, "role": self._role, "running": len(self._running)}
        return (200 if state == "ready" else 503), "application/json", json.dumps(body) + "\n"

    async def _metrics(self) -> tuple[int, str, str]:
        try:
            status = await self._engine.status()
        except (TimeoutError, EngineDied) as error:
            return 503, "text/plain", f"{error}\n"
        labels = {"worker": self._name, "model": self._model, "dynamo_endpoint": "generate"}
        return 200, "text/plain; version=0.0.4", metrics_text(status, self._counters, labels)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="worker", description=__doc__)
    parser.add_argument("--plane", required=True, metavar="HOST:PORT", help="where the frontend awaits its workers")
    parser.add_argument("--plane-deadline-s", type=float, default=30.0, help="how long a frontend may be away")
    parser.add_argument("--model", default="sim")
    add_worker_arguments(parser)
    return parser


def main(argv: list[str]) -> int:
    """Runs a worker until it is told to end."""
    arguments = _parser().parse_args(argv)

    async def serve() -> int:
        return await Worker(arguments, settings_of(arguments)).run()

    with contextlib.suppress(KeyboardInterrupt):  # before the loop has its handlers
        return asyncio.run(serve())
    return 0
