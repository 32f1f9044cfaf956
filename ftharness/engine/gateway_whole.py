"""The one body of an answer that is not streamed, from the chunks of one that is."""

from collections.abc import Iterable
from typing import Any

_Json = dict[str, Any]

#: Fields that come in pieces. Any other text is said once.
_PIECES = {"text", "content", "reasoning", "reasoning_content", "refusal", "arguments"}


def whole(chunks: Iterable[_Json], usage: _Json, *, chat: bool) -> _Json:
    """The answer of which these are all chunks, in their order."""
    answer: _Json = {}
    choices: dict[int, _Json] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            _add(choices.setdefault(choice["index"], {}), choice)
        answer = {**chunk, **answer}
    answer["object"] = "chat.completion" if chat else "text_completion"
    answer["choices"] = [_finished(choices[index], chat=chat) for index in sorted(choices)]
    return {**answer, "usage": usage}


def _finished(choice: _Json, *, chat: bool) -> _Json:
    if not chat:
        return choice
    message = choice.pop("delta")
    for call in message.get("tool_calls") or ():
        call.pop("index", None)
    return {"index": choice.pop("index"), "message": message, **choice}


def _add(so_far: _Json, more: _Json) -> None:
    for key, value in more.items():
        known = so_far.get(key)
        if value is None and key in so_far:
            continue
        if isinstance(value, dict):
            if known is None:
                so_far[key] = known = {}
            _add(known, value)
        elif isinstance(value, list):
            if known is None:
                so_far[key] = known = []
            _extend(known, value, by_index=key == "tool_calls")
        else:
            so_far[key] = known + value if known and key in _PIECES else value


def _extend(so_far: list[Any], more: list[Any], *, by_index: bool) -> None:
    """A list goes on; a tool call is named by its index, and comes in pieces."""
    if not by_index:
        so_far += more
        return
    for call in more:
        known = next((one for one in so_far if one.get("index") == call.get("index")), None)
        if known is None:
            so_far.append(known := {})
        _add(known, call)
