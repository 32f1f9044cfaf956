"""The ASGI response to one request: what a relay brings, streamed or whole, for as long as the client is there."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ftharness.engine.frontend_format import DONE, event
from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_request import Refusal
from ftharness.engine.gateway_relay import Relay
from ftharness.engine.gateway_request import Asked
from ftharness.engine.gateway_whole import whole
from ftharness.engine.gateway_worker import Declined

_JSON = "application/json"


class Answer(Response):
    """The response to one request."""

    def __init__(
        self, asked: Asked, request_id: str, relay: Relay, log: FrontendLog, over: Callable[[str], None]
    ) -> None:
        self._asked = asked
        self._request_id = request_id
        self._relay = relay
        self._log = log
        self._tell_over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the request to its end, whichever it is."""
        del scope
        self._log.started()
        status = "error"
        answering = asyncio.create_task(self._answer(send))
        leaving = asyncio.create_task(_client_gone(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                status = "success" if answering.result() else "error"
            else:
                status = "cancelled"
                self._cancelled()
        finally:
            leaving.cancel()
            answering.cancel()  # which closes the connection to the worker: so it learns that nobody wants the rest
            with suppress(asyncio.CancelledError):
                await answering
            self._tell_over(self._request_id)
            tokens = len(self._relay.progress.said)
            self._log.ended(self._request_id, self._asked.endpoint, self._type, status=status, tokens=tokens)

    def _cancelled(self) -> None:
        self._log.cancelled(self._request_id, self._asked.endpoint, self._type)
        if self._relay.worker is not None:
            self._log.kill_sent(self._request_id, self._relay.worker.name)

    @property
    def _type(self) -> str:
        return "stream" if self._asked.stream else "unary"

    async def _answer(self, send: Send) -> bool:
        """Whether it was answered."""
        try:
            await (self._stream(send) if self._asked.stream else self._whole(send))
        except Declined as answer:
            await self._body(send, answer.status, answer.body, answer.kind)
            return False
        except Refusal as error:  # nothing is sent yet: the status can tell
            await self._body(send, error.status, msgspec.json.encode(error.body()), _JSON)
            return False
        return not self._failed

    _failed = False

    async def _stream(self, send: Send) -> None:
        begun = False
        try:
            async with aclosing(self._relay.chunks()) as chunks:
                async for chunk in chunks:
                    if not begun:
                        await self._start(send, 200, "text/event-stream; charset=utf-8")
                        begun = True
                    await send({"type": "http.response.body", "body": event(chunk), "more_body": True})
            end = DONE
            if self._asked.include_usage:
                end = event(self._relay.progress.closing()) + DONE
        except Refusal as error:
            if not begun:
                raise
            self._failed = True
            end = event(error.body()) + DONE
        await send({"type": "http.response.body", "body": end, "more_body": False})

    async def _whole(self, send: Send) -> None:
        async with aclosing(self._relay.chunks()) as chunks:
            made = [chunk async for chunk in chunks]
        answer = whole(made, self._relay.progress.usage, chat=self._asked.chat)
        await self._body(send, 200, msgspec.json.encode(answer), _JSON)

    async def _body(self, send: Send, status: int, body: bytes, kind: str) -> None:
        await self._start(send, status, kind, (b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, send: Send, status: int, kind: str, *headers: tuple[bytes, bytes]) -> None:
        told = [(b"content-type", kind.encode()), (b"x-request-id", self._request_id.encode()), *headers]
        await send({"type": "http.response.start", "status": status, "headers": told})


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
