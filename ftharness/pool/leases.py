"""Leases: the right to one slot of one engine, for a while. The book of them, which knows nothing of engines' states."""

import contextlib
import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

State = Literal["held", "released", "expired", "revoked"]
#: Which process an engine is: its pid, and the clock ticks from the boot to its start.
Process = tuple[int, int]

#: Of an engine of which nobody has said which process it is.
NO_PROCESS: Final[Process] = (0, 0)

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
        model_id: What requests call its model.
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
    model_id: str = ""
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


class NotKept(Exception):  # noqa: N818 - says what is the case
    """It cannot be written down, so a manager after this one would not know of it; the message says why."""


class Holding(NamedTuple):
    """A lease that is held.

    Attributes:
        lease: The lease.
        left_s: Seconds until it ends unless it is renewed.
        process: The engine that it is on.
    """

    lease: Lease
    left_s: float
    process: Process


class Keeping(Protocol):
    """Where leases are written down, for the manager after this one; :class:`ftharness.pool.lease_file.LeaseFile`."""

    @property
    def grown(self) -> bool:
        """Whether it is time to write it anew."""

    def granted(self, lease: Lease, ttl_s: float, process: Process) -> None:
        """Write down a grant; raises :class:`NotKept`."""

    def renewed(self, lease: Lease, ttl_s: float) -> None:
        """Write down a renewal; raises :class:`NotKept`."""

    def ended(self, lease: Lease) -> None:
        """Write down an end, if that can be."""

    def write_anew(self, held: Iterable[Holding], over: Iterable[Lease]) -> None:
        """Write all of it in the place of what was; raises :class:`NotKept`."""


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
        self._held: dict[str, tuple[Lease, float, Process]] = {}
        self._over: OrderedDict[str, Lease] = OrderedDict()
        self._deadlines: list[tuple[float, str]] = []
        self._serial = 0
        self._keeping: Keeping | None = None
        self.granted: Counter[str] = Counter()
        self.ended: Counter[tuple[str, State]] = Counter()

    def __len__(self) -> int:
        """How many are held."""
        return len(self._held)

    def keep(self, keeping: Keeping | None) -> None:
        """Write down what becomes of leases from now on; None: no more.

        Raises:
            NotKept: What is the case now cannot be written.
        """
        self._keeping = keeping
        if keeping is not None:
            self._write_anew(keeping)

    def take_over(self, holding: Holding) -> None:
        """Go on with one that an earlier manager granted; one whose time was over meanwhile is due at once."""
        self.granted[holding.lease.pool_id] += 1
        self._hold(holding.lease, self._clock() + holding.left_s, holding.process)

    def remember(self, lease: Lease) -> None:
        """One that had ended before this manager came: whoever asks is told, and nothing counts it."""
        self._over[lease.id] = lease
        if len(self._over) > self._kept:
            self._over.popitem(last=False)

    def grant(
        self,
        *,
        pool_id: str,
        engine_id: str,
        url: str,
        holder: str,
        ttl_s: float,
        model_id: str = "",
        process: Process = NO_PROCESS,
    ) -> Lease:
        """A new one, for ``ttl_s`` seconds, on an engine that is that process.

        Raises:
            NotKept: It cannot be written down; there is none then.
        """
        self._serial += 1
        now = self._clock()
        until = now + ttl_s
        lease = Lease(
            id=f"{self._manager}-{self._serial:x}",
            pool_id=pool_id,
            engine_id=engine_id,
            url=url,
            model_id=model_id,
            holder=holder,
            granted_ms=self._ms(now),
            expires_ms=self._ms(until),
        )
        if self._keeping is not None:
            self._keeping.granted(lease, ttl_s, process)
        self.granted[pool_id] += 1
        self._hold(lease, until, process)
        return lease

    def renew(self, lease_id: str, ttl_s: float) -> Lease:
        """The same one, for ``ttl_s`` seconds from now.

        Raises:
            UnknownLease: There is none.
            LeaseEnded: It is over.
            NotKept: It cannot be written down; the lease has the time that it had.
        """
        lease = self.get(lease_id)
        if lease.state != "held":
            raise LeaseEnded(lease)
        until = self._clock() + ttl_s
        lease = msgspec.structs.replace(lease, expires_ms=self._ms(until))
        if self._keeping is not None:
            self._keeping.renewed(lease, ttl_s)
        self._hold(lease, until, self._held[lease_id][2])
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
        self.remember(lease)
        if self._keeping is not None:
            self._keeping.ended(lease)
            self._keep_short()
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
            else "this manager did not grant it; if an earlier one did, it ended with that one"
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

    def _hold(self, lease: Lease, until: float, process: Process) -> None:
        self._held[lease.id] = lease, until, process
        heapq.heappush(self._deadlines, (until, lease.id))
        # Leases that were released or renewed leave their deadlines behind; a heap of those alone would grow for an hour.
        if len(self._deadlines) > 2 * len(self._held) + _SLACK:
            self._deadlines = [(deadline, one.id) for one, deadline, _ in self._held.values()]
            heapq.heapify(self._deadlines)
        if self._keeping is not None:
            self._keep_short()

    def _keep_short(self) -> None:
        if self._keeping is not None and self._keeping.grown:
            with contextlib.suppress(NotKept):  # it goes on growing, and is tried again
                self._write_anew(self._keeping)

    def _write_anew(self, keeping: Keeping) -> None:
        now = self._clock()
        held = (Holding(lease, until - now, process) for lease, until, process in self._held.values())
        keeping.write_anew(held, self._over.values())

    def _is_deadline(self, until: float, lease_id: str) -> bool:
        held = self._held.get(lease_id)
        return held is not None and held[1] == until

    def _ms(self, now: float) -> int:
        return int((now + self._zero_s) * 1000)
