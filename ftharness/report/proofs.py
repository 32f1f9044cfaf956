"""What oracles rest on, by the fault that it came after: what the close view of that fault has to show, where it can."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from ftharness.history import Event, Log
from ftharness.report.clean import one_line
from ftharness.report.moments import Moments
from ftharness.scenario.record import OracleRecord

#: An event that is so many times as far from the fault as all else in its picture would leave a sliver of that.
_TIMES = 10
_MARGIN = 1.2


class Proof(msgspec.Struct, frozen=True):
    """An event that an oracle names as its evidence.

    Attributes:
        t: When that was, in ns since the run's start.
        what: What it was, in few words: ``checkpoint committed``.
        oracle: The oracle's name.
        failed: Whether it failed.
    """

    t: int
    what: str
    oracle: str
    failed: bool


def proofs_of(
    fault: Moments, faults: Iterable[Moments], oracles: Iterable[OracleRecord], events: Iterable[Event]
) -> list[Proof]:
    """Those that are of one of the run's faults, in order of time.

    An event is of the last fault before it; of the first, where there is none. Of an oracle that passed only the evidence
    counts with which it names the fault itself: a picture of what followed is not to be stretched for what went well later.
    """
    found = []
    for oracle, named in _named(oracles, events):
        if oracle.verdict == "pass" and all(event.t != fault.landed for event in named):
            continue
        found += [_proof(oracle, event) for event in named if event.t != fault.landed]
    struck = sorted(one.struck for one in faults if one.struck is not None and not one.harmless)
    return sorted((one for one in found if _before(one.t, struck) == fault.struck), key=lambda one: (one.t, one.oracle))


def failures(oracles: Iterable[OracleRecord], events: Iterable[Event]) -> list[Proof]:
    """What oracles failed by, whatever fault it came after, in order of time."""
    found = [
        _proof(oracle, event)
        for oracle, named in _named(oracles, events)
        if oracle.verdict == "fail"
        for event in named
    ]
    return sorted(found, key=lambda one: (one.t, one.oracle))


def _named(oracles: Iterable[OracleRecord], events: Iterable[Event]) -> Iterator[tuple[OracleRecord, list[Event]]]:
    by_number = {event.n: event for event in events}
    return ((oracle, [by_number[n] for n in oracle.evidence if n in by_number]) for oracle in oracles)


def _proof(oracle: OracleRecord, event: Event) -> Proof:
    return Proof(event.t, _what(event), one_line(oracle.name.partition("(")[0], 40), oracle.verdict == "fail")


def _what(event: Event) -> str:
    kind = event.event if isinstance(event, Log) else event.kind
    return one_line(kind.replace("_", " ").replace(".", " "), 40)


def _before(t: int, struck: Sequence[int]) -> int | None:
    return max((one for one in struck if one <= t), default=min(struck, default=None))


def reach(zero: int, sides: tuple[int, int], most: float, proofs: Sequence[Proof]) -> tuple[int, int]:
    """How far a close view goes to either side of ``zero``, in ns, to have those proofs within that fit into it.

    Args:
        zero: When the fault struck.
        sides: How far it goes before and after it without them.
        most: How much it may show in all.
        proofs: In any order.
    """
    before, beyond = sides
    for proof in sorted(proofs, key=lambda one: abs(one.t - zero)):
        far = abs(proof.t - zero)
        if far > _TIMES * max(before, beyond):
            break
        needed = round(far * _MARGIN)
        wider = (max(before, needed), beyond) if proof.t < zero else (before, max(beyond, needed))
        if sum(wider) >= most:
            break
        before, beyond = wider
    return before, beyond
