"""A request as Dynamo's runtime gives it to our worker."""

import pytest

from ftharness.engine.dynamo_request import DEFAULT_MAX_TOKENS, Request


@pytest.mark.parametrize(
    "stop, limit",
    [
        (None, DEFAULT_MAX_TOKENS),
        ({}, DEFAULT_MAX_TOKENS),
        ({"max_tokens": None}, DEFAULT_MAX_TOKENS),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 7}, 7),
    ],
)
async def test_no_limit_is_another_than_nothing_left(stop: dict[str, int | None] | None, limit: int) -> None:
    """The frontend moves a request whose worker is lost between its last token and its end: with 0 tokens to go."""
    (message,) = Request({"token_ids": [1], "stop_conditions": stop}, "r", 0, "key", worker="worker-1").messages()
    assert message["max_tokens"] == limit
