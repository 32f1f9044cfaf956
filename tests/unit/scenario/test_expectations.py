"""The oracles' short names: what each is about, in whichever order that is said."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from ftharness.scenario import (
    Expect,
    aborted_in,
    cancelled_within,
    ends_as_asked,
    fails_with,
    gap_within,
    migrated,
    never_reached,
    no_tokens_after_abort,
    recovers_within,
    still_serves,
    succeeds,
    ttft_within,
)
from ftharness.scenario.expect import apply

Make = Callable[..., Any]


class Stream(NamedTuple):
    """What a test has of a request."""

    id: str = "r"


ONE = Stream()
SAME: list[tuple[Expect, ...]] = [
    (
        aborted_in("decode", ONE),
        aborted_in(ONE, "decode"),
        aborted_in("decode", request=ONE),
        aborted_in(ONE, role="decode"),
    ),
    (never_reached("decode", ONE), never_reached(ONE, "decode"), never_reached(role="decode", request=ONE)),
    (fails_with(500, ONE), fails_with(ONE, 500), fails_with(status=500, request=ONE), fails_with(ONE, status=500)),
    (fails_with("broken", ONE), fails_with(ONE, "broken")),
    (aborted_in("decode", remote="prefill"), aborted_in(role="decode", remote="prefill")),
    *((one(ONE, ms=5), one(ms=5, request=ONE)) for one in (cancelled_within, recovers_within, ttft_within, gap_within)),
]


@pytest.mark.parametrize("same", SAME, ids=[str(one[0]) for one in SAME])
def test_the_request_comes_first_or_last(same: tuple[Expect, ...]) -> None:
    """Or by its name: it is the same expectation."""
    assert len({repr(one) for one in same}) == 1


OF_ONE = [
    (succeeds, {}),
    (migrated, {}),
    (cancelled_within, {"ms": 5}),
    (no_tokens_after_abort, {}),
    (still_serves, {}),
    (ends_as_asked, {}),
    (aborted_in, {"role": "decode"}),
    (never_reached, {"role": "decode"}),
]


@pytest.mark.parametrize("make,args", OF_ONE, ids=[make.__name__ for make, _ in OF_ONE])
def test_each_takes_a_stream_first_and_a_place_by_name(make: Make, args: dict[str, Any]) -> None:
    """A scenario, which has no stream, says its place in the workload; and the report says it, too."""
    assert make(ONE, **args).request == "r"
    placed = make(request=1, **args)
    assert (placed.request, placed.place, placed.of_one) == ("", 1, True)
    assert str(placed).endswith("request=1)")
    assert not make(**args).of_one


WRONG: list[tuple[Callable[[], Expect], str]] = [
    (lambda: aborted_in(ONE), "aborted_in() takes one role, and at most one request"),
    (lambda: aborted_in("decode", "prefill"), "aborted_in() takes one role"),  # type: ignore[arg-type]
    (never_reached, "never_reached() takes one role"),
    (lambda: fails_with(500, ONE, request=Stream("s")), "fails_with() takes one status"),  # type: ignore[call-overload]
    (lambda: cancelled_within("r", ms=5), "cancelled_within(): 'r' is no request"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("make,says", WRONG, ids=[says for _, says in WRONG])
def test_what_is_no_request_is_refused_with_a_sentence(make: Callable[[], Expect], says: str) -> None:
    """And not with Python's count of arguments."""
    with pytest.raises(TypeError) as told:
        make()
    assert says in str(told.value)


def test_an_oracle_is_asked_about_the_request_at_that_place(left: Make) -> None:
    """Of the fault phase; of one that was not sent there is nothing to say."""
    assert apply(cancelled_within(request=0, ms=5), left().case()).verdict == "pass"
    for place in (1, 2):
        finding = apply(cancelled_within(request=place, ms=5), left().case())
        assert (finding.verdict, finding.reason) == ("unknown", "no client gave its request up")
    assert (
        apply(ends_as_asked(request=1), left().case()).reason == "0 cancelled as asked, 1 complete; every token exact"
    )
