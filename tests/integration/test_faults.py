"""Each kind of fault on real processes, with its proof; and each kind of trigger at its moment."""

import asyncio
import os
import select
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from ftharness.client import completion
from ftharness.faults import (
    Fault,
    Strike,
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
    signals,
    terminate,
    thaw,
)
from ftharness.faults.engine import kill_engine as kill_engine_kind
from ftharness.history import (
    Event,
    FaultHealed,
    FaultLanded,
    FaultMissed,
    FaultRequested,
    History,
    Log,
    ProcessExited,
    ProcessSignalled,
    RequestChunk,
    RequestFinished,
    RequestSent,
    RunPhase,
    read_history,
)
from ftharness.process import Process, Processes
from ftharness.pytest_plugin import Ft
from ftharness.scenario import (
    Injection,
    Scenario,
    after_fault,
    at,
    exits_as,
    gap_within,
    judge,
    migrated,
    never_logged,
    not_migrated,
    on_log,
    on_token,
    succeeds,
    tokens_exact,
    when,
)
from ftharness.scenario.runner import Run
from ftharness.session import cell_of
from ftharness.stack import aggregated, find_stack

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
    assert escalation.t - landed.t >= 0.2e9


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
        expect=[succeeds(), not_migrated(), tokens_exact(), gap_within(ms=10_000)],
    )
    landed, healed = only(events, FaultLanded), only(events, FaultHealed)
    assert landed.evidence["state"] == "T"
    assert healed.t - landed.t >= 0.5e9
    during = [e.tokens for e in events if isinstance(e, RequestChunk) and landed.t < e.t < healed.t]
    assert sum(during) < 50, "what was under way when it froze; at 200 tokens a second 100 would have been made"


def test_a_freeze_that_is_longer_than_its_phase_ends_with_it(ft: Ft) -> None:
    """It landed, and is not waited for beyond the deadline: the teardown heals it."""
    events = run(
        ft,
        on_token(5).inject(freeze(another_worker, duration_s=600)),
        workload=[completion(max_tokens=30)],
        deadline_s=3.0,
    )
    healed, ended = only(events, FaultHealed), only(events, ProcessExited, source=only(events, FaultLanded).source)
    assert healed.t < ended.t
    assert ended.returncode == 0


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
    assert thawed.t - frozen.t >= 0.3e9


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
    assert end.t - landed.t < 10e9  # of the 30 s after which it would count as a hang


MISSES: list[tuple[Fault, str]] = [
    (thaw(named("worker-1")), "it was not frozen"),
    (kill(Target(role="serving", request=1)), "request 1 had not been sent"),
]


@pytest.mark.parametrize("fault,says", MISSES, ids=[says for _, says in MISSES])
def test_a_fault_that_cannot_land_is_unknown(ft: Ft, fault: Fault, says: str) -> None:
    """It says why, and the verdict is never a pass."""
    events = run(ft, on_token(30).inject(fault), workload=[ONE, completion(max_tokens=5, after=0)], check=False)
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
        on_log("request_completed", source="frontend", delay_s=0.2).inject(kill(Target(role="serving", request=0))),
        workload=[short, slow],
        check=False,
    )
    assert not only(events, FaultLanded).on_target
    assert ft.records[-1].verdict == "unknown"


def test_at_counts_from_the_first_request(ft: Ft) -> None:
    """Of the fault phase, not of the control."""
    events = run(ft, at(0.25).inject(kill(serving)))
    sent = only(events, RequestSent, control=False)
    assert only(events, FaultRequested).t - sent.t >= 0.25e9


def test_on_token_fires_with_the_token(ft: Ft) -> None:
    """In the same turn of the loop that read it: the signal is sent before the next token comes."""
    events = run(ft, on_token(64).inject(kill(serving)))
    signalled = only(events, ProcessSignalled, reason="fault")
    sent = only(events, RequestSent, control=False)
    before = [e for e in events if isinstance(e, RequestChunk) and sent.t < e.t <= signalled.t]
    reads = list(dict.fromkeys(chunk.t for chunk in before))
    due = next(t for t in reads if sum(chunk.tokens for chunk in before if chunk.t <= t) >= 64)
    assert len(reads) - reads.index(due) <= 2, (
        "reads since the one that brought it, of which each may bring many tokens"
    )


def test_of_an_answer_in_one_piece_on_token_is_a_time(ft: Ft) -> None:
    """As long after a worker took it as so many tokens take; the run says so."""
    events = run(ft, on_token(60).inject(kill(serving)), workload=[completion(max_tokens=250, stream=False)])
    asked = only(events, FaultRequested)
    assert "not streamed: 0.3 s after a worker received it" in asked.trigger
    sent = only(events, RequestSent, control=False)
    assert asked.t - sent.t >= 0.3e9


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
    came = [e.t for e in events if isinstance(e, RequestChunk) and sent.t < e.t <= asked.t]
    assert len(came) >= 3
    assert len({t for t in came if t > came[2]}) <= 1, "reads since the one that brought the third"


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


def test_a_fault_at_the_begin_finds_its_request(ft: Ft) -> None:
    """The moment is the sending itself: then the request is one that a fault can be aimed at already."""
    events = run(ft, at(0).inject(kill(serving)), expect=[succeeds(), migrated(times=1), tokens_exact()])
    asked, sent = only(events, FaultRequested), only(events, RequestSent, control=False)
    assert asked.request == sent.request


def test_a_request_is_known_by_its_place_and_not_by_its_turn(ft: Ft) -> None:
    """Of four requests the first of the workload is sent last: it is its worker that is hit, and it alone has to move."""
    workload = [
        completion(f"Story {place}", max_tokens=150, at_s=at_s) for place, at_s in enumerate((0.5, 0, 0.1, 0.2))
    ]
    events = run(
        ft,
        on_token(30, request=0).inject(kill(Target(role="serving", request=0))),
        workers=3,
        workload=workload,
        expect=[succeeds(), migrated(times=1), tokens_exact()],
    )
    sent = [e for e in events if isinstance(e, RequestSent) and not e.control]
    assert [e.index for e in sent] == [1, 2, 3, 0]
    asked, landed = only(events, FaultRequested), only(events, FaultLanded)
    assert asked.request == sent[-1].request
    claims = [e for e in events if isinstance(e, Log) and e.event == "request_received" and e.t < landed.t]
    assert [e.source for e in claims if e.captures["request"] == asked.request] == [landed.source]


def test_requests_that_a_test_sends_at_once_have_a_place_each(ft: Ft) -> None:
    """In the order in which it asked for them; a fault is aimed at one by its place."""
    pending = [ft.client.complete(f"Story {place}", max_tokens=150) for place in range(8)]
    streams = [one.wait() for one in pending]
    sent = list(ft.history.select(RequestSent))
    assert {e.request: e.index for e in sent} == {stream.id: place for place, stream in enumerate(streams)}
    ft.inject(kill(Target(role="serving", request=5))).wait()
    (asked,) = ft.history.select(FaultRequested)
    assert asked.request == streams[5].id
    assert {stream.finished().wait(20).outcome for stream in streams} == {"success"}
    ft.expect(migrated(streams[5]), tokens_exact())


def test_every_engine_is_killed(ft: Ft) -> None:
    """One fault on two processes: each has its proof, and each exit of a handler that noticed is explained by it."""
    events = run(ft, on_token(30).inject(kill_engine(every_worker)), expect=[exits_as(1)])
    landed = [e for e in events if isinstance(e, FaultLanded)]
    assert {e.source for e in landed} == {"worker-1", "worker-2"}
    assert len({e.evidence["engine_pid"] for e in landed}) == 2
    assert [fault.target for fault in ft.records[-1].faults] == [f"every_worker ({e.source})" for e in landed]


def test_an_exit_that_is_still_to_come_is_waited_for(ft: Ft) -> None:
    """A handler that notices late that its engine has died: the requests are over by then, the run is not."""
    events = run(
        ft,
        on_token(10).inject(freeze(another_worker, duration_s=1.5)),
        on_token(20).inject(kill_engine(another_worker)),
        workload=[completion(max_tokens=120)],
        expect=[exits_as(1)],
    )
    struck = {e.source for e in events if isinstance(e, FaultLanded)}
    (ended,) = [e for e in events if isinstance(e, ProcessExited) and e.source in struck]
    assert ended.t < next(e.t for e in events if isinstance(e, RunPhase) and e.phase == "teardown")


def test_every_worker_is_every_one_that_is_left(ft: Ft) -> None:
    """One that an earlier fault killed is no target any more, and no reason to have tested nothing."""
    events = run(
        ft,
        on_token(20).inject(kill(named("worker-1"))),
        after_fault(0, delay_s=0.1).inject(freeze(every_worker, duration_s=0.1)),
        workload=[completion(max_tokens=300)],
    )
    assert [e.source for e in events if isinstance(e, FaultLanded)] == ["worker-1", "worker-2"]


def test_a_named_worker_is_on_target_while_it_has_any_request(ft: Ft) -> None:
    """Not only the last that it took: that one was short."""
    events = run(
        ft,
        on_log("request_completed", source="frontend", delay_s=0.1).inject(freeze(named("worker-1"), duration_s=0.05)),
        workers=1,
        workload=[completion(max_tokens=300), completion(max_tokens=10)],
    )
    landed = only(events, FaultLanded)
    assert landed.on_target
    assert landed.evidence["request"] == "was running"


def test_a_named_worker_whose_choice_is_over_is_off_target(ft: Ft) -> None:
    """Workers know a choice by a name of its own, which is the request's: of two workers one has the running request."""
    moment = on_log("request_completed", source="frontend", delay_s=0.1)
    events = run(
        ft,
        *(moment.inject(freeze(named(f"worker-{number}"), duration_s=0.05)) for number in (1, 2)),
        workload=[completion(max_tokens=20, n=2), completion(max_tokens=300)],
        check=False,
    )
    running = [e for e in events if isinstance(e, RequestSent) and not e.control][1].request
    last = only(events, Log, event="request_received", captures={"request": running}).source
    assert {e.source: e.on_target for e in events if isinstance(e, FaultLanded)} == {
        name: name == last for name in ("worker-1", "worker-2")
    }
    assert ft.records[-1].verdict == "unknown"


def test_a_frozen_process_does_not_take_a_termination(ft: Ft) -> None:
    """The kernel keeps the signal pending: nothing was terminated, nothing is escalated, and it says so."""
    events = run(
        ft,
        on_token(5).inject(freeze(another_worker)),
        after_fault(0).inject(terminate(another_worker, grace_s=0.1)),
        workload=[completion(max_tokens=60)],
        check=False,
    )
    assert "SIGTERM was sent, but is still pending" in only(events, FaultMissed).reason
    assert not [e for e in events if isinstance(e, ProcessSignalled) and e.reason == "escalation"]
    assert ft.records[-1].verdict == "unknown"


def test_a_frontend_that_is_told_to_end_finishes_what_it_has(ft: Ft) -> None:
    """As the worker does; and then ends in order."""
    events = run(
        ft,
        on_token(30).inject(terminate(frontend, grace_s=10)),
        expect=[succeeds(), tokens_exact(), not_migrated(), exits_as(0)],
    )
    (end,) = [e for e in events if e.kind == "request.finished" and e.t > only(events, FaultLanded).t]
    assert end.t < only(events, ProcessExited, source="frontend").t


def test_a_moment_that_does_not_come_is_not_waited_for(ft: Ft) -> None:
    """The workload's end is the end of the faults, too, but for one that needs no request; the verdict is unknown."""
    events = run(ft, at(60).inject(kill(serving)), workload=[completion(max_tokens=20)], check=False)
    assert only(events, FaultMissed).reason.startswith("the last request had ended 59.")
    assert events[-1].t < 30e9
    events = run(ft, on_token(50).inject(kill(serving)), workload=[completion(max_tokens=20)], check=False)
    assert not [e for e in events if isinstance(e, FaultRequested)]
    assert "1 of 1 faults never fired" in ft.records[-1].reason


def forgets_a_case(events: Sequence[Event]) -> bool:
    """A predicate that fails at the first token."""
    if isinstance(events[-1], RequestChunk):
        raise KeyError("no such key")
    return False


def test_a_predicate_that_fails_is_told_and_breaks_nothing_else(ft: Ft, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked while the client reads: the request must not pay for it."""
    from ftharness.scenario import library  # noqa: PLC0415 - lends its name to the predicate

    monkeypatch.setattr(library, "forgets_a_case", forgets_a_case, raising=False)
    events = run(ft, when("ftharness.scenario.library:forgets_a_case").inject(kill(serving)), check=False)
    assert only(events, FaultMissed).reason == "its trigger failed: KeyError: 'no such key'"
    ends = [e for e in events if isinstance(e, RequestFinished)]
    assert [e.outcome for e in ends] == ["success", "success"]
    assert ft.records[-1].verdict == "unknown"


async def test_an_interrupted_run_is_healed_and_unknown(tmp_path: Path) -> None:
    """A Ctrl-C while a worker is frozen: it is thawed, everything ends in order, and the run says what it was."""
    scenario = Scenario(
        name="faults/one", topology=aggregated(workers=1), workload=[ONE], faults=[on_token(20).inject(freeze(serving))]
    )
    cell = cell_of(scenario, "sim")
    with History(tmp_path / "history.jsonl") as history:
        going = asyncio.create_task(Run(cell, find_stack("sim"), tmp_path, history, lambda _: None).complete())
        await history.wait_for(lambda event: isinstance(event, FaultLanded), deadline_s=30, what="the fault")
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
    events = read_history(tmp_path / "history.jsonl")
    healed, ended = only(events, FaultHealed), only(events, ProcessExited, source="worker-1")
    assert healed.t < ended.t
    assert ended.returncode == 0
    record = judge(scenario, events)
    assert (record.verdict, record.reason) == ("unknown", "interrupted")


# Faults on a process of the test's own, whose moment is made exact.


@pytest.fixture
async def sleeper(tmp_path: Path) -> AsyncIterator[Callable[..., Strike]]:
    """``sleeper(**args)``: a fault on its way to a process that does nothing."""
    history = History()
    async with Processes(history, tmp_path) as processes:
        process = await processes.start("sleeper", ["sleep", "600"])
        yield lambda **args: Strike("fault-1", process, history, args, "")


async def test_a_freeze_that_could_not_be_shown_is_undone_all_the_same(
    sleeper: Callable[..., Strike], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may stop later than we look: it must not stay so. A late kernel cannot be had, so the look is faked."""
    strike = sleeper()
    with monkeypatch.context() as patch:
        patch.setattr(Process, "state", lambda _: "D")
        patch.setattr(signals, "_STATE_S", 0.01)
        await signals.freeze(strike)
    assert "its state is D, not T" in only(strike.history.events, FaultMissed).reason
    await strike.heal()
    assert strike.process.state() != "T"
    assert only(strike.history.events, ProcessSignalled, reason="heal").signal == "SIGCONT"


async def test_what_is_done_once_it_is_undone_comes_after_that(sleeper: Callable[..., Strike]) -> None:
    """A thawed process is quicker than we are to see that it goes on."""
    strike = sleeper()

    async def thawed() -> dict[str, object]:
        strike.history.append(Log(source="worker-1", event="ready"))
        return {}

    strike.heals_by(thawed)
    await strike.heal()
    assert only(strike.history.events, FaultHealed).t <= only(strike.history.events, Log).t


async def test_healing_what_has_just_ended_is_no_failure(sleeper: Callable[..., Strike]) -> None:
    """It ended, and nobody has told us yet: there is nothing to undo, and other faults are still to be healed."""
    strike = sleeper()
    await signals.freeze(strike)
    fd = os.pidfd_open(strike.process.pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        assert select.select([fd], [], [], 10)[0]  # the loop, which would be told, stands still meanwhile
    finally:
        os.close(fd)
    assert strike.process.exit is None
    await strike.heal()
    assert only(strike.history.events, FaultHealed).evidence == {"process": "has ended"}


async def test_a_grace_that_ends_with_the_process_is_no_failure(sleeper: Callable[..., Strike]) -> None:
    """It is gone before the escalation: there is none to tell of."""
    strike = sleeper(grace_s=0.0, then="kill")
    await signals.terminate(strike)
    ended = await strike.process.exited(10)
    assert only(strike.history.events, FaultLanded).evidence == {"signal": "SIGTERM", "disposition": "default"}
    sent = [e.reason for e in strike.history.events if isinstance(e, ProcessSignalled)]
    assert sent == ["fault"] if ended.signal == "SIGTERM" else ["fault", "escalation"]


async def test_every_fault_on_what_is_gone_is_a_miss(sleeper: Callable[..., Strike]) -> None:
    """It says how it had ended, or that it was not as it should have been."""
    strike = sleeper()
    await signals.kill(strike)
    for kind, says in (
        (signals.kill, "had already ended by SIGKILL"),
        (signals.terminate, "had already ended by SIGKILL"),
        (signals.interrupt, "had already ended by SIGKILL"),
        (signals.freeze, "had already ended by SIGKILL"),
        (signals.thaw, "it was not frozen: its state is gone"),
        (kill_engine_kind, "sleeper has no engine child process"),
    ):
        await kind(strike)
        assert says in [e.reason for e in strike.history.events if isinstance(e, FaultMissed)][-1]
    assert len([e for e in strike.history.events if isinstance(e, FaultLanded)]) == 1


def test_what_has_not_ended_at_the_deadline_hangs(ft: Ft) -> None:
    """Whatever else is expected; it is not the client that went away."""
    events = run(ft, on_token(20).inject(freeze(serving)), deadline_s=1.5, check=False)
    ended = [e for e in events if isinstance(e, RequestFinished)]
    assert [e.outcome for e in ended] == ["success", "hang"]
    assert ended[1].error == "it had not ended when the phase's 1.5 s were over"
    (record,) = ft.records
    assert {oracle.name: oracle.verdict for oracle in record.oracles}["every_request_ends()"] == "fail"


def test_expecting_nothing_is_refused(ft: Ft) -> None:
    """It would pass whatever happened; nothing is launched for it."""
    with pytest.raises(TypeError, match="needs something to expect"):
        ft.expect()
    assert list(ft.folder.iterdir()) == []


def test_a_frozen_worker_is_not_asked_for_its_metrics(ft: Ft) -> None:
    """It would not answer: whoever judges meanwhile would wait for nothing."""
    ft.inject(freeze(named("worker-1"))).wait()
    before = time.monotonic()
    ft.expect(never_logged("worker_left"))
    assert time.monotonic() - before < 1.5  # an answer is waited for 2 s
