"""What the registry knows of one pool and of each of its engines: how that changes, and how it is told to readers."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from ftharness.pool.changes import Change
from ftharness.pool.config import PoolConfig
from ftharness.pool.devices import Devices, DeviceSnapshot
from ftharness.pool.engine_states import RUNNING, EngineState
from ftharness.pool.health import EngineHealth, PoolHealth, PoolSummary
from ftharness.pool.leases import NO_PROCESS, Process
from ftharness.pool.masks import Mask, mask
from ftharness.pool.perf import Hint
from ftharness.pool.prepared import Supports

Why = Literal["unknown", "draining", "full", "not_ready", "not_kept"]

#: Characters of an error that are kept: an engine's last words may be a page.
LONGEST_ERROR = 2000


@dataclass(slots=True)
class EngineEntry:
    """An engine's place in a pool. Only the registry changes it.

    Attributes:
        id: Its name.
        pool_id: Its pool's.
        mask: What it sees.
        slots: Leases that it carries; 0 as long as nobody has said.
        state: In which it is.
        reason: Why.
        url: Where it serves.
        engine_version: As it said when it was last ready.
        model_id: The same.
        leasable: Whether it takes leases.
        leases: Those on it, by id, the oldest first.
        restarts: How often it was lost.
        backoff_ms: The wait before its next start.
        heartbeat_ms: Its last good answer.
        process: Which process it is, or was last.
    """

    id: str
    pool_id: str
    mask: Mask
    slots: int
    state: EngineState = "stopped"
    reason: str = ""
    url: str = ""
    engine_version: str = ""
    model_id: str = ""
    leasable: bool = False
    leases: dict[str, None] = field(default_factory=dict)
    restarts: int = 0
    backoff_ms: int = 0
    heartbeat_ms: int | None = None
    process: Process = NO_PROCESS

    @property
    def free(self) -> int:
        """Leases that it would take now. An engine that came back with fewer slots may have more leases than it carries."""
        return max(0, self.slots - len(self.leases)) if self.leasable else 0

    @property
    def health(self) -> EngineHealth:
        """For readers."""
        pid, start_time = self.process if self.state in RUNNING else NO_PROCESS
        return EngineHealth(
            id=self.id,
            state=self.state,
            ready=self.state == "ready",
            leasable=self.leasable,
            url=self.url,
            pid=pid or None,
            start_time=start_time or None,
            reason=self.reason,
            restarts=self.restarts,
            backoff_ms=self.backoff_ms,
            active_leases=len(self.leases),
            slots_total=self.slots,
            last_heartbeat_ms=self.heartbeat_ms,
            device_mask=self.mask.words,
        )


@dataclass(slots=True)
class PoolEntry:
    """A pool. Only the registry changes it.

    Attributes:
        config: What it was made of.
        mask: Its devices, as they were at the start.
        engines: By name, in their order.
        draining: Whether it takes no leases.
        last_error: What went wrong last.
        error_ms: When.
        engine_version: As an engine said when it was last ready.
        model_id: The same.
        supports: What its engine can.
        held: Leases on all of its engines.
        idle: Set while there is none.
    """

    config: PoolConfig
    mask: Mask
    engines: dict[str, EngineEntry]
    draining: bool = False
    last_error: str = ""
    error_ms: int | None = None
    engine_version: str = ""
    model_id: str = ""
    supports: Supports = field(default_factory=Supports)
    held: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def of(cls, config: PoolConfig, devices: Devices) -> Self:
        """One as configured, with all of its engines stopped.

        Raises:
            MaskError: Its mask names what there is not.
        """
        whole = mask(config.device_mask, devices)
        engines = {
            engine_id: EngineEntry(
                id=engine_id,
                pool_id=config.id,
                mask=whole.share(place, config.devices_per_engine),
                slots=config.slots_per_engine,
            )
            for place, engine_id in enumerate(config.engine_ids)
        }
        return cls(config=config, mask=whole, engines=engines)

    def __post_init__(self) -> None:
        self.idle.set()

    @property
    def id(self) -> str:
        """Its name."""
        return self.config.id

    @property
    def ready(self) -> bool:
        """Whether an engine of it is ready."""
        return any(one.state == "ready" for one in self.engines.values())

    @property
    def slots_total(self) -> int:
        """Leases that its engines carry together."""
        return sum(one.slots for one in self.engines.values())

    @property
    def slots_free(self) -> int:
        """Leases that could be had now."""
        return 0 if self.draining else sum(one.free for one in self.engines.values())

    # What becomes of it; what is returned is to be told when all is done.

    def moved(self, one: EngineEntry, state: EngineState, reason: str, *, leasable: bool) -> list[Change]:
        """An engine of it goes to a state."""
        was_ready, before = self.ready, one.state
        one.state, one.reason, one.leasable = state, reason[:LONGEST_ERROR], leasable
        changes = [] if before == state else [Change(self.id, one.id, "state", before, state, one.reason)]
        if was_ready != self.ready:
            changes.append(Change(self.id, "", "ready", _word(was_ready), _word(self.ready), one.reason))
        return changes

    def drained(self, *, draining: bool) -> list[Change]:
        """It takes no more leases, or takes some again."""
        before, self.draining = self.draining, draining
        return [] if before == draining else [Change(self.id, "", "draining", _word(before), _word(draining))]

    def failed(self, text: str, now_ms: int) -> Change:
        """Something went wrong, at that time; "": it is well again."""
        before, self.last_error = self.last_error, text[:LONGEST_ERROR]
        self.error_ms = now_ms if text else None
        return Change(self.id, "", "error", before, self.last_error)

    def hold(self, one: EngineEntry, lease_id: str) -> None:
        """A slot of an engine of it has a lease."""
        one.leases[lease_id] = None
        self.held += 1
        self.idle.clear()

    def let_go(self, engine_id: str, lease_id: str) -> None:
        """And has it no more."""
        del self.engines[engine_id].leases[lease_id]
        self.held -= 1
        if self.held == 0:
            self.idle.set()

    # What can be had of it.

    def freest(self) -> EngineEntry | None:
        """The engine that has the most slots free; None where none has one."""
        best, most = None, 0
        for one in self.engines.values():
            # As ``free`` has it, without a call for each of them: a lease costs little else.
            if one.leasable and (free := one.slots - len(one.leases)) > most:
                best, most = one, free
        return best

    def refusal(self) -> tuple[Why, str]:
        """Why it has no lease to give: in a word, and in a sentence."""
        if self.draining:
            return (
                "draining",
                f"pool {self.id!r} is draining, or was drained: `ftharness pool resume {self.id}` has it serve again",
            )
        if any(one.leasable for one in self.engines.values()):
            return "full", f"pool {self.id!r} has no slot free: {self.held} of {self.slots_total} are leased"
        states = ", ".join(f"{one.id} {one.state}" for one in self.engines.values())
        broken = any(one.state == "broken" for one in self.engines.values())
        advice = f"; `ftharness pool reset-breaker {self.id}` has what is broken tried again now" if broken else ""
        return "not_ready", f"no engine of pool {self.id!r} is ready: {states}{advice}"

    # How it is told.

    def summary(self, devices: Devices, hint: Hint | None) -> PoolSummary:
        """For whoever places work.

        Args:
            devices: As they are now.
            hint: How fast it is.
        """
        return PoolSummary(
            engine=self.config.engine,
            engine_version=self.engine_version or None,
            model_id=self.model_id or None,
            device_mask=self.mask.words,
            devices=list(self._devices(devices)),
            slots_total=self.slots_total,
            slots_free=self.slots_free,
            perf_tokens_per_s=None if hint is None else hint.tokens_per_s,
            first_token_ms=None if hint is None else hint.first_token_ms,
        )

    def health(self, devices: Devices, hint: Hint | None, leases: Mapping[str, int]) -> PoolHealth:
        """All that is known.

        Args:
            devices: As they are now.
            hint: How fast it is.
            leases: How many were granted, and how they ended.
        """
        its = list(self._devices(devices))
        beats = [one.heartbeat_ms for one in self.engines.values() if one.heartbeat_ms is not None]
        capabilities = [one.compute_capability for one in its if one.compute_capability]
        return PoolHealth(
            id=self.id,
            engine=self.config.engine,
            live=True,
            ready=self.ready,
            draining=self.draining,
            last_error=self.last_error or None,
            last_error_ms=self.error_ms,
            last_heartbeat_ms=max(beats, default=None),
            engine_version=self.engine_version or None,
            model_id=self.model_id or None,
            active_leases=self.held,
            slots_total=self.slots_total,
            slots_free=self.slots_free,
            vram_total_bytes=sum(one.vram_total_bytes for one in its) if its else None,
            vram_free_bytes=sum(one.vram_free_bytes for one in its) if its else None,
            compute_capability=min(capabilities, key=_version, default=None),
            device_mask=self.mask.words,
            perf_tokens_per_s=None if hint is None else hint.tokens_per_s,
            first_token_ms=None if hint is None else hint.first_token_ms,
            supports=self.supports,
            restarts=sum(one.restarts for one in self.engines.values()),
            leases=dict(leases),
            engines=[one.health for one in self.engines.values()],
        )

    def _devices(self, there: Devices) -> Iterator[DeviceSnapshot]:
        """Those of its mask, as they are now; one that is gone, as it was last seen."""
        now = {one.uuid: one for one in there.usable}
        for one in self.mask.devices:
            yield now.get(one.uuid, one)


def _version(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def _word(value: bool) -> str:  # noqa: FBT001 - the one thing it says
    return "true" if value else "false"
