"""A request that is under way: what has arrived, and waiting for what will."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from ftharness.client.connection import Connection, ConnectionBroken
from ftharness.client.request import Request
from ftharness.history import History, RequestChunk, RequestFinished

CountTokens = Callable[[str], int]
Outcome = Literal["success", "error", "cancelled", "hang"]


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | str | None = None


_answers = msgspec.json.Decoder(_Answer)


def _logprob_count(logprobs: dict[str, Any]) -> int:
    values = logprobs.get("content") or logprobs.get("token_logprobs") or logprobs.get("tokens") or []
    return len(values)


class Stream:
    """One request, from the moment when it was sent.

    Attributes:
        id: The request's id, also its ``X-Request-Id``.
        request: What was asked.
        index: Its place in the workload.
        tokens: Tokens received so far, over all choices.
        text: The text of choice 0 so far.
        result: How it ended, or None.
    """

    def __init__(
        self,
        request_id: str,
        request: Request,
        history: History,
        count: CountTokens,
        *,
        idle_s: float,
        index: int = 0,
    ) -> None:
        self.id = request_id
        self.request = request
        self.index = index
        self.tokens = 0
        self.result: RequestFinished | None = None
        self._history = history
        self._count = count
        self._idle_s = idle_s
        self._texts: dict[int, list[str]] = {}
        self._counts: dict[int, int] = {}
        self._reasons: dict[int, str | None] = {}
        self._logprobs: dict[int, int] = {}
        self._usage: dict[str, Any] | None = None
        self._error: tuple[int | None, str] | None = None
        self._said_done = False
        self._rest = b""
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._ended: asyncio.Future[RequestFinished] = asyncio.get_running_loop().create_future()
        self._connection: Connection | None = None
        self._driver: asyncio.Task[None] | None = None

    @property
    def text(self) -> str:
        """The text of choice 0 so far."""
        return "".join(self._texts.get(0, ()))

    async def token(self, number: int, *, deadline_s: float = 30.0) -> None:
        """Wait until ``number`` tokens (of all choices) have arrived.

        Raises:
            TimeoutError: They did not come in time, or the request ended with fewer; says how.
        """
        if self.tokens >= number:
            return
        if self.result is None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((number, future))
            await asyncio.wait((future, self._ended), timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if self.tokens < number:
            how = (
                f"it ended as {self.result.outcome} {self.result.error}" if self.result else f"within {deadline_s:g} s"
            )
            raise TimeoutError(f"request {self.id}: {self.tokens} of the {number} awaited tokens came: {how}")

    async def finished(self) -> RequestFinished:
        """Wait until it has ended, in whatever way; one that never does is ended as a ``hang`` after its idle time."""
        return await asyncio.shield(self._ended)

    async def cancel(self) -> None:
        """Go away in mid-stream: close the connection."""
        self._finish("cancelled", error="the client closed the connection")
        if self._connection is not None:
            self._connection.close()
        if self._driver is not None:
            await asyncio.wait((self._driver,))

    def start(self, connecting: Connection) -> None:
        """Follow the exchange to its end; called once, by the client."""
        self._connection = connecting
        self._driver = asyncio.create_task(self._drive(connecting), name=f"request {self.id}")

    def refused(self, error: OSError) -> None:
        """End it as one that never got a connection."""
        self._finish("error", error=f"no connection: {error}")

    def unanswered(self) -> None:
        """End it as one whose connection nobody accepted: so a frozen server does, once its queue is full."""
        self._finish("hang", error=f"no connection within {self._idle_s:g} s")

    async def _drive(self, connection: Connection) -> None:
        idle_ns = int(self._idle_s * 1e9)
        while not connection.done.done():
            left_ns = connection.read_ns + idle_ns - time.monotonic_ns()
            if left_ns <= 0:
                self._finish("hang", status=connection.status, error=f"no byte for {self._idle_s:g} s")
                connection.close()
                return
            await asyncio.wait((connection.done,), timeout=left_ns / 1e9)
        broken = connection.done.exception()
        self._conclude(connection, broken if isinstance(broken, ConnectionBroken) else None)

    def on_body(self, data: bytes, at: int) -> None:
        """A piece of the body, read at ``at`` (CLOCK_MONOTONIC, ns)."""
        if self._connection is None or self._connection.status != 200 or not self.request.stream:  # noqa: PLR2004
            self._rest += data
            return
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), at)

    def _event(self, data: bytes, at: int) -> None:
        if data == b"[DONE]":
            self._said_done = True
            return
        try:
            answer = _answers.decode(data)
        except msgspec.MsgspecError as error:
            self._error = self._error or (None, f"an event that is no answer: {error}: {data[:200]!r}")
            return
        self._take(answer, at)

    def _take(self, answer: _Answer, at: int) -> None:
        if answer.error is not None:
            self._error = self._error or _error_of(answer.error)
        if answer.usage is not None:
            self._usage = answer.usage
        for choice in answer.choices:
            part = choice.delta or choice.message
            text = choice.text if part is None else part.content
            if choice.finish_reason is not None:
                self._reasons[choice.index] = choice.finish_reason
            if choice.logprobs is not None:
                self._logprobs[choice.index] = self._logprobs.get(choice.index, 0) + _logprob_count(choice.logprobs)
            if text:
                self._chunk(choice.index, text, at)

    def _chunk(self, choice: int, text: str, at: int) -> None:
        first, tokens = self._counts.get(choice, 0), self._count(text)
        self._counts[choice] = first + tokens
        self._texts.setdefault(choice, []).append(text)
        self.tokens += tokens
        self._history.append(
            RequestChunk(source="client", request=self.id, first=first, tokens=tokens, text=text, choice=choice), at=at
        )
        if self._waiters:
            due = [future for number, future in self._waiters if number <= self.tokens]
            self._waiters = [waiter for waiter in self._waiters if waiter[0] > self.tokens]
            for future in due:
                if not future.done():
                    future.set_result(None)

    def _conclude(self, connection: Connection, broken: ConnectionBroken | None) -> None:
        at, status = connection.read_ns if broken is None else None, connection.status
        if status != 200:  # noqa: PLR2004
            said = self._rest.decode(errors="replace")
            try:
                body = _answers.decode(self._rest)
                said = _error_of(body.error)[1] if body.error is not None else said
            except msgspec.MsgspecError:
                pass
            self._finish("error", status=status, error=said[:2000] or str(broken or ""), at=at)
            return
        if not self.request.stream and broken is None:
            self._event(self._rest, connection.read_ns)
        if self._error is not None:
            code, message = self._error
            self._finish("error", status=status, code=code, error=message, at=at)
        elif broken is not None:
            self._finish("error", status=status, error=str(broken))
        elif self.request.stream and not self._said_done:
            self._finish("error", status=status, error="the stream ended without [DONE]", at=at)
        elif missing := [i for i in range(self.request.n) if self._reasons.get(i) is None]:
            self._finish("error", status=status, error=f"no finish_reason for choice {missing[0]}", at=at)
        else:
            self._finish("success", status=status, at=at)

    def _finish(
        self,
        outcome: Outcome,
        *,
        status: int | None = None,
        code: int | None = None,
        error: str = "",
        at: int | None = None,
    ) -> None:
        if self.result is not None:
            return
        choices = range(self.request.n)
        self.result = self._history.append(
            RequestFinished(
                source="client",
                request=self.id,
                outcome=outcome,
                status=status,
                error_code=code,
                finish_reason=self._reasons.get(0),
                finish_reasons=[self._reasons.get(i) for i in choices] if self.request.n > 1 else [],
                usage=self._usage,
                error=error,
                logprobs=[self._logprobs.get(i, 0) for i in choices] if self.request.logprobs else [],
            ),
            at=at,
        )
        self._ended.set_result(self.result)


def _error_of(error: dict[str, Any] | str) -> tuple[int | None, str]:
    if isinstance(error, str):
        return None, error
    code = error.get("code")
    try:
        number = int(code) if code is not None else None
    except (TypeError, ValueError):
        number = None
    return number, str(error.get("message", error))
