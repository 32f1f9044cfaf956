"""What befell pools, in words: the alternative to their lanes for whoever cannot see them, and what single lines come to."""

from collections.abc import Iterator, Sequence

from ftharness.history import Log
from ftharness.report.clean import one_line
from ftharness.report.pools import FULL, OPEN, PoolLane, SlotLane
from ftharness.report.units import NS_PER_MS, amount, milliseconds, moment

# By the first word of its name what a line is about: a lease, or what becomes of engines.
_KINDS = dict.fromkeys(("engine", "probe", "restart", "backoff", "breaker", "drain", "reload"), "pool") | {
    "lease": "lease"
}
# What is said of it beside its engine: by its capture, before which words.
_SAYS = {"pid": "pid ", "exit": "", "failures": "failure ", "outcome": "", "reference": "to ", "why": "", "status": ""}
_MOST_SLOTS, _MOST_WAITS, _MOST = 6, 12, 1_500


def pool_words(pools: Sequence[PoolLane], start: int, end: int) -> str:
    """A sentence for each slot that something befell, and for what was done to each pool; empty where nothing was.

    Args:
        pools: Of the run.
        start: Of what the picture shows, in ns since the run's start: what was refused is counted there.
        end: Of the same.
    """
    sentences: list[str] = []
    for pool in pools:
        told = [words for slot in pool.slots if (words := _slot(slot))]
        sentences += told[:_MOST_SLOTS]
        if len(told) > _MOST_SLOTS:
            sentences.append(f"{len(told) - _MOST_SLOTS} more of its engines were hurt, or started again")
        sentences += _pool(pool, [why for t, why in pool.refused if start <= t <= end])
    return one_line("".join(f"{one}. " for one in sentences), _MOST)


def line_of_pools(line: Log) -> tuple[str, str]:
    """Of a line of a manager of pools, or of who leases there: ``pool`` or ``lease``, and ``main-1, in 102 ms``; else empty."""
    says, kind = line.captures, _KINDS.get(line.event.partition("_")[0], "")
    if not kind or not says.keys() & {"pool", "holder", "lease"}:
        return "", ""
    told = says | {"outcome": says.get("outcome", "").replace("_", " ")}
    words = [says.get("engine", ""), *(f"{before}{told[name]}" for name, before in _SAYS.items() if told.get(name))]
    if says.get("delay_ms"):
        words.append(f"in {says['delay_ms']} ms")
    return kind, one_line(", ".join(word for word in words if word), 80)


def _slot(slot: SlotLane) -> str:
    """``main-1: 7 starts; waits before restarts of 91 ms, 186 ms; …``; empty where it was only started and stopped."""
    said = []
    if waits := [wait.words for wait in slot.waits]:
        more = f" and {len(waits) - _MOST_WAITS:,} more" if len(waits) > _MOST_WAITS else ""
        said.append(f"waits before restarts of {', '.join(waits[:_MOST_WAITS])}{more}")
    if slot.frozen:
        said.append(f"stopped by a fault for {', '.join(_length(one.end - one.start) for one in slot.frozen)}")
    turns = [(one.start, "opened" if one.what == OPEN else "half open") for one in slot.breaker]
    turns = sorted([*turns, *((t, "closed") for t in slot.closed)])
    if turns:
        said.append(f"its breaker {', '.join(f'{what} at {moment(t)}' for t, what in turns[:_MOST_WAITS])}")
    ends = [one_line(life.status, 40) for life in slot.lives if life.hard]
    if not said and not ends:
        return ""
    lost = [f"ended unasked {len(ends):,} times" if len(ends) > 1 else f"ended unasked: {ends[0]}"] if ends else []
    return "; ".join([f"{one_line(slot.name, 40)}: {amount(len(slot.lives), 'start')}", *lost, *said])


def _pool(pool: PoolLane, refused: Sequence[str]) -> Iterator[str]:
    name = one_line(pool.name, 40)
    for one in sorted(pool.operations, key=lambda one: one.start):
        of = f" to {one_line(one.of, 40)}" if one.of else ""
        yield f"A {one.kind} of {name}{of} at {moment(one.start)}: {one.brief}"
    for gap in pool.unmanaged:
        yield f"{name} had no manager from {moment(gap.start)} to {moment(gap.end)}"
    full = sum(why == FULL for why in refused)
    counts = ((full, "all slots were taken"), (len(refused) - full, "it was draining or not ready"))
    if told := [f"{count:,} as {why}" for count, why in counts if count]:
        yield f"Leases of {name} that were refused: {', '.join(told)}"


def _length(ns: int) -> str:
    return milliseconds(ns / NS_PER_MS)
