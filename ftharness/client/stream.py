"""A request that is under way: what has arrived, and waiting for what will."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Literal

from ftharness.client.answer import GIVEN_UP, Answer, CountTokens
from ftharness.client.connection import ClientLeft, Connection, Left
from ftharness.client.request import Request
from ftharness.history import History, RequestChunk, RequestFinished

Outcome = Literal["success", "error", "cancelled", "hang"]


class Stream:
    """One request, from the moment when it was sent.

    Attributes:
        id: The request's id, also its ``X-Request-Id``.
        request: What was asked.
        index: Its place in the workload.
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
        self.result: RequestFinished | None = None
        self._history = history
        self._idle_s = idle_s
        self._answer = Answer(request, count, self._chunk)
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._ended: asyncio.Future[RequestFinished] = asyncio.get_running_loop().create_future()
        self._connection: Connection | None = None
        self._driver: asyncio.Task[Left | None] | None = None
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def tokens(self) -> int:
        """Tokens received so far, over all choices."""
        return self._answer.tokens

    @property
    def text(self) -> str:
        """The text of choice 0 so far."""
        return self._answer.text

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
        """Go away, now: close the connection; where there is none yet, nobody wants it once there is."""
        if self._begun.done():
            await self.disconnect()
        else:
            self._finish("cancelled", error="the client went away before it was connected")

    # Ways to go away, once it is connected. Each returns when it is done, and what was done; None: the request was over
    # before. What cannot be done raises CannotLeave.

    async def disconnect(self) -> Left | None:
        """Close the connection."""
        return await self._leave(lambda connection: connection.leave())

    async def reset(self) -> Left | None:
        """The same, by a reset (RST)."""
        return await self._leave(lambda connection: connection.leave("reset the connection", reset=True))

    async def kill_client(self) -> Left | None:
        """Kill the process that sent it: a request with ``own_process``."""
        return await self._leave(lambda connection: connection.kill())

    async def cancel_task(self) -> Left | None:
        """Cancel the asyncio task that awaits the answer, which then closes its connection, as a client library does."""
        connection = await self._connected()
        if connection is None or self._driver is None:
            return None
        self._driver.cancel()
        return await asyncio.shield(self._driver)

    async def half_close(self) -> Left | None:
        """Say that nothing more will be asked, and go on waiting for the answer."""
        connection = await self._connected()
        return None if connection is None else await connection.half_close()

    async def _leave(self, how: Callable[[Connection], Awaitable[Left | None]]) -> Left | None:
        connection = await self._connected()
        if connection is None or self._driver is None:
            return None
        left = await how(connection)
        await asyncio.wait((self._driver,))  # it tells the history
        return left

    async def _connected(self) -> Connection | None:
        """Its connection, once there is one; None where it never got one, or is over."""
        if not self._begun.done():
            await asyncio.wait((self._begun, self._ended), return_when=asyncio.FIRST_COMPLETED)
        return None if self.result is not None else self._connection

    # What the client tells it.

    def start(self, connection: Connection) -> None:
        """Follow the exchange to its end; called once, by the client."""
        self._connection = connection
        self._driver = asyncio.create_task(self._drive(connection), name=f"request {self.id}")
        self._begun.set_result(None)

    def refused(self, error: OSError) -> None:
        """End it as one that never got a connection."""
        self._finish("error", error=f"no connection: {error}")

    def unanswered(self) -> None:
        """End it as one whose connection nobody accepted: so a frozen server does, once its queue is full."""
        self._finish("hang", error=f"no connection within {self._idle_s:g} s")

    async def close(self, *, hang: str = "") -> None:
        """End it, if it has not ended, and let go of its connection.

        Args:
            hang: Why it counts as one that never would have ended; "" where it was the client that went away.
        """
        if hang:
            self._finish("hang", status=self._connection.status if self._connection else None, error=hang)
        await self.cancel()
        if self._connection is not None:
            await self._connection.close()

    async def _drive(self, connection: Connection) -> Left | None:
        """Follow the exchange to its end; what is returned is how the cancellation of this task ended it."""
        left = None
        try:
            await self._awaited(connection)
        except asyncio.CancelledError:
            left = await connection.leave("closed the connection, for the task that awaited the answer was cancelled")
            await asyncio.wait((connection.done,))  # where it was being left already
        self._conclude(connection)
        return left

    async def _awaited(self, connection: Connection) -> None:
        idle_ns = int(self._idle_s * 1e9)
        while not connection.done.done() and self.result is None:
            left_ns = connection.read_ns + idle_ns - time.monotonic_ns()
            if left_ns <= 0:
                self._finish("hang", status=connection.status, error=f"no byte for {self._idle_s:g} s")
                break
            await asyncio.wait((connection.done,), timeout=left_ns / 1e9)
        if self.result is not None:
            await connection.close()

    def on_body(self, data: bytes, at: int) -> None:
        """A piece of the body, read at ``at`` (CLOCK_MONOTONIC, ns)."""
        if self.request.stream and self._connection is not None and self._connection.status == HTTPStatus.OK:
            self._answer.on_events(data, at)
        else:
            self._answer.on_part(data)

    def _chunk(self, choice: int, first: int, tokens: int, text: str, at: int, worker: str) -> None:
        self._history.append(
            RequestChunk(
                source="client",
                request=self.id,
                first=first,
                tokens=tokens,
                text=text,
                choice=choice,
                worker=worker,
            ),
            at=at,
        )
        if self._waiters:
            due = [future for number, future in self._waiters if number <= self.tokens]
            self._waiters = [waiter for waiter in self._waiters if waiter[0] > self.tokens]
            for future in due:
                if not future.done():
                    future.set_result(None)

    def _conclude(self, connection: Connection) -> None:
        broken, status = connection.done.exception(), connection.status
        at = connection.read_ns if broken is None else None
        if isinstance(broken, ClientLeft):
            self._finish("cancelled", status=status, error=str(broken), at=broken.left.at)
            return
        if status != HTTPStatus.OK:
            self._finish("error", status=status, error=self._answer.refusal or str(broken or ""), at=at)
            return
        if not self.request.stream and broken is None:
            self._answer.whole(connection.read_ns)
        if self._answer.error is not None:
            code, message = self._answer.error
            self._finish("error", status=status, code=code, error=message, at=at, told=self._answer.told)
        elif broken is not None:
            self._finish("error", status=status, error=str(broken))
        elif missing := self._answer.missing:
            self._finish("error", status=status, error=missing, at=at)
        elif GIVEN_UP in self._answer.reasons:
            # vLLM and SGLang say so of a request that they end before its end: no word of OpenAI's, and no answer either.
            self._finish("error", status=status, error=f"the engine gave it up: finish_reason {GIVEN_UP}", at=at)
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
        told: bool = False,
    ) -> None:
        if self.result is not None:
            return
        answer = self._answer
        self.result = self._history.append(
            RequestFinished(
                source="client",
                request=self.id,
                outcome=outcome,
                status=status,
                error_code=code,
                finish_reason=answer.reasons[0],
                finish_reasons=answer.reasons if self.request.n > 1 else [],
                usage=answer.usage,
                error=error,
                logprobs=answer.logprobs if self.request.logprobs else [],
                told=told,
            ),
            at=at,
        )
        self._ended.set_result(self.result)
