"""What a run says on the terminal while it goes on, and at its end."""

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ftharness.faults import HARMLESS
from ftharness.report import RunRecord, read_kept, story
from ftharness.report.clean import one_line, plain
from ftharness.report.crowd import FEW
from ftharness.report.jobs_done import jobs_done
from ftharness.report.recovered import went_on
from ftharness.report.run import EXCUSES, MARKS, counts_as, excuse, of_findings, planted
from ftharness.report.story import known_by
from ftharness.report.takeover import takeovers
from ftharness.report.told_so import told_so
from ftharness.report.units import amount
from ftharness.scenario import ScenarioRecord
from ftharness.scenario.case import Case
from ftharness.scenario.record import HISTORY_FILE
from ftharness.scenario.runner import Cell
from ftharness.sentence import sentence
from ftharness.session import Told

_PHASES = {
    "launch": "launching the stack",
    "control": "running without the fault",
    "repeat": "running without the fault once more",
    "fault": "running with the fault",
    "cut": "running from where the fault was",
    "teardown": "stopping, looking for leaks",
}


class Telling(Told):
    """Tells a person: a spinner on a terminal, one line a scenario, and the story of what did not pass.

    Args:
        count: How many scenarios there will be.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._now = ""
        self._began = time.monotonic()
        self._spinner: Any = None

    def begins(self, cell: Cell, place: int, count: int) -> None:
        """A spinner, where somebody looks."""
        where = f" on {cell.stack}{f' ({cell.engine})' if cell.engine else ''}"
        self._now = one_line(f"{f'[{place}/{count}] ' if count > 1 else ''}{cell.scenario.name}{where}")
        if sys.stdout.isatty():
            from rich.console import Console  # noqa: PLC0415 - 25 ms that a pipe does not need

            self._spinner = self._spinner or Console(markup=False).status("")
            self._spinner.start()
            self._spinner.update(self._now)

    def phase(self, name: str) -> None:
        """What it is doing."""
        if self._spinner is not None:
            self._spinner.update(f"{self._now}: {_PHASES.get(name, name)}")

    def ended(self, cell: Cell, record: ScenarioRecord, folder: Path) -> None:
        """Its line, or its story."""
        del cell
        self.close()
        self.told(record, folder)

    def refused(self, cell: Cell, error: Exception) -> None:
        """Why it was not run."""
        self.close()
        sys.stderr.write(f"ftharness: {plain(cell.scenario.name)} was not run: {plain(sentence(error))}\n")

    def told(self, record: ScenarioRecord, folder: Path) -> None:
        """One line for what passed, the story for what did not."""
        if record.verdict == "pass":
            bug = f"  {named}" if (named := planted(record)) else ""
            _say(
                f"{MARKS['pass']} {record.name} {_where(record)}  {record.duration_s:.1f} s{_recovered(record, folder)}{bug}"
            )
            _say_findings(record)
            for drift in record.drift[:3]:
                _say(f"    drift  {drift}")
        elif (note := excuse(record)) and note.kind == "not_applicable":
            _say(f"– {record.name}  {record.stack}  not applicable: {note.reason}")
        elif note:
            _say(f"{MARKS[record.verdict]} {record.name} {_where(record)}  {record.duration_s:.1f} s  known finding")
            _say_findings(record)
            for one in record.oracles:
                if one.verdict != "pass":
                    _say(
                        f"    {MARKS[one.verdict]} {one_line(one.name, 40)}: {one_line(one.reason, 150)}{known_by(one)}"
                    )
        else:
            events = read_kept(folder / record.path / HISTORY_FILE).events
            sys.stdout.write(story(record, events, folder) + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        """No spinner any more."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None

    def counts(self, record: RunRecord, took: str = "") -> None:
        """How many of several came to what, or that there was none; ``took`` says how long that was."""
        if not record.scenarios:
            _say("UNKNOWN  no scenario was run: it was ended before the first one began")
        elif self._count > 1:
            counts = Counter(note.kind if (note := excuse(one)) else counts_as(one) for one in record.scenarios)
            said = ", ".join(f"{counts[kind]} {kind.replace('_', ' ')}" for kind in (*MARKS, *EXCUSES) if counts[kind])
            missing = f" of {self._count}" if len(record.scenarios) < self._count else ""
            _say(f"{said}{missing}{took}")

    def summary(self, record: RunRecord, folder: Path, trouble: str) -> None:
        """The counts, and where the report is."""
        self.counts(record, f" in {time.monotonic() - self._began:.1f} s")
        if trouble:
            sys.stderr.write(f"ftharness: {plain(trouble)}\n")
        if (folder / "report.html").exists():
            sys.stdout.write(f"report  {folder / 'report.html'}\n")
        sys.stdout.flush()


def _where(record: ScenarioRecord) -> str:
    return "".join(f" {part}" for part in (record.stack, record.engine, record.sut_version) if part)


def _say_findings(record: ScenarioRecord) -> None:
    """What is known of it, or did not show."""
    for note in of_findings(record):
        _say(f"    {note.kind.replace('_', ' ')}  {note.reason}")


def _recovered(record: ScenarioRecord, folder: Path) -> str:
    """What was broken, how soon the stream went on, and what became of the tokens."""
    if not record.faults:
        return ""
    left = [one for one in record.faults if one.process == "client" and one.landed_ns is not None]
    alone = [one for one in record.faults if len(left) <= FEW or one not in left]
    alone = [one for one in alone if one.kind not in HARMLESS] or alone
    crowd = [amount(len(left), "client") + " left"] if len(left) > FEW else []
    named = [f"{one.kind} {one.target}" for one in alone[:1]] + crowd
    also = f" and {amount(len(alone) - 1, 'more fault')}" if len(alone) > 1 else ""
    # Of several clients the one that waited longest for its request to be given up.
    slowest = max(left, key=lambda one: one.recovery.given_up_ms or 0.0, default=None)
    went = dict.fromkeys(went_on(one.recovery) for one in (*alone[:1], *([slowest] if slowest else [])))
    after = "".join(f", {words}" for words in went if words)
    if taken := _taken_over(record, folder):
        after = f", {taken}"
    if said := told_so(record):
        return f"  {', '.join(named)}{also}{after}; {said}"
    if done := jobs_done(record):
        return f"  {', '.join(named)}{also}{after}; {done}"
    exact = record.tokens.lost == record.tokens.duplicated == record.tokens.altered == 0
    return f"  {', '.join(named)}{also}{after}; {record.tokens.received} tokens{' exact' if exact else ''}"


def _taken_over(record: ScenarioRecord, folder: Path) -> str:
    """Who took over, and how soon it said its first token; the history is read only where a takeover was asked for."""
    if not any(one.name.startswith("took_over_within(") for one in record.oracles):
        return ""
    found = takeovers(Case(read_kept(folder / record.path / HISTORY_FILE).events))
    return "; ".join(one.brief for one in found[:3])


def _say(line: str) -> None:
    """One line, whatever the names in it hold."""
    sys.stdout.write(f"{plain(' '.join(line.splitlines()))}\n")
