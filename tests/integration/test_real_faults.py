"""What was written for real engines, on real processes: faults below a worker, a second life, a look at health."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ftharness.client import completion
from ftharness.faults import (
    Fault,
    check_health,
    freeze,
    freeze_engine,
    frontend,
    hit,
    kill,
    kill_rank,
    named,
    restart,
    serving,
    thaw,
)
from ftharness.history import (
    Event,
    FaultHealed,
    FaultLanded,
    FaultMissed,
    FaultRequested,
    History,
    Log,
    ProcessReady,
    ProcessStarted,
    RequestSent,
    read_history,
)
from ftharness.process.process_table import read_entry
from ftharness.pytest_plugin import Ft
from ftharness.scenario import Scenario, after_fault, migrated, on_log, succeeds
from ftharness.scenario.runner import Run
from ftharness.session import cell_of
from ftharness.stack import aggregated, find_stack

FIRST, SECOND = named("worker-1"), named("worker-2")


class Struck:
    """A stack that runs, and what came of the last fault on it."""

    def __init__(self, run: Run) -> None:
        self.run = run

    async def by(self, fault: Fault) -> FaultLanded | FaultMissed:
        """Inject it, to its end."""
        before = len(self.run.history.events)
        await self.run.nemesis.inject(fault)
        new = self.run.history.events[before:]
        (came,) = [event for event in new if isinstance(event, FaultLanded | FaultMissed)]
        return came

    async def landed(self, fault: Fault) -> FaultLanded:
        """The same, of one that lands."""
        came = await self.by(fault)
        assert isinstance(came, FaultLanded), came
        return came

    async def missed(self, fault: Fault) -> str:
        """The reason of one that misses."""
        came = await self.by(fault)
        assert isinstance(came, FaultMissed), came
        return came.reason

    async def served_by(self) -> str:
        """Who takes a request, and answers it whole."""
        stream = await self.run.send(completion(max_tokens=8))
        assert (await stream.finished()).outcome == "success"
        (claim,) = [
            line
            for line in self.run.history.select(Log, event="request_received")
            if line.captures["request"] == stream.id
        ]
        return claim.source


@pytest.fixture
async def struck(tmp_path: Path) -> AsyncIterator[Struck]:
    """Two workers behind a frontend."""
    one = Scenario(name="real/faults", topology=aggregated(workers=2), workload=[])
    with History(tmp_path / "history.jsonl") as history:
        run = Run(cell_of(one, "sim"), find_stack("sim"), tmp_path, history, lambda _: None)
        try:
            await run.launch()
            await run.begin_faults()
            yield Struck(run)
        finally:
            await run.teardown()


async def test_the_engine_alone_is_stopped_for_a_while(struck: Struck) -> None:
    """When it lands the engine is in state T, and its handler is not; after its duration it runs again."""
    history, seen = struck.run.history, {}
    (started,) = history.select(Log, source="worker-1", event="engine_started")
    engine, worker = int(started.captures["pid"]), struck.run.stack["worker-1"]

    def look(event: Event) -> None:
        if isinstance(event, FaultLanded | FaultHealed):
            entry = read_entry(engine)
            seen[event.kind] = (entry.state if entry else "gone", worker.state())

    history.subscribe(look)
    landed = await struck.landed(freeze_engine(FIRST, duration_s=0.2))
    (healed,) = history.select(FaultHealed)
    assert landed.evidence == {"engine_pid": engine, "signal": "SIGSTOP", "state": "T", "processes": 1}
    assert (seen["fault.landed"][0], seen["fault.landed"][1] != "T") == ("T", True)
    assert seen["fault.healed"][0] not in ("T", "gone")
    assert healed.evidence["thawed"]
    assert healed.t - landed.t >= 0.2e9
    assert {await struck.served_by() for _ in range(2)} == {"worker-1", "worker-2"}


async def test_an_engine_that_was_stopped_goes_on_by_a_thaw_of_its_worker(struck: Struck) -> None:
    """Whose own state was never T: what it started is looked at, too. Where nothing is stopped there it misses."""
    frozen = await struck.landed(freeze_engine(FIRST))
    assert (await struck.missed(thaw(FIRST, tree=False))).startswith("it was not frozen: its state is ")
    thawed = await struck.landed(thaw(hit(0)))
    assert (thawed.evidence["pid"], thawed.evidence["processes"]) == (frozen.evidence["engine_pid"], 1)
    assert (thawed.source, thawed.evidence["before"]) == ("worker-1", "T")
    assert thawed.evidence["state"] not in ("T", "")
    assert (await struck.missed(thaw(hit(0)))).startswith("it was not frozen: its state is ")
    assert {await struck.served_by() for _ in range(2)} == {"worker-1", "worker-2"}


async def test_what_is_not_there_is_not_hit(struck: Struck) -> None:
    """A frontend has no engine, the model of a simulated worker no ranks, what lives no second life; each says so."""
    assert await struck.missed(freeze_engine(frontend)) == "frontend has no engine child process"
    assert await struck.missed(kill_rank(FIRST, rank=1)) == "worker-1 has no rank 1 child process"
    assert await struck.missed(restart(FIRST)) == "worker-1 has not ended: there is nothing to start again"
    assert await struck.missed(check_health(FIRST)) == "worker-1 has no HTTP port of its own that is known"
    for cannot in (check_health(frontend, within_s=-1), check_health(frontend, path="health")):
        assert "cannot be asked" in await struck.missed(cannot)
    assert await struck.missed(restart(hit(7))) == "what fault 7 hit: fault-8 has hit no process"
    assert {await struck.served_by() for _ in range(2)} == {"worker-1", "worker-2"}


async def test_a_look_at_health_is_answered_or_not(struck: Struck) -> None:
    """The status as it comes, whichever; a frozen process gives no answer in its time, and that is what was seen."""
    assert (await struck.landed(check_health(frontend))).evidence["status"] == 200
    assert (await struck.landed(check_health(frontend, path="/no/such/page"))).evidence["status"] == 404
    await struck.landed(freeze(frontend))
    silent = await struck.landed(check_health(frontend, within_s=0.2))
    assert (silent.evidence["status"], silent.evidence["error"]) == ("none", "no answer within 0.2 s")
    assert silent.evidence["took_ms"] >= 200
    await struck.landed(thaw(frontend))
    for worker in (FIRST, SECOND):
        await struck.landed(kill(worker))
    assert (await struck.landed(check_health(frontend))).evidence["status"] == 503


async def test_what_had_its_sockets_from_us_has_no_second_life(struck: Struck) -> None:
    """It would start, and listen nowhere: nobody says that it is ready."""
    await struck.landed(kill(frontend))
    said = await struck.missed(restart(frontend))
    assert said == "frontend was given its listening sockets, which are closed: it cannot be started again"


SERVER = """
name = "server"
url = "http://127.0.0.1:{server.port.http}"
model = "any"
ready = "/"
[[process]]
name = "server"
role = "frontend"
command = ["{python}", "-m", "http.server", "--bind", "127.0.0.1", "{port.http}"]
ports = ["http"]
[[process]]
name = "worker"
role = "aggregated"
command = ["{python}", "-c", "import signal; signal.pause()"]
"""


async def test_who_has_no_word_for_it_is_ready_when_the_whole_is(tmp_path: Path) -> None:
    """Once, and not as soon as it was started: a frontend such as Dynamo's, that opens its own port."""
    (tmp_path / "server.toml").write_text(SERVER)
    one = Scenario(name="real/again", topology=aggregated(workers=1), workload=[])
    stack = str(tmp_path / "server.toml")
    with History(tmp_path / "history.jsonl") as history:
        run = Run(cell_of(one, stack), find_stack(stack), tmp_path, history, lambda _: None)
        try:
            await run.launch()
            await run.begin_faults()
            struck = Struck(run)
            await struck.landed(kill(frontend))
            again = await struck.landed(restart(hit(0)))
            assert (await struck.landed(check_health(hit(1), path="/"))).evidence["status"] == 200
        finally:
            await run.teardown()
    (ready,) = history.select(ProcessReady, source="server.2")
    assert ready.how
    assert ready.t > again.t  # which is when it was started


async def test_what_has_ended_is_started_again_and_again(struck: Struck) -> None:
    """By the same command, under the name of its next life, which serves, and can be hit as the first one could."""
    await struck.landed(kill(SECOND))
    for target, again in ((FIRST, "worker-1.2"), (hit(2), "worker-1.3")):  # what the restart, number 2, has started
        await struck.landed(kill(target))
        evidence = (await struck.landed(restart(target))).evidence
        assert (evidence["started"], evidence["state"]) == (again, "ready")
        assert (
            await struck.missed(restart(FIRST)) == f"worker-1 lives again, as {again}: there is nothing to start again"
        )
        assert evidence["pid"] == struck.run.stack[again].pid
        assert await struck.served_by() == again
    commands = [one.argv for one in struck.run.history.select(ProcessStarted) if one.source.startswith("worker-1")]
    assert len(commands) == 3
    assert commands == [commands[0]] * 3


def test_a_fault_goes_by_another_and_a_request_by_a_fault(ft: Ft) -> None:
    """At the second line of a meaning, on what another fault hit, and not sent before that has landed."""
    one = Scenario(
        name="real/moments",
        topology=aggregated(workers=2),
        workload=[
            completion(max_tokens=200),
            completion(max_tokens=200, at_s=0.1),
            completion(max_tokens=8, after_fault=0),
        ],
        faults=[on_log("request_received", nth=2).inject(kill(serving)), after_fault(0).inject(restart(hit(0)))],
        expect=[succeeds(), migrated(times=1, request=0)],
    )
    record = ft.run(one, stack="sim")
    events = sorted(read_history(ft.folder / record.path / "history.jsonl"), key=lambda event: event.t)
    first, second, third = sorted(
        (e for e in events if isinstance(e, RequestSent) and not e.control), key=lambda sent: sent.index
    )
    taken = [e for e in events if isinstance(e, Log) and e.event == "request_received" and e.t > first.t]
    killed, restarted = (e for e in events if isinstance(e, FaultLanded))
    asked = next(e for e in events if isinstance(e, FaultRequested))
    assert taken[0].t < second.t < taken[1].t <= asked.t <= killed.t < third.t
    assert restarted.source == killed.source == taken[0].source
    assert restarted.evidence["started"] == f"{killed.source}.2"
    control = {e.index: e.t for e in events if isinstance(e, RequestSent) and e.control}
    assert control[2] < control[1]  # there the third waits for nothing
