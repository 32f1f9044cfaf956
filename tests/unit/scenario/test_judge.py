"""The judgement of a run: what counts as tested, and what outweighs what."""

from collections.abc import Callable
from typing import Any

import pytest

from ftharness.client import completion
from ftharness.faults import disconnect, kill, serving
from ftharness.history import (
    ContractChosen,
    FaultMissed,
    FaultRequested,
    Leak,
    RequestFinished,
    RequestSent,
    RunFinished,
)
from ftharness.scenario import Scenario, ends_as_asked, judge, logged, migrated, on_token, succeeds, tokens_exact, worst

Make = Callable[..., Any]

SCENARIO = Scenario(
    name="a/b",
    workload=[completion("Once", max_tokens=10)],
    faults=[on_token(5).inject(kill(serving))],
    expect=[succeeds(), migrated(times=1), tokens_exact()],
)


def test_a_good_run_passes_with_its_figures(story: Make) -> None:
    """Verdict, tokens, fault, evidence and recovery stand in the record."""
    one = story()
    one.migrates()
    record = judge(SCENARIO, one.end())
    assert (record.verdict, record.reason) == ("pass", "")
    assert (record.tokens.expected, record.tokens.received, record.tokens.lost) == (10, 10, 0)
    (fault,) = record.faults
    assert (fault.kind, fault.target, fault.evidence) == ("kill", "serving (worker-1)", {"wait_status": "SIGKILL"})
    assert (fault.recovery.detect_ms, fault.recovery.reroute_ms, fault.recovery.first_token_ms) == (2.0, 3.0, 5.0)
    assert [one.name.partition("(")[0] for one in record.oracles][-3:] == [
        "every_request_ends",
        "no_leaks",
        "exits_explained",
    ]


def _missed(one: Any) -> None:
    one.add(124, FaultRequested(source="harness", id="fault-1", fault="kill", target="serving", request="r"))
    one.add(125, FaultMissed(source="worker-1", id="fault-1", reason="it was gone"))


UNTESTED: list[tuple[str, Callable[[Any], None], str]] = [
    ("missed", _missed, "did not land: it was gone"),
    ("off target", lambda one: one.killed(190, on_target=False), "landed after the request it was aimed at had ended"),
    ("never fired", lambda _: None, "1 of 1 faults never fired"),
]


@pytest.mark.parametrize("name,bend,says", UNTESTED, ids=[one[0] for one in UNTESTED])
def test_a_fault_that_did_not_land_as_meant_is_unknown(
    story: Make, name: str, bend: Callable[[Any], None], says: str
) -> None:
    """However good the rest looks."""
    one = story()
    bend(one)
    one.request(100, "r", [1, 2, 3])
    record = judge(SCENARIO, one.end())
    assert record.verdict == "unknown"
    assert says in record.reason
    assert all(f"not tested: {record.reason}" == oracle.reason for oracle in record.oracles[:3])


def test_an_invariant_fails_though_nothing_was_tested(story: Make) -> None:
    """A leak is a leak, whether the fault landed or not."""
    one = story()
    one.request(100, "r", [1, 2, 3])
    one.add(180, Leak(source="worker-1", what="slot", detail="busy = 1"))
    record = judge(SCENARIO, one.end())
    assert record.verdict == "fail"
    assert record.leaks == ["slot of worker-1: busy = 1"]


def test_a_neighbour_that_was_harmed_fails_though_faults_did_not_fire(story: Make) -> None:
    """It had been served before: what ended it was the stack, and the moments that did not come are part of that."""
    scenario = Scenario(
        name="a/b",
        workload=SCENARIO.workload,
        faults=[on_token(5).inject(disconnect())],
        expect=[ends_as_asked(), tokens_exact()],
    )
    one = story()
    one.request(100, "r", [1, 2, 3], outcome="error", error="aborted")
    record = judge(scenario, one.end())
    verdicts = {oracle.name.partition("(")[0]: oracle.verdict for oracle in record.oracles}
    assert (record.verdict, verdicts["ends_as_asked"], verdicts["tokens_exact"]) == ("fail", "fail", "unknown")
    assert record.reason.startswith("ends_as_asked(): request 0 (r): no fault had touched it, but: error")
    untested = next(oracle.reason for oracle in record.oracles if oracle.name.startswith("tokens_exact"))
    assert untested.endswith("on token 5 of request 0; request 0 (r): error (HTTP 200) after 3 tokens: aborted")
    broken = story()
    broken.events = [(t, event) for t, event in broken.events if getattr(event, "request", "") != "c"]
    broken.request(10, "c", [1], control=True, outcome="error")
    broken.request(100, "r", [1, 2, 3], outcome="error", error="aborted")
    assert judge(scenario, broken.end()).verdict == "unknown"


def test_a_control_that_does_not_pass_makes_it_unknown(story: Make) -> None:
    """What the stack cannot do without a fault tells nothing about the fault."""
    one = story()
    one.events = [(t, event) for t, event in one.events if getattr(event, "request", "") != "c"]
    one.request(10, "c", [1], control=True, outcome="error", error="no model")
    one.migrates()
    record = judge(SCENARIO, one.end())
    assert record.verdict == "unknown"
    assert "the run without the fault did not pass" in record.reason
    assert "no model" in record.reason


def test_a_run_without_its_control_is_unknown(story: Make) -> None:
    """There is nothing to say what the stack does without the fault."""
    one = story()
    one.events = [(t, event) for t, event in one.events if getattr(event, "request", "") != "c"]
    one.migrates()
    record = judge(SCENARIO, one.end())
    assert (record.verdict, record.reason) == ("unknown", "the run without the fault is missing")


@pytest.mark.parametrize("outcome", ["interrupted", "stack_failed", "error"])
def test_a_run_that_did_not_come_to_its_end_is_unknown(story: Make, outcome: str) -> None:
    """Its reason is the run's."""
    one = story()
    one.migrates()
    record = judge(SCENARIO, one.end(outcome, "because"))
    assert (record.verdict, record.reason) == ("unknown", "because")


def test_a_history_without_its_end_is_unknown(story: Make) -> None:
    """As a killed harness leaves it; a request that was still open is then no hang."""
    one = story()
    one.migrates(outcome="")
    events = [event for event in one.end() if not isinstance(event, RunFinished)]
    record = judge(SCENARIO, events)
    assert (record.verdict, record.reason) == ("unknown", "the harness was ended before the run was")
    assert judge(SCENARIO, []).verdict == "unknown"


def test_drift_is_listed_and_does_not_decide(story: Make) -> None:
    """Behaviour does: an unknown that only says that this version logs differently leaves a pass a pass."""
    one = story()
    one.migrates()
    one.add(2, ContractChosen(source="frontend", backend="sim", version="99", known=False, events=["moon_rises"]))
    scenario = Scenario(
        name="a/b",
        workload=SCENARIO.workload,
        faults=SCENARIO.faults,
        expect=[succeeds(), logged("moon_rises", role="frontend")],
    )
    record = judge(scenario, one.end())
    assert record.verdict == "pass"
    assert record.drift == [
        "moon_rises: not seen from frontend, whose version the contract was not written for",
        "contract sim was not written for version 99",
    ]


def test_where_drift_is_all_there_is_it_decides(story: Make) -> None:
    """Nothing that was expected has been seen: that is no pass."""
    one = story()
    one.migrates()
    scenario = Scenario(
        name="a/b", workload=SCENARIO.workload, faults=SCENARIO.faults, expect=[logged("moon_rises", role="frontend")]
    )
    record = judge(scenario, one.end())
    assert record.verdict == "unknown"
    assert (
        record.reason
        == "logged(event='moon_rises', role='frontend'): no contract of frontend knows a line for moon_rises"
    )


def test_documented_behaviour_chooses_and_is_said(story: Make) -> None:
    """Of two expectations the one that the version documents; where nothing is documented it is taken to be so."""
    expect = [succeeds().where("sings"), migrated(times=5).where("!sings")]
    scenario = Scenario(name="a/b", workload=SCENARIO.workload, faults=SCENARIO.faults, expect=expect)
    for behaviour, verdict in (({"sings": True}, "pass"), ({}, "pass"), ({"sings": False}, "fail")):
        one = story(behaviour=behaviour)
        one.migrates()
        record = judge(scenario, one.end())
        assert record.verdict == verdict
        said = [note.reason for note in record.annotations]
        assert said == ([f"sings of 1.0: {'yes' if behaviour['sings'] else 'no'}"] if behaviour else [])


def test_a_pass_in_which_nothing_was_broken_says_so(story: Make, ids: list[int]) -> None:
    """And one with a fault, the scenario's or a test's own, does not."""
    one = story()
    one.request(101, "r", ids)
    calm = Scenario(name="a/b", workload=SCENARIO.workload, expect=[succeeds()])
    record = judge(calm, one.end())
    assert record.verdict == "pass"
    assert [note.kind for note in record.annotations] == ["no_fault"]
    left = story()
    left.add(
        110,
        RequestSent(
            source="client", request="r", endpoint="/v1/completions", body={"max_tokens": 10, "prompt": "Once"}
        ),
    )
    left.add(120, RequestFinished(source="client", request="r", outcome="cancelled"))
    (note,) = judge(calm, left.end()).annotations
    assert (note.kind, note.reason) == (
        "client_left",
        "1 client went away by the test itself, from request 0 (r); no fault",
    )
    broken = story()
    broken.migrates()
    assert judge(calm, broken.end()).annotations == []
    assert judge(SCENARIO, broken.end()).annotations == []


def test_of_several_verdicts_the_worst_counts() -> None:
    """Fail over unknown over pass; of none it is unknown."""
    assert worst(["pass", "unknown", "fail"]) == "fail"
    assert worst(["pass", "unknown"]) == "unknown"
    assert worst(["pass", "pass"]) == "pass"
    assert worst([]) == "unknown"


def test_a_process_by_its_name_may_be_idle_where_nothing_is_expected_of_requests(story: Make) -> None:
    """Its last request was over: that is off target for what is expected of requests, and nothing to the invariants."""
    named = SCENARIO.faults[0].fault
    for expect, verdict in (([], "pass"), ([succeeds()], "unknown")):
        one = story()
        one.request(100, "r", [1, 2, 3])
        one.add(189, FaultRequested(source="harness", id="fault-1", fault=named.kind, target="worker-1"))
        one.killed(190, on_target=False)
        one.events = [
            pair for pair in one.events if not (isinstance(pair[1], FaultRequested) and pair[1].request == "r")
        ]
        record = judge(
            Scenario(name="a/b", workload=SCENARIO.workload, faults=SCENARIO.faults, expect=expect), one.end()
        )
        assert record.verdict == verdict, record.reason
