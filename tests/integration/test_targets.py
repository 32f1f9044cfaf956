"""Whom a fault hits where a request has two workers, and whether it was on target."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from ftharness.client import Request, completion
from ftharness.faults import (
    Fault,
    Target,
    active,
    another_worker,
    check_health,
    client_of,
    decode_worker,
    disconnect,
    freeze,
    frontend,
    kill,
    kill_client,
    named,
    prefill_worker,
    restart,
    serving,
    start_standby,
    thaw,
)
from ftharness.faults import hit as what_was_hit
from ftharness.history import FaultLanded, FaultMissed, Log, RunPhase, read_history
from ftharness.pytest_plugin import Ft
from ftharness.scenario import (
    Expect,
    Injection,
    Scenario,
    ScenarioRecord,
    after_fault,
    cancelled_within,
    ends_as_asked,
    logged,
    on_log,
    on_token,
    succeeds,
)
from ftharness.scenario.words import check_words
from ftharness.stack import Settings, Topology, aggregated, disaggregated, find_stack

STRATEGIES = ("decode_first", "prefill_first", "frontend_routed")
by_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def hit(ft: Ft, topology: Topology, *faults: tuple[int, Fault], tokens: int = 60) -> ScenarioRecord:
    """Each fault at its token of the only request."""
    one = Scenario(
        name="targets/one",
        topology=topology,
        workload=[completion(max_tokens=tokens)],
        faults=[on_token(token).inject(fault) for token, fault in faults],
        expect=[succeeds()],
    )
    return ft.run(one, stack="sim", check=False)


def decoder(ft: Ft, record: ScenarioRecord) -> str:
    """The worker that said, before the first fault landed, that it decodes."""
    events = read_history(ft.folder / record.path / "history.jsonl")
    landed = min(event.t for event in events if isinstance(event, FaultLanded))
    lines = [e for e in events if isinstance(e, Log) and e.captures.get("phase") == "decode" and e.t < landed]
    return max(lines, key=lambda line: line.t).source


@by_strategy
def test_in_mid_decode_it_is_the_decode_worker_that_serves(ft: Ft, strategy: str) -> None:
    """Not the prefill worker, whose claim may be read last; the request goes on elsewhere, and misses nothing."""
    topology = disaggregated(prefill=2, decode=2, strategy=strategy)  # type: ignore[arg-type]
    record = hit(ft, topology, (30, kill(serving)))
    assert (record.verdict, record.reason) == ("pass", "")
    (fault,) = record.faults
    assert fault.process == decoder(ft, record)
    assert fault.on_target
    assert fault.recovery.reroute_ms is not None


@by_strategy
@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_either_of_a_requests_workers_is_a_target(ft: Ft, strategy: str, role: str) -> None:
    """Until the decode is over a prefill worker holds the KV for it, and has the request."""
    target = prefill_worker() if role == "prefill" else decode_worker()
    topology = disaggregated(prefill=2, decode=2, strategy=strategy)  # type: ignore[arg-type]
    record = hit(ft, topology, (30, freeze(target, duration_s=0.01)))
    (fault,) = record.faults
    assert fault.process.startswith(role)
    assert fault.on_target
    assert record.verdict == "pass"


def test_another_worker_is_one_of_the_same_role_that_never_had_the_request(ft: Ft) -> None:
    """Neither a prefill worker, nor the decode worker that had it before."""
    topology = disaggregated(prefill=2, decode=3)
    record = hit(ft, topology, (20, kill(serving)), (40, freeze(another_worker, duration_s=0.01)))
    assert record.verdict == "pass"
    first, second = record.faults
    assert second.process.startswith("decode")
    events = read_history(ft.folder / record.path / "history.jsonl")
    start = next(e.t for e in events if isinstance(e, RunPhase) and e.phase == "fault")
    had = {e.source for e in events if isinstance(e, Log) and e.event == "request_received" and e.t > start}
    assert second.process not in had
    assert first.process in had


@pytest.mark.parametrize(
    "topology,faults,why",
    [
        (
            disaggregated(prefill=1, decode=1),
            [(20, kill(another_worker))],
            "no decode worker beside decode-1 is alive that request 0 was not on; there is no other",
        ),
        (
            aggregated(workers=2),
            [(20, kill(serving)), (40, kill(another_worker))],
            "is alive that request 0 was not on; worker-",
        ),
    ],
    ids=["one of each", "moved"],
)
def test_where_there_is_no_other_it_misses_and_says_why(
    ft: Ft, topology: Topology, faults: list[tuple[int, Fault]], why: str
) -> None:
    """Rather than hit one that has, or had, the request."""
    record = hit(ft, topology, *faults)
    assert record.verdict == "unknown"
    (missed,) = [e for e in read_history(ft.folder / record.path / "history.jsonl") if isinstance(e, FaultMissed)]
    assert why in missed.reason


def test_a_targets_name_as_data() -> None:
    """As in scenario.json."""
    assert prefill_worker(2) == Target(role="prefill_worker", request=2)
    assert str(decode_worker(1)) == "decode_worker (request 1)"


def test_a_fault_that_is_due_when_no_request_is_left_misses_and_says_so(ft: Ft) -> None:
    """The fault that it comes after did land; one that needs no request is waited for."""
    one = Scenario(
        name="targets/late",
        topology=aggregated(workers=2),
        workload=[completion(max_tokens=20)],
        faults=[
            on_token(5).inject(disconnect()),
            after_fault(0, delay_s=0.4).inject(kill(frontend)),
            on_token(5, delay_s=0.3).inject(thaw(named("worker-1"))),
        ],
    )
    record = ft.run(one, stack="sim", check=False)
    left, late, waited = record.faults
    assert left.landed_ns is not None
    assert late.trigger == "after_fault(0), 0.4 s later"
    assert late.missed.startswith("the last request had ended 0.")
    assert late.missed.endswith(" s before it was due")
    assert waited.missed.startswith("it was not frozen")
    assert record.reason == f"fault kill on frontend did not land: {late.missed}"


def test_a_look_at_the_frontend_is_waited_for(ft: Ft) -> None:
    """It is there without a request, and a look is aimed at none."""
    one = Scenario(
        name="targets/look",
        topology=aggregated(workers=1),
        workload=[completion(max_tokens=20)],
        faults=[on_token(5, delay_s=0.5).inject(check_health(frontend))],
    )
    (look,) = ft.run(one, stack="sim", check=False).faults
    assert (look.missed, look.process, look.on_target) == ("", "frontend", True)


@pytest.mark.parametrize(
    "injection,says",
    [
        (
            on_token(5).inject(disconnect(client_of(9))),
            "there is no request 9: the scenario has 1 request, counted from 0",
        ),
        (on_token(5, request=2).inject(kill(serving)), "there is no request 2"),
        (after_fault(1).inject(kill(serving)), "there is no fault 1"),
        (after_fault(0).inject(kill(serving)), "that is the fault itself"),
        (on_token(5).inject(kill(what_was_hit(1))), "there is no fault 1: the scenario has 1 fault, counted from 0"),
        (on_token(5).inject(kill(what_was_hit(-1))), "there is no fault -1"),
        (on_token(5).inject(restart()), "restart what fault 0 hit: that is the fault itself"),
        (on_token(5).inject(kill(prefill_worker())), "this stack has no prefill workers"),
        (on_token(5, request=-1).inject(kill(serving)), "there is no request -1"),
        (on_token(5).inject(kill_client()), "that client has no process of its own; completion\\(own_process=True\\)"),
        (on_token(5).inject(kill(active)), "there is no group 1 of engines; aggregated\\(standbys=1\\) makes groups"),
        (on_token(5).inject(start_standby(named("worker-1"))), "it shares no lock that one more could wait for"),
        (on_token(5).inject(Fault(kind="reset", target=serving)), "it hits the client of a request"),
        (on_token(5).inject(Fault(kind="kill", target=client_of(0))), "it hits a process, such as serving"),
    ],
)
def test_what_is_aimed_at_nothing_is_refused_before_anything_starts(ft: Ft, injection: Injection, says: str) -> None:
    """The name of the scenario, what is wrong, what there is; nothing is left that would look like a run."""
    one = Scenario(name="targets/none", workload=[completion(max_tokens=20)], faults=[injection])
    with pytest.raises(LookupError, match=f"^targets/none: .*{says}"):
        ft.run(one, stack="sim")
    assert not list(ft.folder.rglob("history.jsonl"))


@pytest.mark.parametrize(
    "workload,faults,says",
    [
        (
            [completion(after_fault=1)],
            [on_token(5).inject(kill(serving))],
            "request 0, after_fault = 1: there is no fault 1",
        ),
        ([completion(after_fault=0)], [], "there is no fault 0: the scenario has 0 faults, counted from 0"),
        (
            [completion()],
            [on_token(5).inject(disconnect()), after_fault(0).inject(kill(what_was_hit(0)))],
            "kill what fault 0 hit: disconnect hits a client, and no process",
        ),
    ],
    ids=["no such fault", "no fault", "a client's"],
)
def test_what_waits_for_nothing_is_refused_before_anything_starts(
    ft: Ft, workload: list[Request], faults: list[Injection], says: str
) -> None:
    """A request whose fault never comes would hold the run up to its deadline."""
    one = Scenario(name="targets/none", workload=workload, faults=faults)
    with pytest.raises(LookupError, match=f"^targets/none: .*{says}"):
        ft.run(one, stack="sim")
    assert not list(ft.folder.rglob("history.jsonl"))


GROUPS = aggregated(workers=2, standbys=1)
JOINS = on_token(5).inject(start_standby(Target(role="active", group=2)))


@pytest.mark.parametrize(
    "name,joins,known",
    [
        ("standby-2", 0, True),
        ("standby-3", 0, False),
        ("standby-4", 1, True),
        ("standby-5", 1, False),
        ("worker-3", 1, False),
    ],
)
def test_a_standby_can_be_named_that_something_starts(tmp_path: Path, name: str, joins: int, known: bool) -> None:
    """One that is there, or for which there is a ``start_standby``; any other never comes."""
    plan = find_stack("sim").plan(GROUPS, Settings(engine="vllm", folder=tmp_path))
    plan.close()
    faults = [*[JOINS] * joins, on_log("standby", source=name).inject(kill(serving))]
    one = Scenario(name="targets/none", topology=GROUPS, workload=[completion()], faults=faults)
    with nullcontext() if known else pytest.raises(LookupError, match=f"has no process '{name}'"):
        check_words(one, plan)
    # A test starts what it likes, when it likes.
    check_words(
        Scenario(name="targets/none", workload=[], expect=[logged("ready", source="standby-9")]), plan, by_test=True
    )


@pytest.mark.parametrize(
    "name, restarts, known",
    [
        ("worker-1.2", [], False),
        ("worker-1.2", [restart()], True),  # of what another fault hit: which may be it
        ("worker-1.2", [restart(named("worker-1"))], True),
        ("worker-1.2", [restart(named("worker-2"))], False),
        ("worker-1.3", [restart(named("worker-1"))], False),
        ("worker-1.3", [restart(named("worker-1")), restart(named("worker-1.2"))], True),
        ("worker-1.1", [restart()], False),
        ("worker-9.2", [restart()], False),
    ],
)
def test_a_further_life_can_be_named_that_a_restart_begins(
    tmp_path: Path, name: str, restarts: list[Fault], known: bool
) -> None:
    """As many more as there are restarts that may be of that process."""
    plan = find_stack("sim").plan(aggregated(workers=2), Settings(engine="vllm", folder=tmp_path))
    plan.close()
    faults = [kill(serving), *restarts, kill(named(name))]
    one = Scenario(name="targets/none", workload=[completion()], faults=[on_token(5).inject(fault) for fault in faults])
    with nullcontext() if known else pytest.raises(LookupError, match=f"has no process '{name}'"):
        check_words(one, plan)


def test_a_group_that_is_not_there_is_counted(tmp_path: Path) -> None:
    """As there are others."""
    plan = find_stack("sim").plan(GROUPS, Settings(engine="vllm", folder=tmp_path))
    plan.close()
    faults = [on_token(5).inject(kill(Target(role="active", group=3)))]
    with pytest.raises(LookupError, match="there is no group 3 of engines; there are 2, counted from 1"):
        check_words(Scenario(name="targets/none", topology=GROUPS, workload=[completion()], faults=faults), plan)


@pytest.mark.parametrize(
    "name", ["took_over_within", "serves_again", "one_active", "legal_states", "nobody_takes_over", "fenced"]
)
def test_what_is_about_shadow_engines_is_refused_where_there_are_none(tmp_path: Path, name: str) -> None:
    """It could only be unknown."""
    plan = find_stack("sim").plan(aggregated(workers=2), Settings(engine="vllm", folder=tmp_path))
    plan.close()
    with pytest.raises(LookupError, match=r"the stack has no shadow engines; aggregated\(standbys=1\) makes groups"):
        check_words(Scenario(name="targets/none", workload=[completion()], expect=[Expect(oracle=name)]), plan)


def test_a_role_that_no_target_has_is_refused_with_the_nearest() -> None:
    """Where it is written."""
    with pytest.raises(ValueError, match="role = 'activ': there is no such target; did you mean active"):
        Target(role="activ")  # type: ignore[arg-type]


async def test_a_stream_itself_is_whose_client_goes(ft: Ft) -> None:
    """Whichever of the test's streams it is."""
    await ft.launch(disaggregated(prefill=1, decode=1))
    first = await ft.client.complete(max_tokens=60)
    second = await ft.client.complete(max_tokens=2_000)
    await second.token(5)
    await ft.inject(disconnect(second))
    assert [(await one.finished()).outcome for one in (first, second)] == ["success", "cancelled"]
    with pytest.raises(ValueError, match="request = 3: the test has sent 2, counted from 0"):
        ft.expect(cancelled_within(ms=500, request=3))
    ft.expect(ends_as_asked())


def test_a_fault_that_misses_fails_its_test_once(pytester: pytest.Pytester) -> None:
    """By what the test expected, and not again at its end; a test that expected nothing fails at its end."""
    pytester.makepyfile(
        """
        from ftharness.faults import disconnect, client_of
        from ftharness.scenario import succeeds

        async def test_expects(ft):
            stream = await ft.client.complete(max_tokens=5)
            await stream.finished()
            await ft.inject(disconnect(client_of(0)))
            ft.expect(succeeds())

        async def test_expects_nothing(ft):
            stream = await ft.client.complete(max_tokens=5)
            await stream.finished()
            await ft.inject(disconnect(client_of(0)))
        """
    )
    pytester.runpytest_subprocess("-p", "no:asyncio").assert_outcomes(failed=1, passed=1, errors=1)
