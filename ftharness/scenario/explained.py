"""Known findings applied to a judgement: which failures they explain, and which of the findings did not show this time."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import msgspec

from ftharness.scenario.case import Part
from ftharness.scenario.findings import KnownFinding, Shows, known_findings
from ftharness.scenario.record import IN_PART, KNOWN, LIKE, MENDED, NOT_SEEN, Annotation, Verdict

# Whose a leak is where that is not known: a GPU's memory is nobody's; older runs did not say who had a file mapped.
_UNKNOWN = "harness"


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What one oracle said.

    Attributes:
        oracle: Its name.
        shown: As the expectation stands in a report.
        verdict: Its verdict.
        parts: Its reason; of one that lists what it found each of these, so that nothing new hides beside what is known.
        decides: Whether the verdict counts; an unknown that is drift alone does not.
    """

    oracle: str
    shown: str
    verdict: Verdict
    parts: Sequence[Part]
    decides: bool = True


class Explained(msgspec.Struct, frozen=True):
    """What known findings say of a run.

    Attributes:
        by: The names of the findings that explain why one did not pass, by its place among those that were judged.
        notes: The annotations.
    """

    by: dict[int, list[str]] = {}
    notes: list[Annotation] = []


def explained(
    scenario: str,
    stack: str,
    engine: str,
    version: str,
    judged: Sequence[Judged],
    *,
    untested: str,
    hit: Collection[str],
) -> Explained:
    """Which failures are known, and which known ones are not there.

    A failure is explained by findings of this scenario, stack, engine and version. An oracle that cannot tell is so, too, but
    only by a finding that also shows in a failure. Unless every failure is explained, and nothing else was left untested, no
    finding excuses the run. What names its process has to be of one that a fault hit, and without any fault nothing is explained,
    where the finding does not say otherwise.

    Args:
        scenario: The run's.
        stack: The same.
        engine: The same.
        version: Of the system under test.
        judged: What the oracles said.
        untested: Why the run tested nothing beside its invariants; "" when it did.
        hit: What faults landed on: processes, or clients; none: there was no fault.
    """
    about = [one for one in known_findings() if one.of(stack, engine, scenario)]
    here = [one for one in about if one.covers(version)]
    failed = {place: _apart(one, here, hit) for place, one in enumerate(judged) if one.verdict == "fail"}
    showing = [one for one in here if any(one.id in part.by for part in failed.values())]
    unable = (
        {}
        if untested
        else {place: _apart(one, showing, hit) for place, one in enumerate(judged) if one.verdict == "unknown"}
    )
    parts = failed | unable
    known = {place: part.by for place, part in parts.items() if part.by and not part.new}
    new = [one for place, one in enumerate(judged) if one.verdict != "pass" and one.decides and place not in known]
    left = [untested] if untested else [f"{one.shown}: {one.parts[0].said}" for one in new]
    also = f"the rest was not tested: {left[0]}" if left else ""
    if fresh := next((f"{judged[place].shown}: {part.new[0]}" for place, part in failed.items() if part.new), ""):
        also = f"also a new failure: {fresh}"
    notes = []
    for finding in showing:
        own = [judged[place].shown for place, part in parts.items() if finding.id in part.by]
        notes.append(_shows(finding, own, also))
    rest = [one for one in about if one not in showing]
    notes += _not_there(rest, version, judged, hit, tested=not untested and not new)
    return Explained(known, notes)


class _Apart(NamedTuple):
    """Of what an oracle said: the findings that explain some of it, and what none of them does."""

    by: list[str]
    new: list[str]


def _apart(one: Judged, findings: Sequence[KnownFinding], hit: Collection[str]) -> _Apart:
    whose = {finding.id: _shown_of(finding, one, hit) for finding in findings}
    of_each = [
        (part.said, [each.id for each in findings if _fits(each, one.oracle, part, hit, whose[each.id])])
        for part in one.parts
    ]
    return _Apart(
        list(dict.fromkeys(name for _, names in of_each for name in names)),
        [said for said, names in of_each if not names],
    )


def _shown_of(finding: KnownFinding, one: Judged, hit: Collection[str]) -> set[str]:
    """The processes that were hit by which the finding shows by itself."""
    return {part.source for part in one.parts if part.source in hit and _fits(finding, one.oracle, part, hit, ())}


def _fits(finding: KnownFinding, oracle: str, part: Part, hit: Collection[str], shown_of: Collection[str]) -> bool:
    clauses = [one for one in finding.shows if one.oracle == oracle and re.search(one.reason, part.said)]
    return any(_binds(clause, part.source, hit, shown_of) for clause in clauses)


def _binds(clause: Shows, source: str, hit: Collection[str], shown_of: Collection[str]) -> bool:
    """Whether what is of this process may be the clause's."""
    if clause.of == "any":
        return True
    if clause.of == "shown":
        return source in shown_of or (source == _UNKNOWN and bool(shown_of))
    return source in hit if source else bool(hit)


def _shows(finding: KnownFinding, own: Sequence[str], also: str) -> Annotation:
    what = f"{finding.id}: {finding.title} (seen {finding.seen} on {finding.versions})"
    if not also:
        return Annotation(kind=KNOWN, reason=f"{what}; see {finding.page}")
    return Annotation(kind=IN_PART, reason=f"{what} explains {', '.join(own)}; see {finding.page}; {also}")


def _not_there(
    findings: Sequence[KnownFinding], version: str, judged: Sequence[Judged], hit: Collection[str], *, tested: bool
) -> Iterator[Annotation]:
    """What there is to say of findings that did not show; and of versions that are new to them.

    Only a run that tested it, and in which nothing else failed, can say that one did not show: a stream that hangs has no gaps.
    """
    for one in findings:
        names = {shows.oracle for shows in one.shows}
        own = [each for each in judged if each.oracle in names]
        what, where = f"{one.id}: {one.title}", f"see {one.page}"
        like = [each.shown for each in judged if each.verdict == "fail" and _apart(each, [one], hit).by]
        if like and not one.covers(version):
            seen = f"{what} was seen on {one.versions} only, and {', '.join(like)} of {version} looks the same"
            yield Annotation(kind=LIKE, reason=f"{seen}; {where}")
        if not tested or not own or any(each.verdict != "pass" for each in own):
            continue
        if one.covers(version):
            seen = f"was not seen this time, in {version} ({one.seen})"
            if one.always:
                seen = f"did not show in {version}, where it was seen {one.seen}: if this mends it, its versions end before"
            yield Annotation(kind=NOT_SEEN, reason=f"{what} {seen}; {where}")
        elif one.is_before(version) and one.always:
            yield Annotation(kind=MENDED, reason=f"{what} is not there any more in {version}; {where}")
        elif one.is_before(version):
            often = f"of {one.versions}; it did not show in every run of theirs ({one.seen}), so repeat this one"
            yield Annotation(
                kind=NOT_SEEN, reason=f"{what} was not seen in {version}, which is later than those {often}; {where}"
            )
