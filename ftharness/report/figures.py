"""The numbers of a scenario that stand out: how soon it was over, and what became of the tokens."""

from collections.abc import Iterator, Sequence

import msgspec

from ftharness.report.moments import Moments
from ftharness.report.recovered import next_token_ms
from ftharness.report.stored import Stored
from ftharness.report.told_so import told_so
from ftharness.report.units import NS_PER_MS, milliseconds


class Figure(msgspec.Struct, frozen=True):
    """One number that stands out; ``mood`` is ``good``, ``bad`` or empty."""

    value: str
    name: str
    mood: str = ""


def figures(faults: Sequence[Moments]) -> list[Figure]:
    """How the fault was recovered from; of several the slowest, since that is what a user may meet."""
    # Of a takeover its own steps are told: that another engine got a request then says nothing more.
    taken = [one.takeover for one in faults if one.takeover]
    landed = [one.fault.recovery for one in faults if one.landed is not None]
    others = [] if taken else landed
    # Of clients that went away the record has no such figure, but the picture has the moment.
    seen = [(one.detected - one.struck) / NS_PER_MS for one in faults if one.left and one.detected and one.struck]
    named = (
        ("until noticed", [*(one.detect_ms for one in landed), *seen]),
        ("until the lock", [one.ms(one.lock) for one in taken]),
        ("until awake", [one.ms(one.awake) for one in taken]),
        ("until it serves", [one.ms(one.ready) for one in taken]),
        ("until its first token", [one.ms(one.first_token) for one in taken]),
        ("until rerouted", [one.reroute_ms for one in others]),
        ("until the next token", [next_token_ms(one) for one in others]),
        ("longest gap", [one.max_gap_ms for one in landed]),
        ("until given up", [one.given_up_ms for one in landed]),
    )
    known = ((name, [value for value in values if value is not None]) for name, values in named)
    return [Figure(milliseconds(max(values)), name) for name, values in known if values]


def pool_figures(stored: Stored) -> Iterator[Figure]:
    """Of engines of pools that faults hit, and of managers that ended: of several the slowest, as above."""
    hit = [one for one in stored.faults if one.slot and one.struck is not None]
    named = (
        ("until the manager noticed", [(one.noticed, one.struck) for one in hit]),
        ("until ready again", [(one.restored, one.struck) for one in hit]),
        ("without a manager", [(gap.end, gap.start) for pool in stored.lanes.pools for gap in pool.unmanaged]),
    )
    for name, times in named:
        known = [(end - start) / NS_PER_MS for end, start in times if end is not None and start is not None]
        if known:
            yield Figure(milliseconds(max(known)), name)


def _failed(stored: Stored) -> int:
    """How many requests failed and were told so, where nothing more is asked of them."""
    if not told_so(stored.record):
        return 0
    return sum(not lane.control and bool(lane.status) and not lane.ok for lane in stored.lanes.requests)


def token_figures(stored: Stored) -> Iterator[Figure]:
    """Of a scenario that passed nothing is bad: that a request loses its tokens may be what was expected."""
    count, failed = stored.record.tokens, _failed(stored)
    bad = "" if stored.record.verdict == "pass" else "bad"
    if not count.expected and not count.received:
        return
    whole_ = failed or count.expected is None or count.received == count.expected
    of = "" if count.expected is None or failed else f" / {count.expected:,}"
    yield Figure(f"{count.received:,}{of}", "tokens received" + (" / expected" if of else ""), "" if whole_ else bad)
    if failed:
        yield Figure(f"{failed:,}", "requests failed, and told so")
    lost = () if failed else ((count.lost, "lost"),)
    wrong = (*lost, (count.duplicated, "duplicated"), (count.altered, "altered"))
    yield from (Figure(f"{number:,}", name, bad) for number, name in wrong if number)
    for value, text in ((0, "0"), (None, "–")):
        names = [name for number, name in wrong if number == value]
        if names:
            yield Figure(text, " or ".join((", ".join(names[:-1]), names[-1])) if names[1:] else names[0])
