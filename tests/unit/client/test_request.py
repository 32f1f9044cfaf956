"""A request is looked at where it is written: a wrong one is an error at that line, and not while it is sent."""

from typing import Any

import msgspec
import pytest

from ftharness.client import Request, chat, completion

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_tokens": "3"}, TypeError, r"^max_tokens = '3': Expected `int`, got `str`"),
    ({"stop": "end"}, TypeError, r"^stop = 'end': Expected `array`, got `str`"),
    ({"stop": ["end", 3]}, TypeError, r"^stop = .*: Expected `str`, got `int` - at `\$\[1\]`"),
    ({"prompt": None}, TypeError, r"^prompt = None: Expected `str`"),
    ({"max_token": 3}, TypeError, r"^a request has no field 'max_token'; did you mean max_tokens\?"),
    ({"endpoint": "chat"}, TypeError, r"^a request has no field 'endpoint'; there are after, after_fault, at_s, "),
    ({"max_tokens": 0}, ValueError, r"^max_tokens = 0: must be at least 1"),
    ({"prompt": "half \ud800"}, ValueError, r"^prompt cannot be sent as JSON: .* surrogates not allowed"),
    ({"stop": ["\udfff"]}, ValueError, r"^stop cannot be sent as JSON"),
    ({"extra": {"tools": object()}}, ValueError, r"^extra cannot be sent as JSON: .* type object"),
]


@pytest.mark.parametrize(
    "fields,error,says", WRONG, ids=[f"{place}-{next(iter(one[0]))}" for place, one in enumerate(WRONG)]
)
@pytest.mark.parametrize("make", [completion, chat])
def test_a_wrong_field_is_named(make: Any, fields: dict[str, Any], error: type[Exception], says: str) -> None:
    """With its value and what it has to be, or the nearest name."""
    with pytest.raises(error, match=says):
        make(**fields)


def test_what_fits_is_taken_as_it_is_meant() -> None:
    """Whole numbers where fractions may be, tuples where lists are, whole pairs of surrogates in a prompt."""
    request = completion("\U0001f600", at_s=1, stop=("a", "b"), extra={"temperature": 0})
    assert request == Request(prompt="\U0001f600", at_s=1.0, stop=["a", "b"], extra={"temperature": 0})


def test_a_stored_request_is_looked_at_as_well() -> None:
    """A scenario's file is written by hand, too."""
    with pytest.raises(msgspec.ValidationError, match="max_tokens = 0: must be at least 1"):
        msgspec.convert({"max_tokens": 0}, Request)


def test_what_every_request_asks_joins_what_this_one_asks() -> None:
    """Objects and lists are joined; of two values the request's own counts, and its ``extra`` stays what it is."""
    extra = {"nvext": {"extra_fields": ["timing", "engine_data"], "priority": 1}, "user": "me"}
    more = {"nvext": {"extra_fields": ["engine_data", "worker_id"], "priority": 2}, "user": "all", "top_p": 1}
    body = completion(extra=extra).body("m", more)
    assert body["nvext"] == {"extra_fields": ["timing", "engine_data", "worker_id"], "priority": 1}
    assert (body["user"], body["top_p"]) == ("me", 1)
    assert extra["nvext"] == {"extra_fields": ["timing", "engine_data"], "priority": 1}
