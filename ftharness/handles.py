"""What a test holds in its hands of a run that goes on in the harness's loop: the client, a stream, the stack."""

from typing import TYPE_CHECKING, Any

from ftharness.portal import Done, Pending, Portal

if TYPE_CHECKING:  # imported when a test asks for ``ft``: whoever does not use it pays nothing
    from ftharness.client import Request
    from ftharness.history import RequestFinished
    from ftharness.process import Living
    from ftharness.scenario.runner import Run


class StreamHandle:
    """A request that is under way.

    Attributes:
        id: The request's id.
        index: Its place among those that the test has sent, from 0: what a fault is aimed at.
    """

    def __init__(self, portal: Portal, stream: Any) -> None:
        self._portal = portal
        self._stream = stream
        self.id: str = stream.id
        self.index: int = stream.index

    @property
    def tokens(self) -> int:
        """Tokens received so far."""
        return int(self._stream.tokens)

    @property
    def text(self) -> str:
        """The text so far, of choice 0."""
        return str(self._stream.text)

    @property
    def result(self) -> "RequestFinished | None":
        """How it ended, or None."""
        result: RequestFinished | None = self._stream.result
        return result

    def token(self, number: int, *, deadline_s: float = 30.0) -> Pending[None]:
        """Until ``number`` tokens have arrived; TimeoutError where they do not."""
        return self._portal.begin(f"stream.token({number})", self._stream.token(number, deadline_s=deadline_s))

    def finished(self) -> "Pending[RequestFinished]":
        """Until it has ended, in whatever way."""
        return self._portal.begin("stream.finished()", self._stream.finished())

    def cancel(self) -> Pending[None]:
        """Go away: close the connection."""
        return self._portal.begin("stream.cancel()", self._stream.cancel())


class ClientHandle:
    """Sends requests to the test's stack."""

    def __init__(self, portal: Portal, run: "Run") -> None:
        self._portal = portal
        self._run = run

    def complete(self, prompt: str = "Once upon a time", **fields: Any) -> Pending[StreamHandle]:
        """Send a completion; ``fields`` as of :class:`ftharness.client.Request`."""
        from ftharness.client import completion

        return self.send(completion(prompt, **fields))

    def chat(self, prompt: str = "Tell me a story", **fields: Any) -> Pending[StreamHandle]:
        """Send a chat of one user message."""
        from ftharness.client import chat

        return self.send(chat(prompt, **fields))

    def send(self, request: "Request") -> Pending[StreamHandle]:
        """Send ``request``; there once it is on its way."""
        return self._portal.begin(f"a {request.endpoint} of ft.client", self._send(request))

    async def _send(self, request: "Request") -> StreamHandle:
        stream = await self._run.send(request)
        return StreamHandle(self._portal, stream)


class StackHandle(Done):
    """The test's stack; it runs."""

    def __init__(self, portal: Portal, run: "Run") -> None:
        self._portal = portal
        self._run = run

    @property
    def url(self) -> str:
        """The frontend's base URL."""
        return self._run.stack.client.url

    @property
    def workers(self) -> "list[Living]":
        """The workers, also those that have ended."""
        return self._run.stack.workers

    @property
    def frontend(self) -> "Living":
        """The frontend."""
        return self._run.stack.frontend

    def __getitem__(self, name: str) -> "Living":
        """The process of that name; LookupError where there is none."""
        return self._run.stack[name]

    def serving(self, request: StreamHandle) -> "Living":
        """The worker that last took the request; LookupError where none says so."""
        return self._portal.call(self._run.stack.find_serving(request.id))
