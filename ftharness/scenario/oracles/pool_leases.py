"""What became of the leases of pools, by their manager's word and by their holders': ``leases_conserved``."""

from collections import Counter
from collections.abc import Iterator

from ftharness.history import Log
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.pool_book import GONE, HELD, OVER, Book
from ftharness.scenario.oracles.pool_holders import INSTANT_NS, life_of, of_holders, renewed_until
from ftharness.scenario.oracles.pool_lines import (
    BEGINS,
    ENDS,
    NO_POOL,
    in_fault_phase,
    manager_ended,
    managers,
    policy,
    said,
)

#: What a manager's clock may be off by between two of its lines; seconds.
_CLOCK_S = 0.05
_NS = 1_000_000_000


def leases_conserved(case: Case) -> Finding:
    """Every lease that was granted ended once, as its holder was told; never more at once than slots, and none on a dead engine.

    Granted is released, revoked, expired and held, together; while a pool drains none is granted; what its holder gave back is
    released; what was taken from a holder, the holder sees, and is taken only as its engine ends, or by a drain or a reload. A
    lease has one holder and one engine, and both say the same of them.
    When all holders are through, in whichever life of their job, none is held. Leases end with their manager, unless engines are
    to survive it: then the next one goes on with those on engines that it adopted, as they were.
    """
    config = policy(case)
    if config is None:
        return NO_POOL
    book = Book(case, config)
    with_holders = [*_had_by_one(case, book), *_as_told(case, book), *_kept(case, book)]
    if finding := short_of_passing([*book.wrong, *with_holders, *_taken_for_nothing(case)]):
        return finding
    granted = {lease: line for lease, line in book.granted.items() if in_fault_phase(case, line)}
    if not granted:
        return Finding("unknown", "no lease was granted in the fault phase")
    ended = Counter(book.became(lease) for lease in granted)
    sums = " + ".join(f"{ended[how]:,} {how}" for how in (*OVER.values(), HELD, GONE) if ended[how])
    first = next(iter(granted.values()))
    return Finding("pass", f"{len(granted):,} leases = {sums}; at most {book.most:,} at once", (first.n,))


def _had_by_one(case: Case, book: Book) -> Iterator[Finding]:
    """Who got a lease is who it was granted to, and nobody else; and only he says what he does with it, on its engine."""
    got: dict[str, Log] = {}
    over: dict[str, Log] = {}
    for line in of_holders(case, "lease_got", "lease_used", "lease_renewed", "lease_returned", "lease_lost"):
        lease, engine = line.captures["lease"], line.captures["engine"]
        has = got.get(lease)
        if line.event == "lease_got":
            holder, given = line.captures["holder"], book.granted.get(lease)
            if has is not None:
                yield _fails(f"lease {lease} was got by {has.captures['holder']}, and by {holder}", has, line)
            elif given is None:
                if not _in_a_last_instant(case, line):
                    yield _fails(f"{line.source} got lease {lease}, which no manager said that it granted", line)
            elif (holder, engine) != (given.captures["holder"], given.captures["engine"]):
                granted = f"granted to {given.captures['holder']} on {given.captures['engine']}"
                yield _fails(f"lease {lease} was {granted}, and got by {holder} on {engine}", given, line)
            got.setdefault(lease, line)
            continue
        does = _DOES[line.event]
        if has is None:
            yield _fails(f"{line.source} says {does} lease {lease}, which it never said that it got", line)
        elif has.source != line.source:
            yield _fails(f"{line.source} says {does} lease {lease}, which {has.source} got", has, line)
        elif has.captures["engine"] != engine:
            there = f"on {engine}, which it got on {has.captures['engine']}"
            yield _fails(f"{line.source} says {does} lease {lease} {there}", has, line)
        elif lease in over:
            yield _fails(f"{line.source} says {does} lease {lease}, which was over for it already", over[lease], line)
        if line.event in ("lease_returned", "lease_lost"):
            over.setdefault(lease, line)


_DOES = {
    "lease_used": "that it used",
    "lease_renewed": "that it renewed",
    "lease_returned": "what became of",
    "lease_lost": "what became of",
}


def _as_told(case: Case, book: Book) -> Iterator[Finding]:
    """What became of each lease is what its holder says; and who is through has said it of all that he was granted."""
    got = {line.captures["lease"]: line for line in of_holders(case, "lease_got")}
    last = {line.captures["lease"]: line for line in of_holders(case, "lease_returned", "lease_lost")}
    through = {line.source for line in of_holders(case, "job_finished")}
    for lease, given in book.granted.items():
        end, word, how = book.over.get(lease), last.get(lease), book.became(lease)
        # What its manager did in its last instant, it may not have said, nor answered.
        outlived = given.event == "lease_taken_over" or manager_ended(case, given.source) is not None
        if word is None:
            life = got[lease].source if lease in got else life_of(case, given.captures["holder"], given.t)
            if life in through and (lease in got or not _in_its_last_instant(case, given)):
                never = "never said what became of it" if lease in got else "never got it"
                yield _fails(f"lease {lease} was granted to {life}, which is through, and {never}; it is {how}", given)
            continue
        told = "released" if word.event == "lease_returned" else word.captures["state"]
        if told == how or (told == "unknown" and _asked_the_next(case, given, end, word)):
            continue
        if told != "unknown" and outlived and end is None:
            continue
        what = f"lease {lease} on {given.captures['engine']} is {how} to {given.source}, and {told} to {word.source}"
        yield _fails(what, given, *([end] if end is not None else []), word)


def _kept(case: Case, book: Book) -> Iterator[Finding]:
    """A lease that was taken over lasts for as long as its holder was told, at the grant or by a renewal."""
    renewed = renewed_until(case)
    for line in book.taken_over:
        given = book.granted[line.captures["lease"]]
        first, until = _until(given), _until(line)
        told = [first, *renewed[line.captures["lease"]]]
        if given is line or any(abs(until - one) < _CLOCK_S for one in told):
            continue
        ends = [gone for name in managers(case) if (gone := case.gone_t(name)) is not None and gone <= line.t]
        if renewed and ends:  # the last renewal its manager may not have lived to answer
            latest = first + (max(ends) - given.t) / _NS
            if max(told) < until < latest + _CLOCK_S:
                continue
        off = f"{abs(until - max(told)):.2f} s {'longer' if until > max(told) else 'shorter'} than its holder was told"
        yield _fails(f"lease {line.captures['lease']} was taken over for {off}", given, line)


def _taken_for_nothing(case: Case) -> Iterator[Finding]:
    """Leases that were taken back while their engine went on: it was ready again, or leased, and never said to have ended."""
    for manager in managers(case):
        there: set[str] = set()
        at_work: set[str] = set()  # pools that are drained or reloaded, which takes leases, too
        taken: dict[str, Log] = {}
        for line in said(case, source=manager):
            engine, pool = line.captures.get("engine", ""), line.captures.get("pool", "")
            if line.event in BEGINS:
                there.add(engine)
            elif line.event in ENDS:
                there.discard(engine)
                taken.pop(engine, None)
            elif line.event in ("drain_begun", "reload_begun"):
                at_work.add(pool)
            elif line.event in ("drain_ended", "reload_ended"):
                at_work.discard(pool)
            elif line.event == "lease_revoked" and engine in there and pool not in at_work:
                taken.setdefault(engine, line)
            elif line.event in ("engine_ready", "lease_granted") and engine in taken:
                lost = taken.pop(engine)
                yield _fails(
                    f"lease {lost.captures['lease']} on {engine} was revoked, and {engine} had not ended", lost, line
                )


def _until(line: Log) -> float:
    """Until when a lease lasts, in seconds since the epoch."""
    return int(line.captures["expires_ms"]) / 1000


def _in_a_last_instant(case: Case, line: Log) -> bool:
    """Whether what a holder said was of a manager that was gone before its own word was certain to be read."""
    for manager in managers(case):
        gone = case.gone_t(manager)
        if gone is None or line.t < gone - INSTANT_NS:
            continue
        serves = (one.t for one in said(case, "manager_started") if one.t > gone)
        if line.t < max(gone, next(serves, gone)) + INSTANT_NS:
            return True
    return False


def _in_its_last_instant(case: Case, given: Log) -> bool:
    """Whether the manager that granted it was gone before its answer was certain to be read."""
    gone = case.gone_t(given.source)
    return given.event == "lease_taken_over" or (gone is not None and gone - given.t < INSTANT_NS)


def _asked_the_next(case: Case, given: Log, end: Log | None, word: Log) -> bool:
    """Whether a holder could only ask a manager that does not know the lease: the one that had it was gone, or is not known."""
    gone = manager_ended(case, given.source if end is None else end.source)
    was_gone = given.event == "lease_taken_over" if gone is None else gone.t < word.t
    return was_gone and not _was_to_stay(case, given)


def _was_to_stay(case: Case, given: Log) -> bool:
    """Whether the engine of a lease was adopted by a manager that goes on with its leases: an older one does not."""
    engine = given.captures["engine"]
    adopted = (line for line in said(case, "engine_adopted", engine=engine) if line.t > given.t)
    return case.in_contract("lease_taken_over") and next(adopted, None) is not None


def _fails(what: str, *lines: Log) -> Finding:
    return Finding("fail", what, tuple(line.n for line in lines), invariant=True)
