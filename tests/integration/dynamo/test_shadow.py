"""Shadow engines behind the real frontend: elected by Dynamo's own code, where the release has it."""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest

from ftharness.client import completion
from ftharness.failover.states import illegal_step
from ftharness.faults import Fault, active, check_health, frontend, kill, kill_engine, standby, start_standby, terminate
from ftharness.history import (
    Event,
    FaultLanded,
    FaultMissed,
    Log,
    Metric,
    ProcessExited,
    ProcessSignalled,
    RequestChunk,
    RequestFinished,
    RunPhase,
)
from ftharness.scenario import Scenario, after_fault, exits_as, on_log, on_token, succeeds
from ftharness.stack import aggregated

Run = Callable[..., Any]
RELEASES = ("1.4.2", "1.5.1", "1.6.1")
#: Who speaks the lines of an election, and what it calls a sleeping engine: our own code, or Dynamo's.
ELECTION = {"1.4.2": ("shadow", "sleeping"), "1.5.1": ("lifecycle", "paused")}
ELECTION["1.6.1"] = ELECTION["1.5.1"]
WALK = ["init", "standby", "waking", "active"]


def of(events: list[Event], kind: type[Any], **fields: Any) -> list[Any]:
    """The events of a kind with these fields, in order."""
    found = [event for event in events if isinstance(event, kind)]
    return sorted(
        (event for event in found if all(getattr(event, name) == value for name, value in fields.items())),
        key=lambda event: event.t,
    )


def states(events: list[Event], source: str) -> list[str]:
    return [line.captures["state"] for line in of(events, Log, source=source, event="failover_state")]


@pytest.mark.parametrize("version", RELEASES)
def test_a_shadow_takes_over_and_a_new_one_joins(run: Run, version: str) -> None:
    """The active engine is killed: the shadow has the lock, wakes, registers and serves, as its own lines and the client say."""
    scenario = Scenario(
        name="test/shadow",
        topology=aggregated(workers=1, standbys=1),
        # The last one comes when the frontend has let go of the lost one: a lease lasts 10 s, and its end may be late. Not by
        # its own clock, by which the control would wait as well.
        workload=[completion(max_tokens=60), completion(max_tokens=20, after=0, after_fault=2)],
        faults=[
            on_token(20).inject(kill(active)),
            on_log("ready").inject(start_standby()),
            after_fault(0, delay_s=13).inject(check_health(frontend)),
        ],
        expect=[exits_as("SIGKILL")],
    )
    _, events, _ = run(scenario, "dynamo-sim", version, check=False)
    assert not of(events, FaultMissed)
    first, second = (line.source for line in of(events, Log, event="ready"))
    speaker, asleep = ELECTION[version]
    for source in (first, second):
        assert states(events, source)[:4] == WALK
        assert illegal_step(states(events, source)) is None
        for event in ("standby", "waking", "awake"):
            (line,) = of(events, Log, source=source, event=event)
            module, _, said = line.line.partition("[Shadow]")
            assert f" {speaker}." in module, line.line
            assert said
        assert f"Engine {asleep}, startup probe now passing" in of(events, Log, source=source, event="standby")[0].line
        assert len(of(events, Log, source=source, event="lock_acquired")) == 1
    # Nobody had the lock before its holder had ended, and nothing was served by the one before the other was done.
    # Its end is read from one descriptor and the other's line from another, in either order: what is ours is when it was killed.
    (end,) = of(events, ProcessExited, source=first)
    (killed,) = (one for one in of(events, ProcessSignalled, source=first) if one.signal == "SIGKILL")
    assert end.signal == "SIGKILL"
    assert killed.t < of(events, Log, source=second, event="lock_acquired")[0].t
    assert [worker for worker, _ in groupby(chunk.worker for chunk in of(events, RequestChunk))] == [first, second]
    assert of(events, RequestFinished)[-1].outcome == "success"
    (joined,) = of(events, FaultLanded, id="fault-2")
    assert joined.evidence["started"] == "standby-2"
    assert states(events, "standby-2")[:2] == ["init", "standby"]
    for counter in ("attempts", "success"):
        samples = of(events, Metric, source=second, name=f"dynamo_component_engine_failover_switch_{counter}_total")
        assert samples[-1].value == 1


@pytest.mark.parametrize("version", ["1.4.2", "1.6.1"])
@pytest.mark.parametrize(
    "fault,returncode,walked,says",
    [
        (terminate(standby, grace_s=5, then="nothing"), 0, ["init", "standby", "dead"], "drained"),
        (kill_engine(standby), 1, ["init", "standby"], "engine_died"),
        (kill(active), 1, ["init", "standby", "waking"], "wake_failed"),
    ],
    ids=["told-to-end", "engine-dies", "does-not-wake"],
)
def test_a_shadow_that_never_serves_ends_and_says_why(
    run: Run, version: str, fault: Fault, returncode: int, walked: list[str], says: str
) -> None:
    """Told to end it ends with 0; without its engine, awake or not, with 1. The frontend never hears of it."""
    scenario = Scenario(
        name="test/shadow",
        topology=aggregated(workers=1, standbys=1, worker_args=["--wake-fails", "takeover"]),
        # The last one keeps the run going for as long as it may take, and the control for no longer than itself.
        workload=[completion(max_tokens=60), completion(max_tokens=5, after=0, after_fault=1)],
        faults=[on_token(20).inject(fault), after_fault(0, delay_s=3.5).inject(check_health(frontend))],
        expect=[succeeds()],
    )
    _, events, _ = run(scenario, "dynamo-sim", version, check=False)
    (ready,) = of(events, Log, event="ready")
    shadow = next(name for name in ("worker-1", "standby-1") if name != ready.source)
    (end,) = of(events, ProcessExited, source=shadow)
    (teardown,) = of(events, RunPhase, phase="teardown")
    assert end.t < teardown.t
    assert (end.returncode, states(events, shadow)) == (returncode, walked)
    assert len(of(events, Log, source=shadow, event=says)) == 1
    assert {chunk.worker for chunk in of(events, RequestChunk)} == {ready.source}
