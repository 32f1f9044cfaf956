"""Prefill and decode apart on the released Dynamo: what exists there, what becomes of a request, and what does not exist."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftharness.client import chat, completion
from ftharness.faults import disconnect, freeze, kill, named, terminate
from ftharness.history import Event, Log, RequestFinished, RunPhase
from ftharness.report import excuse
from ftharness.scenario import (
    Expect,
    Injection,
    Scenario,
    aborted_in,
    at,
    cancellations_counted,
    cancelled_within,
    ends_as_asked,
    exits_as,
    fails_with,
    judge,
    kv_freed,
    no_leaks,
    on_log,
    on_token,
    slots_freed,
    still_serves,
    succeeds,
    tokens_exact,
)
from ftharness.stack import disaggregated

Run = Callable[..., Any]  # the fixture of conftest.py

both = pytest.mark.parametrize("version", ["1.4.2", "1.6.1"])

FREE = [slots_freed(), kv_freed(), no_leaks()]
EXACT = [succeeds(), tokens_exact(), *FREE]

# 30,600 tokens: read in 0.6 s, or read in 0.15 s and sent in half a second.
LONG = completion("Once upon a time " * 1800, max_tokens=50)
READS_SLOWLY = {"prefill_tokens_per_s": 50_000.0}
MOVES_SLOWLY = {"prefill_tokens_per_s": 200_000.0, "kv_tokens_per_s": 60_000.0}


def routed(workload: list[Any], faults: list[Injection], expect: list[Expect], **topology: Any) -> Scenario:
    """A scenario of prefill and decode apart, as Dynamo's frontend does it."""
    return Scenario(
        name="routed/test",
        topology=disaggregated(strategy="frontend_routed", **topology),
        workload=workload,
        faults=faults,
        expect=expect,
    )


def lines(events: list[Event], event: str, request: str = "") -> list[Log]:
    """Those of the phase of the faults, about that request or any."""
    begin = next(one.t for one in events if isinstance(one, RunPhase) and one.phase == "fault")
    found = (one for one in events if isinstance(one, Log) and one.event == event and one.t >= begin)
    return [one for one in found if one.captures.get("request", "").startswith(request)]


def takers(events: list[Event], request: str = "") -> list[str]:
    """Who took the request, or any, in order."""
    return [line.source for line in lines(events, "request_received", request)]


def phases(events: list[Event], source: str) -> list[str]:
    return [line.captures["phase"] for line in lines(events, "request_phase") if line.source == source]


# Where nothing happens.


@both
@pytest.mark.parametrize("stack", ["dynamo-sim", "dynamo-mocker"])
def test_the_frontend_asks_a_prefill_worker_then_a_decode_worker(run: Run, stack: str, version: str) -> None:
    """Each request passes both, in the run without a fault and in the one with none."""
    ran = run(routed([completion(max_tokens=30)], [], [succeeds(), tokens_exact()]), stack, version)
    received = [one.source for one in ran.events if isinstance(one, Log) and one.event == "request_received"]
    assert received == ["prefill-1", "decode-1"] * 2


@pytest.mark.parametrize("version, engine", [("1.4.2", "vllm"), ("1.6.1", "sglang"), ("1.6.1", "trtllm")])
def test_two_and_two_give_the_tokens_of_one_worker(run: Run, version: str, engine: str) -> None:
    """Several at once, of several kinds and lengths, each role's workers in their turn; the words are the engine's own."""
    workload = [
        *(completion("x" * (1 + 97 * place), max_tokens=20 + place, n=1 + place % 2) for place in range(4)),
        *(chat(f"Story {place}", max_tokens=20, stream=place % 2 == 0) for place in range(4)),
    ]
    ran = run(routed(workload, [], EXACT, prefill=2, decode=2), "dynamo-sim", version, engine=engine)
    assert set(takers(ran.events)) == {"prefill-1", "prefill-2", "decode-1", "decode-2"}
    assert set(phases(ran.events, "prefill-1")) == {"queued", "prefill"}
    assert set(phases(ran.events, "decode-1")) == {"queued", "kv_transfer", "decode"}
    assert len(lines(ran.events, "request_finished")) == 2 * (4 + 2 + 4)  # a choice has halves of its own


@both
def test_a_decode_that_waits_for_a_slot_keeps_its_kv(run: Run, version: str) -> None:
    """Its worker has come for it: the time for which a KV waits for that is no bound on the decode."""
    workload = [
        completion(max_tokens=400),
        completion("Another", max_tokens=20, at_s=0.05),
    ]  # one of 2 s, and one behind it
    ran = run(routed(workload, [], EXACT, slots=1, worker_args=["--kv-hold-s", "1"]), "dynamo-sim", version)
    assert sorted(takers(ran.events)) == ["decode-1", "decode-1", "prefill-1", "prefill-1"]
    assert lines(ran.events, "kv_released") == []


# A client that goes away.


@both
def test_a_cancelled_decode_is_told_the_holder_of_its_kv(run: Run, version: str) -> None:
    """By the request's own id: the decode worker gives it up, the prefill worker hears of it; both are free, and serve."""
    expect = [cancelled_within(ms=500), aborted_in("decode", remote="prefill"), ends_as_asked(), still_serves()]
    expect += [cancellations_counted(frontend=1, workers=2), *FREE]
    workload = [completion(max_tokens=200), completion("And then", max_tokens=20, after=0)]
    run(routed(workload, [on_token(5).inject(disconnect())], expect), "dynamo-sim", version)


@both
@pytest.mark.parametrize("stream", [True, False])
def test_a_cancelled_prefill_goes_on_to_its_end(run: Run, version: str, stream: bool) -> None:
    """Nobody tells the prefill worker; the decode worker is asked all the same, and told at once: then both are free."""
    expect = [aborted_in("decode", remote="prefill"), ends_as_asked(), still_serves(), *FREE]
    once, twice = (cancellations_counted(frontend=count, workers=2) for count in (1, 2))
    name = "early_cancel_counted_once"
    expect += [once.where(name), twice.where(f"!{name}")] if stream else [once]
    workload = [completion(LONG.prompt, max_tokens=50, stream=stream), completion("And then", max_tokens=20, after=0)]
    in_prefill = on_log("request_received", source="prefill-1", delay_s=0.1)
    ran = run(routed(workload, [in_prefill.inject(disconnect())], expect, **READS_SLOWLY), "dynamo-sim", version)
    left = next(one for one in ran.events if isinstance(one, RequestFinished) and one.outcome == "cancelled")
    prefill, decode = lines(ran.events, "request_received", left.request)
    assert (prefill.source, decode.source) == ("prefill-1", "decode-1")
    assert decode.t - left.t > 0.2e9


# A worker that goes away.


@both
def test_a_killed_decode_worker_costs_no_token(run: Run, version: str) -> None:
    """The request begins again with a prefill, of all that it had; the KV that the lost one had come for is free."""
    killed = on_token(30).inject(kill(named("decode-1")))
    workload = [completion(max_tokens=150), completion("Another", max_tokens=150)]
    ran = run(routed(workload, [killed], EXACT, prefill=2, decode=2), "dynamo-sim", version)
    assert len(lines(ran.events, "migration_started")) == 1
    (released,) = lines(ran.events, "kv_released")
    path = takers(ran.events, released.captures["request"])
    assert path[0] == released.source
    assert [name.partition("-")[0] for name in path] == ["prefill", "decode"] * 2
    assert [path[1], path[3]] == ["decode-1", "decode-2"]


@both
def test_a_prefill_worker_that_is_killed_in_the_prefill_costs_no_token(run: Run, version: str) -> None:
    """Its stream is broken, so the frontend knows of it, and asks the other one."""
    killed = on_log("request_received", source="prefill-1", delay_s=0.1).inject(kill(named("prefill-1")))
    ran = run(routed([LONG, LONG], [killed], EXACT, prefill=2, decode=2, **READS_SLOWLY), "dynamo-sim", version)
    assert takers(ran.events).count("prefill-2") == 2
    assert lines(ran.events, "request_lost") == []


@both
def test_a_holder_that_is_killed_while_its_kv_moves_is_missed_in_the_decode(run: Run, version: str) -> None:
    """The decode says so, and the request moves; 1.4 fails it where the lost one is next in turn: nobody told it."""
    killed = on_log("request_received", source="prefill-1", delay_s=0.35).inject(kill(named("prefill-1")))
    expect = [*(one.where("idle_loss_migrates") for one in (succeeds(), tokens_exact())), *FREE]
    ran = run(routed([LONG, LONG], [killed], expect, prefill=2, decode=2, **MOVES_SLOWLY), "dynamo-sim", version)
    (lost,) = lines(ran.events, "request_lost")
    assert "worker prefill-1 is gone" in lost.captures["reason"]
    assert lines(ran.events, "migration_started")


@pytest.mark.parametrize("version, role", [("1.4.2", "prefill"), ("1.6.1", "prefill"), ("1.6.1", "decode")])
def test_a_worker_that_drains_finishes_what_it_has(run: Run, version: str, role: str) -> None:
    """A prefill worker has something as long as it holds a KV."""
    leaves = on_token(30).inject(terminate(named(f"{role}-1"), grace_s=20))
    expect = [*EXACT, exits_as(0, source=f"{role}-1")]
    ran = run(routed([completion(max_tokens=150)], [leaves], expect), "dynamo-sim", version)
    assert takers(ran.events) == ["prefill-1", "decode-1"]
    assert [line.captures["running"] for line in lines(ran.events, "drained")][:1] == ["0"]


# A KV that nobody comes for.


@both
def test_a_kv_that_no_decode_comes_for_is_let_go(run: Run, version: str) -> None:
    """The only decode worker is lost; the frontend has the request prefilled again before it finds that there is no other."""
    killed = on_token(30).inject(kill(named("decode-1")))
    scenario = routed(
        [completion(max_tokens=200)],
        [killed],
        [fails_with("migration_exhausted"), *FREE],
        worker_args=["--kv-hold-s", "1"],
    )
    ran = run(scenario, "dynamo-sim", version)
    reasons = [line.captures["reason"] for line in lines(ran.events, "kv_released")]
    assert reasons == ["closed", "no decode has come for it within 1 s"]


def test_a_kv_that_is_not_let_go_is_seen(run: Run) -> None:
    """The same with a hold that outlasts the run: what no decode comes for is a leak, with the name of who has it."""
    killed = on_token(30).inject(kill(named("decode-1")))
    scenario = routed([completion(max_tokens=200)], [killed], [kv_freed()], worker_args=["--kv-hold-s", "600"])
    ran = run(scenario, "dynamo-sim", "1.6.1", check=False)
    assert ran.record.verdict == "fail"
    (reason,) = [oracle.reason for oracle in ran.record.oracles if oracle.verdict == "fail"]
    assert re.match(r"prefill-1: kv_used = \d+ with no request left", reason)


@both
def test_a_decode_that_comes_too_late_moves(run: Run, version: str) -> None:
    """Frozen for longer than its KV is held: it is refused the KV, says so, and the other decode worker has the request."""
    frozen = at(0).inject(freeze(named("decode-1"), duration_s=2.5))
    workload = [completion(max_tokens=20, at_s=0.2), completion("Another", max_tokens=20, at_s=0.2)]
    scenario = routed(workload, [frozen], EXACT, decode=2, worker_args=["--kv-hold-s", "1"])
    ran = run(scenario, "dynamo-sim", version)
    (lost,) = lines(ran.events, "request_lost")
    assert (lost.source, lost.captures["reason"]) == ("decode-1", "prefill-1 holds no KV of it")
    assert takers(ran.events, lost.captures["request"]) == ["prefill-1", "decode-1", "prefill-1", "decode-2"]


# What does not exist.


@pytest.mark.parametrize("strategy", ["decode_first", "prefill_first"])
@pytest.mark.parametrize("stack", ["dynamo-sim", "dynamo-mocker"])
def test_what_does_not_exist_there_is_not_applicable(run: Run, stack: str, strategy: str) -> None:
    """No failure, and no pass: the run says why, also when it is judged again from its history."""
    topology = disaggregated(strategy=strategy)  # type: ignore[arg-type]  # a parameter of this test
    scenario = Scenario(name="calm/apart", topology=topology, workload=[completion()], expect=[succeeds()])
    ran = run(scenario, stack, "1.4.2", check=False)
    for record in (ran.record, judge(scenario, ran.events)):
        note = excuse(record)
        assert record.verdict == "unknown"
        assert note is not None
        assert note.kind == "not_applicable"
        assert f"{strategy} (1 prefill and 1 decode workers) does not exist on {stack}" in note.reason
        assert record.oracles == []


@pytest.fixture
def python(python_of: Callable[[str], Path]) -> Path:
    """Looked up before pytester hides the home folder."""
    return python_of("1.4.2")


def test_a_test_of_what_does_not_exist_there_is_skipped(python: Path, pytester: pytest.Pytester) -> None:
    """With the reason, whether it launches the stack itself or runs a scenario; its teardown fails nothing."""
    pytester.makepyfile(
        """
        from ftharness.client import completion
        from ftharness.scenario import Scenario
        from ftharness.stack import disaggregated

        def test_launch(ft):
            ft.launch(disaggregated(strategy="decode_first"))

        def test_run(ft):
            ft.run(Scenario(name="a/b", topology=disaggregated(strategy="prefill_first"), workload=[completion()]))
        """
    )
    options = ("--ft-stack", "dynamo-mocker", "--ft-sut-python", str(python), "-rs")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines_random(["*not applicable: decode_first*", "*not applicable: prefill_first*"])
