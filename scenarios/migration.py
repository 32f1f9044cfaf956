"""Request migration: a worker is lost in the middle of a request, and the request goes on elsewhere, or fails cleanly."""

from ftharness.client import completion
from ftharness.faults import kill, kill_engine, serving, terminate
from ftharness.scenario import (
    Scenario,
    ends_cleanly,
    exits_as,
    fails_with,
    gap_within,
    logged,
    migrated,
    never_logged,
    not_migrated,
    on_log,
    on_token,
    recovers_within,
    succeeds,
    takes_down_at_most,
    tokens_exact,
    ttft_within,
    usage_correct,
)
from ftharness.stack import aggregated

# 260 tokens at 200 a second: a stream of 1.3 s, so that two of them and all the rest take 4 s.
SHORT = completion(max_tokens=260)

# At the simulated engine's 100,000 tokens a second of prefill: 0.3 s in which to lose a worker.
LONG_PROMPT = completion("Once upon a time " * 1800, max_tokens=100)

# A documented behaviour: whether a request that outlasts its worker's grace is cut off and moves, or keeps the worker alive.
MIGRATES = "graceful_shutdown_migrates"

# Another: whether usage still counts as the prompt what was asked, and not what the first worker had answered as well.
USAGE_SURVIVES = "usage_survives_migration"

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
        usage_correct().where(USAGE_SURVIVES),
        recovers_within(ms=2_000),
        logged("migration_started", role="frontend"),
        exits_as("SIGKILL"),
    ],
)

prefill_failure = Scenario(
    name="migration/prefill_failure",
    description="The worker is killed while it reads a long prompt: another one starts over, and the client waits a little.",
    topology=aggregated(workers=2),
    workload=[LONG_PROMPT],
    # A moment later: Dynamo's worker says so before it has a connection for the answer; lost then, only its lease tells.
    faults=[on_log("request_received", delay_s=0.05).inject(kill(serving))],
    expect=[
        succeeds(),
        migrated(times=1),
        tokens_exact(),
        usage_correct(),
        ttft_within(ms=2_500),
        recovers_within(ms=2_500),
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
        usage_correct().where(USAGE_SURVIVES),
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
    expect=[
        succeeds(),
        not_migrated(),
        tokens_exact(),
        usage_correct(),
        gap_within(ms=2_000),
        never_logged("request_aborted"),
        exits_as(0),
    ],
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

# Each worker that takes it loses its engine: what bounds the damage is how often it may move.
poison_request = Scenario(
    name="migration/poison_request",
    description="A request kills whichever engine serves it: it takes two workers with it, then fails; the third serves on.",
    topology=aggregated(workers=3, migration_limit=1),
    workload=[SHORT, completion("And then", max_tokens=20, after=0)],
    faults=[
        on_log("request_received").inject(kill_engine(serving)),
        on_log("request_received", nth=2).inject(kill_engine(serving)),
    ],
    expect=[takes_down_at_most(2), ends_cleanly(request=0), succeeds(request=1)],
    idle_s=15,
)
