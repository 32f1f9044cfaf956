"""What is known of pools and their engines, beside the leases on them: supervisors say it, and readers ask for it."""

import random as random_module
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from ftharness.pool.changes import Change
from ftharness.pool.config import PoolConfig
from ftharness.pool.devices import NO_DEVICES, Devices
from ftharness.pool.engine_states import BEFORE_READY, HOLDING, EngineState, NotPrepared
from ftharness.pool.health import PoolHealth, PoolSummary
from ftharness.pool.leases import Lease, Leases, Process
from ftharness.pool.leasing import Leasing, Refused, UnknownEngine, UnknownPool
from ftharness.pool.perf import Hint, Key, PerfHints
from ftharness.pool.pool_entry import EngineEntry, PoolEntry
from ftharness.pool.prepared import Supports

__all__ = ["Refused", "Registry", "UnknownEngine", "UnknownPool"]


class Registry(Leasing):
    """The pools of a manager, and all that is known of them.

    Args:
        configs: Its pools.
        devices: What there is.
        clock: Seconds, monotonic: by it leases end.
        random: Where the manager's own part of its leases' ids comes from.
        zero_s: What the machine's clock says when ``clock`` says 0, in seconds since the epoch: by it readers are told when.

    Attributes:
        devices: What there is, as it was last seen.

    Raises:
        MaskError: A pool's mask names what there is not.
    """

    def __init__(
        self,
        configs: Iterable[PoolConfig],
        devices: Devices = NO_DEVICES,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: random_module.Random | None = None,
        zero_s: float | None = None,
    ) -> None:
        random = random_module.SystemRandom() if random is None else random
        zero_s = time.time() - clock() if zero_s is None else zero_s
        leases = Leases(clock, zero_s=zero_s, manager=f"{random.getrandbits(48):012x}")
        super().__init__((PoolEntry.of(config, devices) for config in configs), leases)
        self.devices = devices
        self._clock = clock
        self._zero_s = zero_s
        self._perf = PerfHints()

    # What there is, for readers.

    def summary(self, pool_id: str) -> PoolSummary:
        """A pool for whoever places work.

        Raises:
            UnknownPool: There is none of that name.
        """
        pool = self.pool(pool_id)
        self._end_due()
        return pool.summary(self.devices, self._hint(pool))

    def health(self, pool_id: str) -> dict[str, Any]:
        """All that is known of a pool: :class:`PoolHealth` as plain data.

        Raises:
            UnknownPool: There is none of that name.
        """
        plain: dict[str, Any] = msgspec.to_builtins(self.pool_health(pool_id))
        return plain

    def pool_health(self, pool_id: str) -> PoolHealth:
        """All that is known of a pool.

        Raises:
            UnknownPool: There is none of that name.
        """
        pool = self.pool(pool_id)
        self._end_due()
        return pool.health(self.devices, self._hint(pool), self.lease_counts(pool_id))

    # What becomes of engines: their supervisors say so.

    def engine_state(self, engine_id: str, state: EngineState, *, reason: str = "", backoff_ms: int = 0) -> list[Lease]:
        """An engine is in another state; leases on one whose process is not there any more are revoked, and returned.

        Args:
            engine_id: Which engine.
            state: Any but ``ready``.
            reason: Why.
            backoff_ms: The wait before its next start, with ``backoff``.

        Raises:
            UnknownEngine: There is none of that name.
            NotPrepared: ``ready`` is for :meth:`engine_ready`, which says where it serves.
        """
        if state == "ready":
            raise NotPrepared(f"{engine_id}: ready is said by engine_ready, with the address and the version")
        return self._to_state(self.engine(engine_id), state, reason, backoff_ms=backoff_ms)

    def engine_runs(self, engine_id: str, process: Process) -> None:
        """Which process it is from now on.

        Raises:
            UnknownEngine: There is none of that name.
        """
        self.engine(engine_id).process = process

    def engine_ready(
        self,
        engine_id: str,
        *,
        url: str,
        engine_version: str,
        model_id: str,
        slots: int,
        supports: Supports | None = None,
    ) -> None:
        """It was staged, prepared and started, and is well.

        Args:
            engine_id: Which engine.
            url: Where it serves.
            engine_version: As it says.
            model_id: What requests call its model.
            slots: Leases that it carries; a number in the configuration has the last word.
            supports: What it can.

        Raises:
            UnknownEngine: There is none of that name.
            NotPrepared: It was not started.
            ValueError: It carries less than one lease.
        """
        one = self.engine(engine_id)
        if one.state not in BEFORE_READY:
            raise NotPrepared(f"{engine_id} is {one.state}: it has not been started since, so it cannot be ready")
        pool = self._pools[one.pool_id]
        slots = pool.config.slots_per_engine or slots
        if slots < 1:
            raise ValueError(f"{engine_id}: {slots} slots; set slots_per_engine where the engine does not say")
        one.url, one.slots, one.backoff_ms = url, slots, 0
        one.engine_version, one.model_id = engine_version, model_id
        if supports is not None:
            pool.supports = supports
        before = f"{pool.engine_version} {pool.model_id}".strip()
        pool.engine_version, pool.model_id = engine_version, model_id
        one.heartbeat_ms = self._now_ms()
        changes = pool.moved(one, "ready", "", leasable=True)
        after = f"{engine_version} {model_id}".strip()
        if before != after:
            changes.append(Change(pool.id, engine_id, "version", before, after))
        self._changes.tell(changes)

    def engine_unready(self, engine_id: str, reason: str, *, leasable: bool = False) -> None:
        """Its probe failed: it is there, and its leases stay.

        Args:
            engine_id: Which engine.
            reason: What the probe saw.
            leasable: Whether it takes leases all the same.

        Raises:
            UnknownEngine: There is none of that name.
        """
        one = self.engine(engine_id)
        if one.state in HOLDING:
            pool = self._pools[one.pool_id]
            changes = pool.moved(one, "unready", reason, leasable=leasable)
            self._changes.tell([*changes, pool.failed(f"{engine_id}: {reason}", self._now_ms())])

    def engine_lost(self, engine_id: str, reason: str) -> list[Lease]:
        """It has ended, and nobody asked it to; its leases are revoked, and returned.

        Raises:
            UnknownEngine: There is none of that name.
        """
        one = self.engine(engine_id)
        one.restarts += 1
        error = self._pools[one.pool_id].failed(f"{engine_id}: {reason}", self._now_ms())
        return self._to_state(one, "stopped", reason, more=[error])

    def heartbeat(self, engine_id: str) -> None:
        """It has given a good answer.

        Raises:
            UnknownEngine: There is none of that name.
        """
        self.engine(engine_id).heartbeat_ms = self._now_ms()

    def measured(self, engine_id: str, *, tokens_per_s: float, first_token_ms: float) -> Hint | None:
        """It was measured: the hint of its version, model and mask, which it goes into; None before its version is known.

        Raises:
            UnknownEngine: There is none of that name.
        """
        one = self.engine(engine_id)
        if not one.engine_version and not one.model_id:
            return None
        key = Key(one.engine_version, one.model_id, one.mask.uuids)
        hint = self._perf.measured(key, tokens_per_s=tokens_per_s, first_token_ms=first_token_ms)
        self._changes.tell([Change(one.pool_id, engine_id, "perf", "", "")])
        return hint

    def hints(self) -> dict[Key, Hint]:
        """All that was measured, by version, model and mask."""
        return self._perf.all()

    def draining(self, pool_id: str, draining: bool) -> None:  # noqa: FBT001 - the one thing that it says
        """Whether the pool takes no more leases.

        Raises:
            UnknownPool: There is none of that name.
        """
        self._changes.tell(self.pool(pool_id).drained(draining=draining))

    def acquire(self, pool_id: str, *, holder: str = "", ttl_s: float | None = None) -> Lease:
        """As :meth:`Leasing.acquire`; that none can be written down is an error of the pool's."""
        try:
            return super().acquire(pool_id, holder=holder, ttl_s=ttl_s)
        except Refused as error:
            if error.reason == "not_kept":
                self.error(pool_id, str(error))
            raise

    def error(self, pool_id: str, text: str) -> None:
        """What went wrong last; "" takes it back.

        Raises:
            UnknownPool: There is none of that name.
        """
        self._changes.tell([self.pool(pool_id).failed(text, self._now_ms())])

    def devices_seen(self, devices: Devices) -> None:
        """How the devices are now: their memory. Masks stay what they were."""
        self.devices = devices

    # How it is done.

    def _to_state(
        self, one: EngineEntry, state: EngineState, reason: str, *, backoff_ms: int = 0, more: Sequence[Change] = ()
    ) -> list[Lease]:
        self._end_due()  # what was over before is not revoked
        one.backoff_ms = backoff_ms
        # One that does not answer, and takes leases all the same, goes on doing so while it is drained: the pool refuses.
        leasable = one.leasable and state in HOLDING
        changes = self._pools[one.pool_id].moved(one, state, reason, leasable=leasable)
        ended: list[Lease] = []
        if state not in HOLDING:
            one.url = ""
            ended, told = self._revoked(one, reason or f"{one.id} is {state}")
            changes += told
        self._changes.tell([*changes, *more])
        return ended

    def _hint(self, pool: PoolEntry) -> Hint | None:
        """Of the mask that its first engine has: the others' have the like."""
        first = next(iter(pool.engines.values()))
        return self._perf.hint(Key(pool.engine_version, pool.model_id, first.mask.uuids))

    def _now_ms(self) -> int:
        return int((self._clock() + self._zero_s) * 1000)
