"""What a client may ask, checked once: an OpenAI request body becomes an :class:`Ask`, or a :class:`Refusal`."""

from typing import Annotated, Any, TypeVar

import msgspec

from ftharness.engine.tokens import EOS, SPECIALS, chat_prompt, encode

#: Tokens that prompt and answer may have together.
CONTEXT_LENGTH = 131_072
#: OpenAI's own default for completions; the chat default is ours, since our model never ends by itself.
_COMPLETION_TOKENS = 16
_CHAT_TOKENS = 512

_Positive = Annotated[int, msgspec.Meta(ge=1)]


class Refusal(Exception):  # noqa: N818  the field's word
    """A request that is not served, as the HTTP status and OpenAI's error object."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = status if code is None else code

    def body(self) -> dict[str, Any]:
        """The error as a response body."""
        kind = "invalid_request_error" if self.status < 500 else "internal_server_error"  # noqa: PLR2004
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the stack sees it.

    Attributes:
        endpoint: ``completions`` or ``chat_completions``.
        prompt_ids: The prompt as token ids.
        max_tokens: Ids a choice may have.
        n: Choices.
        stop: Strings that end a choice; they are not part of its text.
        seed: The request's own seed, or None.
        stream: Server-sent events rather than one body.
        include_usage: A last event with the usage.
        logprobs: Alternatives to report per token, or None for no log probabilities.
        names_worker: Each chunk says which worker made it.
    """

    endpoint: str
    prompt_ids: list[int]
    max_tokens: int
    n: int
    stop: tuple[str, ...]
    seed: int | None
    stream: bool
    include_usage: bool
    logprobs: int | None
    names_worker: bool = False


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _NvExt(msgspec.Struct):
    """NVIDIA's extensions of the API; the others are ignored, as by a Dynamo that does not have them."""

    extra_fields: list[str] | None = None


class _Body(msgspec.Struct, kw_only=True):
    """What both endpoints take. Anything else in a body is ignored, as sampling parameters are."""

    model: str
    max_tokens: _Positive | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    nvext: _NvExt | None = None


_AnyBody = TypeVar("_AnyBody", bound=_Body)


class _Completion(_Body, kw_only=True):
    prompt: str | list[int | str | list[int]]
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    echo: bool | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None


class _Chat(_Body, kw_only=True):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: _Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None


def parse_completion(data: bytes, model: str) -> Ask:
    """A body of ``/v1/completions``.

    Raises:
        Refusal: It is not one that is served here.
    """
    body = _decode(data, _Completion, model)
    if body.echo:
        raise Refusal(400, "echo is not supported", param="echo")
    return _ask("completions", body, _prompt_ids(body.prompt), body.max_tokens or _COMPLETION_TOKENS, body.logprobs)


def parse_chat(data: bytes, model: str) -> Ask:
    """A body of ``/v1/chat/completions``.

    Raises:
        Refusal: It is not one that is served here.
    """
    body = _decode(data, _Chat, model)
    for index, message in enumerate(body.messages):
        if isinstance(message.content, list) and not all(
            part.get("type") == "text" and isinstance(part.get("text"), str) for part in message.content
        ):
            raise Refusal(400, f"messages[{index}]: only content of type text is supported", param="messages")
    prompt = chat_prompt([{"role": message.role, "content": message.content} for message in body.messages])
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    limit = body.max_completion_tokens or body.max_tokens or _CHAT_TOKENS
    return _ask("chat_completions", body, encode(prompt), limit, logprobs)


def _decode(data: bytes, kind: type[_AnyBody], model: str) -> _AnyBody:
    try:
        body = msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        _, _, where = str(error).partition(" - at `$.")
        raise Refusal(400, str(error), param=where.rstrip("`") or None) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from error
    if body.model != model:
        message = f"The model `{body.model}` does not exist; this stack serves `{model}`"
        raise Refusal(404, message, param="model", code="model_not_found")
    return body


def _prompt_ids(prompt: str | list[int | str | list[int]]) -> list[int]:
    if isinstance(prompt, str):
        return encode(prompt)
    if len(prompt) == 1 and not isinstance(prompt[0], int):  # a batch of one
        only = prompt[0]
        return encode(only) if isinstance(only, str) else _checked(only)
    ids = [part for part in prompt if isinstance(part, int)]
    if len(ids) != len(prompt):
        raise Refusal(400, "a batch of several prompts is not supported: send one request each", param="prompt")
    return _checked(ids)


def _checked(ids: list[int]) -> list[int]:
    limit = EOS + len(SPECIALS)
    if not all(0 <= token_id < limit for token_id in ids):
        raise Refusal(400, f"token ids of a prompt are from 0 to {limit - 1}", param="prompt")
    return ids


def _ask(endpoint: str, body: _Body, prompt_ids: list[int], max_tokens: int, logprobs: int | None) -> Ask:
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if not all(stop):
        raise Refusal(400, "a stop string may not be empty", param="stop")
    if len(prompt_ids) + max_tokens > CONTEXT_LENGTH:
        message = (
            f"This model's maximum context length is {CONTEXT_LENGTH} tokens; the prompt has {len(prompt_ids)} "
            f"and max_tokens asks for {max_tokens}"
        )
        raise Refusal(400, message, param="max_tokens", code="context_length_exceeded")
    options = body.stream_options
    if options is not None and not body.stream:
        raise Refusal(400, "stream_options may only be set when stream is true", param="stream_options")
    return Ask(
        endpoint=endpoint,
        prompt_ids=prompt_ids,
        max_tokens=max_tokens,
        n=body.n or 1,
        stop=stop,
        seed=body.seed,
        stream=bool(body.stream),
        include_usage=options is not None and options.include_usage,
        logprobs=logprobs,
        names_worker=body.nvext is not None and "engine_data" in (body.nvext.extra_fields or ()),
    )
