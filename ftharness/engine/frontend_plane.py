"""The plane: the frontend's connections to its workers. A connection is a lease: its end is the worker's, at once."""

import asyncio
import itertools
import socket
import time
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

    def on_prefilled(self) -> None:
        """The worker holds its KV."""

    def on_tokens(self, ids: list[int], reason: str | None) -> None:
        """The worker made these; with a reason they are the last."""

    def on_disconnected(self, error: str) -> None:
        """The worker is lost, or refused it, or lost whom it needs for it: nothing more comes from there."""


class WorkerLink(asyncio.Protocol):
    """One worker's connection.

    Attributes:
        name, role, engine: As the worker says; the name is empty until it did.
        port: Where other workers reach it; 0 where they need not.
        streams: What runs there, by the attempt's key. What comes under another key is of an attempt that is over.
        draining: It takes nothing new.
    """

    def __init__(self, plane: "Plane") -> None:
        self._plane = plane
        self._partial = b""
        self._transport: asyncio.WriteTransport
        self.name = ""
        self.role = ""
        self.engine = ""
        self.port = 0
        self.draining = False
        self.streams: dict[str, Stream] = {}

    def ask(self, op: str, key: str, stream: Stream, **fields: object) -> None:
        """Gives the worker a request, whole (``generate``) or its ``prefill``; ``stream`` hears about it from now on."""
        self.streams[key] = stream
        self.send(op=op, key=key, **fields)

    def cancel(self, key: str, *, kill: bool) -> None:
        """Ends a request there. ``kill``: its client gave it up; otherwise it had all it wanted."""
        if self.streams.pop(key, None) is not None:
            self.send(op="cancel", key=key, kill=kill)

    def send(self, **message: object) -> None:
        """One line to the worker; none to one that is being closed."""
        if not self._transport.is_closing():
            self._transport.write(_encode(message) + b"\n")

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
            for key, ids, reason in message["batch"]:
                stream = streams.get(key)
                if stream is None:  # cancelled here, not yet there
                    continue
                if reason is not None:
                    del streams[key]
                stream.on_tokens(ids, reason)
        elif op == "hello":
            self._join(message)
        elif op == "draining":
            self.draining = True
            self._plane.log.worker_draining(self.name)
            self._plane.announce()
        elif message["key"] in self.streams:
            self._hear(op, message)

    def _hear(self, op: str, message: dict[str, Any]) -> None:
        if op == "accepted":
            self.streams[message["key"]].on_accepted()
            return
        stream = self.streams.pop(message["key"])
        if op == "prefilled":
            stream.on_prefilled()
        elif op == "refused":
            stream.on_disconnected(f"Refused: worker {self.name} is {message['reason']}")
        else:
            self._plane.defer(message["worker"])
            stream.on_disconnected(f"Disconnected: {message['reason']}")

    def _join(self, message: dict[str, Any]) -> None:
        if message["model"] != self._plane.model:
            reason = f"it serves {message['model']}, this frontend {self._plane.model}"
            self._plane.log.worker_refused(message["worker"], reason)
            self.send(op="rejected", reason=reason)
            self.close()
            return
        self.name, self.role, self.engine = message["worker"], message["role"], message["engine"]
        self.port = message["port"]
        self._plane.joined(self)
        self.send(op="welcome")


class Plane:
    """The workers that are registered, and whose turn it is.

    Args:
        bug: A planted bug's name, or nothing.
    """

    def __init__(self, model: str, log: FrontendLog, *, bug: str = "") -> None:
        self.model = model
        self.log = log
        self.workers: deque[WorkerLink] = deque()
        self._bug = bug
        self._lost: set[str] = set()  # names; a planted bug's
        # No two attempts have the same key, those of a frontend that was here before included.
        self._keys = itertools.count(time.monotonic_ns())
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

    def new_key(self) -> str:
        """The name of an attempt at a request, on every connection and in every engine."""
        return str(next(self._keys))

    def pick(self, role: str) -> WorkerLink | None:
        """Whose turn it is in that role, round robin, or None when nobody takes a request."""
        for worker in self.workers:
            if worker.role == role and not worker.draining:
                self.workers.remove(worker)
                self.workers.append(worker)
                return worker
        return None

    def has(self, role: str) -> bool:
        """Whether somebody takes requests in that role."""
        return any(worker.role == role and not worker.draining for worker in self.workers)

    def defer(self, name: str) -> None:
        """A worker that another one has lost is last: it may be gone, which is not yet known here."""
        for worker in [one for one in self.workers if one.name == name]:
            self.workers.remove(worker)
            self.workers.append(worker)

    def announce(self) -> None:
        """Tells the workers that do one phase of two of each other. The whole list each time: none of it can be missed."""
        them = [worker for worker in self.workers if worker.port]
        peers = [
            {"worker": worker.name, "role": worker.role, "port": worker.port, "draining": worker.draining}
            for worker in them
        ]
        for worker in them:
            worker.send(op="peers", peers=peers)

    def joined(self, worker: WorkerLink) -> None:
        """A worker registered; it is next."""
        if self._bug == "barred-name" and worker.name in self._lost:
            return
        self.workers.appendleft(worker)
        self.log.worker_joined(worker.name, worker.engine, worker.role)
        self.announce()

    def left(self, worker: WorkerLink) -> None:
        """A worker's connection ended."""
        if worker in self.workers:
            if self._bug != "kept-worker":
                self.workers.remove(worker)
            self._lost.add(worker.name)
            self.log.worker_left(worker.name, len(worker.streams))
            self.announce()
