"""The leases of all managers of a run, by the managers' own lines."""

from collections import defaultdict

from ftharness.history import Log
from ftharness.pool.config import ManagerConfig
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.oracles.pool_lines import manager_ended, managers, pool_of, said

HELD, GONE = "held", "gone with their manager"
OVER = {"lease_released": "released", "lease_revoked": "revoked", "lease_expired": "expired"}
_Wrong = tuple[str, tuple[int, ...]]
_NOTHING: _Wrong = ("", ())


class Book:
    """The leases, line by line.

    Attributes:
        granted: The line by which each was granted; of one of which there is none, that by which it was taken over.
        taken_over: The lines by which they were taken over, in order.
        over: That by which each ended.
        left: Those that were held when their manager ended, and that no later one said that it took over.
        most: Those that were held at once, at most.
        wrong: What the lines say that cannot be.
    """

    def __init__(self, case: Case, config: ManagerConfig) -> None:
        self.granted: dict[str, Log] = {}
        self.taken_over: list[Log] = []
        self.over: dict[str, Log] = {}
        self.left: set[str] = set()
        self.most = 0
        self.wrong: list[Finding] = []
        self._config = config
        self._on: defaultdict[str, set[str]] = defaultdict(set)
        self._slots: dict[str, int] = {}  # as engines say, where that is left to them
        self._held = 0
        self._draining: dict[str, Log] = {}
        for manager in managers(case):
            for line in said(case, source=manager):
                wrong, others = self._take(line)
                if wrong:
                    self.wrong.append(Finding("fail", f"{manager}: {wrong}", (*others, line.n), invariant=True))
            if manager_ended(case, manager) is not None:
                self._end_of_manager()

    def became(self, lease: str) -> str:
        """How a lease that was granted ended; or that it is held, or went with its manager."""
        if lease in self.over:
            return OVER[self.over[lease].event]
        return GONE if lease in self.left else HELD

    def _end_of_manager(self) -> None:
        self.left |= {lease for on in self._on.values() for lease in on}
        self._on.clear()
        self._draining.clear()
        self._held = 0

    def _take(self, line: Log) -> _Wrong:
        """What is wrong with a line, and the lines before that show it."""
        lease, engine, pool = (line.captures.get(name, "") for name in ("lease", "engine", "pool"))
        match line.event:
            case "lease_granted":
                return self._grant(line, lease, engine, pool)
            case "lease_taken_over":
                return self._take_over(line, lease, engine)
            case "lease_released" | "lease_revoked" | "lease_expired":
                return self._end(line, lease, engine)
            case "engine_ready" if line.captures.get("slots"):
                self._slots[engine] = int(line.captures["slots"])
            case "engine_lost" | "engine_stopped" if self._on[engine]:
                kept = self._on[engine]
                first = min(self.granted[one].n for one in kept)
                return f"{engine} had ended, and {_some(kept)} on it were not taken back", (first,)
            case "drain_begun":
                self._draining[pool] = line
            case "drain_ended":
                self._draining.pop(pool, None)
        return _NOTHING

    def _grant(self, line: Log, lease: str, engine: str, pool: str) -> _Wrong:
        if lease in self.granted:
            return f"lease {lease} was granted twice", (self.granted[lease].n,)
        self.granted[lease] = line
        if pool in self._draining:
            return f"lease {lease} was granted while {pool} was drained", (self._draining[pool].n,)
        return self._hold(lease, engine)

    def _take_over(self, line: Log, lease: str, engine: str) -> _Wrong:
        self.taken_over.append(line)
        if lease in self.over:
            return f"lease {lease} was taken over, and had been {OVER[self.over[lease].event]}", (self.over[lease].n,)
        if any(lease in on for on in self._on.values()):
            return f"lease {lease} was taken over, and was its own already", (self.granted[lease].n,)
        # Of one that was granted in its manager's last instant there may be no line.
        given = self.granted.setdefault(lease, line)
        self.left.discard(lease)
        if wrong := _otherwise(given, line, "taken over"):
            return wrong, (given.n,)
        return self._hold(lease, engine)

    def _hold(self, lease: str, engine: str) -> _Wrong:
        self._on[engine].add(lease)
        self._held += 1
        self.most = max(self.most, self._held)
        pool = pool_of(self._config, engine)
        if pool is None:
            return f"lease {lease} is on {engine}, an engine that no pool has", ()
        slots = pool.slots_per_engine or self._slots.get(engine, 0)
        if slots and len(self._on[engine]) > slots:
            return f"{engine} has {slots} slots, and {len(self._on[engine])} leases", ()
        return _NOTHING

    def _end(self, line: Log, lease: str, engine: str) -> _Wrong:
        given = self.granted.get(lease)
        if given is None:
            return f"lease {lease} ended, and was never granted", ()
        if lease in self.left:
            return f"lease {lease} was {OVER[line.event]}, and was another manager's", (given.n,)
        if lease in self.over:
            before = self.over[lease]
            return f"lease {lease} was {OVER[before.event]}, and then {OVER[line.event]}", (before.n,)
        if wrong := _otherwise(given, line, OVER[line.event]):
            return wrong, (given.n,)
        self.over[lease] = line
        self._on[engine].discard(lease)
        self._held -= 1
        return _NOTHING


def _otherwise(given: Log, line: Log, became: str) -> str:
    """How a line is about another engine, or another holder, than the lease was granted to; "" where it is not."""
    for name, of, to in (("engine", "on", "on"), ("holder", "of", "as that of")):
        before, now = given.captures[name], line.captures[name]
        if before != now:
            return f"lease {given.captures['lease']} {of} {before} was {became} {to} {now}"
    return ""


def _some(leases: set[str]) -> str:
    return f"lease {next(iter(leases))}" if len(leases) == 1 else f"{len(leases)} leases"
