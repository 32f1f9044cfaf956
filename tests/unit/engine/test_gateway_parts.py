"""The gateway's parts that need no server: what is read of a request, of a stream, and how a body is made of chunks."""

import json
import socket
from typing import Any

import pytest

from ftharness.engine.gateway import main
from ftharness.engine.gateway_request import DIALECTS, Asked, onward, parse
from ftharness.engine.gateway_whole import whole
from ftharness.engine.gateway_worker import EventReader

VLLM = DIALECTS["vllm"]


def _parsed(*, chat: bool = False, **fields: Any) -> Asked:
    body = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"}
    return parse(json.dumps(body | fields).encode(), VLLM, chat=chat)


def test_events_are_the_same_however_their_bytes_are_split() -> None:
    """Also within a character; and what Python calls an end of line in a text is none in a stream."""
    payloads = ['{"text":"…\u2028\x85 ü"}', "[DONE]"]
    stream = ": keep-alive\n\n" + "".join(f"data: {payload}\r\n\r\n" for payload in payloads)
    data = stream.encode()
    for cut in range(len(data)):
        reader = EventReader()
        events = reader.feed(data[:cut]) + reader.feed(data[cut:])
        assert [event.decode() for event in events] == payloads


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"prompt": ["a", "b"]},
        {"prompt": [[1], [2]]},
        {"echo": True},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"choice": ["a"]}},
        {"prompt_logprobs": 0},
        {"stop": "x", "min_tokens": 3},
        {"chat": True, "tools": [{"type": "function"}]},
        {"chat": True, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    ],
    ids=lambda fields: next(reversed(fields)),
)
def test_a_request_that_needs_more_than_tokens_stays(fields: dict[str, Any]) -> None:
    """Its reason is there from the beginning; the engine's own stop strings are then the engine's."""
    asked = _parsed(**fields)
    assert asked.stays
    assert not asked.stops


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [1, 2]},
        {"prompt": ["one"]},
        {"n": 1, "echo": False, "suffix": None, "response_format": {"type": "text"}},
        {"chat": True, "tools": [{"type": "function"}], "tool_choice": "none"},
        {"chat": True, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
    ],
    ids=lambda fields: next(reversed(fields)),
)
def test_a_request_of_text_alone_moves(fields: dict[str, Any]) -> None:
    """Fields that ask for nothing do not hinder it."""
    assert not _parsed(**fields).stays


def test_the_answer_of_a_chat_may_be_as_long_as_the_context() -> None:
    """Where a chat names no limit, the rest of the worker's context is one; a completion has OpenAI's 16."""
    assert _parsed(chat=True).max_tokens(10, 2048) == 2038
    assert _parsed(chat=True).max_tokens(10, None) is None
    assert _parsed(chat=True, max_completion_tokens=7, max_tokens=9).max_tokens(10, 2048) == 7
    assert _parsed().max_tokens(10, 2048) == 16


def test_a_chat_goes_on_as_a_completion() -> None:
    """Without what only a chat has, and with the log probabilities in a completion's terms."""
    asked = _parsed(chat=True, logprobs=True, top_logprobs=3, temperature=0, tool_choice="none", max_tokens=9)
    body = onward(asked, VLLM, "story", context=[1, 2, 3], said=2, remaining=7)
    assert body == {
        "prompt": [1, 2, 3],
        "max_tokens": 7,
        "logprobs": 3,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }


def test_a_body_has_all_that_its_chunks_said() -> None:
    """Reasoning, text and tool calls, each in pieces, as the engine would have said them in one."""

    def chunk(reason: str | None = None, **delta: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "tiny",
            "choices": [choice],
        }

    first = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "look", "arguments": '{"at'}}
    then = {"index": 0, "function": {"arguments": '":1}'}}
    other = {"index": 1, "id": "call-2", "type": "function", "function": {"name": "go", "arguments": "{}"}}
    chunks = [
        chunk(role="assistant", content=""),
        chunk(reasoning="It is "),
        chunk(reasoning="far."),
        chunk(content="I "),
        chunk(content="look."),
        chunk(tool_calls=[first]),
        chunk(tool_calls=[then]),
        chunk("tool_calls", tool_calls=[other]),
    ]
    answer = whole(chunks, {"total_tokens": 9}, chat=True)
    calls = [
        {"id": "call-1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}},
        {"id": "call-2", "type": "function", "function": {"name": "go", "arguments": "{}"}},
    ]
    message = {"role": "assistant", "content": "I look.", "reasoning": "It is far.", "tool_calls": calls}
    assert answer["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls"}]
    assert (answer["object"], answer["usage"]) == ("chat.completion", {"total_tokens": 9})


WRONG = {
    "a port beyond the last": (["--port", "99999"], "argument --port: 99999: must be at least 0 and at most 65535"),
    "a worker's, too": (["--worker", "b=http://127.0.0.1:99999"], "a worker is NAME=http://HOST:PORT, not 'b=http"),
    "two of one name": (["--worker", "a=http://127.0.0.1:2"], "argument --worker: two are named a"),
    "a negative limit": (["--migration-limit", "-3"], "argument --migration-limit: -3: must be at least 0"),
    "no length": (["--migration-max-seq-len", "0"], "argument --migration-max-seq-len: 0: must be at least 1"),
    "no time": (["--stream-timeout-s", "0"], "argument --stream-timeout-s: 0: must be more than 0, and finite"),
    "no number": (["--port", "http"], "argument --port: invalid whole number value: 'http'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_call_that_cannot_be_meant_ends_with_a_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, as of argparse's own refusals; nothing listens."""
    more, says = WRONG[name]
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--model", "m", "--http-fd", "99999", "--worker", "a=http://127.0.0.1:1", *more])
    assert says in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit, match=r"^2$"):
        port = taken.getsockname()[1]
        main(["--model", "m", "--port", str(port), "--worker", "a=http://127.0.0.1:1"])
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in capsys.readouterr().err
