"""Shadow takeover: of engines that share one set of weights one serves; when that one is lost, another wakes and serves."""

from ftharness.client import Request, completion
from ftharness.faults import active, freeze, kill, kill_engine, start_standby, terminate, waking
from ftharness.scenario import (
    Expect,
    Scenario,
    ends_cleanly,
    exits_as,
    fenced,
    legal_states,
    logged,
    nobody_takes_over,
    on_log,
    on_token,
    one_active,
    serves_again,
    succeeds,
    tokens_exact,
    took_over_within,
)
from ftharness.stack import Topology, aggregated

# A documented behaviour: whether a request that is routed to a dead worker's entry goes to another. Where it does not, each
# second request fails after a takeover, until that entry's lease is over.
FORGETS = "idle_loss_migrates"


def load(requests: int, *, every_s: float, max_tokens: int = 40) -> list[Request]:
    """Clients that come one after the other, whoever serves: so that there is one to be served when somebody does again."""
    return [completion(max_tokens=max_tokens, at_s=round(place * every_s, 3)) for place in range(requests)]


# 1.6 s of clients, one each 50 ms, whose answers take 0.2 s: four are being served at any time.
LOAD = load(32, every_s=0.05)
# The same, and then one each 200 ms for 3.6 s more: an engine that is to join has time to start, also on a busy machine.
LONG_LOAD = [
    *load(40, every_s=0.05),
    *(completion(max_tokens=40, at_s=round(2 + place * 0.2, 3)) for place in range(18)),
]
# At token 20 of the fifth: whoever serves is lost with four in its hands.
STRUCK = on_token(20, request=4)


def shadows(standbys: int = 1, *, wake_s: float = 0.02, **fields: float) -> Topology:
    """One group of engines; what a fault does to a request is not mended by moving it: there is nowhere to go."""
    return aggregated(workers=1, standbys=standbys, wake_s=wake_s, **fields)


def one_after_the_other(*, ms: float) -> list[Expect]:
    """What every takeover is held to: soon, one at a time, and nobody's request hangs or is answered wrongly."""
    return [took_over_within(ms=ms), serves_again().where(FORGETS), one_active(), legal_states(), ends_cleanly()]


shadow_takeover = Scenario(
    name="failover/shadow_takeover",
    description="The engine that serves is killed; its shadow takes the lock, wakes, and serves.",
    topology=shadows(),
    workload=LOAD,
    faults=[STRUCK.inject(kill(active))],
    expect=[*one_after_the_other(ms=500), exits_as("SIGKILL"), logged("lock_acquired"), logged("awake")],
)

terminated = Scenario(
    name="failover/terminated",
    description="The engine that serves gets SIGTERM: it answers what it has, and only then its shadow serves.",
    topology=shadows(),
    workload=LOAD,
    faults=[STRUCK.inject(terminate(active, grace_s=10, then="nothing"))],
    expect=[*one_after_the_other(ms=1_000), exits_as(0)],
)

engine_killed = Scenario(
    name="failover/engine_killed",
    description="The engine process of the one that serves is killed; its handler notices and goes, and the shadow serves.",
    topology=shadows(),
    workload=LOAD,
    faults=[STRUCK.inject(kill_engine(active))],
    expect=one_after_the_other(ms=500),
)

frozen = Scenario(
    name="failover/frozen",
    description="The engine that serves is frozen: silent for too long, it is killed by the one that waits.",
    topology=shadows(heartbeat_s=0.1, fence_s=0.5),
    workload=LOAD,
    # Were it not killed it would be thawed while another serves.
    faults=[STRUCK.inject(freeze(active, duration_s=0.9))],
    expect=[*one_after_the_other(ms=1_000), fenced()],
)

frozen_unfenced = Scenario(
    name="failover/frozen_unfenced",
    description="The same with nobody to kill it: it keeps the lock, and all stalls until it is thawed.",
    topology=shadows(),
    workload=LOAD,
    faults=[STRUCK.inject(freeze(active, duration_s=1.0))],
    expect=[nobody_takes_over(), succeeds(), tokens_exact(), one_active(), legal_states()],
)

cold_start_race = Scenario(
    name="failover/cold_start_race",
    description="Four engines start at once, and race for the lock; the winner is killed, and the next.",
    topology=shadows(standbys=3),
    workload=load(48, every_s=0.05),
    faults=[STRUCK.inject(kill(active)), on_log("ready", delay_s=0.4).inject(kill(active))],
    expect=[*one_after_the_other(ms=500), exits_as("SIGKILL")],
)

double_fault = Scenario(
    name="failover/double_fault",
    description="The shadow that takes over is killed while it wakes; the next one takes over from it.",
    topology=shadows(standbys=2, wake_s=0.2),
    workload=LOAD,
    faults=[STRUCK.inject(kill(active)), on_log("waking").inject(kill(waking))],
    expect=[*one_after_the_other(ms=1_000), exits_as("SIGKILL")],
)

# The checklist of the Kubernetes test: the primary serves, a shadow waits, the primary is killed, the shadow takes the lock and
# wakes, inference resumes; and then a new shadow joins, as a pod's restarted container does, and takes over in its turn.
replenish = Scenario(
    name="failover/replenish",
    description="After a takeover a new shadow joins, waits, and takes over when the next one is killed.",
    topology=shadows(),
    workload=LONG_LOAD,
    faults=[
        STRUCK.inject(kill(active)),
        on_log("ready").inject(start_standby()),
        on_log("standby", source="standby-2").inject(kill(active)),
    ],
    expect=[*one_after_the_other(ms=500), logged("lock_acquired", source="standby-2")],
)

rolling_restart = Scenario(
    name="failover/rolling_restart",
    description="The same by SIGTERM: each engine drains, lets the lock go and ends; another waits by then.",
    topology=shadows(),
    workload=LONG_LOAD,
    faults=[
        STRUCK.inject(terminate(active, grace_s=10, then="nothing")),
        on_log("ready").inject(start_standby()),
        on_log("standby", source="standby-2").inject(terminate(active, grace_s=10, then="nothing")),
    ],
    expect=one_after_the_other(ms=1_000),
)

under_load = Scenario(
    name="failover/under_load",
    description="Some thirty requests are in the engine that is killed: the lock saves none; each fails cleanly.",
    topology=shadows(),
    workload=load(120, every_s=0.015, max_tokens=100),
    faults=[on_token(50, request=20).inject(kill(active))],
    expect=[*one_after_the_other(ms=500), exits_as("SIGKILL")],
)
