"""``report.html``: one page that needs nothing but itself."""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from ftharness.report.clean import one_line
from ftharness.report.groups import groups
from ftharness.report.lead import token_words
from ftharness.report.phases import HATCH
from ftharness.report.recovered import next_token_ms
from ftharness.report.run import MARKS, RunRecord, excuse
from ftharness.report.section import section, where
from ftharness.report.stored import Stored
from ftharness.report.told_so import told_so
from ftharness.report.units import amount, milliseconds
from ftharness.scenario.record import ScenarioRecord

if TYPE_CHECKING:  # 40 ms, and most commands write no page
    from jinja2 import Template

PAGE_FILE = "report.html"
_HERE = Path(__file__).parent
# What keeps a large run one page: so many scenarios are drawn, so many told in words, so many at least named.
_DRAWN_BAD, _DRAWN_EACH, _DRAWN_FIRST, _WORDS, _NAMED = 12, 8, 3, 60, 1_000


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario in one row: for those that there is no room to tell more of."""

    place: int
    anchor: str
    name: str
    where: str
    verdict: str
    mark: str
    next_token: str
    longest_gap: str
    tokens: str
    duration: str
    links: list[tuple[str, str]]


class Plan(msgspec.Struct, frozen=True):
    """Which scenarios, by their places from 0, get pictures, words, or a row of a table."""

    drawn: frozenset[int]
    words: frozenset[int]
    rows: frozenset[int]


def plan(scenarios: Sequence[ScenarioRecord]) -> Plan:
    """What did not pass comes first; then the first run of each scenario, so that there is always one to look at."""
    bad = [place for place, one in enumerate(scenarios) if one.verdict != "pass"]
    # A known finding is looked at after what nobody has seen yet.
    bad.sort(key=lambda place: (excuse(scenarios[place]) is not None, place))
    first = {(one.name, one.stack, one.engine): place for place, one in reversed(list(enumerate(scenarios)))}
    good = sorted({*sorted(first.values())[:_DRAWN_EACH], *range(min(len(scenarios), _DRAWN_FIRST))})
    drawn = frozenset([*bad[:_DRAWN_BAD], *good])
    words = frozenset([place for place in bad if place not in drawn][:_WORDS])
    rest = [place for place in range(len(scenarios)) if place not in drawn and place not in words]
    rest.sort(key=lambda place: (scenarios[place].verdict == "pass", place))
    return Plan(drawn, words, frozenset(rest[:_NAMED]))


class Page:
    """Takes the scenarios of a run one by one, so that only one history is in memory at a time.

    Args:
        record: The run.
    """

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._plan = plan(record.scenarios)
        self._sections: list[str] = []
        self._files: dict[int, list[str]] = {}

    def add(self, place: int, stored: Stored) -> None:
        """Render the scenario at ``place`` of the run, if the page has room for it."""
        self._files[place] = stored.files
        if place in self._plan.drawn or place in self._plan.words:
            shown = section(stored, _anchor(place), pictures=place in self._plan.drawn)
            alone = len(self._record.scenarios) == 1
            self._sections.append(
                _template("section.html.j2").render(s=shown, alone=alone, place=place + 1, marks=MARKS)
            )

    def render(self) -> bytes:
        """The page."""
        from markupsafe import Markup  # noqa: PLC0415 - as jinja2 itself

        record = self._record
        counts = {name: sum(one.verdict == name for one in record.scenarios) for name in MARKS}
        hrefs = [self._href(place, one) for place, one in enumerate(record.scenarios)]
        alone = record.scenarios[0] if len(record.scenarios) == 1 else None
        rows = [] if alone else groups(record.scenarios, hrefs)
        style, script = _asset("page.css"), _asset("page.js")
        page = _template("page.html.j2").render(
            heading=_heading(record),
            runs=amount(len(record.scenarios), "run"),
            verdict=record.verdict,
            mark=MARKS[record.verdict],
            started=one_line(record.started_at, 40).replace("T", " "),
            seed=record.seed,
            version=one_line(record.ftharness, 40),
            alone=alone is not None,
            counts=[(name, MARKS[name], count) for name, count in counts.items() if count],
            excused=sum(one.verdict != "pass" and excuse(one) is not None for one in record.scenarios),
            groups=rows,
            repeated=any(len(row.cells) > 1 for row in rows),
            marks=MARKS,
            hatch=Markup(HATCH),  # noqa: S704 - our own
            sections=[Markup(part) for part in self._sections],  # noqa: S704 - rendered by a template that escapes
            briefs=list(self._briefs()),
            unnamed=len(record.scenarios) - len(self._plan.drawn | self._plan.words | self._plan.rows),
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            style_hash=_hash(style),
            script_hash=_hash(script),
        )
        # A lone surrogate in a log cannot be encoded, and must not cost the page.
        return page.encode("utf-8", "replace")

    def _href(self, place: int, one: ScenarioRecord) -> str:
        known = self._plan.drawn | self._plan.words | self._plan.rows
        return f"#{_anchor(place)}" if place in known else quote(f"{one.path}/history.jsonl")

    def _briefs(self) -> Iterator[Brief]:
        for place in sorted(self._plan.rows):
            one = self._record.scenarios[place]
            first = [ms for f in one.faults if (ms := next_token_ms(f.recovery)) is not None]
            gone = [f.recovery.given_up_ms for f in one.faults if f.recovery.given_up_ms is not None]
            given = milliseconds(max(gone)) if gone else ""
            gap = [f.recovery.max_gap_ms for f in one.faults if f.recovery.max_gap_ms is not None]
            yield Brief(
                place=place + 1,
                anchor=_anchor(place),
                name=one_line(one.name, 80),
                where=where(one),
                verdict=one.verdict,
                mark=MARKS[one.verdict],
                next_token=milliseconds(max(first, default=None)) if first or not given else f"given up {given}",
                longest_gap=milliseconds(max(gap, default=None)),
                tokens=told_so(one) or token_words(one.tokens),
                duration=milliseconds(one.duration_s * 1_000),
                links=[(quote(file), Path(file).stem) for file in self._files.get(place, ())],
            )


def _anchor(place: int) -> str:
    return f"s{place + 1}"


def _heading(record: RunRecord) -> str:
    names = list(dict.fromkeys(one_line(one.name, 80) for one in record.scenarios))
    return names[0] if len(names) == 1 else f"{len(names)} scenarios" if names else "Nothing was run"


@cache
def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    """How the page's own policy names its style and its script: whatever else gets into the page does not run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - see above

    return Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def read_templates() -> None:
    """Read and compile them; they are kept."""
    for path in _HERE.glob("*.j2"):
        _template(path.name)


def _template(name: str) -> "Template":
    template: Template = _environment().get_template(name)
    return template
