"""Request migration: a worker is lost in the middle of a request, and the request goes on elsewhere, or fails cleanly."""

from ftharness.client import completion
from ftharness.faults import kill, serving, terminate
from ftharness.scenario import (
    Scenario,
    exits_as,
    fails_with,
    logged,
    migrated,
    not_migrated,
    on_token,
    recovers_within,
    succeeds,
    tokens_exact,
    usage_correct,
)
from ftharness.stack import aggregated

# 280 tokens at 200 a second: a stream of 1.4 s.
SHORT = completion(max_tokens=280)

# A documented behaviour: whether a request that outlasts its worker's grace is cut off and moves, or keeps the worker alive.
MIGRATES = "graceful_shutdown_migrates"

worker_failure = Scenario(
    name="migration/worker_failure",
    description="The worker that serves a request is killed; another one finishes it, every token exact.",
    topology=aggregated(workers=2),
    workload=[SHORT],
    faults=[on_token(64).inject(kill(serving))],
    expect=[
        succeeds(),
        migrated(times=1),
        tokens_exact(),
        usage_correct(),
        recovers_within(ms=2_000),
        logged("migration_started", role="frontend"),
        exits_as("SIGKILL"),
    ],
)

graceful_shutdown = Scenario(
    name="migration/graceful_shutdown",
    description="The worker that serves a request is told to end; its grace is over before the request is: it migrates.",
    topology=aggregated(workers=2),
    workload=[SHORT],
    faults=[on_token(64).inject(terminate(serving, grace_s=0.4, then="kill"))],
    expect=[
        succeeds(),
        tokens_exact(),
        usage_correct(),
        migrated(times=1).where(MIGRATES),
        recovers_within(ms=2_000).where(MIGRATES),
        logged("migration_started", role="frontend").where(MIGRATES),
        not_migrated().where(f"!{MIGRATES}"),
    ],
)

drain = Scenario(
    name="migration/drain",
    description="The worker that serves a request is told to end, and has the time to finish it: nothing migrates.",
    topology=aggregated(workers=2),
    workload=[SHORT],
    faults=[on_token(64).inject(terminate(serving, grace_s=10, then="kill"))],
    expect=[succeeds(), not_migrated(), tokens_exact(), usage_correct()],
)

disabled_worker_failure = Scenario(
    name="migration/disabled_worker_failure",
    description="The same kill with migration off: the request fails with a server error, and ends.",
    topology=aggregated(workers=2, migration_limit=0),
    workload=[SHORT],
    faults=[on_token(64).inject(kill(serving))],
    expect=[
        fails_with("migration_exhausted"),
        not_migrated(),
        logged("migration_exhausted", role="frontend"),
        exits_as("SIGKILL"),
    ],
)

disabled_graceful_shutdown = Scenario(
    name="migration/disabled_graceful_shutdown",
    description="The grace ends before the request does, with migration off: the request fails with a server error.",
    topology=aggregated(workers=2, migration_limit=0),
    workload=[SHORT],
    faults=[on_token(64).inject(terminate(serving, grace_s=0.4, then="kill"))],
    expect=[
        not_migrated(),
        fails_with("migration_exhausted").where(MIGRATES),
        logged("migration_exhausted", role="frontend").where(MIGRATES),
        succeeds().where(f"!{MIGRATES}"),
    ],
)
