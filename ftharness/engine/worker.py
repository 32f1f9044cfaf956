"""A worker of the simulated stack: the handler process between whoever asks and its engine child.

It dials the frontend's plane (TCP on loopback, JSON lines, many requests on one connection). The connection is the
lease: when it goes, the worker is gone for the frontend, at once and without a word. A worker that does one phase of two
listens for its peers besides. What becomes of a request is in :mod:`parts`.
"""

import argparse
import asyncio
import contextlib
import os
import signal

from ftharness.engine.dialects import write_line
from ftharness.engine.engine_child import EngineDied, Made
from ftharness.engine.handler import Handler, in_shadow_mode
from ftharness.engine.link import Link, Party
from ftharness.engine.part_decode import Decode
from ftharness.engine.part_prefill import Handover, Prefill
from ftharness.engine.parts import Message, Part
from ftharness.engine.registration import Registration
from ftharness.engine.settings import EngineSettings, add_worker_arguments, settings_of
from ftharness.engine.status import serve_status

#: Seconds by which two planted bugs are late.
_STALL_S = 3.0

#: By the worker's role and what is asked.
_PARTS: dict[tuple[str, str], type[Part]] = {
    ("aggregated", "generate"): Part,
    ("prefill", "prefill"): Prefill,
    ("prefill", "generate"): Handover,
    ("decode", "generate"): Decode,
}


class Worker(Handler):
    """The handler: takes requests, gives them to the engine, passes on what it makes."""

    def __init__(self, arguments: argparse.Namespace, settings: EngineSettings) -> None:
        super().__init__(arguments, settings, model=arguments.model)
        self._peer_port: int = arguments.peer_port
        self._announced_port: int = arguments.announce_port
        host, _, port = arguments.plane.rpartition(":")
        self._registration = Registration(
            host,
            int(port),
            deadline_s=arguments.plane_deadline_s,
            receive=self._on_message,
            lost=self._on_plane_lost,
        )
        self._registered = False
        self._draining = False
        self._end: asyncio.Future[int] = self._loop.create_future()

    async def run(self) -> int:
        """Serves until a signal, the engine's death or a frontend that stays away; the exit status."""
        for number, handler in ((signal.SIGTERM, self._drain), (signal.SIGINT, self._quit)):
            self._loop.add_signal_handler(number, handler)
        if not await self._start_engine():
            return 1
        server = await self._listen()
        if server is None:
            await self._engine.stop()
            return 1
        self._engine.died.add_done_callback(self._on_engine_died)
        serving = asyncio.create_task(self._serve())
        status = await self._end
        serving.cancel()
        await asyncio.wait([serving])
        self._registration.close()
        self._peers.close()
        server.close()
        if not self._engine.died.done():
            await self._engine.stop()
        if self._shadow is not None:  # not before: nobody serves any more
            self._shadow.ends()
        return status

    async def _listen(self) -> asyncio.Server | None:
        """Awaits peers where it has any, and serves its status; None where a port is in use."""
        what, port = "peers", self._peer_port
        try:
            if self._role != "aggregated":
                self._peer_port = await self._peers.listen(port)
                self._log.awaiting_peers(self._peer_port)
            what, port = "status", self._status_port
            server, port = await serve_status(port, {"/health": self._health, "/metrics": self._metrics})
        except OSError as error:
            self._log.error(f"cannot serve {what} on 127.0.0.1:{port}: {error}")
            return None
        self._log.listening(port)
        return server

    async def _serve(self) -> None:
        """Registered, and so again when the frontend was lost; in shadow mode once it is this worker's turn."""
        if self._shadow is not None:
            try:
                why_not = await self._shadow.take_turn(self._engine)
            except EngineDied:
                return  # that ends it, and is said, elsewhere
            if why_not:
                self._log.error(why_not)
                self._finish(1)
                return
        hello = {"worker": self._name, "role": self._role, "model": self._model, "engine": self._settings.engine}
        away = await self._registration.keep({**hello, "port": self._announced_port or self._peer_port})
        self._log.error(away)
        self._finish(1)

    def _on_message(self, link: Link, message: Message) -> None:
        """One line of the frontend's, or of a peer's."""
        op = message["op"]
        if (self._role, op) in _PARTS:
            if self._draining:
                link.send(op="refused", key=message["key"], reason="draining")
            else:
                _PARTS[self._role, op](self._bench, link, message).begin()
        elif op == "tokens":
            self._relay(message["batch"])
        elif "key" in message:
            part = self._parts.get(message["key"])
            if part is not None:  # otherwise it has ended
                part.on_message(link, message)
        elif op == "peers":
            self._peers.announced([peer for peer in message["peers"] if peer["worker"] != self._name])
        elif op == "welcome":
            self._registered = True
            if self._shadow is not None:
                self._shadow.serves()
            self._log.ready(self._name, self._model)
            if self._draining:  # SIGTERM came while we dialled
                link.send(op="draining")
        else:
            self._log.error(f"the frontend refuses this worker: {message.get('reason')}")
            self._finish(1)

    def _on_plane_lost(self, link: Link, reason: str) -> None:
        self._registered = False
        self._log.plane_lost(reason)
        self._on_lost(link, reason)

    def _on_tokens(self, batch: list[Made]) -> None:
        if self._draining and self._settings.bug == "stall-in-drain":
            self._loop.call_later(_STALL_S, self._pass_on, batch)
        else:
            self._pass_on(batch)

    def _pass_on(self, batch: list[Made]) -> None:
        """What the engine made, to whoever asked: aborts too, so that they know that no more comes of those."""
        self._answer(batch)
        for key, _, reason in batch:
            if reason is not None and key in self._parts:
                self._parts[key].on_end(reason)

    def _relay(self, batch: list[Made]) -> None:
        """What a peer made of those that it decodes for this worker; the end of what it prefilled for it."""
        self._answer([made for made in batch if made[0] in self._parts and self._parts[made[0]].relays])
        for key, _, reason in batch:
            if reason is not None and key in self._parts:
                self._parts[key].on_remote_end(reason)

    def _answer(self, batch: list[Made]) -> None:
        by_asker: dict[Party, list[Made]] = {}
        for made in batch:
            part = self._parts.get(made[0])
            if part is not None:
                by_asker.setdefault(part.asker, []).append(made)
        for asker, theirs in by_asker.items():
            asker.send(op="tokens", batch=theirs)

    def _on_ended(self, part: Part, in_order: bool) -> None:  # noqa: FBT001  a callback
        if self._settings.bug == "crash-after-success" and part.resumed and in_order:
            os._exit(3)
        if self._draining and not self._parts:
            self._drained()

    def _drain(self) -> None:
        """SIGTERM: takes nothing new, finishes what it has within the drain time. A second one ends it at once."""
        if self._draining:
            self._quit()
            return
        self._draining = True
        self._log.draining(len(self._parts), self._drain_s)
        if self._settings.bug == "false-abort":
            for part in self._parts.values():
                self._log.aborted(part.id)
        self._registration.send(op="draining")
        if self._parts:
            self._loop.call_later(self._drain_s, self._drained)
        else:
            self._drained()

    def _drained(self) -> None:
        if not self._end.done():
            self._log.drained(len(self._parts))
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
        if self._settings.bug == "late-obituary":
            self._loop.call_later(_STALL_S, self._finish, 1)
        else:
            self._finish(1)

    def _finish(self, status: int) -> None:
        if not self._end.done():
            self._end.set_result(status)

    async def _health(self) -> tuple[int, str, str]:
        waiting = self._shadow.state if self._shadow is not None else "starting"
        return self._health_page("draining" if self._draining else "ready" if self._registered else waiting)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="worker", description=__doc__)
    parser.add_argument("--plane", required=True, metavar="HOST:PORT", help="where the frontend awaits its workers")
    parser.add_argument("--plane-deadline-s", type=float, default=30.0, help="how long a frontend may be away")
    parser.add_argument("--peer-port", type=int, default=0, help="where other workers dial in; 0: any")
    parser.add_argument(
        "--announce-port", type=int, default=0, help="what they are told instead, where a proxy stands between"
    )
    parser.add_argument("--model", default="sim")
    add_worker_arguments(parser)
    return parser


def main(argv: list[str]) -> int:
    """Runs a worker until it is told to end."""
    arguments = _parser().parse_args(argv)
    if in_shadow_mode():
        from ftharness.engine.shadow import log_by  # noqa: PLC0415  as in the handler

        log_by(write_line)

    async def serve() -> int:
        return await Worker(arguments, settings_of(arguments)).run()

    with contextlib.suppress(KeyboardInterrupt):  # before the loop has its handlers
        return asyncio.run(serve())
    return 0
