"""The engine pool manager: its engines crash, freeze, are drained and reloaded; it is killed; no lease is lost unseen."""

from typing import Any

from ftharness.faults import (
    Fault,
    ask,
    count_engines,
    end_job,
    freeze,
    freeze_engine,
    kill,
    kill_engine,
    named,
    restart,
)
from ftharness.pool.config import BackoffConfig, BreakerConfig, PoolConfig, ProbeConfig, WarmupConfig
from ftharness.scenario import (
    Injection,
    Scenario,
    after_fault,
    backoff_follows_policy,
    job_completes,
    leases_conserved,
    leases_expire_on_time,
    no_double_start,
    on_exit,
    on_log,
    operations_come_to,
    ready_only_when_healthy,
)
from ftharness.stack import Topology, leases, pooled

MANAGER, SECOND = named("pool"), named("pool.2")
END = end_job(named("job-1"))  # its holders give back what they have


def pool(models: dict[str, dict[str, Any]] | None = None, *, survive: bool = False, **fields: Any) -> Topology:
    """A pool of two engines with three slots each, whose times are small: one is asked ten times a second."""
    usual: dict[str, Any] = {
        "id": "main",
        "engine": "sim",
        "replicas": 2,
        "slots_per_engine": 3,
        "probe": ProbeConfig(interval_s=0.1, timeout_s=0.2, restart_after=0),
        "backoff": BackoffConfig(initial_s=0.1, factor=2, max_s=0.3, jitter=0.1, stable_s=0.5),
        "warmup": WarmupConfig(requests=1, max_tokens=2),
        "stop_grace_s": 1,
    }
    return pooled(PoolConfig(**usual | fields), models=models, engines_survive=survive)


def operate(what: str, **body: Any) -> Fault:
    """An operator's call, of which the end is waited for."""
    return ask(MANAGER, "POST", f"/v1/pools/main/{what}", body or None, status=202)


def at_start(engine: str, number: int) -> Injection:
    """An engine is killed as soon as it has been started for the so-many-th time."""
    started = on_log("engine_started", source="pool", captures={"engine": engine}, nth=number)
    return started.inject(kill_engine(MANAGER, engine=engine))


HOLDERS = leases(count=12, concurrency=8, hold_ms=40, tokens=2, until_told=True)
INVARIANTS = [job_completes(), leases_conserved(), ready_only_when_healthy(), no_double_start()]

# Killed when it is ready, and at each of its next four starts, long before it could be: the fifth end opens the breaker. The one
# try after half a second holds. It runs for longer than counts as stable, and is killed: the next wait is the first again.
crash_loop = Scenario(
    name="pool/crash_loop",
    description="An engine dies at each of its starts: its waits grow, then its breaker opens; leases go to the other one.",
    topology=pool(args=["--slow-start-s", "0.3"], breaker=BreakerConfig(restarts=4, window_s=20, half_open_s=0.5)),
    workload=[],
    jobs=[HOLDERS],
    faults=[
        on_log("lease_got", source="job-1", nth=10).inject(kill_engine(MANAGER, engine="main-1")),
        *(at_start("main-1", number) for number in (1, 2, 3, 4)),
        on_log("engine_started", source="pool", captures={"engine": "main-1"}, nth=5, delay_s=1.2).inject(
            kill_engine(MANAGER, engine="main-1")
        ),
        on_log("engine_started", source="pool", captures={"engine": "main-1"}, nth=6, delay_s=0.6).inject(END),
    ],
    expect=[*INVARIANTS, backoff_follows_policy()],
    stacks=["sim"],
    deadline_s=30,
)

# When the second and the third drain begin, leases have just been taken, and are held for longer than these wait. At the end it
# takes until those of the third are over for others to be granted, as they are after a drain that has given up.
drain_under_load = Scenario(
    name="pool/drain_under_load",
    description="A pool is drained under load: all leases end in time; those that do not are taken back; or the drain gives up.",
    topology=pool(),
    workload=[],
    jobs=[leases(count=8, concurrency=8, hold_ms=1000, tokens=2, until_told=True)],
    faults=[
        on_log("lease_got", source="job-1", nth=8).inject(operate("drain", deadline_ms=5000)),
        after_fault(0).inject(operate("resume")),
        after_fault(1, delay_s=0.2).inject(operate("drain", deadline_ms=100)),
        after_fault(2).inject(operate("resume")),
        after_fault(3, delay_s=0.2).inject(operate("drain", deadline_ms=100, on_timeout="abort")),
        after_fault(4, delay_s=1.5).inject(END),
    ],
    expect=[*INVARIANTS, operations_come_to(["drained", "stopped", "aborted"])],
    stacks=["sim"],
    deadline_s=30,
)

reload_rollback = Scenario(
    name="pool/reload_rollback",
    description="A pool is reloaded with a model whose engine does not start: the old one serves again; then with one that does.",
    topology=pool(
        {"models/first": {}, "models/broken": {"exit_at_start": 1}, "models/next": {}},
        model="models/first",
        drain_deadline_s=2,
    ),
    workload=[],
    jobs=[HOLDERS],
    faults=[
        on_log("lease_got", source="job-1", nth=10).inject(operate("reload", new_model_ref="models/broken")),
        after_fault(0, delay_s=0.2).inject(operate("reload", new_model_ref="models/next")),
        after_fault(1, delay_s=0.2).inject(END),
    ],
    expect=[*INVARIANTS, operations_come_to(["rolled_back", "succeeded"])],
    stacks=["sim"],
    deadline_s=30,
)

# Frozen for five bad answers, it is not ready until it is thawed, and keeps its leases; frozen for ten, it is started again.
probe_flap = Scenario(
    name="pool/probe_flap",
    description="An engine is frozen, and thawed; then it is frozen for good: it is not leased meanwhile, and is started again.",
    topology=pool(probe=ProbeConfig(interval_s=0.1, timeout_s=0.2, restart_after=10)),
    workload=[],
    jobs=[HOLDERS],
    faults=[
        on_log("lease_got", source="job-1", nth=10).inject(freeze_engine(MANAGER, engine="main-1", duration_s=1.6)),
        after_fault(0, delay_s=3.4).inject(freeze_engine(MANAGER, engine="main-1")),
        on_log("engine_started", source="pool", captures={"engine": "main-1"}, delay_s=0.8).inject(END),
    ],
    expect=[*INVARIANTS, backoff_follows_policy()],
    stacks=["sim"],
    deadline_s=30,
)

manager_killed = Scenario(
    name="pool/manager_killed",
    description="The manager is killed, and started again: its engines are gone with it, and others are started in their slots.",
    topology=pool(),
    workload=[],
    jobs=[HOLDERS],
    faults=[
        on_log("lease_got", source="job-1", nth=10).inject(kill(MANAGER)),
        after_fault(0).inject(restart()),
        after_fault(1).inject(count_engines(SECOND)),
        after_fault(1, delay_s=0.3).inject(END),
    ],
    expect=INVARIANTS,
    stacks=["sim"],
    deadline_s=30,
)

# What outlives its manager has to be ended by somebody: here by an operator, when all is over.
manager_killed_adopted = Scenario(
    name="pool/manager_killed_adopted",
    description="The manager is killed, and started again: it adopts its engines, which ran on, and sees one of them die.",
    topology=pool(survive=True, args=["--slow-start-s", "0.2"]),
    workload=[],
    jobs=[HOLDERS],
    faults=[
        on_log("lease_got", source="job-1", nth=10).inject(kill(MANAGER)),
        after_fault(0).inject(restart()),
        after_fault(1).inject(count_engines(SECOND)),
        after_fault(2, delay_s=0.2).inject(kill_engine(SECOND, engine="main-1")),
        on_log("engine_ready", source="pool.2", captures={"engine": "main-1"}, nth=2).inject(count_engines(SECOND)),
        after_fault(4, delay_s=0.3).inject(END),
        on_exit("job-1").inject(ask(SECOND, "POST", "/v1/pools/main/drain", {"deadline_ms": 0}, status=202)),
    ],
    expect=[*INVARIANTS, backoff_follows_policy()],
    stacks=["sim"],
    deadline_s=30,
)

# Both jobs renew what they hold four times as often as they must. The second one is frozen for twice as long as a lease lasts, is
# killed when it has leases again, and started anew once those are over.
silent_holders = Scenario(
    name="pool/silent_holders",
    description="Holders fall silent, frozen and then killed: their leases expire; who renews keeps his.",
    topology=pool(),
    workload=[],
    jobs=[
        leases(count=4, concurrency=place, hold_ms=1500, ttl_ms=600, renew_ms=150, until_told=True) for place in (3, 4)
    ],
    faults=[
        on_log("lease_renewed", source="job-2", nth=5).inject(freeze(named("job-2"), duration_s=1.2)),
        on_log("lease_lost", source="job-2", captures={"state": "expired"}, delay_s=0.8).inject(kill(named("job-2"))),
        after_fault(1, delay_s=1).inject(restart(named("job-2"))),
        on_log("lease_renewed", source="job-2.2", nth=3).inject(end_job(named("job-2.2"))),
        after_fault(3).inject(END),
    ],
    expect=[job_completes(), leases_conserved(), ready_only_when_healthy(), leases_expire_on_time()],
    stacks=["sim"],
    deadline_s=20,
)

# No holder gives its lease back before all have had one: a thousand are held when the first engine dies.
lease_storm = Scenario(
    name="pool/lease_storm",
    description="A thousand leases are held at once, and engines die while they are held and while more are asked for.",
    topology=pool(replicas=4, slots_per_engine=300),
    workload=[],
    jobs=[leases(count=1400, concurrency=1000, hold_ms=400, retry_ms=200, gather=True)],
    faults=[
        on_log("lease_got", source="job-1", nth=number).inject(kill_engine(MANAGER, engine=engine))
        for number, engine in ((1000, "main-1"), (1100, "main-2"), (1200, "main-3"))
    ],
    expect=[*INVARIANTS, backoff_follows_policy()],
    stacks=["sim"],
    deadline_s=60,
)
