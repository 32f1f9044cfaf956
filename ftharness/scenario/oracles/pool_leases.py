"""What became of the leases of pools, by their manager's word and by their holders': ``leases_conserved``."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from ftharness.history import Log
from ftharness.pool.config import ManagerConfig
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.pool_lines import (
    NO_POOL,
    in_fault_phase,
    manager_ended,
    managers,
    policy,
    pool_of,
    said,
)
from ftharness.stack.job import JOB

#: How long an answer may be on its way on a busy machine, in ns.
_INSTANT_NS = 1_000_000_000
_HELD, _GONE = "held", "gone with their manager"
_OVER = {"lease_released": "released", "lease_revoked": "revoked", "lease_expired": "expired"}


def leases_conserved(case: Case) -> Finding:
    """Every lease that was granted ended once, as its holder was told; never more at once than slots, and none on a dead engine.

    Granted is released, revoked, expired and held, together; while a pool drains none is granted; what its holder gave back is
    released; what was taken from a holder, the holder sees. When all holders are through, none is held. Leases end with their
    manager, unless engines are to survive it: then the next one goes on with those on engines that it adopted.
    """
    config = policy(case)
    if config is None:
        return NO_POOL
    book = _Book(case, config)
    if finding := short_of_passing([*book.wrong, *_with_holders(case, book)]):
        return finding
    granted = {lease: line for lease, line in book.granted.items() if in_fault_phase(case, line)}
    if not granted:
        return Finding("unknown", "no lease was granted in the fault phase")
    ended = Counter(book.became(lease) for lease in granted)
    sums = " + ".join(f"{ended[how]:,} {how}" for how in (*_OVER.values(), _HELD, _GONE) if ended[how])
    first = next(iter(granted.values()))
    return Finding("pass", f"{len(granted):,} leases = {sums}; at most {book.most:,} at once", (first.n,))


class _Book:
    """The leases of all managers, line by line.

    Attributes:
        granted: The line by which each was granted.
        over: And that by which it ended.
        left: Those that were held when their manager ended, and that no later one said that it took over.
        most: Those that were held at once, at most.
        wrong: What the lines say that cannot be.
    """

    def __init__(self, case: Case, config: ManagerConfig) -> None:
        self.granted: dict[str, Log] = {}
        self.over: dict[str, Log] = {}
        self.left: set[str] = set()
        self.most = 0
        self.wrong: list[Finding] = []
        self._config = config
        self._on: defaultdict[str, set[str]] = defaultdict(set)
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
            return _OVER[self.over[lease].event]
        return _GONE if lease in self.left else _HELD

    def _end_of_manager(self) -> None:
        self.left |= {lease for on in self._on.values() for lease in on}
        self._on.clear()
        self._draining.clear()
        self._held = 0

    def _take(self, line: Log) -> tuple[str, tuple[int, ...]]:
        """What is wrong with a line, and the lines before that show it."""
        lease, engine, pool = (line.captures.get(name, "") for name in ("lease", "engine", "pool"))
        match line.event:
            case "lease_granted":
                return self._grant(line, lease, engine, pool)
            case "lease_taken_over":
                return self._take_over(line, lease, engine)
            case "lease_released" | "lease_revoked" | "lease_expired":
                return self._end(line, lease, engine)
            case "engine_lost" | "engine_stopped" if self._on[engine]:
                kept = self._on[engine]
                first = min(self.granted[one].n for one in kept)
                return f"{engine} had ended, and {_some(kept)} on it were not taken back", (first,)
            case "drain_begun":
                self._draining[pool] = line
            case "drain_ended":
                self._draining.pop(pool, None)
        return "", ()

    def _grant(self, line: Log, lease: str, engine: str, pool: str) -> tuple[str, tuple[int, ...]]:
        if lease in self.granted:
            return f"lease {lease} was granted twice", (self.granted[lease].n,)
        self.granted[lease] = line
        if pool in self._draining:
            return f"lease {lease} was granted while {pool} was drained", (self._draining[pool].n,)
        return self._hold(lease, engine)

    def _take_over(self, line: Log, lease: str, engine: str) -> tuple[str, tuple[int, ...]]:
        if lease in self.over:
            return f"lease {lease} was taken over, and had been {_OVER[self.over[lease].event]}", (self.over[lease].n,)
        # Of one that was granted in its manager's last instant there may be no line.
        self.granted.setdefault(lease, line)
        self.left.discard(lease)
        return self._hold(lease, engine)

    def _hold(self, lease: str, engine: str) -> tuple[str, tuple[int, ...]]:
        self._on[engine].add(lease)
        self._held += 1
        self.most = max(self.most, self._held)
        slots = pool_of(self._config, engine).slots_per_engine
        if slots and len(self._on[engine]) > slots:
            return f"{engine} has {slots} slots, and {len(self._on[engine])} leases", ()
        return "", ()

    def _end(self, line: Log, lease: str, engine: str) -> tuple[str, tuple[int, ...]]:
        if lease not in self.granted:
            return f"lease {lease} ended, and was never granted", ()
        if lease in self.left:
            return f"lease {lease} was {_OVER[line.event]}, and was another manager's", (self.granted[lease].n,)
        if lease in self.over:
            before = self.over[lease]
            return f"lease {lease} was {_OVER[before.event]}, and then {_OVER[line.event]}", (before.n,)
        if engine != self.granted[lease].captures["engine"]:
            given = self.granted[lease]
            return f"lease {lease} on {given.captures['engine']} was {_OVER[line.event]} on {engine}", (given.n,)
        self.over[lease] = line
        self._on[engine].discard(lease)
        self._held -= 1
        return "", ()


def _with_holders(case: Case, book: _Book) -> Iterator[Finding]:
    """What the holders say that their manager does not, or the other way round."""
    got = {line.captures["lease"]: line for line in _of_jobs(case, "lease_got")}
    last = {line.captures["lease"]: line for line in _of_jobs(case, "lease_returned", "lease_lost")}
    through = {line.source for line in _of_jobs(case, "job_finished")}
    for lease, line in got.items():
        if lease not in book.granted:
            yield _fails(f"{line.source} got lease {lease}, which no manager said that it granted", line)
    for lease, line in last.items():
        if lease not in got:
            yield _fails(f"{line.source} says what became of lease {lease}, which it never said that it got", line)
    for lease, given in book.granted.items():
        end, word, how = book.over.get(lease), last.get(lease), book.became(lease)
        holder = given.captures.get("holder", "").partition("/")[0]
        # What its manager did in its last instant, it may not have said, nor answered.
        outlived = given.event == "lease_taken_over" or manager_ended(case, given.source) is not None
        if word is None:
            if holder in through and (lease in got or not _in_its_last_instant(case, given)):
                never = "never said what became of it" if lease in got else "never got it"
                yield _fails(
                    f"lease {lease} was granted to {holder}, which is through, and {never}; it is {how}", given
                )
            continue
        told = "released" if word.event == "lease_returned" else word.captures["state"]
        if told == how or (outlived and end is None and not (told == "unknown" and _was_to_stay(case, given))):
            continue
        what = f"lease {lease} on {given.captures['engine']} is {how} to {given.source}, and {told} to {holder}"
        yield _fails(what, given, *([end] if end is not None else []), word)


def _in_its_last_instant(case: Case, given: Log) -> bool:
    """Whether the manager that granted it was gone before its answer was certain to be read."""
    gone = case.gone_t(given.source)
    return given.event == "lease_taken_over" or (gone is not None and gone - given.t < _INSTANT_NS)


def _was_to_stay(case: Case, given: Log) -> bool:
    """Whether the engine of a lease was adopted by a manager that goes on with its leases: an older one does not."""
    engine = given.captures["engine"]
    adopted = (line for line in said(case, "engine_adopted", engine=engine) if line.t > given.t)
    return case.in_contract("lease_taken_over") and next(adopted, None) is not None


def _of_jobs(case: Case, *events: str) -> Iterator[Log]:
    teardown = case.phase_t("teardown")
    for line in case.select(Log):
        if line.event in events and case.roles.get(line.source) == JOB and (teardown is None or line.t < teardown):
            yield line


def _fails(what: str, *lines: Log) -> Finding:
    return Finding("fail", what, tuple(line.n for line in lines), invariant=True)


def _some(leases: set[str]) -> str:
    return f"lease {next(iter(leases))}" if len(leases) == 1 else f"{len(leases)} leases"
