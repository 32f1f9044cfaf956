"""The registry against a model of it, in every order of events that Hypothesis finds."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from ftharness.pool import Change, LeaseEnded, PoolConfig, Refused, Registry
from ftharness.pool.engine_states import HOLDING, EngineState

POOLS = {"a": 1, "b": 3}
ENGINES = [f"{pool}-{place}" for pool, count in POOLS.items() for place in range(1, count + 1)]
GONE: list[EngineState] = ["stopped", "staging", "preparing", "starting", "warming", "backoff", "broken"]


@dataclass
class ModelEngine:
    """What is to be true of an engine."""

    slots: int = 0
    state: str = "stopped"
    leasable: bool = False


@dataclass
class ModelLease:
    """What is to be true of a lease."""

    pool: str
    engine: str
    deadline: float
    state: str = "held"


@dataclass
class Heard:
    """What a subscriber was told."""

    granted: list[str] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)
    ready: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)

    def hear(self, change: Change) -> None:
        match change.what:
            case "lease" if change.before == "":
                self.granted.append(change.lease_id)
            case "lease" if change.after != "held":
                assert change.lease_id not in self.ended, "ended twice"
                self.ended[change.lease_id] = change.after
            case "ready":
                assert change.before != change.after
                assert self.ready.get(change.pool_id, "false") == change.before
                self.ready[change.pool_id] = change.after
            case "state":
                assert self.states.get(change.engine_id, "stopped") == change.before
                self.states[change.engine_id] = change.after


class RegistryMachine(RuleBasedStateMachine):
    """Engines come and go, leases are taken, renewed, given back and run out."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        configs = [PoolConfig(id=pool, engine="sim", replicas=count) for pool, count in POOLS.items()]
        self.registry = Registry(configs, clock=lambda: self.now, random=Random(0), zero_s=0.0)  # noqa: S311 - no secret
        self.heard = Heard()
        self.registry.subscribe(self.heard.hear)
        self.engines = {name: ModelEngine() for name in ENGINES}
        self.model: dict[str, ModelLease] = {}
        self.draining: set[str] = set()

    def held(self, *, pool: str = "", engine: str = "") -> list[str]:
        return [
            name
            for name, lease in self.model.items()
            if lease.state == "held" and pool in ("", lease.pool) and engine in ("", lease.engine)
        ]

    def end(self, names: list[str], state: str) -> None:
        for name in names:
            self.model[name].state = state

    # Engines.

    @rule(engine=st.sampled_from(ENGINES), slots=st.integers(1, 4), start=st.booleans())
    def ready(self, engine: str, slots: int, start: bool) -> None:
        one = self.engines[engine]
        if start or one.state not in {*HOLDING, "starting", "warming"}:
            self.gone(engine, "starting")
        self.registry.engine_ready(engine, url=f"http://{engine}", engine_version="1", model_id="m", slots=slots)
        self.engines[engine] = ModelEngine(slots, "ready", leasable=True)

    @rule(engine=st.sampled_from(ENGINES), leasable=st.booleans())
    def unready(self, engine: str, leasable: bool) -> None:
        self.registry.engine_unready(engine, "no answer", leasable=leasable)
        one = self.engines[engine]
        if one.state in HOLDING:
            one.state, one.leasable = "unready", leasable

    @rule(engine=st.sampled_from(ENGINES))
    def lost(self, engine: str) -> None:
        revoked = self.registry.engine_lost(engine, "SIGKILL")
        assert [lease.id for lease in revoked] == self.held(engine=engine)
        assert all((lease.state, lease.reason) == ("revoked", "SIGKILL") for lease in revoked)
        self.forget(engine, "stopped")

    @rule(engine=st.sampled_from(ENGINES), state=st.sampled_from(GONE))
    def gone(self, engine: str, state: EngineState) -> None:
        revoked = self.registry.engine_state(engine, state)
        assert [lease.id for lease in revoked] == self.held(engine=engine)
        self.forget(engine, state)

    def forget(self, engine: str, state: str) -> None:
        self.end(self.held(engine=engine), "revoked")
        self.engines[engine].state, self.engines[engine].leasable = state, False

    @rule(pool=st.sampled_from(list(POOLS)), draining=st.booleans())
    def drain(self, pool: str, draining: bool) -> None:
        self.registry.draining(pool, draining)
        (self.draining.add if draining else self.draining.discard)(pool)

    @rule(pool=st.sampled_from(list(POOLS)))
    def abort(self, pool: str) -> None:
        assert {lease.id for lease in self.registry.revoke(pool, "the deadline")} == set(self.held(pool=pool))
        self.end(self.held(pool=pool), "revoked")

    # Leases.

    @rule(target=leases, pool=st.sampled_from(list(POOLS)), ttl_s=st.sampled_from([1.0, 10.0, 60.0]))
    def acquire(self, pool: str, ttl_s: float) -> object:
        its = {name: one for name, one in self.engines.items() if name.startswith(pool) and one.leasable}
        free = {name: one.slots - len(self.held(engine=name)) for name, one in its.items()}
        reason = (
            "draining"
            if pool in self.draining
            else "not_ready"
            if not its
            else "full"
            if max(free.values()) <= 0
            else ""
        )
        if reason:
            with pytest.raises(Refused) as refused:
                self.registry.acquire(pool, ttl_s=ttl_s)
            assert refused.value.reason == reason
            return multiple()
        lease = self.registry.acquire(pool, ttl_s=ttl_s)
        assert free[lease.engine_id] == max(free.values())
        assert lease.id not in self.model
        self.model[lease.id] = ModelLease(pool, lease.engine_id, self.now + ttl_s)
        return lease.id

    @rule(lease=leases, ttl_s=st.sampled_from([1.0, 10.0, 60.0]))
    def renew(self, lease: str, ttl_s: float) -> None:
        its = self.model[lease]
        if its.state != "held":
            with pytest.raises(LeaseEnded) as ended:
                self.registry.renew(lease, ttl_s)
            assert ended.value.lease.state == its.state
            return
        its.deadline = self.now + ttl_s
        assert self.registry.renew(lease, ttl_s).expires_ms == int(its.deadline * 1000)

    @rule(lease=leases)
    def release(self, lease: str) -> None:
        its = self.model[lease]
        if its.state == "held":
            its.state = "released"
        assert self.registry.release(lease).state == its.state

    @rule(lease=consumes(leases))
    def look(self, lease: str) -> None:
        assert self.registry.lease(lease).state == self.model[lease].state

    @rule(seconds=st.sampled_from([0.5, 1.0, 9.0, 60.0]), told=st.booleans())
    def time_passes(self, seconds: float, told: bool) -> None:
        self.now += seconds
        due = [name for name in self.held() if self.model[name].deadline <= self.now]
        self.end(due, "expired")
        if told:
            assert {lease.id for lease in self.registry.expire()} == set(due)

    # What holds after each of them.

    @invariant()
    def conserved(self) -> None:
        """Granted = held + released + expired + revoked, none of them below 0, in each pool; the subscriber was told the same."""
        for pool in POOLS:
            counts = self.registry.pool_health(pool).leases
            assert all(count >= 0 for count in counts.values())
            assert counts.pop("granted") == sum(counts.values())
            states = Counter(lease.state for lease in self.model.values() if lease.pool == pool)
            assert counts == {state: states[state] for state in ("held", "released", "expired", "revoked")}
        assert self.heard.granted == list(self.model)
        assert self.heard.ended == {name: one.state for name, one in self.model.items() if one.state != "held"}

    @invariant()
    def slots_agree(self) -> None:
        """What is free is what an acquire would get; each engine's count is of the leases on it."""
        for pool in POOLS:
            health = self.registry.pool_health(pool)
            free = 0
            for engine in health.engines:
                one = self.engines[engine.id]
                on_it = self.held(engine=engine.id)
                assert engine.active_leases == len(on_it)
                assert (engine.state, engine.leasable) == (one.state, one.leasable)
                assert not on_it or one.state in HOLDING
                free += max(0, one.slots - len(on_it)) if one.leasable else 0
            assert health.slots_free == (0 if pool in self.draining else free)
            assert health.active_leases == len(self.held(pool=pool))
            assert self.registry.idle(pool) == (not self.held(pool=pool)) == self.registry.pool(pool).idle.is_set()

    @invariant()
    def readiness_agrees(self) -> None:
        """A pool is ready while an engine of it is; the subscriber saw each step."""
        for pool in POOLS:
            ready = any(one.state == "ready" for name, one in self.engines.items() if name.startswith(pool))
            assert self.registry.pool_health(pool).ready == ready
            assert self.heard.ready.get(pool, "false") == ("true" if ready else "false")
        assert all(self.heard.states.get(name, "stopped") == one.state for name, one in self.engines.items())

    @invariant()
    def the_next_expiry_is_the_earliest(self) -> None:
        """None where none is held."""
        deadlines = [self.model[name].deadline for name in self.held()]
        assert self.registry.next_expiry() == min(deadlines, default=None)


RegistryMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRegistry = RegistryMachine.TestCase
