"""Several scenarios at a glance: what is alike in one row, with a cell for each run and how soon each recovered."""

from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

from ftharness.report.clean import one_line
from ftharness.report.jobs_done import jobs_done
from ftharness.report.recovered import next_token_ms
from ftharness.report.run import excuse
from ftharness.report.svg import element
from ftharness.report.units import milliseconds
from ftharness.scenario.record import ScenarioRecord, Verdict, worst

_WIDE, _HIGH, _EDGE = 150.0, 18.0, 5.0
_MOST_CELLS = 400


class Cell(msgspec.Struct, frozen=True):
    """One run in a group's row; ``href`` leads to what is known of it."""

    href: str
    verdict: Verdict
    excused: bool
    title: str


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of one scenario on one stack.

    Attributes:
        name: The scenario's.
        where: Stack, engine and version.
        cells: Its runs, in order; ``more`` were left out.
        more: How many cells there was no room for.
        passed: How many of its runs passed, in words.
        next_token: Of a fault, how long until the next token, or of a client that went away until its request was given up:
            the middle and the worst of its runs.
        dots: The same as a drawing, empty for a single run.
        duration: The middle of its runs' lengths.
        verdict: The worst of its runs'.
        why: The reason of the first run with that verdict, empty for ``pass``.
    """

    name: str
    where: str
    cells: list[Cell]
    more: int
    passed: str
    next_token: str
    dots: str
    duration: str
    verdict: Verdict
    why: str


def groups(scenarios: Sequence[ScenarioRecord], hrefs: Sequence[str]) -> list[Group]:
    """The rows of the table, in order of their first run; ``hrefs`` are what each scenario's cell leads to."""
    found: dict[tuple[str, str], list[int]] = {}
    for place, one in enumerate(scenarios):
        where = " · ".join(one_line(part, 40) for part in (one.stack, one.engine, one.sut_version) if part)
        found.setdefault((one.name, where), []).append(place)
    slowest = max((ms for one in scenarios for ms in _next_token(one)), default=0.0)
    return [
        _group(name, where, [(scenarios[place], hrefs[place]) for place in places], slowest)
        for (name, where), places in found.items()
    ]


def _group(name: str, where: str, runs: Sequence[tuple[ScenarioRecord, str]], slowest: float) -> Group:
    records = [record for record, _ in runs]
    waits = [ms for record in records for ms in _next_token(record)]
    verdict = worst(record.verdict for record in records)
    passed = sum(record.verdict == "pass" for record in records)
    return Group(
        name=one_line(name, 100),
        where=where,
        cells=[_cell(record, href, place) for place, (record, href) in enumerate(runs[:_MOST_CELLS], 1)],
        more=max(0, len(runs) - _MOST_CELLS),
        passed=f"{passed} of {len(runs)}",
        next_token="; ".join(part for part in (_spread(waits), _given_up(records)) if part) or _done(records) or "–",
        dots=_dots(waits, slowest) if len(waits) > 1 else "",
        duration=milliseconds(median(record.duration_s for record in records) * 1_000),
        verdict=verdict,
        why=next((one_line(one.reason, 200) for one in records if one.verdict == verdict != "pass"), ""),
    )


def _cell(record: ScenarioRecord, href: str, place: int) -> Cell:
    first = next(iter(_next_token(record)), None)
    gone = _given_up([record])
    after = f", next token after {milliseconds(first)}" if first is not None else ""
    after += f", {gone}" if gone else ""
    why = f": {one_line(record.reason, 120)}" if record.reason else ""
    title = f"run {place}: {record.verdict}{after}{why}"
    return Cell(href, record.verdict, excuse(record) is not None, title)


def _done(records: Sequence[ScenarioRecord]) -> str:
    """What their jobs came to, where that is the same of all."""
    said = {jobs_done(record).partition(": ")[2] for record in records}
    return said.pop() if len(said) == 1 else ""


def _next_token(record: ScenarioRecord) -> list[float]:
    return [ms for one in record.faults if (ms := next_token_ms(one.recovery)) is not None]


def _given_up(records: Iterable[ScenarioRecord]) -> str:
    waits = [ms for one in records for f in one.faults if (ms := f.recovery.given_up_ms) is not None]
    return f"given up after {_spread(waits)}" if waits else ""


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return (
        milliseconds(values[0])
        if len(values) == 1
        else f"{milliseconds(median(values))}, at most {milliseconds(max(values))}"
    )


def _dots(values: Iterable[float], slowest: float) -> str:
    """Every run's wait as a dot, all rows on one scale from 0 to the slowest."""
    dots = "".join(
        element("circle", cx=_EDGE + ms / (slowest or 1.0) * (_WIDE - 2 * _EDGE), cy=_HIGH / 2, r=3.0) for ms in values
    )
    line = element("path", d=f"M{_EDGE} {_HIGH / 2}H{_WIDE - _EDGE}", class_="grid")
    words = f"each dot is one run, from 0 to {milliseconds(slowest)}"
    title = element("title", words)
    view = f"0 0 {_WIDE:g} {_HIGH:g}"
    return element("svg", title + line + dots, viewBox=view, width=_WIDE, height=_HIGH, class_="dots", role="img")
