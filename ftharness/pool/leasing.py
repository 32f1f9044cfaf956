"""Leases on the slots of pools' engines: who may have one, now. How engines are, :mod:`~ftharness.pool.registry` says.

Nothing in it waits, so each call is one step for everything else in the same event loop. What a call changed is told to those
who subscribed when the change is whole.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from ftharness.pool.changes import Change, Changes, Listener
from ftharness.pool.engine_states import HOLDING
from ftharness.pool.leases import NO_PROCESS, Holding, Keeping, Lease, Leases, NotKept, State
from ftharness.pool.pool_entry import LONGEST_ERROR, EngineEntry, PoolEntry, Why
from ftharness.suggest import nearest

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


class Leasing:
    """Some pools, of whose engines slots are leased.

    Args:
        pools: Which.
        leases: The book of their leases.
    """

    def __init__(self, pools: Iterable[PoolEntry], leases: Leases) -> None:
        self._pools = {pool.id: pool for pool in pools}
        self._engines = {one.id: one for pool in self._pools.values() for one in pool.engines.values()}
        self._leases = leases
        self._changes = Changes()

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

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with each change from now on; returns what ends it."""
        return self._changes.subscribe(listener)

    # Whoever has a lease may use one slot of one engine.

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
        try:
            pool = self.pool(pool_id)
        except UnknownPool as error:
            raise self._refused("", "unknown", str(error)) from None
        ttl_s = pool.config.ttl(ttl_s)
        self._end_due()
        best = pool.freest()
        if pool.draining or best is None:
            raise self._refused(pool_id, *pool.refusal())
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
            raise self._refused(pool_id, "not_kept", f"no lease that cannot be written down: {error}") from error
        pool.hold(best, lease.id)
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
                pool = self._pools[engine.pool_id]
                changes += pool.moved(engine, "unready", "it was adopted, and has not answered yet", leasable=False)
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

    def _refused(self, pool_id: str, reason: Why, message: str) -> Refused:
        self._changes.tell([Change(pool_id, "", "refused", "", "", reason)])
        return Refused(reason, message)

    def _revoked(self, one: EngineEntry, reason: str) -> tuple[list[Lease], list[Change]]:
        both = [self._over(lease_id, "revoked", reason) for lease_id in list(one.leases)]
        return [lease for lease, _ in both], [change for _, change in both]

    def _over(self, lease_id: str, state: State, reason: str = "") -> tuple[Lease, Change]:
        """End a lease that is held."""
        lease = self._leases.end(lease_id, state, reason[:LONGEST_ERROR])
        self._pools[lease.pool_id].let_go(lease.engine_id, lease_id)
        return lease, Change(lease.pool_id, lease.engine_id, "lease", "held", state, lease.reason, lease_id)

    def _take_over(self, holding: Holding, gone: Mapping[str, str]) -> list[Change]:
        lease = holding.lease
        self._leases.take_over(holding)
        taken = Change(lease.pool_id, lease.engine_id, "lease", "earlier", "held", "", lease.id)
        one = self._engines.get(lease.engine_id)
        if one is not None and one.pool_id == lease.pool_id and holding.process == one.process != NO_PROCESS:
            self._pools[one.pool_id].hold(one, lease.id)
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
