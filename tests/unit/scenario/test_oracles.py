"""Each oracle as a pure function over a history: what it passes, what it fails, what it cannot tell."""

from collections.abc import Callable
from typing import Any

import pytest

from ftharness.engine import tokens
from ftharness.history import ContractChosen, Leak, Log, Metric, ProcessExited, ProcessSignalled, RequestFinished
from ftharness.scenario import (
    Expect,
    ends_cleanly,
    every_request_ends,
    exits_as,
    exits_explained,
    fails_with,
    gap_within,
    logged,
    migrated,
    never_logged,
    no_leaks,
    not_migrated,
    recovers_within,
    succeeds,
    tokens_exact,
    ttft_within,
    usage_correct,
)
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.expect import apply

Make = Callable[..., Any]


def say(expect: Expect, events: list[Any]) -> Finding:
    """What the oracle says."""
    return apply(expect, Case(events))


@pytest.mark.parametrize(
    "expect",
    [
        succeeds(),
        migrated(times=1),
        tokens_exact(),
        usage_correct(),
        recovers_within(ms=10),
        ttft_within(ms=6),
        gap_within(ms=6),
        logged("migration_started", role="frontend"),
        never_logged("migration_exhausted"),
        exits_as("SIGKILL"),
        every_request_ends(),
        no_leaks(),
        exits_explained(),
    ],
    ids=str,
)
def test_a_good_migration_passes(story: Make, expect: Expect) -> None:
    """All that is expected of a migration is found in the history of one."""
    one = story()
    one.migrates()
    finding = say(expect, one.end())
    assert finding.verdict == "pass", finding.reason


# What bends the story, the oracle, and what its reason says.
BENT = [
    ({"outcome": "error", "error": "boom"}, succeeds(), "error (HTTP 200) after 10 tokens: boom"),
    ({"outcome": "hang"}, every_request_ends(), "hang"),
    ({"outcome": ""}, every_request_ends(), "it did not end"),
    ({"finish_reason": "stop"}, usage_correct(), "finish_reason 'stop', and 'length' without the fault"),
    (
        {"usage": {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}},
        usage_correct(),
        "usage.completion_tokens 5, and 10",
    ),
    ({"gap_before": 6, "gap_ms": 40}, gap_within(ms=20), "longest gap 45.0 ms, allowed: 20 ms"),
    ({"gap_before": 5, "gap_ms": 40}, recovers_within(ms=20), "first token 45.0 ms"),
    ({"gap_before": 0, "gap_ms": 40}, ttft_within(ms=20), "first token 45.0 ms, allowed: 20 ms"),
    ({"outcome": "success"}, fails_with(500), "expected an error 500, but: success"),
    ({"outcome": "error", "error_code": 503}, fails_with(500), "expected 500, but: error (HTTP 200, SSE error 503)"),
    ({}, not_migrated(), "it moved 1 times"),
    ({}, migrated(times=2), "expected 2, but it moved 1 times"),
    ({}, logged("request_aborted"), "no line that means request_aborted from any process"),
    ({}, never_logged("migration_started"), "frontend: "),
    ({}, exits_as(0), "worker-1 ended by SIGKILL, not by 0"),
    ({}, exits_as("SIGKILL", source="worker-2"), "worker-2 ended by exit status 0, not by SIGKILL"),
]


@pytest.mark.parametrize("bent,expect,says", BENT, ids=[f"{one[1]} {one[0]}" for one in BENT])
def test_an_oracle_fails_and_says_why(story: Make, bent: dict[str, Any], expect: Expect, says: str) -> None:
    """The reason names what was expected and what was seen."""
    one = story()
    one.migrates(**bent)
    finding = say(expect, one.end())
    assert finding.verdict == "fail", finding
    assert says in finding.reason


@pytest.mark.parametrize(
    "change,lost,duplicated,altered",
    [
        (lambda ids: ids[:5] + ids[6:], 1, 0, 0),
        (lambda ids: ids[:5] + ids[4:], 0, 1, 0),
        (lambda ids: [*ids[:5], 1, *ids[6:]], 0, 0, 1),
        (lambda ids: [*ids[:5], 1, 2, 3, 4, 5], 0, 0, 5),
        (lambda ids: ids[:7], 3, 0, 0),
        (lambda ids: ids[:5] + ids, 0, 5, 0),
        (lambda ids: [*ids, 9], 0, 1, 0),
    ],
    ids=["lost", "duplicated", "altered", "another answer", "cut short", "started again", "one too many"],
)
def test_tokens_are_counted_by_what_became_of_them(
    story: Make, ids: list[int], change: Callable[[list[int]], list[int]], lost: int, duplicated: int, altered: int
) -> None:
    """Lost, duplicated and altered are told apart, also where another answer has a token in place by chance."""
    one = story()
    one.migrates(change(ids))
    finding = say(tokens_exact(), one.end())
    assert finding.verdict == "fail"
    assert f"{lost} lost, {duplicated} duplicated, {altered} altered" in finding.reason


def test_of_engines_that_are_not_ours_numbers_are_compared(story: Make, ids: list[int]) -> None:
    """As many tokens as without the fault, whichever they are; one less is a failure."""
    other = story(exact=False)
    other.migrates([5] * 10)
    assert say(tokens_exact(), other.end()).verdict == "pass"
    short = story(exact=False)
    short.migrates(ids[:9])
    assert "9 tokens, and 10 without the fault" in say(tokens_exact(), short.end()).reason


def test_a_status_or_a_code_under_200_counts_and_is_told_apart(story: Make) -> None:
    """The same number as HTTP status or in an SSE error event; the reason says which."""
    for end, says in (
        ({"status": 500, "finish_reason": None, "usage": None}, "failed with HTTP status 500"),
        ({"error_code": 500}, "an SSE error event with code 500 under HTTP 200"),
    ):
        one = story()
        one.migrates(outcome="error", **end)
        finding = say(fails_with(500), one.end())
        assert finding.verdict == "pass"
        assert says in finding.reason


def test_a_documented_status_depends_on_the_version(story: Make) -> None:
    """A name stands for what the version documents; where it documents nothing it cannot be told."""
    one = story(behaviour={"migration_exhausted_stream": 503})
    one.migrates(outcome="error", error_code=503)
    assert "(documented for 1.0)" in say(fails_with("migration_exhausted"), one.end()).reason
    other = story(behaviour={})
    other.migrates(outcome="error", error_code=503)
    assert say(fails_with("migration_exhausted"), other.end()).verdict == "unknown"


def test_a_broken_connection_is_no_status(story: Make) -> None:
    """``broken`` holds where nothing said what went wrong, and not where something did."""
    one = story()
    one.migrates(outcome="error", error="the server closed the connection", finish_reason=None)
    assert say(fails_with("broken"), one.end()).verdict == "pass"
    other = story()
    other.migrates(outcome="error", error_code=500)
    assert say(fails_with("broken"), other.end()).verdict == "fail"


def test_recovery_is_split(story: Make) -> None:
    """Detect, reroute, first token and longest gap, in ms since the fault landed."""
    one = story()
    one.migrates()
    reason = say(recovers_within(ms=10), one.end()).reason
    assert "detect 2.0 ms, reroute 3.0 ms, first token 5.0 ms, longest gap 5.0 ms" in reason


def test_an_escalation_counts_from_its_kill(story: Make) -> None:
    """After a SIGTERM whose grace ended, recovery is measured from the SIGKILL."""
    one = story()
    one.migrates()
    one.add(126.5, ProcessSignalled(source="worker-1", pid=1, signal="SIGKILL", reason="escalation"))
    assert "detect 0.5 ms, reroute 1.5 ms" in say(recovers_within(ms=10), one.end()).reason


def test_an_answer_that_is_not_streamed_recovers_when_it_is_taken_over(story: Make) -> None:
    """Its tokens are not seen: another worker's claim counts, and without one nothing can be told."""
    one = story(stream=False)
    one.migrates(gap_before=0, gap_ms=5_000)
    finding = say(recovers_within(ms=10), one.end())
    assert finding.verdict == "pass"
    assert "no token is seen before its end" in finding.reason
    other = story(stream=False)
    other.taken(101, "worker-1")
    other.killed()
    other.request(100, "r", [1])
    assert say(recovers_within(ms=10), other.end()).verdict == "unknown"


def test_an_event_that_no_contract_knows_is_drift_not_failure(story: Make) -> None:
    """``logged`` of an unknown event, and of a version that the contract was not written for."""
    one = story()
    one.migrates()
    finding = say(logged("moon_rises"), one.end())
    assert (finding.verdict, finding.drift) == ("unknown", ("moon_rises: not in the contract",))
    other = story()
    other.migrates()
    known = ["request_aborted"]
    other.add(2, ContractChosen(source="frontend", backend="sim", version="99", known=False, events=known))
    finding = say(logged("request_aborted", role="frontend"), other.end())
    assert finding.verdict == "unknown"
    assert finding.drift


def test_only_the_fault_phase_counts(story: Make) -> None:
    """A line of the run without the fault is no evidence."""
    one = story()
    one.add(50, Log(source="worker-1", event="request_aborted", captures={"request": "c"}))
    one.migrates()
    events = one.end()
    assert say(never_logged("request_aborted"), events).verdict == "pass"
    assert say(logged("request_aborted"), events).verdict == "fail"


@pytest.mark.parametrize(
    "how,source,says",
    [("failure", "", "worker-1 ended by SIGKILL"), (0, "worker-2", "worker-2 ended by exit status 0")],
)
def test_how_a_process_ended_is_said_when_it_is_as_expected(
    story: Make, how: str | int, source: str, says: str
) -> None:
    """By which signal or with which status: "by failure" may be either."""
    one = story()
    one.migrates()
    finding = say(exits_as(how, source=source), one.end())
    assert (finding.verdict, finding.reason) == ("pass", says)


def test_a_leak_is_named(story: Make) -> None:
    """What, whose, and which."""
    one = story()
    one.migrates()
    one.add(200, Leak(source="worker-1", what="process", detail="engine (state S)", pid=7))
    assert say(no_leaks(), one.end()).reason == "process of worker-1: engine (state S)"


@pytest.mark.parametrize(
    "exit_,says",
    [
        ({"returncode": 3}, "worker-2 ended by itself: exit status 3; nothing was sent to it"),
        ({"signal": "SIGSEGV"}, "worker-2 crashed: SIGSEGV"),
        ({"returncode": 0}, "worker-2 ended by itself: exit status 0"),
    ],
    ids=["an error", "a crash", "even an orderly end"],
)
def test_an_exit_that_nobody_asked_for_fails(story: Make, exit_: dict[str, Any], says: str) -> None:
    """Whatever its code."""
    one = story()
    one.migrates()
    one.add(140, ProcessExited(source="worker-2", pid=1, **exit_))
    events = [
        event
        for event in one.end()
        if not (
            event.source == "worker-2" and event.t > 150e6 and event.kind in ("process.exited", "process.signalled")
        )
    ]
    finding = say(exits_explained(), events)
    assert finding.verdict == "fail"
    assert says in finding.reason


def test_the_metric_and_the_lines_are_weighed_against_the_claims(story: Make) -> None:
    """A metric that says otherwise than the workers is drift, by name."""
    one = story()
    one.events[0][1].params["metrics"] = {"migration": "moved_total"}
    one.add(99, Metric(source="frontend", name="moved_total", value=0))
    one.migrates()
    one.add(190, Metric(source="frontend", name="moved_total", value=3))
    finding = say(migrated(times=1), one.end())
    assert finding.verdict == "pass"
    assert finding.drift == ("migration: the metric rose by 3, not by 1",)


def test_without_any_evidence_a_migration_is_unknown(story: Make) -> None:
    """Neither claims, nor lines, nor a metric: nobody can say where the request went."""
    one = story(exact=False)
    one.killed()
    one.request(100, "r", [1] * 10)
    events = [event for event in one.end() if not isinstance(event, ContractChosen)]
    events += [ContractChosen(source="frontend", backend="x", known=False)]
    assert say(migrated(times=1), events).verdict == "unknown"


def test_a_request_that_was_given_up_quietly_has_not_moved(story: Make, ids: list[int]) -> None:
    """It was called a success after the end of its worker, and a token in flight came after it, too."""
    one = story()
    one.taken(101, "worker-1")
    one.killed(118)
    one.request(100, "r", ids[:4])
    finding = say(migrated(times=1), one.end())
    assert finding.verdict == "fail"
    assert "it moved 0 times" in finding.reason


def test_nothing_sent_is_unknown(story: Make) -> None:
    """An oracle about requests has nothing to say of a run that sent none."""
    events = story().end()
    for expect in (succeeds(), migrated(), not_migrated(), tokens_exact(), usage_correct(), gap_within(ms=1)):
        assert say(expect, events).verdict == "unknown", str(expect)


@pytest.mark.parametrize("expect", [recovers_within(ms=1), exits_as("SIGKILL")], ids=str)
def test_without_a_fault_that_landed_there_is_nothing_to_recover_from(
    story: Make, ids: list[int], expect: Expect
) -> None:
    """Nor an end to be expected."""
    one = story()
    one.request(100, "r", ids)
    finding = say(expect, one.end())
    assert (finding.verdict, finding.reason) == ("unknown", "no fault landed")


def test_a_stream_that_never_goes_on_has_not_recovered(story: Make, ids: list[int]) -> None:
    """Though it was taken over; and one without any token has no first one."""
    one = story()
    one.migrates(ids[:4], outcome="hang")
    assert say(recovers_within(ms=10), one.end()).reason == "kill of worker-1: no token came after it"
    other = story()
    other.migrates([], outcome="error", error="boom")
    finding = say(ttft_within(ms=1_000), other.end())
    assert finding.verdict == "fail"
    assert "no token came; error (HTTP 200) after 0 tokens: boom" in finding.reason


def test_what_has_no_name_in_the_contract_was_never_shown_not_to_be_logged(story: Make) -> None:
    """``never_logged`` of an event that nobody reads for is no pass."""
    one = story()
    one.migrates()
    finding = say(never_logged("moon_rises"), one.end())
    assert (finding.verdict, finding.drift) == ("unknown", ("moon_rises: not in the contract",))
    assert say(never_logged("request_aborted", source="nobody"), one.end()).verdict == "unknown"


def test_a_process_that_still_runs_has_not_ended_as_it_should(story: Make) -> None:
    """By its name, or as the one that was hit."""
    one = story()
    one.migrates()
    events = [event for event in one.end() if not isinstance(event, ProcessExited)]
    for expect, name in ((exits_as("SIGKILL"), "worker-1"), (exits_as(0, source="worker-2"), "worker-2")):
        finding = say(expect, events)
        assert (finding.verdict, finding.reason) == ("fail", f"{name} did not end")


@pytest.mark.parametrize("outcome", ["stack_failed", "error"])
def test_exits_of_a_run_that_failed_by_itself_are_not_judged(story: Make, outcome: str) -> None:
    """A stack that did not start has shown nothing but that; nor does the harness's failure explain anything."""
    one = story()
    one.add(140, ProcessExited(source="worker-2", pid=1, returncode=3))
    assert say(exits_explained(), one.end(outcome)).verdict == "unknown"


def test_leaks_are_looked_for_at_the_end(story: Make) -> None:
    """A history that stops before has not shown that there are none."""
    one = story()
    one.migrates()
    events = [event for event in one.end() if event.kind != "run.phase"]
    assert say(no_leaks(), events).verdict == "unknown"


def test_a_request_that_fails_is_not_asked_where_none_was_sent(story: Make) -> None:
    """Nor is one compared whose control never ended."""
    assert say(fails_with(500), story().end()).verdict == "unknown"
    one = story()
    one.events = [(t, event) for t, event in one.events if not isinstance(event, RequestFinished)]
    one.migrates()
    assert "no complete run without the fault" in say(usage_correct(), one.end()).reason


def test_a_request_that_does_not_end_has_no_usage(story: Make) -> None:
    """It fails, and says so."""
    one = story()
    one.migrates(outcome="")
    assert say(usage_correct(), one.end()).reason == "request 0 (r): it did not end"


def test_a_crashed_oracle_is_unknown_and_says_where(story: Make) -> None:
    """Others write oracles, too."""
    one = story()
    one.migrates()
    finding = say(Expect(oracle="gap_within", args={"ms": "long"}), one.end())
    assert finding.verdict == "unknown"
    assert "the oracle crashed: TypeError" in finding.reason
    assert "latency.py:" in finding.reason
    assert "did you mean tokens_exact?" in say(Expect(oracle="tokens_exat"), one.end()).reason


@pytest.mark.parametrize("said", [None, "pass", Finding("passed", "")], ids=str)  # type: ignore[arg-type]
def test_what_is_no_finding_is_unknown(story: Make, monkeypatch: pytest.MonkeyPatch, said: object) -> None:
    """An oracle of others that returns something else is named, and ends nothing."""
    monkeypatch.setattr("ftharness.scenario.expect.find_oracle", lambda _: lambda _: said)
    finding = say(Expect(oracle="theirs"), story().end())
    assert finding.verdict == "unknown"
    assert "the oracle theirs is broken" in finding.reason


@pytest.mark.parametrize("how", [{"finish_reason": "abort"}, {"finish_reason": None, "told": True}])
def test_a_client_that_is_told_is_told(story: Make, how: dict[str, Any]) -> None:
    """By the finish reason of an engine that gave it up, or an event without a code: an error, and no connection that broke."""
    one = story()
    one.request(100, "r", tokens.generate(0, tokens.encode("Once"), 5), outcome="error", **how)
    events = one.end()
    assert say(ends_cleanly(), events).verdict == "pass"
    assert say(succeeds(), events).verdict == "fail"
    assert say(fails_with("broken"), events).verdict == "fail"
