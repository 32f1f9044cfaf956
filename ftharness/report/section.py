"""One scenario as the page shows it: its figures, its pictures, its oracles, and what happened."""

from collections.abc import Iterator, Sequence
from urllib.parse import quote

import msgspec

from ftharness.logs import TomlError
from ftharness.report.chronicle import choose, chronicle
from ftharness.report.clean import one_line, plain
from ftharness.report.crowd import crowd_of
from ftharness.report.figures import Figure, figures, pool_figures, token_figures
from ftharness.report.lead import lead
from ftharness.report.moments import Moments
from ftharness.report.pictures import Picture, pictures_of
from ftharness.report.recovered import given_up, next_token_ms
from ftharness.report.run import MARKS, excuse
from ftharness.report.stored import Stored
from ftharness.report.story import known_by
from ftharness.report.units import NS_PER_MS, after, amount, milliseconds, moment, pairs
from ftharness.scenario.findings import known_findings
from ftharness.scenario.record import IN_PART, KNOWN, Annotation, OracleRecord, ScenarioRecord

_MOST_ENTRIES = 80
_MOST_LISTED = 40
_REASON = 600


class Row(msgspec.Struct, frozen=True):
    """A name and what is said of it; ``mark`` is a verdict or empty."""

    name: str
    text: str
    mark: str = ""


class Told(msgspec.Struct, frozen=True):
    """A line of what happened; ``t`` is in ns."""

    t: int
    clock: str
    distance: str
    source: str
    what: str
    line: str
    kind: str
    proves: str


class Link(msgspec.Struct, frozen=True):
    """A file of the run; ``href`` is relative to the page."""

    href: str
    name: str
    note: str = ""


class Known(msgspec.Struct, frozen=True):
    """A known finding that shows, beside the verdict; ``href`` leads to what the page tells of it, or is empty."""

    kind: str
    text: str
    href: str


class OfFinding(msgspec.Struct, frozen=True, kw_only=True):
    """What is recorded of a finding: what was seen, on which versions, and what reproduces it."""

    anchor: str
    title: str
    what: str
    where: str
    command: str


class FaultBox(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, or what broke nothing, as ``what`` says before its name; and what is known of it."""

    what: str
    name: str
    landed: bool
    rows: list[Row]


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """What the page says of one scenario, ready to be put into the template."""

    anchor: str
    name: str
    verdict: str
    mark: str
    excused: str
    where: str
    duration: str
    lead: str
    reason: str
    mood: str
    known: list[Known]
    findings: list[OfFinding]
    problem: str
    figures: list[Figure]
    pictures: list[Picture]
    oracles: list[Row]
    faults: list[FaultBox]
    before: list[Told]
    told: list[Told]
    left_out: int
    notes: list[Row]
    leaks: list[str]
    drift: list[str]
    links: list[Link]


def section(stored: Stored, anchor: str, *, pictures: bool) -> Section:
    """Gather what is shown.

    Args:
        stored: The scenario.
        anchor: Its ``id`` on the page.
        pictures: Whether there is room for pictures and for what happened; words and figures are always there.
    """
    record = stored.record
    excused = excuse(record)
    told, left_out = _told(stored) if pictures else ([], 0)
    noted = [note for note in record.annotations if note.kind in (KNOWN, IN_PART)]
    recorded = {one.anchor: one for note in noted if (one := _recorded(note, anchor))}
    since = next((phase.start for phase in stored.lanes.phases if phase.name == "fault"), 0)
    return Section(
        anchor=anchor,
        name=one_line(record.name, 120),
        verdict=record.verdict,
        mark=MARKS[record.verdict],
        excused=excused.kind.replace("_", " ") if excused else "",
        where=where(record),
        duration=milliseconds(record.duration_s * 1_000),
        lead=lead(stored),
        reason=plain(record.reason, _REASON),
        mood="known" if excused and excused.kind == KNOWN else record.verdict,
        known=[
            Known(
                one_line(note.kind, 60).replace("_", " "),
                plain(note.reason, _REASON),
                f"#{name}" if (name := _anchor_of(note, anchor)) in recorded else "",
            )
            for note in noted
        ],
        findings=list(recorded.values()),
        problem=stored.problem,
        figures=[*figures(stored.faults), *pool_figures(stored), *token_figures(stored)],
        pictures=list(pictures_of(stored)) if pictures else [],
        oracles=[
            Row(one_line(o.name, 120), f"{plain(o.reason, _REASON)}{known_by(o)}", o.verdict)
            for o in _worst_first(record)
        ],
        faults=list(_boxes(stored.faults)),
        before=[line for line in told if line.t < since],
        told=[line for line in told if line.t >= since],
        left_out=left_out,
        notes=[
            Row(one_line(note.kind, 60).replace("_", " "), plain(note.reason, _REASON))
            for note in record.annotations
            if note not in noted
        ],
        leaks=[plain(leak, _REASON) for leak in record.leaks[:_MOST_LISTED]],
        drift=[plain(line, _REASON) for line in record.drift[:_MOST_LISTED]],
        links=list(links(stored)),
    )


def _anchor_of(note: Annotation, anchor: str) -> str:
    return f"{anchor}-{note.reason.partition(':')[0]}"


def _recorded(note: Annotation, anchor: str) -> OfFinding | None:
    """What is recorded of the finding that the note names; None where this version has none of that name."""
    try:
        one = next((one for one in known_findings() if f"{anchor}-{one.id}" == _anchor_of(note, anchor)), None)
    except TomlError:  # a stored run is told all the same
        return None
    if one is None:
        return None
    return OfFinding(
        anchor=f"{anchor}-{one.id}",
        title=one.title,
        what=one.what,
        where=f"Seen {one.seen} on {', '.join(one.stacks)} {one.versions}, first on {one.since}",
        command=one.reproduction,
    )


def where(record: ScenarioRecord) -> str:
    """``sim · vllm · 0.1.0 · max tokens 300``."""
    parts = (record.stack, record.engine, record.sut_version, pairs(record.params, 120))
    return " · ".join(one_line(part, 120) for part in parts if part)


def _worst_first(record: ScenarioRecord) -> list[OracleRecord]:
    order = {"fail": 0, "unknown": 1, "pass": 2}
    return sorted(record.oracles, key=lambda one: order[one.verdict])


def _boxes(faults: Sequence[Moments]) -> Iterator[FaultBox]:
    alone, crowd = crowd_of(faults)
    if crowd:
        aims = sum(one.fault.on_target for one in crowd.faults)
        rows = [
            Row("left", f"from {moment(crowd.span[0])} to {moment(crowd.span[1])}"),
            Row("how", crowd.how),
            Row("given up", crowd.given_up),
            Row("on target", f"{aims:,} of {len(crowd.faults):,}"),
            Row("each", "in run.json, with its evidence"),
        ]
        yield FaultBox(
            what="",
            name=amount(len(crowd.faults), "client") + " left",
            landed=True,
            rows=[row for row in rows if row.text],
        )
    yield from map(_box, alone[:_MOST_LISTED])


def _box(one: Moments) -> FaultBox:
    fault = one.fault
    rows = [
        Row("target", one_line(fault.target, 160)),
        Row("trigger", one_line(fault.trigger, 160)),
        Row("asked for", "" if one.requested is None else f"at {moment(one.requested)}"),
        Row("landed", f"at {moment(one.landed)}" if one.landed is not None else one_line(fault.missed, 300) or "no"),
        Row("on target", "yes" if fault.on_target else "no"),
        *(
            Row(one_line(str(key), 60).replace("_", " "), pairs({"": value}, 300))
            for key, value in fault.evidence.items()
        ),
        Row("noticed", _after(fault.recovery.detect_ms)),
        *_taken(one),
        *_in_slot(one),
        Row(
            "rerouted",
            _after(fault.recovery.reroute_ms) + (f" to {one_line(one.rerouted_to, 60)}" if one.rerouted_to else ""),
        ),
        Row("next token", _after(next_token_ms(fault.recovery))),
        Row("longest gap", "" if fault.recovery.max_gap_ms is None else milliseconds(fault.recovery.max_gap_ms)),
        Row("given up", given_up(fault.recovery)),
        Row("let go on" if one.at_end else "healed", _healed(one)),
    ]
    what = "A look: " if one.looked else "Started: " if one.joined else "Asked: " if one.asked else "The fault: "
    return FaultBox(
        what=what, name=one_line(one.what, 80), landed=one.landed is not None, rows=[row for row in rows if row.text]
    )


def _healed(one: Moments) -> str:
    if one.healed is None:
        return ""
    return f"at {moment(one.healed)}{', by the teardown' if one.at_end else ''}"


def _taken(one: Moments) -> Iterator[Row]:
    if one.takeover is None:
        return
    yield Row("taken over", f"by {one_line(one.takeover.engine, 60)}")
    yield Row("fenced", one.takeover.fencing.removeprefix("fenced "))
    yield from (Row(name, _after(one.takeover.ms(t))) for name, t in one.takeover.steps)


def _in_slot(one: Moments) -> Iterator[Row]:
    if one.struck is not None:
        for name, t in (("noticed", one.noticed), ("ready again", one.restored)):
            yield Row(name, "" if t is None else _after((t - one.struck) / NS_PER_MS))


def _after(ms: float | None) -> str:
    return "" if ms is None else f"after {milliseconds(ms)}"


def _told(stored: Stored) -> tuple[list[Told], int]:
    proofs: dict[int, list[str]] = {}
    for oracle in stored.record.oracles:
        for n in oracle.evidence:
            proofs.setdefault(n, []).append(one_line(oracle.name, 60))
    entries = chronicle(stored.events, stored.lanes, stored.faults, proofs)
    zero = next((one.struck for one in stored.faults if one.struck is not None), None)
    shown = choose(entries, _MOST_ENTRIES, [one.at for one in stored.faults if one.at is not None])
    told = [
        Told(
            entry.t,
            moment(entry.t),
            "" if zero is None else after(entry.t - zero),
            entry.source,
            entry.what,
            entry.line,
            entry.kind,
            ", ".join(entry.proves),
        )
        for entry in shown
    ]
    return told, len(entries) - len(shown)


def links(stored: Stored) -> Iterator[Link]:
    """The scenario's own files."""
    notes = {"trace.json": "opens in Perfetto", "scenario.json": "replayable", "history.jsonl": "every event"}
    for path in stored.files:
        name = path.rpartition("/")[2]
        yield Link(quote(path), name, notes.get(name, ""))
    for log in stored.logs:
        yield Link(quote(log.path), f"{one_line(log.name, 60)}.log", _size(log.size))


def _size(size: int) -> str:
    return f"{size:,} bytes" if size < 10_000 else f"{size / 1_000:,.0f} kB"  # noqa: PLR2004 - four digits
