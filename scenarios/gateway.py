"""A frontend before two engine servers, one of them hurt: who is told, who is sent elsewhere, and who comes back."""

from ftharness.client import completion
from ftharness.faults import (
    check_health,
    disconnect,
    every_worker,
    freeze,
    frontend,
    kill,
    kill_engine,
    named,
    restart,
    serving,
)
from ftharness.scenario import (
    Scenario,
    after_fault,
    at,
    ends_cleanly,
    health_agrees,
    health_is,
    on_token,
    rejoins_within,
    silent_at_most,
    slots_freed,
    still_serves,
    stops_failing_after,
    succeeds,
)
from ftharness.scenario.expectations import aborted_in, cancelled_within, no_tokens_after_abort
from ftharness.stack import aggregated

STREAM = completion(max_tokens=500)

# One after the other: each worker's turn comes every second time.
LATER = [completion("And then", max_tokens=8, after=place) for place in range(8)]

engine_killed = Scenario(
    name="gateway/engine_killed",
    description="The serving worker's engine is killed in mid-stream: that request is told or moved, those after it are served.",
    topology=aggregated(workers=2),
    workload=[STREAM, *LATER[:4]],
    faults=[on_token(64).inject(kill_engine(serving))],
    expect=[ends_cleanly(request=0), silent_at_most(ms=2_000), *(succeeds(request=place) for place in range(1, 5))],
    idle_s=10,
    stop_grace_s=20,
)

rejoin = Scenario(
    name="gateway/rejoin",
    description="A worker is killed with all that it started, and started again: it gets its share of the requests soon.",
    topology=aggregated(workers=2),
    workload=[
        STREAM,
        # While it is away: enough for a circuit breaker to open.
        *(completion("Meanwhile", max_tokens=8, after_fault=0, at_s=0.5 * place) for place in range(24)),
        *(completion("And then", max_tokens=8, after_fault=1, at_s=0.5 * place) for place in range(20)),
    ],
    faults=[on_token(64).inject(kill(named("worker-1"), tree=True)), after_fault(0).inject(restart())],
    expect=[rejoins_within(ms=5_000), stops_failing_after(0)],
    idle_s=10,
    deadline_s=240,
    stop_grace_s=20,
)

frozen = Scenario(
    name="gateway/frozen",
    description="A worker is stopped with all that it started: after a few requests that it keeps waiting, none is sent there.",
    topology=aggregated(workers=2),
    workload=[
        completion("Once", max_tokens=8),
        *(completion("And then", max_tokens=8, after=place, after_fault=0) for place in range(12)),
    ],
    faults=[at(0).inject(freeze(named("worker-1"), tree=True))],
    expect=[stops_failing_after(3)],
    stacks=["vllm", "sglang", "smg", "dynamo"],
    idle_s=4,
    stop_grace_s=20,
)

# A documented behaviour: whether the frontend's /health speaks of workers, or only of the frontend itself.
HEALTH = "health_tells_of_workers"

all_workers_killed = Scenario(
    name="gateway/all_workers_killed",
    description="Every worker is killed: clients are told, and the frontend's health says that nobody is served.",
    topology=aggregated(workers=2),
    workload=[STREAM, completion("And then", max_tokens=8, after_fault=1)],
    faults=[
        on_token(64).inject(kill(every_worker, tree=True)),
        after_fault(0, delay_s=1).inject(check_health(frontend)),
    ],
    expect=[
        ends_cleanly(),
        health_agrees().where(HEALTH),
        health_is(503).where(HEALTH),
        health_is(200).where(f"!{HEALTH}"),
    ],
    idle_s=10,
    stop_grace_s=20,
)

client_left = Scenario(
    name="gateway/client_left",
    description="A client goes away in mid-stream: the frontend tells the engine, which gives the request up.",
    topology=aggregated(workers=2),
    workload=[STREAM, *LATER[:2]],
    faults=[on_token(64).inject(disconnect())],
    expect=[
        cancelled_within(ms=1_000),
        aborted_in("aggregated"),
        no_tokens_after_abort(),
        slots_freed(),
        still_serves(),
    ],
    stop_grace_s=20,
)
