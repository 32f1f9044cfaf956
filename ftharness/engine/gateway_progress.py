"""How far an answer is: the events of one worker after another become the chunks of one answer.

Every chunk that the client gets has the id and the time of the first one. Where the answer goes on at another worker, that one's
completion is written on in the format in which the answer began.
"""

from typing import Any

from ftharness.engine.frontend_format import usage as usage_of
from ftharness.engine.frontend_stop import StopFilter
from ftharness.engine.gateway_request import Asked, Dialect
from ftharness.engine.gateway_worker import Lost

_Json = dict[str, Any]

#: What a delta of a chat may hold for the answer to be continued as plain text.
_PLAIN = {"role", "content"}


class Progress:
    """One answer, from its first chunk on.

    Attributes:
        prompt: The prompt's tokens, or None: not known yet.
        said: The tokens of the text that the client has.
        began: The client has some of the answer.
        ended: It has all of it.
        cut: A stop string ended it, of which the worker does not know.
        stays: Why it cannot move, or nothing.
    """

    def __init__(self, asked: Asked, dialect: Dialect) -> None:
        self.prompt: list[int] | None = None
        self.said: list[int] = []
        self.began = False
        self.ended = False
        self.cut = False
        self.stays = asked.stays
        self._asked = asked
        self._dialect = dialect
        self._stop = StopFilter(asked.stops) if asked.stops else None
        self._envelope: _Json = {}
        self._opened: set[int] = set()  # choices of a chat that have their role
        self._finished = 0
        self._onward = False  # the worker was asked to go on
        self._held: list[tuple[_Json, list[int]]] = []
        self._usage: _Json = {}
        self._characters = 0  # of the tokens whose log probabilities the client has
        self._shift = 0  # the same, when the worker began

    @property
    def length(self) -> int:
        """Tokens of prompt and answer, as far as they are known."""
        return len(self.prompt or ()) + len(self.said)

    @property
    def usage(self) -> _Json:
        """The prompt as it was asked, and all tokens that the client has, whoever made them."""
        return self._counted(self._usage)

    def closing(self) -> _Json:
        """The chunk that tells the usage."""
        kind = "chat.completion.chunk" if self._asked.chat else "text_completion"
        return {**self._envelope, "object": kind, "choices": [], "usage": self.usage}

    def take(self, event: _Json) -> list[_Json]:
        """The chunks for the client that a worker's event brings.

        Raises:
            Lost: The worker gave the request up.
        """
        choices = event.get("choices")
        if not choices:
            self._usage = event.get("usage") or self._usage
            return []
        ids = self._named(event, choices)
        if any(choice.get("finish_reason") == "abort" for choice in choices):  # nobody here asked for that
            raise Lost("Disconnected: the worker has given the request up")
        if self._is_opening(choices, ids):
            return self._open(event, choices)
        if self._onward and self._asked.chat:
            event = _as_chat(event, self._asked)
            choices = event["choices"]
        self._judge(choices, ids)
        choice = choices[0]
        if not self.stays and ids and not _text(choice) and not choice.get("finish_reason"):
            # The tokens may be a part of a character. If the worker is lost now, they are made again, whole.
            self._held.append((event, ids))
            return []
        ready = [*self._held, (event, ids)]
        self._held = []
        return [self._say(one, its) for one, its in ready]

    def move(self) -> None:
        """Its worker is lost: what the client does not have is forgotten."""
        self._held = []
        self._onward = bool(self.said)
        self._shift = self._characters

    def end(self) -> list[_Json]:
        """All tokens are there and only the word that this is all was lost."""
        choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
        return self.take({"choices": [choice | {"token_ids": []}], "object": "text_completion"})

    def _named(self, event: _Json, choices: list[_Json]) -> list[int] | None:
        """The ids of its tokens, or None where it names none; they are for the client only if it wanted them."""
        wanted = self._asked.names_tokens
        places = [event, *choices]  # vLLM names those of a chat's prompt beside the choices, all others in them
        prompts = [_field(place, "prompt_token_ids", keep=wanted and not self._onward) for place in places]
        if self.prompt is None:
            self.prompt = next((ids for ids in prompts if ids is not None), None)
        named = [_field(choice, "token_ids", keep=wanted) for choice in choices]
        return None if None in named else [token_id for ids in named for token_id in ids]

    def _is_opening(self, choices: list[_Json], ids: list[int] | None) -> bool:
        return not ids and all("role" in choice.get("delta", ()) and not _text(choice) for choice in choices)

    def _open(self, event: _Json, choices: list[_Json]) -> list[_Json]:
        """A chat begins with the role: once, be it begun anew."""
        new = [choice for choice in choices if choice["index"] not in self._opened]
        self._opened.update(choice["index"] for choice in new)
        return [self._enveloped(event)] if new else []

    def _judge(self, choices: list[_Json], ids: list[int] | None) -> None:
        """Whether another worker could go on with what this one said."""
        if self.stays:
            return
        if ids is None:
            self.stays = "its worker does not name its tokens"
        elif any(value for choice in choices for key, value in choice.get("delta", {}).items() if key not in _PLAIN):
            self.stays = "its worker says more than text: reasoning or tool calls"

    def _say(self, event: _Json, ids: list[int] | None) -> _Json:
        choices = event["choices"]
        self.said += ids or ()
        self.began = True
        if self._stop is not None:
            self._cut(self._stop, choices[0])
        for choice in choices:
            self._shifted(choice.get("logprobs"))
            self._finished += choice.get("finish_reason") is not None
        self.ended = self._finished >= self._asked.choices
        if event.get("usage"):
            event["usage"] = self._counted(event["usage"])
        return self._enveloped(event)

    def _cut(self, stop: StopFilter, choice: _Json) -> None:
        text, found = stop.feed(_text(choice))
        if found:
            self.cut = not choice.get("finish_reason")
            choice["finish_reason"] = "stop"
            choice[self._dialect.stop_reason] = stop.found
        elif choice.get("finish_reason"):
            text += stop.end()
        if self._asked.chat:
            choice["delta"]["content"] = text
        else:
            choice["text"] = text

    def _shifted(self, logprobs: _Json | None) -> None:
        """Offsets of a completion's tokens count from the beginning of the answer, not of this worker's part."""
        if logprobs and logprobs.get("text_offset"):
            logprobs["text_offset"] = [offset + self._shift for offset in logprobs["text_offset"]]
            self._characters = logprobs["text_offset"][-1] + len(logprobs["tokens"][-1])

    def _enveloped(self, event: _Json) -> _Json:
        if not self._envelope:
            self._envelope = {key: event[key] for key in ("id", "created", "model") if key in event}
        return {**event, **self._envelope}

    def _counted(self, usage: _Json) -> _Json:
        if self.stays or self.prompt is None:  # of several answers, or without tokens, only the engine knows
            return usage
        return usage | usage_of(len(self.prompt), len(self.said))


def _field(place: _Json, name: str, *, keep: bool) -> Any:
    return place.get(name) if keep else place.pop(name, None)


def _text(choice: _Json) -> str:
    said = choice["delta"].get("content") if "delta" in choice else choice.get("text")
    return said or ""


def _as_chat(event: _Json, asked: Asked) -> _Json:
    """A chunk of a completion as one of a chat."""
    choices = []
    for choice in event["choices"]:
        rest = {key: value for key, value in choice.items() if key not in ("index", "text", "logprobs")}
        logprobs = _chat_logprobs(choice.get("logprobs"), asked.body.get("top_logprobs") or 0)
        choices.append({"index": choice["index"], "delta": {"content": choice["text"]}, "logprobs": logprobs, **rest})
    return {**event, "object": "chat.completion.chunk", "choices": choices}


def _chat_logprobs(logprobs: _Json | None, tops: int) -> _Json | None:
    """The arrays of a completion as the list of a chat. A token's bytes are those of its text: half a character is U+FFFD."""
    if not logprobs:
        return None
    all_tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    content = []
    for token, value, others in zip(logprobs["tokens"], logprobs["token_logprobs"], all_tops, strict=True):
        best = sorted((others or {}).items(), key=lambda one: -one[1])[:tops]
        content.append({**_entry(token, value), "top_logprobs": [_entry(*other) for other in best]})
    return {"content": content}


def _entry(token: str, value: float) -> _Json:
    return {"token": token, "logprob": value, "bytes": list(token.encode())}
