"""Shadow engines on the simulated stack: who waits, who takes over, and how each of them ends."""

import asyncio
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import pytest

from ftharness.client import completion
from ftharness.failover.states import illegal_step
from ftharness.faults import active as active_one
from ftharness.faults import freeze, kill, kill_engine, named, standby, start_standby, terminate, waking
from ftharness.history import Event, FaultLanded, FaultMissed, History, Log, ProcessExited, ProcessStarted, RequestChunk
from ftharness.pytest_plugin import Ft
from ftharness.scenario import Injection, Scenario, every_request_ends, on_token, tokens_exact
from ftharness.scenario.runner import run_cell
from ftharness.session import cell_of
from ftharness.stack import Topology, aggregated, find_stack
from ftharness.stack.turns import engine_for
from ftharness.stored_runs import read_events

DEADLINE_S = 20.0
GROUP = ("worker-1", "standby-1")


def seen(ft: Ft, event: str, source: str, **captures: str) -> Log:
    """That line, which may still be on its way."""

    def fits(one: Event) -> bool:
        return (
            isinstance(one, Log)
            and (one.event, one.source) == (event, source)
            and all(one.captures.get(key) == value for key, value in captures.items())
        )

    found = ft._portal.call(ft.history.wait_for(fits, deadline_s=DEADLINE_S, what=f"{event} of {source}"))
    assert isinstance(found, Log)
    return found


def other(ft: Ft, event: str, than: str) -> str:
    """Who else says that, once somebody does."""
    found = ft._portal.call(
        ft.history.wait_for(
            lambda one: isinstance(one, Log) and one.event == event and one.source != than,
            deadline_s=DEADLINE_S,
            what=f"{event} of another than {than}",
        )
    )
    return str(found.source)


def ended(ft: Ft, source: str) -> ProcessExited:
    """How a process ended, once it has."""
    found = ft._portal.call(
        ft.history.wait_for(
            lambda one: isinstance(one, ProcessExited) and one.source == source,
            deadline_s=DEADLINE_S,
            what=f"the end of {source}",
        )
    )
    assert isinstance(found, ProcessExited)
    return found


def states(ft: Ft, source: str) -> list[str]:
    """The states that a process entered, in order."""
    return [line.captures["state"] for line in ft.history.select(Log, source=source, event="failover_state")]


def roles(ft: Ft) -> tuple[str, str]:
    """Who of the two won the race for the lock, and who waits."""
    active = next(line.source for line in ft.history.select(Log, event="lock_acquired"))
    return active, next(name for name in GROUP if name != active)


def page(ft: Ft, source: str, path: str) -> httpx.Response:
    """A page of a worker's status server."""
    listening = next(ft.history.select(Log, source=source, event="listening"))
    return httpx.get(f"http://127.0.0.1:{listening.captures['port']}{path}", timeout=5.0)


def registered(ft: Ft) -> list[str]:
    """The workers that the frontend knows."""
    return [one["worker"] for one in httpx.get(f"{ft.stack.url}/health", timeout=5.0).json()["instances"]]


async def test_of_a_group_one_serves_and_the_others_sleep(ft: Ft) -> None:
    """All are healthy, one is registered; a sleeping engine says so, and holds nothing of the lock."""
    await ft.launch(aggregated(workers=1, standbys=1))
    active, waiting = roles(ft)
    seen(ft, "ready", active)
    assert registered(ft) == [active]
    for source, status, paused in ((active, "ready", "0"), (waiting, "standby", "1")):
        health = page(ft, source, "/health")
        assert (health.status_code, health.json()["status"]) == (200, status)
        metrics = page(ft, source, "/metrics").text
        assert f'dynamo_endpoint="generate"}} {paused}\n' in metrics[metrics.index("ftsim_paused{") :]
        state = {"ready": "active"}.get(status, status)
        assert f'dynamo_component="backend",state="{state}"}} 1\n' in metrics
    assert states(ft, active) == ["init", "standby", "waking", "active"]
    assert states(ft, waiting) == ["init", "standby"]
    engine = next(ft.history.select(Log, source=active, event="engine_started")).captures["pid"]
    held = [str(fd.readlink()) for fd in Path(f"/proc/{engine}/fd").iterdir()]
    assert not [path for path in held if "failover" in path]


async def test_a_group_of_which_nobody_is_left_gets_one_more(ft: Ft) -> None:
    """Beside one of the dead, by its name; who joins has the lock, and serves."""
    await ft.launch(aggregated(workers=1, standbys=1))
    active, waiting = roles(ft)
    seen(ft, "ready", active)
    await ft.inject(kill(named(waiting)))
    await ft.inject(kill(active_one))
    await ft.inject(start_standby(named("standby-1")))
    seen(ft, "ready", "standby-2")
    stream = await ft.client.complete(max_tokens=5)
    assert (await stream.finished()).outcome == "success"
    assert {chunk.worker for chunk in ft.history.select(RequestChunk)} == {"standby-2"}


@pytest.mark.parametrize("how", [kill, kill_engine])
async def test_a_standby_takes_over_whatever_ends_the_active_one(ft: Ft, how: Any) -> None:
    """The handler or its engine is killed: the lock, the waking and the registration follow, and the next request is served."""
    await ft.launch(aggregated(workers=1, standbys=1))
    active, waiting = roles(ft)
    seen(ft, "ready", active)
    first = await ft.client.complete(max_tokens=5)
    await first.finished()
    await ft.inject(how(active_one))
    at = [seen(ft, event, waiting).t for event in ("lock_acquired", "waking", "awake", "ready")]
    assert at == sorted(at)
    second = await ft.client.complete(max_tokens=5)
    assert (await second.finished()).outcome == "success"
    chunks = ft.history.select(RequestChunk)
    assert [worker for worker, _ in groupby(chunk.worker for chunk in chunks)] == [active, waiting]
    metrics = page(ft, waiting, "/metrics").text
    for counter in ("switch_attempts_total", "switch_success_total"):
        assert (
            f'failover_{counter}{{engine_id="{GROUP.index(waiting)}",model="ftharness-sim",dynamo_component="backend"}} 1'
            in metrics
        )
    assert illegal_step(states(ft, waiting)) is None
    ft.expect(tokens_exact(second))


async def test_one_that_is_told_to_end_drains_before_another_serves(ft: Ft) -> None:
    """SIGTERM: its request is answered to the end, and only then the lock is let go; not a token comes from two at once."""
    await ft.launch(aggregated(workers=1, standbys=1))
    active, waiting = roles(ft)
    seen(ft, "ready", active)
    stream = await ft.client.complete(max_tokens=100)
    await stream.token(20)
    term = ft.inject(terminate(active_one, grace_s=10, then="nothing"))
    assert (await stream.finished()).outcome == "success"
    await term
    end = ended(ft, active)
    assert end.returncode == 0
    last = max(chunk.t for chunk in ft.history.select(RequestChunk, request=stream.id))
    assert last < seen(ft, "lock_acquired", waiting).t
    assert states(ft, active)[-1] == "dead"
    assert {chunk.worker for chunk in ft.history.select(RequestChunk, request=stream.id)} == {active}


async def test_a_standby_that_is_told_to_end_does_so(ft: Ft) -> None:
    """At once, with status 0; who serves does not notice, and nobody takes the lock."""
    await ft.launch(aggregated(workers=1, standbys=1))
    active, waiting = roles(ft)
    await ft.inject(terminate(standby, grace_s=5, then="nothing"))
    assert ended(ft, waiting).returncode == 0
    assert states(ft, waiting) == ["init", "standby", "dead"]
    assert registered(ft) == [active]
    assert len(list(ft.history.select(Log, event="lock_acquired"))) == 1


async def test_a_standby_whose_engine_dies_notices(ft: Ft) -> None:
    """It ends with status 1 and says why: it does not wait on, healthy, until it wins the lock and cannot wake."""
    await ft.launch(aggregated(workers=1, standbys=1))
    _, waiting = roles(ft)
    await ft.inject(kill_engine(standby))
    assert ended(ft, waiting).returncode == 1
    assert seen(ft, "engine_died", waiting).captures["how"] == "SIGKILL"
    assert "lock_acquired" not in {line.event for line in ft.history.select(Log, source=waiting)}


async def test_a_shadow_that_dies_while_it_wakes_leaves_the_lock_to_the_next(ft: Ft) -> None:
    """Killed between lock and registration: the third takes over, once; the second never served."""
    await ft.launch(aggregated(workers=1, standbys=2, wake_s=0.5))
    first = next(line.source for line in ft.history.select(Log, event="lock_acquired"))
    seen(ft, "ready", first)
    await ft.inject(kill(active_one))
    second = other(ft, "waking", first)
    await ft.inject(kill(waking))
    third = other(ft, "ready", first)
    assert len({first, second, third}) == 3
    assert ended(ft, second).signal == "SIGKILL"
    assert "awake" not in {line.event for line in ft.history.select(Log, source=second)}
    assert registered(ft) == [third]


async def test_a_new_shadow_joins_after_a_takeover(ft: Ft) -> None:
    """Under a name and an engine id of its own; it waits, and takes over when its turn comes."""
    await ft.launch(aggregated(workers=1, standbys=1))
    active, waiting = roles(ft)
    seen(ft, "ready", active)
    await ft.inject(kill(active_one))
    seen(ft, "ready", waiting)
    await ft.inject(start_standby(active_one))
    landed = list(ft.history.select(FaultLanded))[-1]
    assert (landed.source, landed.evidence["started"], landed.evidence["state"]) == (waiting, "standby-2", "standby")
    started = next(ft.history.select(ProcessStarted, source="standby-2"))
    assert started.pid == landed.evidence["pid"]
    assert page(ft, "standby-2", "/health").json()["engine_id"] == "2"
    assert registered(ft) == [waiting]
    await ft.inject(kill(active_one))
    seen(ft, "ready", "standby-2")
    assert registered(ft) == ["standby-2"]


def ran(folder: Path, topology: Topology, *faults: Injection) -> list[Event]:
    """The events of a run whose verdict does not matter: it does what no run should."""
    # The last request keeps the run going for as long as a takeover may take on a busy machine.
    workload = [completion(max_tokens=40), completion(max_tokens=5, after=0, at_s=2.0)]
    scenario = Scenario(
        name="test/shadow", topology=topology, workload=workload, faults=list(faults), expect=[every_request_ends()]
    )
    cell = cell_of(scenario, "sim", engine="vllm", sut_python="", params={})
    asyncio.run(run_cell(cell, find_stack("sim"), folder / "run"))
    return read_events(folder / "run")


def test_a_frozen_holder_is_fenced_where_that_is_asked_for(tmp_path: Path) -> None:
    """It is killed by the one that waits, when its heartbeat is late by the deadline, and not before; that one takes over."""
    topology = aggregated(workers=1, standbys=1, heartbeat_s=0.05, fence_s=0.5)
    events = ran(tmp_path, topology, on_token(10).inject(freeze(active_one)))
    frozen = next(event for event in events if isinstance(event, FaultLanded))
    end = next(event for event in events if isinstance(event, ProcessExited) and event.source == frozen.source)
    assert end.signal == "SIGKILL"
    assert 0.4 < (end.t - frozen.t) / 1e9 < 1.5
    lines = [event for event in events if isinstance(event, Log)]
    fenced = next(line for line in lines if line.event == "fenced")
    assert fenced.source != frozen.source
    assert fenced.captures["engine"] == f"engine-{GROUP.index(frozen.source)}"
    ready = [line.source for line in lines if line.event == "ready"]
    assert ready == [frozen.source, fenced.source]
    served = {event.worker for event in events if isinstance(event, RequestChunk) and event.t > end.t}
    assert served == {fenced.source}
    assert not [event for event in events if event.kind == "leak"]


def test_a_frozen_holder_keeps_the_lock_where_it_is_not(tmp_path: Path) -> None:
    """Nobody takes over from it, for as long as the run lasts: the one that waits is healthy, and waits."""
    events = ran(tmp_path, aggregated(workers=1, standbys=1), on_token(10).inject(freeze(active_one, duration_s=1.5)))
    lines = [event for event in events if isinstance(event, Log)]
    assert len([line for line in lines if line.event == "lock_acquired"]) == 1
    assert {event.worker for event in events if isinstance(event, RequestChunk)} == {
        line.source for line in lines if line.event == "ready"
    }


def test_one_that_does_not_wake_is_never_registered(tmp_path: Path) -> None:
    """It ends with status 1 and an error line, in no state that serves, and the frontend never heard of it."""
    topology = aggregated(workers=1, standbys=1, migration_limit=0, worker_args=["--wake-fails", "takeover"])
    events = ran(tmp_path, topology, on_token(10).inject(kill(active_one)))
    lines = [event for event in events if isinstance(event, Log)]
    failed = next(line for line in lines if line.event == "wake_failed")
    assert failed.captures["reason"] == "the engine did not wake: it was told to fail"
    exits = {event.source: event for event in events if isinstance(event, ProcessExited)}
    assert exits[failed.source].returncode == 1
    walked = [
        line.captures["state"] for line in lines if (line.event, line.source) == ("failover_state", failed.source)
    ]
    assert walked == ["init", "standby", "waking", "dead"]
    joined = [line.captures["worker"] for line in lines if line.event == "worker_joined"]
    assert len(joined) == 1
    assert failed.source not in joined


def test_whom_a_target_means_is_told_when_there_is_nobody(tmp_path: Path) -> None:
    """With what each engine is just now."""
    events = ran(tmp_path, aggregated(workers=1, standbys=1), on_token(10).inject(kill(waking)))
    active = next(event.source for event in events if isinstance(event, Log) and event.event == "ready")
    turns = ", ".join(f"{name}: {'active' if name == active else 'standby'}" for name in GROUP)
    missed = next(event for event in events if isinstance(event, FaultMissed))
    assert missed.reason == f"waking: no engine of group 1 is that now; {turns}"


def test_a_stack_without_groups_is_told_what_makes_one() -> None:
    """Where a test aims at an engine of one; a scenario that does so is not started."""
    with pytest.raises(
        LookupError, match=r"^standby: there is no group 1 of engines; aggregated\(standbys=1\) makes such"
    ):
        engine_for(standby, [], History())
