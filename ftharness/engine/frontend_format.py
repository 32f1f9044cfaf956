"""OpenAI's response formats: the bytes of each event of a stream, and the one body of an answer that is not streamed.

Generated text is lower-case words and spaces, so it needs no JSON escapes: an event is two fragments, made once per
choice, around the text.
"""

import time
from typing import Any

import msgspec

from ftharness.engine.frontend_request import Ask
from ftharness.engine.tokens import VOCABULARY, WORDS, logprob

_encode = msgspec.json.Encoder().encode

#: How a stream ends, after an error too.
DONE = b"data: [DONE]\n\n"
#: How an event ends that is an object.
_END = b"}\n\n"


def event(payload: object) -> bytes:
    """A server-sent event."""
    return b"data: " + _encode(payload) + b"\n\n"


def text_of(ids: list[int]) -> str:
    """The text of generated ids."""
    return "".join([VOCABULARY[token_id] for token_id in ids])


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The usage object."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def _nvext(worker: str) -> dict[str, Any]:
    """Who made a chunk: in the place in which Dynamo passes on what the engine says of it.

    Dynamo's own ``worker_id`` is no such word: it stays the first worker's after a migration (docs/dynamo.md).
    """
    return {"engine_data": {"worker": worker}}


def _alternatives(token_id: int, count: int) -> list[tuple[int, float]]:
    """The token itself, then its neighbours in the vocabulary, each less likely."""
    return [((token_id + step) % WORDS, logprob(token_id) - step) for step in range(count)]


def completion_logprobs(ids: list[int], tops: int, offset: int) -> dict[str, Any]:
    """The arrays of ``/v1/completions``; ``offset`` is the length of the text before."""
    tokens = [VOCABULARY[token_id] for token_id in ids]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [logprob(token_id) for token_id in ids],
        "top_logprobs": [{VOCABULARY[other]: value for other, value in _alternatives(i, tops)} for i in ids],
        "text_offset": offsets,
    }


def chat_logprobs(ids: list[int], tops: int) -> dict[str, Any]:
    """The array of ``/v1/chat/completions``."""

    def entry(token_id: int, value: float) -> dict[str, Any]:
        token = VOCABULARY[token_id]
        return {"token": token, "logprob": value, "bytes": list(token.encode())}

    content = []
    for token_id in ids:
        others = [entry(other, value) for other, value in _alternatives(token_id, tops)]
        content.append({**entry(token_id, logprob(token_id)), "top_logprobs": others})
    return {"content": content}


class Format:
    """How one request's answer is written."""

    def __init__(self, ask: Ask, request_id: str, model: str) -> None:
        self._ask = ask
        self._chat = ask.endpoint == "chat_completions"
        self._id = f"{'chatcmpl' if self._chat else 'cmpl'}-{request_id}"
        self._model = model
        self._created = int(time.time())
        rest = ""
        if ask.include_usage:
            rest = ',"usage":null'
        self._head: list[bytes] = []
        for index in range(ask.n):
            empty = _encode({**self._envelope(), "choices": []}).decode().removesuffix("]}")
            opening = '"delta":{"content":"' if self._chat else '"text":"'
            self._head.append(f'data: {empty}{{"index":{index},{opening}'.encode())
        closing = '"}' if self._chat else '"'
        self._tail = {
            reason: f'{closing},"logprobs":null,"finish_reason":{finish}}}]{rest}'.encode() + _END
            for reason, finish in ((None, "null"), ("length", '"length"'), ("stop", '"stop"'))
        }

    def _envelope(self) -> dict[str, Any]:
        kind = "text_completion"
        if self._chat:
            kind = "chat.completion.chunk" if self._ask.stream else "chat.completion"
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def opening(self, index: int) -> bytes:
        """What a choice begins with: in a chat the role, otherwise nothing."""
        if not self._chat:
            return b""
        choice = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
        return self._event([{**choice, "finish_reason": None}])

    def chunk(self, index: int, text: str, reason: str | None, worker: str) -> bytes:
        """Some text of a choice, made by that worker; the hot path."""
        said = self._head[index] + text.encode() + self._tail[reason]
        if not self._ask.names_worker:
            return said
        return said[: -len(_END)] + b',"nvext":' + _encode(_nvext(worker)) + _END

    def chunk_with_logprobs(
        self, index: int, text: str, reason: str | None, ids: list[int], offset: int, worker: str
    ) -> bytes:
        """The same with the log probabilities of ``ids``; ``offset`` is the length of the tokens before."""
        said = {"delta": {"content": text}} if self._chat else {"text": text}
        choice = {"index": index, **said, "logprobs": self._logprobs(ids, offset), "finish_reason": reason}
        return self._event([choice], **({"nvext": _nvext(worker)} if self._ask.names_worker else {}))

    def closing(self, completion_tokens: int) -> bytes:
        """What a stream ends with: the usage, when it was asked for, and the end mark."""
        if not self._ask.include_usage:
            return DONE
        return self._event([], usage=usage(len(self._ask.prompt_ids), completion_tokens)) + DONE

    def body(self, choices: list[tuple[str, list[int], str | None]], completion_tokens: int) -> bytes:
        """The whole answer, from each choice's text, ids and finish reason."""
        written = []
        for index, (text, ids, reason) in enumerate(choices):
            said: dict[str, Any] = {"text": text}
            if self._chat:
                said = {"message": {"role": "assistant", "content": text}}
            logprobs = None if self._ask.logprobs is None else self._logprobs(ids, 0)
            written.append({"index": index, **said, "logprobs": logprobs, "finish_reason": reason})
        used = usage(len(self._ask.prompt_ids), completion_tokens)
        return _encode({**self._envelope(), "choices": written, "usage": used})

    def _logprobs(self, ids: list[int], offset: int) -> dict[str, Any]:
        tops = self._ask.logprobs or 0
        return chat_logprobs(ids, tops) if self._chat else completion_logprobs(ids, tops, offset)

    def _event(self, choices: list[dict[str, Any]], **rest: object) -> bytes:
        if self._ask.include_usage:
            rest.setdefault("usage", None)
        return event({**self._envelope(), "choices": choices, **rest})
