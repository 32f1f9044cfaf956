"""Tokens that an engine made for nobody: seen by its own count, whatever else it does meanwhile."""

from collections.abc import Callable
from typing import Any

import pytest

from ftharness.engine import tokens
from ftharness.history import Log, ProcessExited, ProcessSignalled, ProcessStarted
from ftharness.scenario import kv_freed, no_tokens_after_abort, slots_freed, still_serves
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.expect import apply

Build = Callable[
    ..., Any
]  # the fixture ``left`` of conftest.py: the client of request 0 goes at 126 ms, after 5 of 10 tokens


def made(left: Build, count: float, *, speed: float | None = 200.0, **changes: Any) -> Finding:
    """What is said where the engine made so many tokens in the phase, of which clients got 15, and none later."""
    one = left(**changes)
    one.values = {**one.values, "tokens": (10, 10 + count, 10 + count)}
    if speed:
        one.story.events[0][1].params["speed"] = speed
    return apply(no_tokens_after_abort(), one.case())


# It is sent at 100 ms, and given up at 130 ms; with the 50 ms that a line may be late it is 80 ms: 17 tokens, if so many were
# asked for. It asked for 10, of which 5 came.


def test_each_token_came_or_may_have_been_on_its_way(left: Build) -> None:
    """To the request that was given up, for as long as that took."""
    finding = made(left, 20)
    assert (finding.verdict, finding.reason) == (
        "pass",
        "worker-1 made none for 300 ms; of the 20 tokens of all clients got 15, 5 were on their way",
    )


def test_an_engine_that_went_on_is_seen_though_another_request_outlived_that(left: Build) -> None:
    """It makes none when all is over; it has made too many."""
    finding = made(left, 30)
    assert finding.verdict == "fail"
    assert finding.reason == (
        "of the 30 tokens of all clients got 15, and at most 5 more were on their way to requests that were given up: "
        "the engines went on"
    )


@pytest.mark.parametrize("changes", [{"speed": None}, {"known": False, "aborted": None}])
def test_where_no_bound_is_known_nor_is_what_was_on_its_way(left: Build, changes: dict[str, Any]) -> None:
    """A run that was stored without its speed, a worker whose words are not known: unknown, where more was made than came."""
    finding = made(left, 18, **changes)
    assert (finding.verdict, "how many were on their way cannot be told" in finding.reason) == ("unknown", True)
    assert made(left, 15, **changes).verdict == "pass"


def test_what_a_killed_worker_had_made_is_not_in_the_count_of_the_others(left: Build) -> None:
    """Nor is what clients got of it: it hides nothing."""
    dead = [
        (1, ProcessStarted(source="worker-3", pid=1, role="aggregated")),
        (118, ProcessSignalled(source="worker-3", pid=1, signal="SIGKILL", reason="fault")),
        (119, ProcessExited(source="worker-3", pid=1, signal="SIGKILL")),
        (101, Log(source="worker-3", event="request_received", captures={"request": "r"})),
    ]
    # Of the 5 tokens of request 0 the first 3 came by 116 ms: from worker-3. So 12 are those of worker-1.
    assert made(left, 14, took=119.5, more=list(dead)).reason.endswith("of all clients got 12, 2 were on their way")
    assert made(left, 60, took=119.5, more=list(dead)).verdict == "fail"


def test_of_an_engine_that_is_not_ours_only_what_it_made_alone_is_known(left: Build) -> None:
    """While others run, whose tokens it makes cannot be told."""
    finding = made(left, 15, exact=False)
    assert (finding.verdict, finding.pending) == ("unknown", False)
    assert finding.reason.startswith("request 1 (s) ran on when the last had been given up")


LAST = {"aborted": None, "more": [(126.5, Log(source="worker-1", event="request_finished", captures={"request": "r"}))]}


@pytest.mark.parametrize("expect", [no_tokens_after_abort(), slots_freed(), kv_freed(), still_serves()], ids=str)
def test_a_client_that_goes_with_the_last_token_tests_nothing(left: Build, expect: Any) -> None:
    """No worker had the request any more: what they hold, they would hold anyway."""
    finding = apply(expect, left(**LAST).case())
    assert (finding.verdict, finding.reason) == (
        "unknown",
        "the workers were done with it before they could hear that its client had gone",
    )


@pytest.mark.parametrize("expect", [slots_freed(), kv_freed()], ids=str)
def test_where_nothing_was_cancelled_and_nothing_broken_nothing_had_to_be_freed(left: Build, expect: Any) -> None:
    """As after a ``stream.cancel()`` that came when the request was over."""
    case = left(outcome="success", faults=()).case()
    assert (
        apply(expect, case).verdict == "pass"
    )  # a scenario without faults asks about the stack at rest, and its record says so
    driven = Case([event for event in case.events if getattr(event, "phase", "") != "control"])
    finding = apply(expect, driven)
    assert (finding.verdict, finding.reason) == ("unknown", "nothing was cancelled, and nothing was broken")
    broken = left(outcome="success", faults=())
    broken.story.killed(125, process="worker-2")
    assert apply(expect, broken.case()).verdict == "pass"


@pytest.mark.parametrize("count, verdict", [(25, "pass"), (27, "pass"), (60, "fail")])
def test_an_engine_that_is_not_ours_has_the_speed_that_was_seen(left: Build, count: int, verdict: str) -> None:
    """The control's ten tokens came 5 ms apart; from the last that came until it was given up there was time for some more."""
    one = left()
    one.values = {**one.values, "tokens": (10, 10 + count, 10 + count)}
    long = tokens.generate(0, tokens.encode("Once"), 20)
    one.story.request(10, "e", long, control=True, index=2)
    one.story.events[0][1].params.update(exact=False, greedy=True, tokens_told=True)
    finding = apply(no_tokens_after_abort(), one.case())
    assert finding.verdict == verdict, finding.reason
