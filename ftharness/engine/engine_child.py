"""The handler's side of its engine child: start it, ask it, hear at once that it died."""

import asyncio
import json
import os.path
import sys
from collections.abc import Callable, Sequence
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


def _resolve(asked: "asyncio.Future[str] | None", answer: str) -> None:
    """Whoever asked may have gone away."""
    if asked is not None and not asked.done():
        asked.set_result(answer)


class EngineChild:
    """A running engine. Made by :meth:`start`; :meth:`stop` ends it.

    Attributes:
        pid: The child's process id.
        died: Resolves with the child's return code when it is gone, whoever ended it.
    """

    def __init__(
        self,
        on_tokens: Callable[[list[Made]], None],
        on_phase: Callable[[str, str], None],
        on_kv: Callable[[str, int], None] | None,
    ) -> None:
        self.pid = 0
        self.died: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._on_tokens = on_tokens
        self._on_phase = on_phase
        self._on_kv = on_kv
        self._transport: asyncio.SubprocessTransport
        self._stdin: asyncio.WriteTransport
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked: list[asyncio.Future[dict[str, int]]] = []
        self._pausing: asyncio.Future[str] | None = None
        self._waking: asyncio.Future[str] | None = None

    @classmethod
    async def start(
        cls,
        settings: EngineSettings,
        *,
        on_tokens: Callable[[list[Made]], None],
        on_phase: Callable[[str, str], None],
        on_kv: Callable[[str, int], None] | None = None,
    ) -> "EngineChild":
        """Starts an engine below this process, in a session of its own as the real engines' children are.

        Args:
            settings: How it behaves.
            on_tokens: Gets what a tick made, in one call.
            on_phase: Gets a request's id and where it is: ``queued``, ``prefill``, ``prefilled`` (its KV is held),
                ``kv_transfer`` (its KV may be sent for) or ``decode``.
            on_kv: Gets a request's id and its KV, once it has been sent.

        Raises:
            EngineDied: It ended before it was ready.
        """
        self = cls(on_tokens, on_phase, on_kv)
        argv = [sys.executable, "-I", "-S", LAUNCH, "engine_process", *settings.argv()]
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
        """
        self._send(op="generate", id=request_id, token_ids=token_ids, max_tokens=max_tokens, seed=seed, resumed=resumed)

    def prefill(self, request_id: str, token_ids: Sequence[int], seed: int) -> None:
        """Asks for the KV of a context, to be held until it is released."""
        self._send(op="prefill", id=request_id, token_ids=token_ids, seed=seed)

    def decode(self, request_id: str, context: int, max_tokens: int, *, resumed: bool, prefilled: bool) -> None:
        """Asks for ``max_tokens`` ids after a KV that comes from elsewhere.

        Args:
            request_id: Unique among those that run.
            context: How many tokens the KV is of.
            max_tokens: How many ids may still come.
            resumed: Another worker had it before.
            prefilled: Whether there is that KV already; otherwise :meth:`prefilled` says when.
        """
        self._send(
            op="decode", id=request_id, context=context, max_tokens=max_tokens, resumed=resumed, prefilled=prefilled
        )

    def prefilled(self, request_id: str) -> None:
        """Tells a decode that there is its KV. Once it has a slot it is in the phase ``kv_transfer``."""
        self._send(op="prefilled", id=request_id)

    def send_kv(self, request_id: str) -> None:
        """Has a held KV sent; ``on_kv`` gets it after as long as that takes."""
        self._send(op="send", id=request_id)

    def receive_kv(self, request_id: str, state: int) -> None:
        """Gives a decode its KV."""
        self._send(op="kv", id=request_id, state=state)

    def release(self, request_id: str) -> None:
        """Lets a held KV go. Nothing comes back."""
        self._send(op="release", id=request_id)

    def abort(self, request_id: str) -> None:
        """Ends a request. Its last entry then has the finish reason ``abort``, unless it ended first."""
        self._send(op="abort", id=request_id)

    async def pause(self) -> None:
        """Puts it to sleep: from then on it takes requests, and makes nothing of them. Returns when it sleeps.

        Raises:
            EngineDied: It is gone.
        """
        self._pausing = asyncio.get_running_loop().create_future()
        self._send(op="pause")
        await self._or_died(self._pausing)

    async def resume(self, wake_s: float, *, fails: bool = False) -> str:
        """Wakes it, which takes ``wake_s`` seconds; why it does not wake, or "" once it is awake.

        Raises:
            EngineDied: It is gone.
        """
        self._waking = asyncio.get_running_loop().create_future()
        self._send(op="resume", wake_s=wake_s, fails=fails)
        return await self._or_died(self._waking)

    async def _or_died(self, answer: "asyncio.Future[str]") -> str:
        first: list[asyncio.Future[Any]] = [answer, self.died]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise EngineDied(self.died.result())
        return answer.result()

    async def status(self, deadline_s: float = 2.0) -> dict[str, int]:
        """``slots_busy slots_total kv_used generated queued paused``, from the engine itself.

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
        """To an engine that is gone nothing is sent: its death is told by ``died``."""
        if not self.died.done():
            self._stdin.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def _receive(self, message: dict[str, Any]) -> None:
        op = message["op"]
        if op == "tokens":
            self._on_tokens(message["batch"])
        elif op == "phases":
            for request_id, phase in message["batch"]:
                self._on_phase(request_id, phase)
        elif op == "kv":
            assert self._on_kv is not None, "who asks for a KV takes it"
            for request_id, state in message["batch"]:
                self._on_kv(request_id, state)
        elif op == "paused":
            _resolve(self._pausing, "")
        elif op == "awake":
            _resolve(self._waking, message["batch"][-1])
        elif op == "status":
            answer = self._asked.pop(0)
            if not answer.done():
                answer.set_result(message["status"])
        else:
            self._ready.set_result(None)

    def _gone(self, returncode: int) -> None:
        self.died.set_result(returncode)
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(EngineDied(returncode))
