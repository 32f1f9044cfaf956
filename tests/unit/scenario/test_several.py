"""Several of a kind in one run: requests, choices of a request, processes that one fault hits, faults on one process."""

from collections.abc import Callable
from typing import Any

import pytest

from ftharness.client import completion
from ftharness.faults import every_worker, kill, kill_engine, serving
from ftharness.history import (
    Event,
    FaultLanded,
    FaultMissed,
    FaultRequested,
    Log,
    Metric,
    ProcessExited,
    ProcessSignalled,
    ProcessStarted,
    RequestSent,
    RunPhase,
    recorded,
)
from ftharness.scenario import (
    Expect,
    Scenario,
    at,
    every_request_ends,
    exits_as,
    exits_explained,
    fails_with,
    gap_within,
    judge,
    logged,
    migrated,
    never_logged,
    no_leaks,
    not_migrated,
    on_token,
    recovers_within,
    succeeds,
    tokens_exact,
    ttft_within,
    usage_correct,
)
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.expect import apply
from ftharness.scenario.recovery import recovery_of, struck_t

Make = Callable[..., Any]
BOTH = {"body": {"n": 2}, "choices": [0, 1] * 5}
OTHER = Scenario(name="a/b", workload=[completion("Once", max_tokens=10)])


def say(expect: Expect, events: list[Event]) -> Finding:
    """What the oracle says."""
    return apply(expect, Case(events))


# Choices of one request.


def test_choices_on_two_workers_have_not_moved(story: Make, ids: list[int]) -> None:
    """Workers get the choices of a request one by one: what two of them took is not one that moved."""
    one = story()
    one.taken(101, "worker-1", "r-0")
    one.taken(101, "worker-2", "r-1")
    one.request(100, "r", ids, **BOTH)
    events = one.end()
    assert say(not_migrated(), events).verdict == "pass"
    assert "expected 1, but it moved 0 times" in say(migrated(), events).reason


def test_a_choice_that_moved_counts_once(story: Make, ids: list[int]) -> None:
    """However many choices there are."""
    one = story()
    one.taken(101, "worker-1", "r-0")
    one.taken(101, "worker-2", "r-1")
    one.killed()
    one.taken(128, "worker-2", "r-0")
    one.request(100, "r", ids, **BOTH)
    events = one.end()
    assert say(migrated(times=1), events).verdict == "pass"
    assert "it moved 1 times" in say(not_migrated(), events).reason


def test_names_of_the_backends_own_tell_of_the_only_request(story: Make, ids: list[int]) -> None:
    """Where a worker gives each of its tasks a name of its own, two tasks for one request are one move."""
    one = story()
    one.taken(101, "worker-1", "task-7")
    one.killed()
    one.taken(128, "worker-2", "task-1")
    one.request(100, "r", ids)
    assert say(migrated(times=1), one.end()).verdict == "pass"


def test_a_choice_that_flows_does_not_hide_one_that_stalls(story: Make, ids: list[int]) -> None:
    """Gaps and recovery are those of the choice that was moved."""
    one = story()
    one.taken(101, "worker-2", "r-1")
    one.taken(101, "worker-1", "r-0")
    one.killed(126)
    one.taken(128, "worker-2", "r-0")
    # A token each 5 ms; but of choice 0, from the fault on, only the last.
    one.request(100, "r", ids, body={"n": 2}, choices=[0, 1, 0, 1, 0, 1, 1, 1, 1, 0])
    events = one.end()
    assert "longest gap 25.0 ms" in say(gap_within(ms=20), events).reason
    case = Case(events)
    recovery = recovery_of(case, case.faults[0])
    assert (recovery.reroute_ms, recovery.first_token_ms, recovery.max_gap_ms) == (2.0, 24.0, 25.0)
    assert say(recovers_within(ms=20), events).verdict == "fail"


# Several requests.


def test_each_request_has_to_move_as_often(story: Make, ids: list[int]) -> None:
    """That one moved twice does not make up for one that did not; the reason names it."""
    one = story()
    one.killed(aimed="")
    for t, worker in ((101, "worker-1"), (128, "worker-2"), (140, "worker-1")):
        one.taken(t, worker, "r")
    one.taken(103, "worker-2", "s")
    one.request(100, "r", ids)
    one.request(102, "s", ids, index=1)
    finding = say(migrated(times=1), one.end())
    assert finding.verdict == "fail"
    assert "expected 1 of each, but request 0 (r) moved 2 times" in finding.reason


def test_only_the_request_that_was_aimed_at_has_to_move(story: Make, ids: list[int]) -> None:
    """The other one was on another worker; but none of all may, where none is to."""
    one = story()
    one.migrates()
    one.taken(103, "worker-2", "s")
    one.request(102, "s", ids, index=1)
    events = one.end()
    assert say(migrated(times=1), events).verdict == "pass"
    assert say(not_migrated(), events).verdict == "fail"
    assert apply(not_migrated(), Case(events).about("s")).verdict == "pass"


UNKNOWN_THEN_FAILED = [
    (usage_correct(), {"index": 7}, {"finish_reason": "stop"}, {}),
    (tokens_exact(), {"index": 7}, {"finish_reason": "stop"}, {"exact": False}),
    (fails_with("migration_exhausted"), {}, {}, {"behaviour": {"migration_exhausted_unary": 500}}),
]


@pytest.mark.parametrize(
    "expect,first,second,of_stack", UNKNOWN_THEN_FAILED, ids=[str(c[0]) for c in UNKNOWN_THEN_FAILED]
)
def test_a_failure_outweighs_what_cannot_be_told_of_another_request(
    story: Make, ids: list[int], expect: Expect, first: Any, second: Any, of_stack: Any
) -> None:
    """Whichever was sent first: an oracle looks at all of them."""
    one = story(**of_stack)
    one.request(100, "r", ids, **first)
    one.stream = "behaviour" not in of_stack
    one.request(101, "s", ids, **second)
    finding = say(expect, one.end())
    assert finding.verdict == "fail", finding


def test_a_late_first_token_outweighs_one_that_is_not_seen(story: Make, ids: list[int]) -> None:
    """An answer that is not streamed hides its first token; the streamed one behind it does not."""
    one = story(stream=False)
    one.request(100, "r", ids)
    one.stream = True
    one.request(100, "s", ids, index=1)
    events = one.end()
    assert say(ttft_within(ms=4), events).verdict == "fail"
    assert say(ttft_within(ms=6), events).verdict == "unknown"
    assert say(ttft_within(ms=60), events).verdict == "pass"


def test_a_worker_that_leaves_at_the_teardown_was_not_noticed(story: Make, ids: list[int]) -> None:
    """It left because it was stopped; what the fault did, nobody noticed."""
    one = story()
    one.killed(process="worker-2", aimed="")
    one.request(100, "r", ids)
    end = one.end()
    late = Log(source="frontend", event="worker_left", captures={})
    history = recorded(end)
    history.append(late, at=end[-1].t - 1)
    case = Case(history.events)
    assert recovery_of(case, case.faults[0]).detect_ms is None
    one.add(126, Log(source="frontend", event="worker_left", captures={}))
    case = Case(one.end())
    assert recovery_of(case, case.faults[0]).detect_ms == 1


def test_a_move_that_nobody_took_over_is_none(story: Make, ids: list[int]) -> None:
    """The frontend begins one, logs and counts it, and there is no worker left: the oracles agree that nothing moved."""
    one = story()
    one.events[0][1].params["metrics"] = {"migration": "moved_total"}
    one.add(99, Metric(source="frontend", name="moved_total", value=0))
    one.taken(101, "worker-1")
    one.killed()
    one.add(127, Log(source="frontend", event="migration_started", captures={"request": "r"}))
    one.request(100, "r", ids[:4], outcome="error")
    one.add(190, Metric(source="frontend", name="moved_total", value=1))
    events = one.end()
    assert say(migrated(times=0), events).verdict == "pass"
    assert say(not_migrated(), events).verdict == "pass"
    assert say(not_migrated(), events).drift
    assert say(migrated(times=1), events).pending  # the next worker's word may be on its way
    assert not say(migrated(times=2), events).pending


@pytest.mark.parametrize("outcome, verdict", [("interrupted", "pass"), ("complete", "fail")])
def test_what_an_interrupted_launch_had_begun_may_end_unasked(story: Make, outcome: str, verdict: str) -> None:
    """It is started as the others are stopped, and ended with all that is left; no signal of ours names it."""
    one = story()
    one.migrates()
    one.add(300, RunPhase(source="harness", phase="teardown"))
    one.add(301, ProcessStarted(source="worker-3", pid=3, role="aggregated"))
    one.add(302, ProcessExited(source="worker-3", pid=3, signal="SIGKILL"))
    finding = say(exits_explained(), one.end(outcome))
    assert finding.verdict == verdict, finding


# Several processes, several faults.


def struck_all(one: Any, *, second_landed: bool = True, **exit_: Any) -> None:
    """A fault on every worker, which ends both."""
    one.add(124, FaultRequested(source="harness", id="fault-1", fault="kill_engine", target="every_worker"))
    for worker, landed in (("worker-1", True), ("worker-2", second_landed)):
        if landed:
            one.add(125, FaultLanded(source=worker, id="fault-1", evidence={"engine_pid": 7}))
        else:
            one.add(125, FaultMissed(source=worker, id="fault-1", reason="it has no engine"))
        one.add(130, ProcessExited(source=worker, pid=1, **exit_))


def without_teardown(events: list[Event]) -> list[Event]:
    """The same, in which worker-2 is not there to be stopped."""
    gone = 131e6
    return [event for event in events if not (event.source == "worker-2" and event.t > gone)]


@pytest.mark.parametrize("evidence, verdict", [({"engine_pid": 7}, "pass"), ({"signal": "SIGSTOP"}, "fail")])
def test_a_process_that_was_paused_did_not_end_of_that(story: Make, evidence: dict[str, Any], verdict: str) -> None:
    """Nor does its pause keep another fault from being the explanation."""
    one = story()
    one.migrates()
    one.add(130, ProcessSignalled(source="worker-2", pid=1, signal="SIGSTOP", reason="fault"))
    one.add(131, ProcessSignalled(source="worker-2", pid=1, signal="SIGCONT", reason="heal"))
    one.add(132, FaultRequested(source="harness", id="fault-2", fault="x", target="another_worker"))
    one.add(133, FaultLanded(source="worker-2", id="fault-2", evidence=evidence))
    one.add(140, ProcessExited(source="worker-2", pid=1, returncode=1))
    finding = say(exits_explained(), [e for e in one.end() if not (e.source == "worker-2" and e.t > 150e6)])
    assert finding.verdict == verdict, finding


def test_every_process_that_a_fault_hit_has_its_explanation(story: Make, ids: list[int]) -> None:
    """And is looked at: one fault, an entry for each."""
    one = story()
    struck_all(one, returncode=1)
    one.request(100, "r", ids[:4], outcome="error")
    events = without_teardown(one.end())
    assert say(exits_explained(), events).verdict == "pass", say(exits_explained(), events)
    assert say(exits_as(1), events).reason == "worker-1 ended by exit status 1, worker-2 ended by exit status 1"
    scenario = Scenario(name="a/b", workload=OTHER.workload, faults=[at(0).inject(kill_engine(every_worker))])
    record = judge(scenario, events)
    assert record.verdict == "pass", record
    assert [fault.target for fault in record.faults] == ["every_worker (worker-1)", "every_worker (worker-2)"]


def test_a_fault_that_missed_one_of_its_processes_tested_nothing(story: Make, ids: list[int]) -> None:
    """Though it landed on another."""
    one = story()
    struck_all(one, second_landed=False, signal="SIGKILL")
    one.request(100, "r", ids)
    assert "did not land: it has no engine" in Case(one.end()).fault_trouble()


def test_faults_that_never_fired_are_counted(story: Make, ids: list[int]) -> None:
    """Of three one did, on two processes: two did not."""
    one = story()
    struck_all(one, returncode=1)
    one.request(100, "r", ids)
    faults = [
        at(0).inject(kill(serving)),
        on_token(99).inject(kill(serving)),
        on_token(5, request=7).inject(kill(serving)),
    ]
    record = judge(Scenario(name="a/b", workload=OTHER.workload, faults=faults), one.end())
    assert record.verdict == "unknown"
    assert record.reason.startswith(
        "2 of 3 faults never fired: the trigger's moment did not come: kill serving, on token 99"
    )
    assert record.reason.endswith("request 0 (r): success (HTTP 200) after 10 tokens")


def test_a_grace_that_ended_is_the_last_faults_before_it(story: Make, ids: list[int]) -> None:
    """An earlier fault on the same process took effect when it landed, as does one whose process the teardown killed."""
    one = story()
    for place, t in enumerate((110, 130), 1):
        one.add(t, FaultRequested(source="harness", id=f"fault-{place}", fault="x", target="worker-1"))
        one.add(t, FaultLanded(source="worker-1", id=f"fault-{place}", evidence={}))
    one.add(140, ProcessSignalled(source="worker-1", pid=1, signal="SIGKILL", reason="escalation"))
    one.request(100, "r", ids)
    one.add(180, FaultRequested(source="harness", id="fault-3", fault="x", target="worker-2"))
    one.add(180, FaultLanded(source="worker-2", id="fault-3", evidence={}))
    one.add(190, RunPhase(source="harness", phase="teardown"))
    one.add(191, ProcessSignalled(source="worker-2", pid=1, signal="SIGKILL", reason="escalation"))
    case = Case(one.end())
    assert [struck_t(case, fault) for fault in case.faults] == [110_000_000, 140_000_000, 180_000_000]


# The run without the fault, and what is judged beside it.


def test_a_line_about_the_control_that_comes_late_is_none_of_the_faults(story: Make) -> None:
    """It is read when the fault's phase has begun, and tells of a request that had ended before."""
    one = story()
    late = Log(source="worker-1", event="request_aborted", captures={"request": "c"})
    one.add(100.5, late)
    one.migrates()
    events = one.end()
    assert say(never_logged("request_aborted"), events).verdict == "pass"
    assert say(logged("request_aborted"), events).verdict == "fail"


def test_an_invariant_holds_for_the_whole_run_though_less_is_expected(story: Make) -> None:
    """``every_request_ends`` of one request, or of another version, does not stand for that of all."""
    one = story()
    one.migrates()
    one.request(100, "s", [1], outcome="hang", index=1)
    one.behaviour["sings"] = False
    events = one.end()
    for own in (Expect(oracle="every_request_ends", request="r"), every_request_ends().where("sings"), no_leaks()):
        scenario = Scenario(name="a/b", workload=OTHER.workload, faults=[at(0).inject(kill(serving))], expect=[own])
        record = judge(scenario, events)
        assert record.verdict == "fail", own
        assert "hang" in record.reason


def test_a_request_that_is_not_there_was_not_tested(story: Make) -> None:
    """Asked about the id of a request of the control, or of nobody."""
    one = story()
    one.migrates()
    events = one.end()
    for name in ("c", "nobody"):
        assert apply(Expect(oracle="succeeds", request=name), Case(events)).verdict == "unknown"
    assert apply(succeeds(), Case([e for e in events if not isinstance(e, RequestSent)])).verdict == "unknown"


@pytest.mark.parametrize("again", [False, True])
def test_a_worker_for_each_phase_is_no_move(story: Make, ids: list[int], again: bool) -> None:
    """Another attempt has one of each again: that is one move, though two workers say that they received it."""
    one = story()
    for name, role in {"worker-1": "prefill", "worker-2": "decode", "worker-3": "decode"}.items():
        one.add(2, ProcessStarted(source=name, pid=1, role=role))
    one.taken(101, "worker-2")
    one.taken(102, "worker-1")
    if again:
        one.taken(128, "worker-3")
        one.taken(129, "worker-1")
    else:
        one.add(120, ProcessExited(source="worker-1", pid=1, returncode=0))
    one.request(100, "r", ids)
    events = one.end()
    assert say(migrated(times=int(again)), events).verdict == "pass", say(migrated(times=int(again)), events)
    assert say(not_migrated(), events).verdict == ("fail" if again else "pass")
