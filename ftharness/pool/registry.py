"""Pools, their engines and the leases on them: who may have what, now.

Nothing in it waits, so each call is one step for everything else in the same event loop. What a call changed is told to those
who subscribed when the change is whole.
"""

import random as random_module
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from ftharness.pool.changes import Change, Changes, Listener
from ftharness.pool.config import PoolConfig
from ftharness.pool.devices import NO_DEVICES, Devices
from ftharness.pool.engine_states import BEFORE_READY, HOLDING, EngineState, NotPrepared
from ftharness.pool.health import PoolHealth, PoolSummary
from ftharness.pool.leases import NO_PROCESS, Holding, Keeping, Lease, Leases, NotKept, Process, State
from ftharness.pool.masks import mask
from ftharness.pool.perf import Hint, Key, PerfHints
from ftharness.pool.pool_entry import EngineEntry, PoolEntry
from ftharness.pool.prepared import Supports
from ftharness.suggest import nearest

Why = Literal["unknown", "draining", "full", "not_ready", "not_kept"]

#: Characters of an error that are kept: an engine's last words may be a page.
LONGEST_ERROR = 2000
_LATE = "it was not renewed in time"


class UnknownPool(LookupError):  # noqa: N818 - says what is the case
    """There is no such pool; the message names the nearest."""


class UnknownEngine(LookupError):  # noqa: N818 - says what is the case
    """There is no such engine."""


class Refused(Exception):  # noqa: N818 - says what is the case
    """No lease is to be had.

    Attributes:
        reason: ``unknown``, ``draining``, ``not_ready``, ``full`` or ``not_kept``.
    """

    def __init__(self, reason: Why, message: str) -> None:
        super().__init__(message)
        self.reason: Why = reason


class Registry:
    """The pools of a manager.

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
        self.devices = devices
        self._clock = clock
        self._zero_s = time.time() - clock() if zero_s is None else zero_s
        self._leases = Leases(clock, zero_s=self._zero_s, manager=f"{random.getrandbits(48):012x}")
        self._perf = PerfHints()
        self._changes = Changes()
        self._pools = {config.id: _entry(config, devices) for config in configs}
        self._engines = {one.id: one for pool in self._pools.values() for one in pool.engines.values()}

    # What there is.

    def pool(self, pool_id: str) -> PoolEntry:
        """One pool, to be read.

        Raises:
            UnknownPool: There is none of that name.
        """
        try:
            return self._pools[pool_id]
        except KeyError:
            raise UnknownPool(f"no pool {pool_id!r}; {nearest(pool_id, self._pools)}") from None

    def pools(self) -> list[PoolEntry]:
        """All of them, in their order."""
        return list(self._pools.values())

    def engine(self, engine_id: str) -> EngineEntry:
        """One engine, to be read.

        Raises:
            UnknownEngine: There is none of that name.
        """
        try:
            return self._engines[engine_id]
        except KeyError:
            raise UnknownEngine(f"no engine {engine_id!r}; {nearest(engine_id, self._engines)}") from None

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

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with each change from now on; returns what ends it."""
        return self._changes.subscribe(listener)

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
        changes = self._moved(one, "ready", "", leasable=True)
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
            changes = self._moved(one, "unready", reason, leasable=leasable)
            self._changes.tell([*changes, *self._failed(self._pools[one.pool_id], f"{engine_id}: {reason}")])

    def engine_lost(self, engine_id: str, reason: str) -> list[Lease]:
        """It has ended, and nobody asked it to; its leases are revoked, and returned.

        Raises:
            UnknownEngine: There is none of that name.
        """
        one = self.engine(engine_id)
        one.restarts += 1
        error = self._failed(self._pools[one.pool_id], f"{engine_id}: {reason}")
        return self._to_state(one, "stopped", reason, more=error)

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
        pool = self.pool(pool_id)
        before, pool.draining = pool.draining, draining
        if before != draining:
            self._changes.tell([Change(pool_id, "", "draining", _word(before), _word(draining))])

    def error(self, pool_id: str, text: str) -> None:
        """What went wrong last; "" takes it back.

        Raises:
            UnknownPool: There is none of that name.
        """
        self._changes.tell(self._failed(self.pool(pool_id), text))

    def devices_seen(self, devices: Devices) -> None:
        """How the devices are now: their memory. Masks stay what they were."""
        self.devices = devices

    # Leases: whoever has one may use one slot of one engine.

    def acquire(self, pool_id: str, *, holder: str = "", ttl_s: float | None = None) -> Lease:
        """Take a lease, on the engine that has the most slots free.

        Args:
            pool_id: Of which pool.
            holder: Who takes it.
            ttl_s: For how long, in seconds; None: as the configuration says.

        Raises:
            Refused: None is to be had; says why.
            ValueError: ``ttl_s`` cannot be had.
        """
        pool = self._pools.get(pool_id)
        if pool is None:
            self._changes.tell([Change("", "", "refused", "", "", "unknown")])
            raise Refused("unknown", f"no pool {pool_id!r}; {nearest(pool_id, self._pools)}")
        ttl_s = pool.config.ttl(ttl_s)
        self._end_due()
        best, most = None, 0
        for one in pool.engines.values():
            if (free := one.free) > most:
                best, most = one, free
        if pool.draining or best is None:
            raise self._refused(pool)
        try:
            lease = self._leases.grant(
                pool_id=pool_id,
                engine_id=best.id,
                url=best.url,
                model_id=best.model_id,
                holder=holder,
                ttl_s=ttl_s,
                process=best.process,
            )
        except NotKept as error:
            self._changes.tell([Change(pool_id, "", "refused", "", "", "not_kept")])
            raise Refused("not_kept", f"no lease that cannot be written down: {error}") from error
        best.leases[lease.id] = None
        pool.held += 1
        pool.idle.clear()
        if self._changes:
            self._changes.tell([Change(pool_id, best.id, "lease", "", "held", "", lease.id)])
        return lease

    def renew(self, lease_id: str, ttl_s: float | None = None) -> Lease:
        """Have a lease for longer: from now on.

        Raises:
            UnknownLease: There is none.
            LeaseEnded: It is over; says how.
            NotKept: It cannot be written down; the lease has the time that it had.
            ValueError: ``ttl_s`` cannot be had.
        """
        self._end_due()
        pool = self._pools[self._leases.get(lease_id).pool_id]
        lease = self._leases.renew(lease_id, pool.config.ttl(ttl_s))
        self._changes.tell([Change(lease.pool_id, lease.engine_id, "lease", "held", "held", "", lease.id)])
        return lease

    def release(self, lease_id: str) -> Lease:
        """Give a lease back; one that is over already, as it ended.

        Raises:
            UnknownLease: There is none.
        """
        self._end_due()
        lease = self._leases.get(lease_id)
        if lease.state != "held":
            return lease
        lease, change = self._over(lease_id, "released")
        self._changes.tell([change])
        return lease

    def lease(self, lease_id: str) -> Lease:
        """A lease as it is.

        Raises:
            UnknownLease: There is none.
        """
        self._end_due()
        return self._leases.get(lease_id)

    def told_lease(self, lease_id: str) -> Lease:
        """A lease that a change tells of; none is ended by that, for their ends are told after it.

        Raises:
            UnknownLease: There is none.
        """
        return self._leases.get(lease_id)

    def expire(self) -> list[Lease]:
        """End those whose time is over; returns them."""
        return self._end_due()

    def next_expiry(self) -> float | None:
        """When the next one is over, by the clock; None where none is held."""
        return self._leases.next_deadline()

    def idle(self, pool_id: str) -> bool:
        """Whether no lease of a pool is held.

        Raises:
            UnknownPool: There is none of that name.
        """
        self._end_due()
        return self.pool(pool_id).held == 0

    async def until_idle(self, pool_id: str) -> None:
        """Wait until no lease of a pool is held.

        Raises:
            UnknownPool: There is none of that name.
        """
        await self.pool(pool_id).idle.wait()

    def revoke(self, pool_id: str, reason: str) -> list[Lease]:
        """Take all leases of a pool back, and return them; its engines stay as they are.

        Raises:
            UnknownPool: There is none of that name.
        """
        self._end_due()
        ended: list[Lease] = []
        changes: list[Change] = []
        for one in self.pool(pool_id).engines.values():
            more, told = self._revoked(one, reason)
            ended += more
            changes += told
        self._changes.tell(changes)
        return ended

    def keep(self, keeping: Keeping | None) -> None:
        """Write down what becomes of leases from now on; None: no more.

        Raises:
            NotKept: What is the case now cannot be written; what follows is tried.
        """
        self._leases.keep(keeping)

    def take_over(self, held: Iterable[Holding], over: Iterable[Lease], gone: Mapping[str, str]) -> None:
        """What an earlier manager left: leases on engines that are still the same processes go on, all others are revoked.

        An engine with leases is not ready for that: it is asked first.

        Args:
            held: Leases that nobody had ended.
            over: And those that had.
            gone: Why engines are not there any more, as far as that is known.
        """
        changes: list[Change] = []
        for lease in over:
            self._leases.remember(lease)
        for one in held:
            changes += self._take_over(one, gone)
        for engine in self._engines.values():
            if engine.leases and engine.state not in HOLDING:
                changes += self._moved(engine, "unready", "it was adopted, and has not answered yet", leasable=False)
        self._changes.tell(changes)
        self._end_due()

    def lease_counts(self, pool_id: str) -> dict[str, int]:
        """How many leases of a pool were ever granted, are held, and how the others ended."""
        ended: Sequence[State] = ("released", "expired", "revoked")
        return {
            "granted": self._leases.granted[pool_id],
            "held": self.pool(pool_id).held,
            **{state: self._leases.ended[pool_id, state] for state in ended},
        }

    # How it is done.

    def _to_state(
        self, one: EngineEntry, state: EngineState, reason: str, *, backoff_ms: int = 0, more: Sequence[Change] = ()
    ) -> list[Lease]:
        self._end_due()  # what was over before is not revoked
        one.backoff_ms = backoff_ms
        # One that does not answer, and takes leases all the same, goes on doing so while it is drained: the pool refuses.
        leasable = one.leasable and state in HOLDING
        changes = self._moved(one, state, reason, leasable=leasable)
        ended: list[Lease] = []
        if state not in HOLDING:
            one.url = ""
            ended, told = self._revoked(one, reason or f"{one.id} is {state}")
            changes += told
        self._changes.tell([*changes, *more])
        return ended

    def _moved(self, one: EngineEntry, state: EngineState, reason: str, *, leasable: bool) -> list[Change]:
        """The changes of an engine that goes to a state, and of its pool."""
        pool = self._pools[one.pool_id]
        was_ready, before = pool.ready, one.state
        one.state, one.reason, one.leasable = state, reason[:LONGEST_ERROR], leasable
        changes = [] if before == state else [Change(pool.id, one.id, "state", before, state, one.reason)]
        if was_ready != pool.ready:
            changes.append(Change(pool.id, "", "ready", _word(was_ready), _word(pool.ready), one.reason))
        return changes

    def _failed(self, pool: PoolEntry, text: str) -> list[Change]:
        before, pool.last_error = pool.last_error, text[:LONGEST_ERROR]
        pool.error_ms = self._now_ms() if text else None
        return [Change(pool.id, "", "error", before, pool.last_error)]

    def _revoked(self, one: EngineEntry, reason: str) -> tuple[list[Lease], list[Change]]:
        both = [self._over(lease_id, "revoked", reason) for lease_id in list(one.leases)]
        return [lease for lease, _ in both], [change for _, change in both]

    def _over(self, lease_id: str, state: State, reason: str = "") -> tuple[Lease, Change]:
        """End a lease that is held."""
        lease = self._leases.end(lease_id, state, reason[:LONGEST_ERROR])
        pool = self._pools[lease.pool_id]
        del pool.engines[lease.engine_id].leases[lease_id]
        pool.held -= 1
        if pool.held == 0:
            pool.idle.set()
        return lease, Change(lease.pool_id, lease.engine_id, "lease", "held", state, lease.reason, lease_id)

    def _take_over(self, holding: Holding, gone: Mapping[str, str]) -> list[Change]:
        lease = holding.lease
        self._leases.take_over(holding)
        taken = Change(lease.pool_id, lease.engine_id, "lease", "earlier", "held", "", lease.id)
        one = self._engines.get(lease.engine_id)
        if one is not None and one.pool_id == lease.pool_id and holding.process == one.process != NO_PROCESS:
            pool = self._pools[one.pool_id]
            one.leases[lease.id] = None
            pool.held += 1
            pool.idle.clear()
            one.url = lease.url
            return [taken]
        state: State = "expired" if holding.left_s <= 0 else "revoked"
        why = gone.get(lease.engine_id) or "its engine did not outlive its manager"
        ended = self._leases.end(lease.id, state, _LATE if state == "expired" else why)
        return [taken, taken._replace(before="held", after=state, reason=ended.reason)]

    def _end_due(self) -> list[Lease]:
        due = self._leases.due()
        if not due:
            return []
        both = [self._over(lease_id, "expired", _LATE) for lease_id in due]
        self._changes.tell([change for _, change in both])
        return [lease for lease, _ in both]

    def _refused(self, pool: PoolEntry) -> Refused:
        reason: Why
        if pool.draining:
            reason, message = (
                "draining",
                f"pool {pool.id!r} is draining, or was drained: `ftharness pool resume {pool.id}` has it serve again",
            )
        elif any(one.leasable for one in pool.engines.values()):
            reason, message = "full", f"pool {pool.id!r} has no slot free: {pool.held} of {pool.slots_total} are leased"
        else:
            states = ", ".join(f"{one.id} {one.state}" for one in pool.engines.values())
            reason, message = "not_ready", f"no engine of pool {pool.id!r} is ready: {states}"
        self._changes.tell([Change(pool.id, "", "refused", "", "", reason)])
        return Refused(reason, message)

    def _hint(self, pool: PoolEntry) -> Hint | None:
        """Of the mask that its first engine has: the others' have the like."""
        first = next(iter(pool.engines.values()))
        return self._perf.hint(Key(pool.engine_version, pool.model_id, first.mask.uuids))

    def _now_ms(self) -> int:
        return int((self._clock() + self._zero_s) * 1000)


def _entry(config: PoolConfig, devices: Devices) -> PoolEntry:
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
    return PoolEntry(config=config, mask=whole, engines=engines)


def _word(value: bool) -> str:  # noqa: FBT001 - the one thing it says
    return "true" if value else "false"
