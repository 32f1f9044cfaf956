"""What a client asks: a completion or a chat, as data."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from ftharness.suggest import nearest

Endpoint = Literal["completion", "chat"]
PATHS: dict[Endpoint, str] = {"completion": "/v1/completions", "chat": "/v1/chat/completions"}


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request of a workload.

    Attributes:
        endpoint: ``completion`` or ``chat``.
        prompt: The prompt, or the user's message of a chat.
        max_tokens: The most tokens of an answer, a choice.
        stream: Whether the answer comes as server-sent events.
        n: Choices.
        logprobs: Whether to ask for log probabilities.
        stop: Strings that end the answer.
        at_s: Seconds after the phase's begin when it is sent; with ``after``: after that request's end.
        after: The place of an earlier request of the workload, whose end, in whatever way, is waited for; None: of none.
        after_fault: The place of a fault of the scenario, which is waited for, whether it lands or misses; of the run without
            faults that asks nothing. None: of none.
        own_process: Whether a client process of its own sends it, which can be killed.
        extra: Further fields of the body, as they are.
    """

    endpoint: Endpoint = "completion"
    prompt: str = "Once upon a time"
    max_tokens: int = 256
    stream: bool = True
    n: int = 1
    logprobs: bool = False
    stop: list[str] = []
    at_s: float = 0.0
    after: int | None = None
    after_fault: int | None = None
    own_process: bool = False
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        """Refuse what no server answers.

        Raises:
            ValueError: Says which, and what it may be.
        """
        for name in ("max_tokens", "n"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if not self.at_s >= 0:
            raise ValueError(f"at_s = {self.at_s}: must not be less than 0")
        for name in ("prompt", "stop", "extra"):
            try:
                msgspec.json.encode(getattr(self, name))
            except (UnicodeEncodeError, TypeError) as error:  # half of a surrogate pair, or what JSON has no word for
                raise ValueError(f"{name} cannot be sent as JSON: {error}") from error

    @property
    def path(self) -> str:
        """The path of its endpoint."""
        return PATHS[self.endpoint]

    def body(self, model: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON body, for ``model``; with what of ``more`` it does not ask itself."""
        body: dict[str, Any] = {"model": model, "max_tokens": self.max_tokens, "stream": self.stream}
        if self.endpoint == "chat":
            body["messages"] = [{"role": "user", "content": self.prompt}]
        else:
            body["prompt"] = self.prompt
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        if self.n != 1:
            body["n"] = self.n
        if self.logprobs:
            body["logprobs"] = True if self.endpoint == "chat" else 1
        if self.stop:
            body["stop"] = self.stop
        return _with(body | self.extra, more or {})


def _with(asked: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """``asked``, and of ``more`` what is not in it: objects are joined, and so are lists; of two values the asked one counts."""
    joined = dict(asked)
    for key, value in more.items():
        there = joined.get(key)
        if key not in joined:
            joined[key] = value
        elif isinstance(there, dict) and isinstance(value, Mapping):
            joined[key] = _with(there, value)
        elif isinstance(there, list) and isinstance(value, list):
            joined[key] = there + [one for one in value if one not in there]
    return joined


def completion(prompt: str = "Once upon a time", **fields: Any) -> Request:
    """A completion; ``fields`` are those of :class:`Request`.

    Raises:
        TypeError: A request has no such field (names the nearest), or the value is of another type; says which.
        ValueError: No server answers that; says what it may be.
    """
    return _request("completion", prompt, fields)


def chat(prompt: str = "Tell me a story", **fields: Any) -> Request:
    """A chat of one user message; ``fields`` are those of :class:`Request`, and what is raised is as for a completion."""
    return _request("chat", prompt, fields)


_FIELDS = {field.name: field.type for field in msgspec.structs.fields(Request) if field.name != "endpoint"}


def _request(endpoint: Endpoint, prompt: str, fields: Mapping[str, Any]) -> Request:
    """What a constructor does not: look at the types, where they are written, and not when the request is sent."""
    checked = {}
    for name, value in {"prompt": prompt, **fields}.items():
        if name not in _FIELDS:
            raise TypeError(f"a request has no field {name!r}; {nearest(name, _FIELDS)}")
        try:
            checked[name] = msgspec.convert(value, _FIELDS[name])
        except msgspec.ValidationError as error:
            raise TypeError(f"{name} = {value!r}: {error}") from error
    return Request(endpoint=endpoint, **checked)


def check_order(requests: Sequence[Request]) -> None:
    """Whether each request that is to be sent after another comes after it in the workload.

    Raises:
        ValueError: One does not; says which.
    """
    for index, request in enumerate(requests):
        if request.after is not None and not 0 <= request.after < index:
            raise ValueError(f"request {index}: after = {request.after}: must be the place of an earlier one")
