"""Oracles for what real servers do: health, traffic round what is broken, and one request that breaks each of them."""

from typing import Any

import pytest

from ftharness.engine import tokens
from ftharness.history import (
    FaultLanded,
    FaultRequested,
    Log,
    ProcessExited,
    ProcessReady,
    ProcessStarted,
)
from ftharness.scenario.case import Case
from ftharness.scenario.expect import Expect, apply
from ftharness.scenario.expectations import (
    exits_as,
    health_agrees,
    health_is,
    rejoins_within,
    silent_at_most,
    stops_failing_after,
    takes_down_at_most,
)

Story = Any
IDS = tokens.generate(0, tokens.encode("Once"), 10)


@pytest.fixture(name="story")
def made(story: Any) -> Story:
    """A control, and nothing yet of the phase with the fault."""
    return story()


def say(story: Story, expect: Expect) -> str:
    return apply(expect, Case(story.end())).verdict


def strike(story: Story, t_ms: float, fault: str, process: str, fault_id: str = "fault-1", **evidence: object) -> None:
    request = "r" if fault not in ("restart", "check_health") else ""
    story.add(
        t_ms - 1,
        FaultRequested(source="harness", id=fault_id, fault=fault, target="serving", trigger="", request=request),
    )
    story.add(t_ms, FaultLanded(source=process, id=fault_id, evidence=dict(evidence)))


def look(story: Story, t_ms: float, status: object, process: str = "frontend", fault_id: str = "fault-2") -> None:
    strike(story, t_ms, "check_health", process, fault_id, status=status, path="/health", took_ms=2.0)


@pytest.mark.parametrize(
    "said, wanted, verdict",
    [
        (503, 503, "pass"),
        (200, 503, "fail"),
        ("none", "none", "pass"),
        ("none", "unhealthy", "pass"),
        (503, "unhealthy", "pass"),
        (200, "unhealthy", "fail"),
    ],
)
def test_what_a_process_says_of_its_health(story: Story, said: object, wanted: int, verdict: str) -> None:
    story.request(200, "r", IDS)
    look(story, 220, said)
    assert say(story, health_is(wanted)) == verdict


@pytest.mark.parametrize(
    "said, outcome, verdict",
    [
        (200, "success", "pass"),
        (503, "error", "pass"),
        ("none", "error", "pass"),
        (200, "error", "fail"),  # a load balancer sends users there
        (200, "hang", "fail"),
        (503, "success", "fail"),  # and none there, where they would be served
        ("none", "hang", "pass"),  # that nobody should be kept waiting is another expectation
    ],
)
def test_health_is_what_the_next_request_meets(story: Story, said: object, outcome: str, verdict: str) -> None:
    story.request(200, "r", IDS)
    look(story, 300, said)
    story.request(310, "next", IDS if outcome == "success" else [], outcome=outcome, index=1)
    assert say(story, health_agrees()) == verdict


def test_a_look_after_which_nobody_asked_tells_nothing(story: Story) -> None:
    story.request(200, "r", IDS)
    assert say(story, health_is(200)) == "unknown"
    assert say(story, health_agrees()) == "unknown"
    look(story, 300, 200)
    assert say(story, health_agrees()) == "unknown"


@pytest.mark.parametrize(
    "process, outcome, taken, verdict",
    [
        ("frontend", "success", ["worker-2"], "fail"),  # all that is asked is asked of it
        ("worker-1", "success", ["worker-2"], "unknown"),  # nobody asked worker-1
        ("worker-1", "success", [], "unknown"),
        ("worker-1", "success", ["worker-1"], "fail"),
        ("worker-1", "error", ["worker-1"], "pass"),
        ("worker-1", "success", ["worker-1", "worker-2"], "unknown"),  # which of them answered?
    ],
)
def test_only_what_went_to_a_process_tells_of_its_health(
    story: Story, process: str, outcome: str, taken: list[str], verdict: str
) -> None:
    story.request(200, "r", IDS)
    look(story, 300, 503, process)
    story.request(310, "next", IDS if outcome == "success" else [], outcome=outcome, index=1)
    for place, name in enumerate(taken):
        story.taken(311 + place, name, "next")
    found = apply(health_agrees(), Case(story.end()))
    assert found.verdict == verdict, found.reason
    if verdict != "unknown":
        assert found.reason.endswith(f"; taken by {taken[0]}")


def test_it_is_the_next_that_the_process_itself_took(story: Story) -> None:
    look(story, 150, 200, "worker-1")
    story.request(200, "r", [], outcome="error")
    story.taken(201, "worker-2", "r")
    story.request(300, "next", IDS, index=1)
    story.taken(301, "worker-1", "next")
    assert say(story, health_agrees()) == "pass"


def test_the_only_process_is_asked_whatever_it_says(story: Story) -> None:
    """Its log may have no line of what it received; and another life of it is no other process."""
    story.events = [(t, event) for t, event in story.events if event.source not in ("frontend", "worker-2")]
    story.add(2, ProcessStarted(source="worker-1.2", pid=9, role="aggregated"))
    look(story, 150, 503, "worker-1")
    story.request(200, "r", IDS)
    assert say(story, health_agrees()) == "fail"


@pytest.mark.parametrize("between, verdict", [(False, "unknown"), (True, "fail")])
def test_a_request_tells_of_the_last_look_before_it(story: Story, between: bool, verdict: str) -> None:
    look(story, 150, 200)
    if between:
        story.request(160, "r", [], outcome="error")
    look(story, 300, 503, fault_id="fault-3")
    story.request(310, "next", [], outcome="error", index=1)
    assert say(story, health_agrees()) == verdict


def test_whose_client_left_met_nothing(story: Story) -> None:
    look(story, 150, 503)
    story.request(160, "r", IDS[:2], outcome="cancelled")
    assert say(story, health_agrees()) == "unknown"


@pytest.mark.parametrize("failing, verdict", [(0, "pass"), (2, "pass"), (3, "fail")])
def test_it_is_learned_who_is_broken(story: Story, failing: int, verdict: str) -> None:
    story.request(200, "r", IDS)
    strike(story, 210, "freeze", "worker-1")
    for place in range(5):
        outcome = "hang" if place < failing else "success"
        story.request(300 + 100 * place, f"n{place}", IDS, outcome=outcome, index=1 + place)
    assert say(story, stops_failing_after(2)) == verdict


def test_too_few_requests_show_nothing_of_that(story: Story) -> None:
    story.request(200, "r", IDS)
    assert say(story, stops_failing_after(2)) == "unknown"
    strike(story, 210, "freeze", "worker-1")
    story.request(300, "n", IDS, index=1)
    assert say(story, stops_failing_after(2)) == "unknown"


@pytest.mark.parametrize(
    "first_ms, asked, verdict",
    [(900, 5, "pass"), (3000, 5, "fail"), (0, 5, "fail"), (0, 1, "unknown"), (3000, 1, "unknown")],
)
def test_what_was_started_again_gets_requests_soon(story: Story, first_ms: float, asked: int, verdict: str) -> None:
    story.request(200, "r", IDS)
    strike(story, 210, "kill", "worker-1")
    story.add(212, ProcessExited(source="worker-1", pid=1, signal="SIGKILL"))
    story.add(220, ProcessStarted(source="worker-1.2", pid=9, role="aggregated"))
    story.add(500, ProcessReady(source="worker-1.2", pid=9, how=""))
    strike(story, 501, "restart", "worker-1", "fault-2", started="worker-1.2")
    for place in range(asked):
        story.request(600 + 100 * place, f"n{place}", IDS, index=1 + place)
    if first_ms:
        line = Log(source="worker-1.2", event="request_received", captures={"request": "n0"}, line="")
        story.add(500 + first_ms, line)
    assert say(story, rejoins_within(ms=1000)) == verdict


@pytest.mark.parametrize(
    "taken, killed, verdict",
    [
        (["worker-1"], 1, "pass"),
        (["worker-1", "worker-2"], 2, "fail"),
        (["worker-1", "worker-2"], 1, "fail"),  # it would have fallen, too, had the scenario one fault more
        ([], 0, "unknown"),
    ],
)
def test_how_many_workers_one_request_takes_with_it(story: Story, taken: list[str], killed: int, verdict: str) -> None:
    story.request(200, "r", [], outcome="error")
    for place, name in enumerate(taken):
        story.add(201 + 10 * place, Log(source=name, event="request_received", captures={"request": "r"}, line=""))
        if place < killed:
            strike(story, 205 + 10 * place, "kill_engine", name, f"fault-{place + 1}")
    assert say(story, takes_down_at_most(1)) == verdict


@pytest.mark.parametrize("hit", ["", "worker-2"])
def test_a_request_that_nobody_fell_by_took_nobody_down(story: Story, hit: str) -> None:
    """No fault at all, or one that hit who never had it, shows nothing of how far it would have gone."""
    story.request(200, "r", IDS)
    story.taken(201, "worker-1")
    if hit:
        strike(story, 210, "kill", hit)
    assert say(story, takes_down_at_most(1)) == "unknown"


def test_a_worker_falls_by_the_request_itself_too(story: Story) -> None:
    story.request(200, "r", [], outcome="error")
    story.taken(201, "worker-1")
    story.add(205, ProcessExited(source="worker-1", pid=1, signal="SIGSEGV"))
    assert say(story, takes_down_at_most(1)) == "pass"


@pytest.mark.parametrize("ends_ms, verdict", [(250, "pass"), (900, "fail")])
def test_nobody_is_left_waiting(story: Story, ends_ms: float, verdict: str) -> None:
    strike(story, 210, "kill_engine", "worker-1")
    story.request(200, "r", IDS[:2], outcome="error", step_ms=5, gap_before=1, gap_ms=ends_ms - 220)
    assert say(story, silent_at_most(ms=100)) == verdict


@pytest.mark.parametrize(
    "fault, process, outcome, verdict",
    [
        ("disconnect", "client", "cancelled", "unknown"),  # who went away waits for nothing
        ("half_close", "client", "success", "pass"),  # and who only said that nothing more is asked, does
        ("freeze", "worker-2", "success", "unknown"),  # never had it
        ("freeze", "worker-1", "success", "pass"),
        ("freeze", "frontend", "success", "pass"),
        ("freeze", "worker-1", "cancelled", "unknown"),  # it might have waited for long
    ],
)
def test_nobody_is_kept_waiting_by_what_it_did_not_wait_for(
    story: Story, fault: str, process: str, outcome: str, verdict: str
) -> None:
    story.request(200, "r", IDS, outcome=outcome)
    story.taken(201, "worker-1")
    strike(story, 225, fault, process)
    assert say(story, silent_at_most(ms=100)) == verdict


def test_who_left_after_too_long_was_kept_waiting(story: Story) -> None:
    story.request(200, "r", IDS[:2], outcome="cancelled", gap_before=1, gap_ms=500)
    strike(story, 206, "freeze", "worker-1")
    assert say(story, silent_at_most(ms=100)) == "fail"


@pytest.mark.parametrize(
    "end, verdict", [({"signal": "SIGKILL"}, "pass"), ({"returncode": 1}, "pass"), ({"returncode": 0}, "fail")]
)
def test_an_end_tells_that_something_went_wrong(story: Story, end: dict[str, object], verdict: str) -> None:
    story.request(200, "r", IDS)
    strike(story, 210, "kill_engine", "worker-1")
    look(story, 215, 503, "worker-1")  # it is not what was only looked at that is asked about
    story.add(220, ProcessExited(source="worker-1", pid=1, **end))
    assert say(story, exits_as("failure")) == verdict
