"""Each kind of fault on real processes, with its proof; and each kind of trigger at its moment."""

from collections.abc import Sequence
from typing import TypeVar

import pytest

from ftharness.client import completion
from ftharness.faults import (
    Fault,
    Target,
    another_worker,
    every_worker,
    freeze,
    frontend,
    interrupt,
    kill,
    kill_engine,
    named,
    serving,
    terminate,
    thaw,
)
from ftharness.history import (
    Event,
    FaultHealed,
    FaultLanded,
    FaultMissed,
    FaultRequested,
    Log,
    ProcessExited,
    ProcessSignalled,
    RequestChunk,
    RequestSent,
    read_history,
)
from ftharness.pytest_plugin import Ft
from ftharness.scenario import (
    Injection,
    Scenario,
    after_fault,
    at,
    exits_as,
    gap_within,
    migrated,
    not_migrated,
    on_log,
    on_token,
    succeeds,
    tokens_exact,
    when,
)
from ftharness.stack import aggregated

E = TypeVar("E", bound=Event)

ONE = completion(max_tokens=150)


def run(ft: Ft, *faults: Injection, workers: int = 2, check: bool = True, **scenario: object) -> list[Event]:
    """Run these faults, on one request unless ``workload`` says otherwise; the events, in order of time."""
    fields = {"workload": [ONE], "expect": [succeeds(), tokens_exact()], **scenario}
    one = Scenario(name="faults/one", topology=aggregated(workers=workers), faults=list(faults), **fields)
    record = ft.run(one, stack="sim", check=check)
    return sorted(read_history(ft.folder / record.path / "history.jsonl"), key=lambda event: event.t)


def only(events: Sequence[Event], kind: type[E], **fields: object) -> E:
    """The one event of that kind."""
    (found,) = [
        event
        for event in events
        if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
    ]
    return found


def test_kill_of_the_process_alone(ft: Ft) -> None:
    """SIGKILL; the wait status is the proof, and it is the request's own worker that is hit."""
    events = run(ft, on_token(30).inject(kill(serving)), expect=[succeeds(), migrated(times=1), exits_as("SIGKILL")])
    landed = only(events, FaultLanded)
    assert landed.evidence["wait_status"] == "SIGKILL"
    assert landed.evidence["request"] == "was running"
    (first, *_) = [e for e in events if isinstance(e, Log) and e.event == "request_received" and e.t < landed.t][::-1]
    assert landed.source == first.source


def test_kill_of_the_tree(ft: Ft) -> None:
    """With ``tree`` the engine child gets the signal as well, in the same event."""
    events = run(ft, on_token(30).inject(kill(serving, tree=True)))
    assert only(events, ProcessSignalled, reason="fault").tree


def test_a_termination_that_the_worker_outlives_escalates_as_said(ft: Ft) -> None:
    """SIGTERM, its grace, and a SIGKILL that is an event of its own; the landing is the SIGTERM's."""
    events = run(
        ft, on_token(30).inject(terminate(serving, grace_s=0.2, then="kill")), expect=[succeeds(), migrated(times=1)]
    )
    landed = only(events, FaultLanded)
    assert (landed.evidence["signal"], landed.evidence["disposition"]) == ("SIGTERM", "handled")
    escalation = only(events, ProcessSignalled, reason="escalation")
    assert (escalation.signal, escalation.source) == ("SIGKILL", landed.source)
    assert 0.2e9 <= escalation.t - landed.t < 2e9


def test_a_termination_never_escalates_unasked(ft: Ft) -> None:
    """``then="nothing"``: after its grace the worker drains on, and the request ends on it."""
    events = run(
        ft,
        on_token(30).inject(terminate(serving, grace_s=0.1, then="nothing")),
        expect=[succeeds(), not_migrated(), tokens_exact(), exits_as(0)],
    )
    assert not [e for e in events if isinstance(e, ProcessSignalled) and e.reason == "escalation"]


def test_an_interrupt_ends_a_worker_at_once(ft: Ft) -> None:
    """SIGINT has no drain: the request moves."""
    events = run(ft, on_token(30).inject(interrupt(serving)), expect=[succeeds(), migrated(times=1), exits_as(0)])
    assert only(events, FaultLanded).evidence["signal"] == "SIGINT"


def test_a_freeze_ends_by_itself(ft: Ft) -> None:
    """State T is the proof; the stream stalls for as long, goes on exactly, and the healing is an event."""
    events = run(
        ft,
        on_token(30).inject(freeze(serving, duration_s=0.5)),
        expect=[succeeds(), not_migrated(), tokens_exact(), gap_within(ms=1_500)],
    )
    landed, healed = only(events, FaultLanded), only(events, FaultHealed)
    assert landed.evidence["state"] == "T"
    assert 0.5e9 <= healed.t - landed.t < 1.5e9
    during = [e for e in events if isinstance(e, RequestChunk) and landed.t + 50e6 < e.t < healed.t]
    assert during == []


def test_a_thaw_after_a_freeze(ft: Ft) -> None:
    """By the trigger ``after_fault``, 0.3 s later; its state was T before."""
    events = run(
        ft,
        on_token(30).inject(freeze(named("worker-1"))),
        after_fault(0, delay_s=0.3).inject(thaw(named("worker-1"))),
        workers=1,
        expect=[succeeds(), tokens_exact()],
    )
    frozen, thawed = (e for e in events if isinstance(e, FaultLanded))
    assert thawed.evidence["before"] == "T"
    assert 0.3e9 <= thawed.t - frozen.t < 1.5e9


def test_what_is_still_frozen_is_healed_before_it_is_stopped(ft: Ft) -> None:
    """A stopped process does not act on SIGTERM: teardown thaws it first, and it ends in order."""
    events = run(ft, on_token(30).inject(freeze(another_worker)), expect=[succeeds(), not_migrated()])
    healed, landed = only(events, FaultHealed), only(events, FaultLanded)
    assert healed.source == landed.source
    ended = only(events, ProcessExited, source=landed.source)
    assert (ended.returncode, ended.signal) == (0, None)
    assert healed.t < ended.t


def test_faults_are_healed_in_reverse_order(ft: Ft) -> None:
    """The last one first; a stream that a fault stalls for good is a hang, and fails."""
    events = run(
        ft,
        on_token(20).inject(freeze(another_worker)),
        on_token(30).inject(freeze(serving)),
        idle_s=1.0,
        check=False,
    )
    landed = [e.source for e in events if isinstance(e, FaultLanded)]
    assert [e.source for e in events if isinstance(e, FaultHealed)] == landed[::-1]
    assert len(landed) == 2
    assert "hang" in ft.records[-1].reason


def test_the_engine_alone_is_killed(ft: Ft) -> None:
    """The handler lives on, notices, and the request moves; the proof is the engine's pidfd."""
    events = run(ft, on_token(30).inject(kill_engine(serving)), expect=[succeeds(), migrated(times=1), tokens_exact()])
    landed = only(events, FaultLanded)
    started = only(events, Log, source=landed.source, event="engine_started")
    assert str(landed.evidence["engine_pid"]) == started.captures["pid"]
    assert landed.evidence["exit_seen_by"] == "pidfd"
    assert only(events, Log, event="engine_died").source == landed.source


def test_every_worker_is_hit(ft: Ft) -> None:
    """One fault, an event for each; nobody is left, and the request fails instead of hanging."""
    events = run(ft, on_token(30).inject(kill(every_worker)), expect=[])
    assert {e.source for e in events if isinstance(e, FaultLanded)} == {"worker-1", "worker-2"}


def test_the_frontend_is_hit(ft: Ft) -> None:
    """The connection breaks at once."""
    events = run(ft, on_token(30).inject(kill(frontend)), expect=[exits_as("SIGKILL", source="frontend")])
    landed = only(events, FaultLanded)
    (end,) = [e for e in events if e.kind == "request.finished" and e.t > landed.t]
    assert end.t - landed.t < 1e9


MISSES: list[tuple[Fault, str]] = [
    (kill(named("worker-9")), "no process 'worker-9' in this stack; there are "),
    (thaw(named("worker-1")), "it was not frozen"),
    (kill(Target(role="serving", request=3)), "only 1 requests were sent so far"),
]


@pytest.mark.parametrize("fault,says", MISSES, ids=[says for _, says in MISSES])
def test_a_fault_that_cannot_land_is_unknown(ft: Ft, fault: Fault, says: str) -> None:
    """It says why, and the verdict is never a pass."""
    events = run(ft, on_token(30).inject(fault), check=False)
    assert says in only(events, FaultMissed).reason
    assert ft.records[-1].verdict == "unknown"


def test_a_process_that_was_gone_before_is_a_miss(ft: Ft) -> None:
    """The second kill of the same worker finds nobody."""
    events = run(
        ft,
        on_token(20).inject(kill(named("worker-1"))),
        after_fault(0, delay_s=0.2).inject(kill(named("worker-1"))),
        check=False,
    )
    assert "had already ended by SIGKILL" in only(events, FaultMissed).reason
    assert ft.records[-1].verdict == "unknown"


def test_a_fault_behind_its_request_is_off_target(ft: Ft) -> None:
    """It landed, but the request that it was aimed at was over: nothing was tested."""
    slow = completion(max_tokens=300)
    short = completion(max_tokens=20)
    events = run(
        ft,
        at(0.8).inject(kill(Target(role="serving", request=0))),
        workload=[short, slow],
        check=False,
    )
    assert not only(events, FaultLanded).on_target
    assert ft.records[-1].verdict == "unknown"


def test_at_counts_from_the_first_request(ft: Ft) -> None:
    """Of the fault phase, not of the control."""
    events = run(ft, at(0.25).inject(kill(serving)))
    sent = only(events, RequestSent, control=False)
    assert 0.25e9 <= only(events, FaultRequested).t - sent.t < 0.5e9


def test_on_token_fires_with_the_token(ft: Ft) -> None:
    """In the same turn of the loop that read it: the signal is sent before the next token comes."""
    events = run(ft, on_token(64).inject(kill(serving)))
    signalled = only(events, ProcessSignalled, reason="fault")
    sent = only(events, RequestSent, control=False)
    before = [e for e in events if isinstance(e, RequestChunk) and sent.t < e.t <= signalled.t]
    assert 64 <= sum(chunk.tokens for chunk in before) <= 66


def test_of_an_answer_in_one_piece_on_token_is_a_time(ft: Ft) -> None:
    """As long after a worker took it as so many tokens take; the run says so."""
    events = run(ft, on_token(60).inject(kill(serving)), workload=[completion(max_tokens=150, stream=False)])
    asked = only(events, FaultRequested)
    assert "not streamed: 0.3 s after a worker received it" in asked.trigger
    sent = only(events, RequestSent, control=False)
    assert 0.3e9 <= asked.t - sent.t < 0.8e9


def test_on_log_waits_for_the_fault_phase(ft: Ft) -> None:
    """The control's line of the same event is not its moment."""
    events = run(ft, on_log("request_received", delay_s=0.1).inject(kill(serving)))
    assert only(events, FaultRequested).t > only(events, RequestSent, control=False).t


def three_chunks_came(events: Sequence[Event]) -> bool:
    """A predicate of the test below."""
    sent = next((e for e in events if isinstance(e, RequestSent) and not e.control), None)
    return sent is not None and sum(isinstance(e, RequestChunk) and e.t > sent.t for e in events) >= 3


def test_when_holds_over_the_live_history(ft: Ft) -> None:
    """A function over the events so far, found by its name."""
    from ftharness.scenario import library  # noqa: PLC0415 - lends its name to the predicate

    library.three_chunks_came = three_chunks_came  # type: ignore[attr-defined]
    try:
        events = run(ft, when("ftharness.scenario.library:three_chunks_came").inject(kill(serving)))
    finally:
        del library.three_chunks_came  # type: ignore[attr-defined]
    asked, sent = only(events, FaultRequested), only(events, RequestSent, control=False)
    assert 3 <= sum(isinstance(e, RequestChunk) and sent.t < e.t <= asked.t for e in events) <= 5


def test_a_fault_is_aimed_at_one_of_several_requests(ft: Ft) -> None:
    """Request 1's worker is killed: it moves, and request 0, on the other worker, does not."""
    events = run(
        ft,
        on_token(30, request=1).inject(kill(Target(role="serving", request=1))),
        workload=[ONE, ONE],
        expect=[succeeds(), migrated(times=1), tokens_exact()],
    )
    asked = only(events, FaultRequested)
    sent = [e for e in events if isinstance(e, RequestSent) and not e.control]
    assert asked.request == sent[1].request
