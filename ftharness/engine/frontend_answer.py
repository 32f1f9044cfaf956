"""An answer in the making: the choices of one request, and the ASGI response that writes them as they come."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ftharness.engine.frontend_format import DONE, Format, event, text_of
from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_migration import Generation
from ftharness.engine.frontend_request import Ask, Refusal
from ftharness.engine.frontend_stop import StopFilter
from ftharness.engine.tokens import VOCABULARY

#: Makes the generation of choice ``index`` for its receiver.
Begin = Callable[[int, "Choice"], Generation]


class Choice:
    """One of a request's answers: takes ids, cuts at stop strings, hands the answer what to say."""

    def __init__(self, answer: "Answer", index: int) -> None:
        self._answer = answer
        self._index = index
        self._stop = StopFilter(answer.ask.stop) if answer.ask.stop else None
        self._opened = False
        self.ended = False
        self.reason: str | None = None
        self.text: list[str] = []
        self.ids: list[int] = []
        self.offset = 0  # characters of the tokens told of: more than were sent, where some are held back
        self.generation: Generation

    def made(self, ids: list[int], reason: str | None, *, ended: bool, worker: str = "") -> None:
        """Tokens from a worker, whichever."""
        if self._stop is None:
            text = text_of(ids)
        else:
            text, used = self._cut(self._stop, ids)
            if used is not None:  # a stop string: what was made after it never was
                unused = len(ids) - used
                del self.generation.generated[len(self.generation.generated) - unused :]
                ids, reason = ids[:used], "stop"
                if not ended:
                    self.generation.cancel(kill=False)
                ended = True
            elif ended:
                text += self._stop.end()
        self._say(text, ids, reason, ended=ended, worker=worker)

    def failed(self, status: int, message: str) -> None:
        """No worker goes on with it: the whole request fails."""
        self.ended = True
        self._answer.fail(status, message)

    def _cut(self, stop: StopFilter, ids: list[int]) -> tuple[str, int | None]:
        """The text before a stop string, and how many ids it took to find it (None: there is none)."""
        text = ""
        for count, token_id in enumerate(ids, 1):
            piece, found = stop.feed(VOCABULARY[token_id])
            text += piece
            if found:
                return text, count
        return text, None

    def _say(self, text: str, ids: list[int], reason: str | None, *, ended: bool, worker: str) -> None:
        answer, form = self._answer, self._answer.form
        if not answer.ask.stream:
            self.text.append(text)
            self.ids += ids
        else:
            if not self._opened:
                self._opened = True
                answer.pending.append(form.opening(self._index))
            if answer.ask.logprobs is not None:
                answer.pending.append(form.chunk_with_logprobs(self._index, text, reason, ids, self.offset, worker))
                self.offset += len(text_of(ids))
            elif text or ended:
                answer.pending.append(form.chunk(self._index, text, reason, worker))
        if ended:
            self.ended, self.reason = True, reason
            answer.running -= 1
        answer.wake()


class Answer(Response):
    """The response to one request.

    Attributes:
        pending: Events that are to be sent.
        running: Choices that have not ended.
    """

    def __init__(
        self, ask: Ask, request_id: str, form: Format, log: FrontendLog, begin: Begin, over: Callable[[str], None]
    ) -> None:
        self.ask = ask
        self.form = form
        self.request_id = request_id
        self.pending: list[bytes] = []
        self.running = ask.n
        self._log = log
        self._begin = begin
        self._tell_over = over
        self._error: Refusal | None = None
        self._client_gone = False
        self._waiter: asyncio.Future[None] | None = None
        self._choices = [Choice(self, index) for index in range(ask.n)]

    def wake(self) -> None:
        """There is something to send."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, status: int, message: str) -> None:
        """Ends the request with an error; what still runs of it is cancelled."""
        if self._error is None:
            self._error = Refusal(status, message)
            self._cancel()
            self.wake()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the request to its end, whichever it is."""
        del scope
        self._log.started()
        watching = asyncio.create_task(self._watch(receive))
        try:
            for index, choice in enumerate(self._choices):
                choice.generation = self._begin(index, choice)
            for choice in self._choices:
                if self._error is None:
                    choice.generation.begin()
            if self.ask.stream:
                await self._stream(send)
            else:
                await self._whole(send)
        finally:
            watching.cancel()
            self._finish()

    async def _watch(self, receive: Receive) -> None:
        """Sees the client go."""
        while (await receive())["type"] != "http.disconnect":
            pass
        if self.running and self._error is None:
            self._client_gone = True
            self._log.cancelled(self.request_id, self.ask.endpoint, self._request_type)
            self._cancel()
            self.wake()

    @property
    def _over(self) -> bool:
        return self._client_gone or self._error is not None or not self.running

    @property
    def _request_type(self) -> str:
        return "stream" if self.ask.stream else "unary"

    async def _next(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter
        self._waiter = None

    async def _stream(self, send: Send) -> None:
        while not self.pending and not self._over:
            await self._next()
        if self._error is not None and not self.pending:  # nothing is sent yet: the status can tell
            await self._refuse(send, self._error)
            return
        await self._start(send, 200, b"text/event-stream; charset=utf-8")
        while not self._client_gone:
            if self.pending:
                body = b"".join(self.pending)
                self.pending.clear()
                await send({"type": "http.response.body", "body": body, "more_body": True})
            elif self._over:
                break
            else:
                await self._next()
        if self._client_gone:
            return
        end = self.form.closing(self._tokens())
        if self._error is not None:
            end = event(self._error.body()) + DONE
        await send({"type": "http.response.body", "body": end, "more_body": False})

    async def _whole(self, send: Send) -> None:
        while not self._over:
            await self._next()
        if self._error is not None:
            await self._refuse(send, self._error)
        elif not self._client_gone:
            choices = [("".join(choice.text), choice.ids, choice.reason) for choice in self._choices]
            await self._body(send, 200, self.form.body(choices, self._tokens()))

    async def _refuse(self, send: Send, error: Refusal) -> None:
        await self._body(send, error.status, msgspec.json.encode(error.body()))

    async def _body(self, send: Send, status: int, body: bytes) -> None:
        await self._start(send, status, b"application/json", (b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, send: Send, status: int, kind: bytes, *headers: tuple[bytes, bytes]) -> None:
        told: list[Any] = [(b"content-type", kind), (b"x-request-id", self.request_id.encode()), *headers]
        await send({"type": "http.response.start", "status": status, "headers": told})

    def _tokens(self) -> int:
        return sum(choice.generation.counted for choice in self._choices)

    def _cancel(self) -> None:
        for choice in self._choices:
            if not choice.ended:
                choice.ended = True
                choice.generation.cancel(kill=True)

    def _finish(self) -> None:
        if self.running and not self._over:  # the server ends the response itself
            self._cancel()
        status = "cancelled" if self._client_gone else "error" if self._error is not None else "success"
        self._tell_over(self.request_id)
        self._log.ended(self.request_id, self.ask.endpoint, self._request_type, status=status, tokens=self._tokens())
