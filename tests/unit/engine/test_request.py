"""What a body asks: each form of a prompt, of a stop, of a limit; and what is refused, with the field's name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.engine import tokens
from ftharness.engine.frontend_request import CONTEXT_LENGTH, Ask, Refusal, parse_chat, parse_completion

BODY: dict[str, Any] = {"model": "m", "prompt": "Hi"}
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def completion(**change: Any) -> Ask:
    return parse_completion(json.dumps(BODY | change).encode(), "m")


def chat(**change: Any) -> Ask:
    return parse_chat(json.dumps(CHAT | change).encode(), "m")


@pytest.mark.parametrize(
    "prompt,ids",
    [
        ("Hi", tokens.encode("Hi")),
        ("", []),
        (["Hi"], tokens.encode("Hi")),
        ([1, 2], [1, 2]),
        ([[1, 2]], [1, 2]),
        ([[]], []),
        ([], []),
        ([7], [7]),
    ],
    ids=str,
)
def test_a_prompt_has_four_forms(prompt: Any, ids: list[int]) -> None:
    """A text, ids, or a batch of one of these."""
    assert completion(prompt=prompt).prompt_ids == ids


@pytest.mark.parametrize("prompt", [["a", "b"], [[1], [2]], [1, "a"], [[1, 2], "a"], [-1], [[8451]], [8451]], ids=str)
def test_a_prompt_that_is_none_of_these_is_refused(prompt: Any) -> None:
    """A batch of several, a mixture, an id that does not exist: by the field's name."""
    with pytest.raises(Refusal) as refused:
        completion(prompt=prompt)
    assert (refused.value.status, refused.value.param) == (400, "prompt")


def test_limits_have_their_order_and_their_defaults() -> None:
    """``max_completion_tokens`` before ``max_tokens``; 16 of a completion, 512 of a chat."""
    assert (completion().max_tokens, chat().max_tokens) == (16, 512)
    assert (completion(max_tokens=3).max_tokens, chat(max_tokens=3).max_tokens) == (3, 3)
    assert chat(max_tokens=3, max_completion_tokens=4).max_tokens == 4


@pytest.mark.parametrize("stop,stops", [(None, ()), ("x", ("x",)), (["x", "y"], ("x", "y")), ([], ())], ids=str)
def test_stop_is_a_string_or_several(stop: Any, stops: tuple[str, ...]) -> None:
    """Or none."""
    assert completion(stop=stop).stop == stops


def test_log_probabilities_are_asked_for_in_two_ways() -> None:
    """A number of a completion, 0 included; a yes and a number of a chat."""
    assert [completion(logprobs=value).logprobs for value in (None, 0, 3)] == [None, 0, 3]
    said = [chat(logprobs=yes, top_logprobs=top).logprobs for yes, top in ((False, None), (True, None), (True, 3))]
    assert said == [None, 0, 3]
    assert chat(top_logprobs=3).logprobs is None


def test_prompt_and_answer_fit_the_context_together() -> None:
    """To the token."""
    assert completion(max_tokens=CONTEXT_LENGTH - 2).max_tokens == CONTEXT_LENGTH - 2
    with pytest.raises(Refusal) as refused:
        completion(max_tokens=CONTEXT_LENGTH - 1)
    assert (refused.value.param, refused.value.code) == ("max_tokens", "context_length_exceeded")


WRONG = [
    ({"model": "other"}, 404, "model"),
    ({"temperature": 3}, 400, "temperature"),
    ({"top_p": 2}, 400, "top_p"),
    ({"n": 129}, 400, "n"),
    ({"stop": ["a", ""]}, 400, "stop"),
    ({"stream": "yes"}, 400, "stream"),
    ({"seed": 1.5}, 400, "seed"),
    ({"stream": True, "stream_options": []}, 400, "stream_options"),
]


@pytest.mark.parametrize("change,status,param", WRONG, ids=[str(one[0]) for one in WRONG])
def test_a_field_that_is_wrong_is_named(change: dict[str, Any], status: int, param: str) -> None:
    """In an error object as OpenAI's."""
    with pytest.raises(Refusal) as refused:
        completion(**change)
    assert (refused.value.status, refused.value.param) == (status, param)
    body = refused.value.body()["error"]
    assert (body["type"], body["param"]) == ("invalid_request_error", param)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_body_or_a_refusal(data: bytes) -> None:
    """Nothing that a client sends is an error of the frontend's own."""
    for parse in (parse_completion, parse_chat):
        with pytest.raises(Refusal) as refused:
            parse(data, "m")
        assert refused.value.status == 400


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "prompt",
    "messages",
    "max_tokens",
    "n",
    "stop",
    "seed",
    "stream",
    "stream_options",
    "logprobs",
    "echo",
    "model",
]


@given(st.sampled_from(FIELDS), values)
def test_any_value_of_a_field_is_taken_or_refused(field: str, value: Any) -> None:
    """Whatever JSON it is: no other error."""
    for parse, good in ((parse_completion, BODY), (parse_chat, CHAT)):
        try:
            asked = parse(json.dumps(good | {field: value}).encode(), "m")
        except Refusal:
            continue
        assert asked.n >= 1
        assert asked.max_tokens >= 1


def test_what_is_not_known_is_ignored() -> None:
    """As sampling parameters are, that our engine has no use for."""
    assert completion(top_k=5, user="me", temperature=0.7) == completion()
