"""The handler's side of its engine child: start it, ask it, hear at once that it died."""

import asyncio
import json
import os.path
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

from ftharness.engine.settings import EngineSettings

LAUNCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "launch.py")  # noqa: PTH100, PTH118, PTH120

#: (request id, token ids, finish reason or None): ``length`` and ``abort`` are the engine's.
Made = tuple[str, list[int], "str | None"]


class EngineDied(Exception):  # noqa: N818  it names what happened
    """The engine child is gone; ``returncode`` as :mod:`subprocess` counts it, below zero for a signal."""

    def __init__(self, returncode: int) -> None:
        super().__init__(f"the engine child exited with {returncode}")
        self.returncode = returncode


class _Pipes(asyncio.SubprocessProtocol):
    """Splits the child's output into lines, and tells of its end."""

    def __init__(self, receive: Callable[[dict[str, Any]], None], gone: Callable[[int], None]) -> None:
        self._receive = receive
        self._gone = gone
        self._partial = b""
        self._transport: asyncio.SubprocessTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        del fd  # only the standard output is a pipe that we read
        *complete, self._partial = (self._partial + data).split(b"\n")
        for line in complete:
            self._receive(json.loads(line))

    def process_exited(self) -> None:
        returncode = self._transport.get_returncode()
        self._gone(-1 if returncode is None else returncode)


class EngineChild:
    """A running engine. Made by :meth:`start`; :meth:`stop` ends it.

    Attributes:
        pid: The child's process id.
        died: Resolves with the child's return code when it is gone, whoever ended it.
    """

    def __init__(
        self,
        on_tokens: Callable[[list[Made]], None] | None,
        on_phase: Callable[[str, str], None] | None,
    ) -> None:
        self.pid = 0
        self.died: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._on_tokens = on_tokens
        self._on_phase = on_phase
        self._transport: asyncio.SubprocessTransport
        self._stdin: asyncio.WriteTransport
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._live: set[str] = set()
        self._streams: dict[str, asyncio.Queue[Made | None]] = {}
        self._asked: list[asyncio.Future[dict[str, int]]] = []

    @classmethod
    async def start(
        cls,
        settings: EngineSettings,
        *,
        on_tokens: Callable[[list[Made]], None] | None = None,
        on_phase: Callable[[str, str], None] | None = None,
    ) -> "EngineChild":
        """Starts an engine below this process, in a session of its own as the real engines' children are.

        Args:
            settings: How it behaves.
            on_tokens: Gets what a tick made for requests given to :meth:`submit`, in one call.
            on_phase: Gets (request id, ``queued``, ``prefill`` or ``decode``).

        Raises:
            EngineDied: It ended before it was ready.
        """
        self = cls(on_tokens, on_phase)
        argv = [sys.executable, "-I", "-S", LAUNCH, "core", *settings.argv()]
        transport, _ = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Pipes(self._receive, self._gone), *argv, stderr=None, start_new_session=True
        )
        self._transport = transport
        self.pid = transport.get_pid()
        self._stdin = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
        first: list[asyncio.Future[Any]] = [self._ready, self.died]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if self.died.done():
            raise EngineDied(self.died.result())
        return self

    def submit(
        self, request_id: str, token_ids: Sequence[int], max_tokens: int, seed: int, *, resumed: bool = False
    ) -> None:
        """Asks for ``max_tokens`` ids after ``token_ids``; ``on_tokens`` gets them.

        Args:
            request_id: Unique among those that run.
            token_ids: The whole context: the prompt and, after a migration, what was generated elsewhere.
            max_tokens: How many ids may still come.
            seed: The chain's seed.
            resumed: Another worker had it before.

        Raises:
            ValueError: The id is in use.
            EngineDied: The engine is gone.
        """
        if self.died.done():
            raise EngineDied(self.died.result())
        if request_id in self._live:
            raise ValueError(f"request id {request_id!r} is in use")
        self._live.add(request_id)
        self._send(op="generate", id=request_id, token_ids=token_ids, max_tokens=max_tokens, seed=seed, resumed=resumed)

    async def generate(
        self, request_id: str, token_ids: Sequence[int], max_tokens: int, seed: int, *, resumed: bool = False
    ) -> AsyncIterator[tuple[list[int], str | None]]:
        """The same as an async iterator of (ids, finish reason). Leaving it early aborts the request.

        Raises:
            ValueError: The id is in use.
            EngineDied: The engine died, before or in mid-stream.
        """
        self.submit(request_id, token_ids, max_tokens, seed, resumed=resumed)
        queue: asyncio.Queue[Made | None] = asyncio.Queue()
        self._streams[request_id] = queue
        try:
            while True:
                made = await queue.get()
                if made is None:
                    raise EngineDied(await self.died)
                yield made[1], made[2]
                if made[2] is not None:
                    return
        finally:
            del self._streams[request_id]
            self.abort(request_id)

    def abort(self, request_id: str) -> None:
        """Ends a request. Its last entry then has the finish reason ``abort``, unless it ended first."""
        if request_id in self._live and not self.died.done():
            self._send(op="abort", id=request_id)

    async def status(self, deadline_s: float = 2.0) -> dict[str, int]:
        """``slots_busy slots_total kv_used generated queued``, from the engine itself.

        Raises:
            TimeoutError: No answer: the engine is frozen.
            EngineDied: It is gone.
        """
        if self.died.done():
            raise EngineDied(self.died.result())
        answer: asyncio.Future[dict[str, int]] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._send(op="status")
        await asyncio.wait([answer], timeout=deadline_s)
        if not answer.done():
            raise TimeoutError(f"the engine child {self.pid} did not answer within {deadline_s} s")
        return answer.result()

    async def stop(self, grace_s: float = 2.0) -> None:
        """Closes its input, on which it ends; kills it when it has not within the grace (it may be frozen)."""
        self._stdin.close()
        await asyncio.wait([self.died], timeout=grace_s)
        if not self.died.done():
            self._transport.kill()
            await self.died
        self._transport.close()

    def _send(self, **message: object) -> None:
        self._stdin.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def _receive(self, message: dict[str, Any]) -> None:
        if message["op"] == "tokens":
            self._deliver(message["batch"])
        elif message["op"] == "phases":
            if self._on_phase is not None:
                for request_id, phase in message["batch"]:
                    self._on_phase(request_id, phase)
        elif message["op"] == "status":
            answer = self._asked.pop(0)
            if not answer.done():
                answer.set_result(message["status"])
        else:
            self._ready.set_result(None)

    def _deliver(self, batch: list[Made]) -> None:
        for made in batch:
            if made[2] is not None:
                self._live.discard(made[0])
        if self._streams:
            for made in batch:
                if made[0] in self._streams:
                    self._streams[made[0]].put_nowait(made)
            batch = [made for made in batch if made[0] not in self._streams]
        if batch and self._on_tokens is not None:
            self._on_tokens(batch)

    def _gone(self, returncode: int) -> None:
        self.died.set_result(returncode)
        for queue in self._streams.values():
            queue.put_nowait(None)
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(EngineDied(returncode))
