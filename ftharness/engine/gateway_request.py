"""What a client asks, and how a worker is asked for it: at first as the client did, after a loss with the tokens so far.

Both engines can name the tokens of a stream (vLLM 0.32.0: ``return_token_ids`` of both endpoints; SGLang 0.5.23: of
``/v1/completions`` alone, a streamed chat with it is refused with 400). With these a request moves: another worker gets prompt
and tokens as the prompt of a completion.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from ftharness.engine.frontend_request import Refusal


class Dialect(NamedTuple):
    """What is an engine's own in the API that both have.

    Attributes:
        chat_names_tokens: A streamed chat can name its tokens.
        keep_stop: The field that leaves a stop string in the text.
        stop_reason: The field of an answer that says which it was.
        request_id: The field that takes the id of a request; nothing where the header X-Request-Id does.
    """

    chat_names_tokens: bool
    keep_stop: str
    stop_reason: str
    request_id: str


DIALECTS = {
    "vllm": Dialect(
        chat_names_tokens=True, keep_stop="include_stop_str_in_output", stop_reason="stop_reason", request_id=""
    ),
    "sglang": Dialect(chat_names_tokens=False, keep_stop="no_stop_trim", stop_reason="matched_stop", request_id="rid"),
}

#: Fields whose work another worker cannot go on with from the tokens alone: a grammar's state, what the engine makes of a
#: prompt or of its own text, KV that is elsewhere.
_STAY = (
    "audio",
    "bootstrap_room",
    "ebnf",
    "echo",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "json_schema",
    "kv_transfer_params",
    "prompt_embeds",
    "prompt_logprobs",
    "regex",
    "stop_regex",
    "structured_outputs",
    "suffix",
    "thinking_token_budget",
    "use_beam_search",
)
#: Fields of a chat that a completion does not have, or that are done when its prompt is made.
_CHAT_ONLY = (
    "messages",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "chat_template",
    "chat_template_kwargs",
    "reasoning_effort",
    "add_generation_prompt",
    "continue_final_message",
)
#: Fields of a completion that are done, too.
_DONE = ("prompt", "truncate_prompt_tokens", "truncation_side")
#: Tokens of a completion that says nothing of them, in both engines.
_COMPLETION_TOKENS = 16


class _Message(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None


class _Read(msgspec.Struct):
    """The fields of both endpoints that the gateway itself reads."""

    messages: list[_Message] | None = None
    prompt: str | list[int | str | list[int]] | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    return_token_ids: bool | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Its stop strings; an empty one is no such, which the worker may say."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def choices(self) -> int:
        """Answers: ``n`` of each prompt."""
        several = isinstance(self.prompt, list) and not isinstance(next(iter(self.prompt), 0), int)
        prompts = len(self.prompt) if several and isinstance(self.prompt, list) else 1
        return prompts * (1 if self.n is None else self.n)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request as the client made it.

    Attributes:
        chat: It is one of ``/v1/chat/completions``.
        body: All of it.
        stream: Server-sent events rather than one body.
        include_usage: A last event with the usage.
        names_tokens: The client wants the token ids itself.
        stops: Strings that end the answer, where the gateway looks for them.
        choices: Answers that it has.
        stays: Why it cannot move, or nothing.
    """

    chat: bool
    body: dict[str, Any]
    stream: bool
    include_usage: bool
    names_tokens: bool
    stops: tuple[str, ...]
    choices: int
    stays: str

    @property
    def endpoint(self) -> str:
        """Its name in metrics."""
        return "chat_completions" if self.chat else "completions"

    @property
    def path(self) -> str:
        """Where it is asked."""
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def max_tokens(self, prompt: int, context: int | None) -> int | None:
        """Tokens that the answer may have, or None where nobody says: the worker's ``context`` may."""
        named = self.body.get("max_completion_tokens") if self.chat else None
        limit = named if named is not None else self.body.get("max_tokens")
        if limit is not None:
            return int(limit)
        if not self.chat:
            return _COMPLETION_TOKENS
        return None if context is None else context - prompt


def parse(data: bytes, dialect: Dialect, *, chat: bool) -> Asked:
    """A client's body. What is wrong with what is not read here is the worker's to say.

    Raises:
        Refusal: It cannot be read.
    """
    try:
        body = msgspec.json.decode(data, type=dict[str, Any])
        read = msgspec.convert(body, _Read)
    except msgspec.ValidationError as error:
        _, _, where = str(error).partition(" - at `$.")
        raise Refusal(400, str(error), param=where.rstrip("`") or None) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from error
    if read.stream_options is not None and not read.stream:
        raise Refusal(400, "stream_options may only be set when stream is true", param="stream_options")
    stays = _stays(read, body, dialect, chat=chat)
    return Asked(
        chat=chat,
        body=body,
        stream=bool(read.stream),
        include_usage=bool((read.stream_options or {}).get("include_usage")),
        names_tokens=bool(read.return_token_ids),
        stops=() if stays or body.get(dialect.keep_stop) or not all(read.stops) else read.stops,
        choices=read.choices,
        stays=stays,
    )


def at_first(asked: Asked, dialect: Dialect, request_id: str) -> dict[str, Any]:
    """What a worker is asked that begins with it."""
    return asked.body | _streamed(asked, dialect, request_id, chat=asked.chat)


def onward(
    asked: Asked, dialect: Dialect, request_id: str, *, context: list[int], said: int, remaining: int
) -> dict[str, Any]:
    """What a worker is asked that goes on with it after ``said`` tokens; ``context`` are the prompt and these."""
    gone = (*_DONE, *_CHAT_ONLY) if asked.chat else _DONE
    body = {key: value for key, value in asked.body.items() if key not in gone}
    if asked.chat and asked.body.get("logprobs"):
        body["logprobs"] = asked.body.get("top_logprobs") or 0
    if body.get("min_tokens"):
        body["min_tokens"] = max(0, body["min_tokens"] - said)
    return body | {"prompt": context, "max_tokens": remaining} | _streamed(asked, dialect, request_id, chat=False)


def _streamed(asked: Asked, dialect: Dialect, request_id: str, *, chat: bool) -> dict[str, Any]:
    """What the gateway asks for itself: a stream, its tokens, its usage, and the text of a stop string.

    An engine holds back what may become a stop string. Were it lost then, its tokens would be known and their text not; so the
    gateway looks for stop strings itself, across a move too.
    """
    fields: dict[str, Any] = {
        "stream": True,
        "stream_options": {**(asked.body.get("stream_options") or {}), "include_usage": True},
    }
    if dialect.chat_names_tokens or not chat:
        fields["return_token_ids"] = True
    if dialect.request_id:
        fields[dialect.request_id] = request_id
    if asked.stops:
        fields[dialect.keep_stop] = True
    return fields


def _stays(read: _Read, body: dict[str, Any], dialect: Dialect, *, chat: bool) -> str:
    """Why a request cannot move, or nothing."""
    if chat and not dialect.chat_names_tokens:
        return "its engine does not name the tokens of a streamed chat"
    if read.choices != 1:
        return "it has several answers"
    for field in _STAY:
        if body.get(field) not in (None, "", [], {}) and body[field] is not False:
            return f"{field} does not go on elsewhere"
    if (read.response_format or {}).get("type", "text") != "text":
        return "response_format does not go on elsewhere"
    if body.get("tools") and body.get("tool_choice") != "none":
        return "tools do not go on elsewhere"
    if read.min_tokens and read.stops:
        return "stop strings that count from min_tokens on do not go on elsewhere"
    for message in read.messages or ():
        if isinstance(message.content, list) and any(part.get("type") != "text" for part in message.content):
            return "what is not text does not go on elsewhere"
    return ""
