"""One id through a call, and everything that it sets going: ``X-Correlation-Id``, echoed or made, and in every log line."""

import re
import uuid
from contextvars import ContextVar
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: A task that a call starts inherits it, and so do an operation's log lines long after the call was answered.
correlation_id: Final[ContextVar[str]] = ContextVar("correlation_id", default="")

_HEADER = b"x-correlation-id"
#: Printable ASCII without spaces: what can neither forge a line of a log nor split a header, in any tool that it passes.
_SOUND = re.compile(rb"[!-~]{1,128}")


class Correlated:
    """ASGI: each call has an id, the client's own if it is sound, and its answer says which."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = sound(scope["headers"])
        correlation_id.set(said.decode())

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (_HEADER, said)]
            await send(message)

        await self._app(scope, receive, answer)


def sound(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The id that a call brought, if it brought one, and a sound one; else one that is made here."""
    brought = [value for name, value in headers if name == _HEADER]
    if len(brought) == 1 and _SOUND.fullmatch(brought[0]):
        return brought[0]
    return str(uuid.uuid4()).encode()
