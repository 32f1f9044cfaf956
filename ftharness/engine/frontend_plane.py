"""The plane: the frontend's connections to its workers. A connection is a lease: its end is the worker's, at once."""

import asyncio
import socket
from collections import deque
from typing import Any, Protocol, cast

import msgspec

from ftharness.engine.frontend_log import FrontendLog

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Stream(Protocol):
    """Who is told about a request on a worker."""

    def on_accepted(self) -> None:
        """The worker has it."""

    def on_tokens(self, ids: list[int], reason: str | None) -> None:
        """The worker made these; with a reason they are the last."""

    def on_disconnected(self, error: str) -> None:
        """The worker is lost, or refused it: nothing more comes from there."""


class WorkerLink(asyncio.Protocol):
    """One worker's connection.

    Attributes:
        name, role, engine: As the worker says; the name is empty until it did.
        streams: What runs there, by the request's id.
        ending: What was cancelled there, until the worker says that it has ended: its tokens till then are nobody's.
        draining: It takes nothing new.
    """

    def __init__(self, plane: "Plane") -> None:
        self._plane = plane
        self._partial = b""
        self._transport: asyncio.WriteTransport
        self.name = ""
        self.role = ""
        self.engine = ""
        self.draining = False
        self.streams: dict[str, Stream] = {}
        self.ending: set[str] = set()

    def generate(
        self, request_id: str, stream: Stream, *, token_ids: list[int], max_tokens: int, seed: int, attempt: int
    ) -> None:
        """Gives the worker a request; ``stream`` hears about it from now on."""
        self.streams[request_id] = stream
        message = {
            "op": "generate",
            "id": request_id,
            "token_ids": token_ids,
            "max_tokens": max_tokens,
            "seed": seed,
            "attempt": attempt,
        }
        self._send(message)

    def cancel(self, request_id: str, *, kill: bool) -> None:
        """Ends a request there. ``kill``: its client gave it up; otherwise it had all it wanted."""
        if self.streams.pop(request_id, None) is not None:
            self.ending.add(request_id)
            self._send({"op": "cancel", "id": request_id, "kill": kill})

    def close(self) -> None:
        """Ends the lease."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A worker dialled."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Some lines; a line may be split."""
        *complete, self._partial = (self._partial + data).split(b"\n")
        for line in complete:
            self._receive(_decode(line))

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker is gone: every request on it hears so now."""
        self._plane.left(self)
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.on_disconnected(f"Disconnected: worker {self.name} is gone ({exc or 'end of stream'})")

    def _receive(self, message: dict[str, Any]) -> None:
        op = message["op"]
        if op == "tokens":
            streams = self.streams
            for request_id, ids, reason in message["batch"]:
                stream = streams.get(request_id)
                if stream is None:  # cancelled here, not yet there
                    if reason is not None:
                        self.ending.discard(request_id)
                    continue
                if reason is not None:
                    del streams[request_id]
                stream.on_tokens(ids, reason)
        elif op == "accepted":
            if message["id"] in self.streams:
                self.streams[message["id"]].on_accepted()
        elif op == "refused":
            stream = self.streams.pop(message["id"], None)
            self.ending.discard(message["id"])
            if stream is not None:
                stream.on_disconnected(f"Refused: worker {self.name} is {message['reason']}")
        elif op == "draining":
            self.draining = True
            self._plane.log.worker_draining(self.name)
        elif op == "hello":
            self._join(message)

    def _join(self, message: dict[str, Any]) -> None:
        if message["model"] != self._plane.model:
            reason = f"it serves {message['model']}, this frontend {self._plane.model}"
            self._plane.log.worker_refused(message["worker"], reason)
            self._send({"op": "rejected", "reason": reason})
            self.close()
            return
        self.name, self.role, self.engine = message["worker"], message["role"], message["engine"]
        self._plane.joined(self)
        self._send({"op": "welcome"})

    def _send(self, message: dict[str, Any]) -> None:
        self._transport.write(_encode(message) + b"\n")


class Plane:
    """The workers that are registered, and whose turn it is."""

    def __init__(self, model: str, log: FrontendLog) -> None:
        self.model = model
        self.log = log
        self.workers: deque[WorkerLink] = deque()
        self._server: asyncio.Server

    async def listen(self, sock: socket.socket) -> None:
        """Awaits workers on a bound socket."""
        self._server = await asyncio.get_running_loop().create_server(lambda: WorkerLink(self), sock=sock)

    def close(self) -> None:
        """Ends every lease."""
        self._server.close()
        for worker in self.workers:
            worker.streams.clear()  # the frontend goes, not the worker: nothing migrates
            worker.close()

    def pick(self, request_id: str) -> WorkerLink | None:
        """Whose turn it is, round robin, or None when nobody takes the request.

        A worker that has yet to give up an earlier attempt at it (it may be frozen) would answer with that one's tokens.
        """
        for worker in self.workers:
            if not worker.draining and request_id not in worker.ending:
                self.workers.remove(worker)
                self.workers.append(worker)
                return worker
        return None

    def joined(self, worker: WorkerLink) -> None:
        """A worker registered; it is next."""
        self.workers.appendleft(worker)
        self.log.worker_joined(worker.name, worker.engine, worker.role)

    def left(self, worker: WorkerLink) -> None:
        """A worker's connection ended."""
        if worker in self.workers:
            self.workers.remove(worker)
            self.log.worker_left(worker.name, len(worker.streams))
