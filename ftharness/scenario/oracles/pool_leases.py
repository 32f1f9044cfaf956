"""What became of the leases of pools, by their manager's word and by their holders': ``leases_conserved``."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from ftharness.history import Log
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

_HELD, _GONE = "held", "gone with their manager"
_OVER = {"lease_released": "released", "lease_revoked": "revoked", "lease_expired": "expired"}


def leases_conserved(case: Case) -> Finding:
    """Every lease that was granted ended once, as its holder was told; never more at once than slots, and none on a dead engine.

    Granted is released, revoked, expired and held, together; while a pool drains none is granted; what its holder gave back is
    released; what was taken from a holder, the holder sees. When all holders are through, none is held.
    """
    if policy(case) is None:
        return NO_POOL
    books = [_Book(case, manager) for manager in managers(case)]
    found = [finding for book in books for finding in book.wrong]
    found += list(_with_holders(case, books))
    if finding := short_of_passing(found):
        return finding
    granted = [line for book in books for line in book.granted.values() if in_fault_phase(case, line)]
    if not granted:
        return Finding("unknown", "no lease was granted in the fault phase")
    ended = Counter(
        _OVER[book.over[lease].event] if lease in book.over else book.open_word
        for book in books
        for lease, line in book.granted.items()
        if in_fault_phase(case, line)
    )
    sums = " + ".join(f"{ended[how]:,} {how}" for how in (*_OVER.values(), _HELD, _GONE) if ended[how])
    most = max(book.most for book in books)
    return Finding(
        "pass", f"{len(granted):,} leases = {sums}; at most {most:,} at once", tuple(line.n for line in granted[:1])
    )


class _Book:
    """The leases of one manager, line by line.

    Attributes:
        granted: The line by which each was granted.
        over: And that by which it ended.
        most: Those that were held at once, at most.
        wrong: What its own lines say that cannot be.
        manager: Whose.
        open_word: What those are that have not ended.
    """

    def __init__(self, case: Case, manager: str) -> None:
        self.granted: dict[str, Log] = {}
        self.over: dict[str, Log] = {}
        self.most = 0
        self.wrong: list[Finding] = []
        config = policy(case)
        assert config is not None, "it has pools"
        self.manager = manager
        self.open_word = _HELD if manager_ended(case, manager) is None else _GONE
        self._config = config
        self._on: defaultdict[str, set[str]] = defaultdict(set)
        self._held = 0
        self._draining: dict[str, Log] = {}
        for line in said(case, source=manager):
            wrong, others = self._take(line)
            if wrong:
                self.wrong.append(Finding("fail", f"{manager}: {wrong}", (*others, line.n), invariant=True))

    def _take(self, line: Log) -> tuple[str, tuple[int, ...]]:
        """What is wrong with a line, and the lines before that show it."""
        lease, engine, pool = (line.captures.get(name, "") for name in ("lease", "engine", "pool"))
        match line.event:
            case "lease_granted":
                return self._grant(line, lease, engine, pool)
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
        self._on[engine].add(lease)
        self._held += 1
        self.most = max(self.most, self._held)
        if pool in self._draining:
            return f"lease {lease} was granted while {pool} was drained", (self._draining[pool].n,)
        slots = pool_of(self._config, engine).slots_per_engine
        if slots and len(self._on[engine]) > slots:
            return f"{engine} has {slots} slots, and {len(self._on[engine])} leases", ()
        return "", ()

    def _end(self, line: Log, lease: str, engine: str) -> tuple[str, tuple[int, ...]]:
        if lease not in self.granted:
            return f"lease {lease} ended, and was never granted", ()
        if lease in self.over:
            before = self.over[lease]
            return f"lease {lease} was {_OVER[before.event]}, and then {_OVER[line.event]}", (before.n,)
        self.over[lease] = line
        self._on[engine].discard(lease)
        self._held -= 1
        return "", ()


def _with_holders(case: Case, books: list[_Book]) -> Iterator[Finding]:
    """What the holders say that their manager does not, or the other way round."""
    got = {line.captures["lease"]: line for line in _of_jobs(case, "lease_got")}
    last = {line.captures["lease"]: line for line in _of_jobs(case, "lease_returned", "lease_lost")}
    through = {line.source for line in _of_jobs(case, "job_finished")}
    granted = {lease: book for book in books for lease in book.granted}
    for lease, line in got.items():
        if lease not in granted:
            yield _fails(f"{line.source} got lease {lease}, which no manager said that it granted", line)
    for lease, book in granted.items():
        given, end = book.granted[lease], book.over.get(lease)
        holder = given.captures.get("holder", "").partition("/")[0]
        outlived = manager_ended(case, book.manager) is not None
        how = _OVER[end.event] if end is not None else "held"
        word = last.get(lease)
        if word is None:
            if holder in through and lease not in got and not outlived:
                yield _fails(f"lease {lease} was granted to {holder}, which never got it; it is {how}", given)
            elif holder in through and lease in got:
                yield _fails(f"{holder} is through, and never said what became of lease {lease}; it is {how}", given)
            continue
        told = "released" if word.event == "lease_returned" else word.captures["state"]
        if told == "unknown" and outlived:
            continue
        if told != how and not (outlived and end is None):
            what = f"lease {lease} on {given.captures['engine']} is {how} to {book.manager}, and {told} to {holder}"
            yield _fails(what, given, *([end] if end is not None else []), word)


def _of_jobs(case: Case, *events: str) -> Iterator[Log]:
    teardown = case.phase_t("teardown")
    for line in case.select(Log):
        if line.event in events and case.roles.get(line.source) == JOB and (teardown is None or line.t < teardown):
            yield line


def _fails(what: str, *lines: Log) -> Finding:
    return Finding("fail", what, tuple(line.n for line in lines), invariant=True)


def _some(leases: set[str]) -> str:
    return f"lease {next(iter(leases))}" if len(leases) == 1 else f"{len(leases)} leases"
