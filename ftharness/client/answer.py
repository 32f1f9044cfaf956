"""An answer as it comes: the bytes of a body into texts, tokens, finish reasons and usage, streamed or in one piece."""

from collections.abc import Callable
from typing import Any

import msgspec

from ftharness.client.request import Request

CountTokens = Callable[[str], int]
#: Told of each piece: the choice, the number of its first token in that choice, its tokens, its text, when it was read, and
#: the worker that made it, where the piece says so.
Say = Callable[[int, int, int, str, int, str], None]
#: The finish reason of an answer that its engine ended before its end.
GIVEN_UP = "abort"


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | str | None = None
    nvext: Any = None


_events = msgspec.json.Decoder(_Event)


class Answer:
    """The answer to one request, as far as it has come.

    Args:
        request: What was asked.
        count: How many tokens a text holds.
        say: Told of each piece.

    Attributes:
        tokens: Received so far, over all choices.
        usage: As the server said it.
        error: The code and the message of what went wrong in it, or None.
        told: Whether it was the server that said so.
    """

    def __init__(self, request: Request, count: CountTokens, say: Say) -> None:
        self.tokens = 0
        self.usage: dict[str, Any] | None = None
        self.error: tuple[int | None, str] | None = None
        self.told = False
        self._request = request
        self._count = count
        self._say = say
        self._texts: dict[int, list[str]] = {}
        self._counts: dict[int, int] = {}
        self._reasons: dict[int, str | None] = {}
        self._logprobs: dict[int, int] = {}
        self._said_done = False
        self._rest = b""

    @property
    def text(self) -> str:
        """The text of choice 0 so far."""
        return "".join(self._texts.get(0, ()))

    @property
    def reasons(self) -> list[str | None]:
        """The finish reason of each choice."""
        return [self._reasons.get(choice) for choice in range(self._request.n)]

    @property
    def logprobs(self) -> list[int]:
        """How many log probabilities came with each choice."""
        return [self._logprobs.get(choice, 0) for choice in range(self._request.n)]

    @property
    def refusal(self) -> str:
        """What a body says that came with another status than 200."""
        said = self._rest.decode(errors="replace")
        try:
            body = _events.decode(self._rest)
            said = _error_of(body.error)[1] if body.error is not None else said
        except msgspec.MsgspecError:
            pass
        return said[:2000]

    def on_events(self, data: bytes, at: int) -> None:
        """A piece of a stream of events, read at ``at`` (CLOCK_MONOTONIC, ns)."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), at)

    def on_part(self, data: bytes) -> None:
        """A part of a body that is only read whole."""
        self._rest += data

    def whole(self, at: int) -> None:
        """That body is complete, and is an answer."""
        self._event(self._rest, at)

    @property
    def missing(self) -> str:
        """What a complete answer has, and this one has not; "" where it is complete."""
        if self._request.stream and not self._said_done:
            return "the stream ended without [DONE]"
        return next((f"no finish_reason for choice {i}" for i, said in enumerate(self.reasons) if said is None), "")

    def _event(self, data: bytes, at: int) -> None:
        if data == b"[DONE]":
            self._said_done = True
            return
        try:
            event = _events.decode(data)
        except msgspec.MsgspecError as error:
            self.error = self.error or (None, f"an event that is no answer: {error}: {data[:200]!r}")
            return
        if event.error is not None:
            self.told = self.error is None
            self.error = self.error or _error_of(event.error)
        if event.usage is not None:
            self.usage = event.usage
        # An answer in one piece may be of several workers: it says the name of one.
        worker = _worker_of(event.nvext) if event.nvext is not None and self._request.stream else ""
        for choice in event.choices:
            self._take(choice, at, worker)

    def _take(self, choice: _Choice, at: int, worker: str) -> None:
        part = choice.delta or choice.message
        text = choice.text if part is None else part.content
        if choice.finish_reason is not None:
            self._reasons[choice.index] = choice.finish_reason
        if choice.logprobs is not None:
            self._logprobs[choice.index] = self._logprobs.get(choice.index, 0) + _logprob_count(choice.logprobs)
        if text:
            first, tokens = self._counts.get(choice.index, 0), self._count(text)
            self._counts[choice.index] = first + tokens
            self._texts.setdefault(choice.index, []).append(text)
            self.tokens += tokens
            self._say(choice.index, first, tokens, text, at, worker)


def _logprob_count(logprobs: dict[str, Any]) -> int:
    values = logprobs.get("content") or logprobs.get("token_logprobs") or logprobs.get("tokens") or []
    return len(values)


def _worker_of(nvext: Any) -> str:
    """The worker that an engine of ours names in what the frontend passes on of it; "" of any other engine."""
    said = nvext.get("engine_data") if isinstance(nvext, dict) else None
    worker = said.get("worker") if isinstance(said, dict) else None
    return worker if isinstance(worker, str) else ""


def _error_of(error: dict[str, Any] | str) -> tuple[int | None, str]:
    if isinstance(error, str):
        return None, error
    code = error.get("code")
    try:
        number = int(code) if code is not None else None
    except (TypeError, ValueError):
        number = None
    return number, str(error.get("message", error))
