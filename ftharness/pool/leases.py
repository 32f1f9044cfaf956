"""Leases: the right to one slot of one engine, for a while. The book of them, which knows nothing of engines' states."""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Literal

import msgspec

State = Literal["held", "released", "expired", "revoked"]

#: Ended leases that are kept, so that a holder who asks late still sees how its lease ended.
KEPT = 4096
#: Deadlines of leases that are over stay in the heap until they come up, or until they are the most of it.
_SLACK = 64


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The right to one slot of one engine.

    Attributes:
        id: Unique among all managers' leases; whoever knows it can renew and release it.
        pool_id: Of which pool.
        engine_id: Of which engine.
        url: Where that one serves.
        holder: Who has it, as it said.
        granted_ms: When it was granted: milliseconds since the epoch.
        expires_ms: When it ends unless it is renewed: the same.
        state: ``held``, or how it ended.
        reason: Why it ended, where it did not by its holder.
    """

    id: str
    pool_id: str
    engine_id: str
    url: str
    holder: str
    granted_ms: int
    expires_ms: int
    state: State = "held"
    reason: str = ""


class UnknownLease(LookupError):  # noqa: N818 - says what is the case
    """There is no such lease, or it ended too long ago to be known; the message says which manager could have granted it."""


class LeaseEnded(Exception):  # noqa: N818 - says what is the case
    """It cannot be renewed: it is over.

    Attributes:
        lease: As it ended.
    """

    def __init__(self, lease: Lease) -> None:
        super().__init__(f"lease {lease.id} is {lease.state}{f': {lease.reason}' if lease.reason else ''}")
        self.lease = lease


class Leases:
    """All leases of a manager. Each call is one step: nothing in it waits.

    Args:
        clock: Seconds, monotonic: by it leases end.
        zero_s: What the machine's clock says when ``clock`` says 0, in seconds since the epoch: by it holders are told when.
        manager: What every id begins with: a lease of an earlier manager can be told from one that never was.
        kept: How many that are over are kept.

    Attributes:
        granted: How many were granted, by pool; held, released, expired and revoked ones are together as many.
        ended: How many ended, by pool and state.
    """

    def __init__(self, clock: Callable[[], float], *, zero_s: float, manager: str, kept: int = KEPT) -> None:
        self._clock = clock
        self._zero_s = zero_s
        self._manager = manager
        self._kept = kept
        self._held: dict[str, tuple[Lease, float]] = {}
        self._over: OrderedDict[str, Lease] = OrderedDict()
        self._deadlines: list[tuple[float, str]] = []
        self._serial = 0
        self.granted: Counter[str] = Counter()
        self.ended: Counter[tuple[str, State]] = Counter()

    def __len__(self) -> int:
        """How many are held."""
        return len(self._held)

    def grant(self, *, pool_id: str, engine_id: str, url: str, holder: str, ttl_s: float) -> Lease:
        """A new one, for ``ttl_s`` seconds."""
        self._serial += 1
        now = self._clock()
        until = now + ttl_s
        lease = Lease(
            id=f"{self._manager}-{self._serial:x}",
            pool_id=pool_id,
            engine_id=engine_id,
            url=url,
            holder=holder,
            granted_ms=self._ms(now),
            expires_ms=self._ms(until),
        )
        self.granted[pool_id] += 1
        self._hold(lease, until)
        return lease

    def renew(self, lease_id: str, ttl_s: float) -> Lease:
        """The same one, for ``ttl_s`` seconds from now.

        Raises:
            UnknownLease: There is none.
            LeaseEnded: It is over.
        """
        lease = self.get(lease_id)
        if lease.state != "held":
            raise LeaseEnded(lease)
        until = self._clock() + ttl_s
        lease = msgspec.structs.replace(lease, expires_ms=self._ms(until))
        self._hold(lease, until)
        return lease

    def end(self, lease_id: str, state: State, reason: str = "") -> Lease:
        """End one that is held; of one that is over, how it ended.

        Raises:
            UnknownLease: There is none.
        """
        held = self._held.pop(lease_id, None)
        if held is None:
            return self.get(lease_id)
        lease = msgspec.structs.replace(held[0], state=state, reason=reason)
        self.ended[lease.pool_id, state] += 1
        self._over[lease_id] = lease
        if len(self._over) > self._kept:
            self._over.popitem(last=False)
        return lease

    def get(self, lease_id: str) -> Lease:
        """As it is.

        Raises:
            UnknownLease: There is none.
        """
        held = self._held.get(lease_id)
        if held is not None:
            return held[0]
        lease = self._over.get(lease_id)
        if lease is not None:
            return lease
        ours = lease_id.partition("-")[0] == self._manager
        why = (
            "it ended long ago, or never was"
            if ours
            else "this manager did not grant it; leases end with their manager"
        )
        raise UnknownLease(f"no lease {lease_id!r}: {why}")

    def due(self) -> list[str]:
        """Those that are held beyond their time, oldest deadline first."""
        now = self._clock()
        found: dict[str, None] = {}  # one that was renewed within the clock's resolution has the same deadline twice
        while self._deadlines and self._deadlines[0][0] <= now:
            until, lease_id = heapq.heappop(self._deadlines)
            if self._is_deadline(until, lease_id):
                found[lease_id] = None
        return list(found)

    def next_deadline(self) -> float | None:
        """When the first of those that are held ends, by the clock; None where none is held."""
        while self._deadlines and not self._is_deadline(*self._deadlines[0]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _hold(self, lease: Lease, until: float) -> None:
        self._held[lease.id] = lease, until
        heapq.heappush(self._deadlines, (until, lease.id))
        # Leases that were released or renewed leave their deadlines behind; a heap of those alone would grow for an hour.
        if len(self._deadlines) > 2 * len(self._held) + _SLACK:
            self._deadlines = [(deadline, one.id) for one, deadline in self._held.values()]
            heapq.heapify(self._deadlines)

    def _is_deadline(self, until: float, lease_id: str) -> bool:
        held = self._held.get(lease_id)
        return held is not None and held[1] == until

    def _ms(self, now: float) -> int:
        return int((now + self._zero_s) * 1000)
