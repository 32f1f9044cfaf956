"""What a run says on the terminal while it goes on, and at its end."""

import sys
import time
from pathlib import Path
from typing import Any

from ftharness.report import RunRecord, read_kept, story
from ftharness.report.story import MARKS
from ftharness.scenario import ScenarioRecord
from ftharness.scenario.record import HISTORY_FILE
from ftharness.scenario.runner import Cell
from ftharness.session import Told

_PHASES = {
    "launch": "launching the stack",
    "control": "running without the fault",
    "fault": "running with the fault",
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
        self._now = f"{f'[{place}/{count}] ' if count > 1 else ''}{cell.scenario.name}{where}"
        if sys.stdout.isatty():
            from rich.console import Console  # noqa: PLC0415 - 25 ms that a pipe does not need

            self._spinner = self._spinner or Console().status("")
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

    def told(self, record: ScenarioRecord, folder: Path) -> None:
        """One line for what passed, the story for what did not."""
        if record.verdict == "pass":
            line = f"{MARKS['pass']} {record.name}  {record.stack}"
            line += "".join(f" {part}" for part in (record.engine, record.sut_version) if part)
            sys.stdout.write(f"{line}  {record.duration_s:.1f} s{_recovered(record)}\n")
            for drift in record.drift[:3]:
                sys.stdout.write(f"    drift  {drift}\n")
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
            sys.stdout.write("UNKNOWN  no scenario was run: it was ended before the first one began\n")
        elif self._count > 1:
            counts = {name: sum(one.verdict == name for one in record.scenarios) for name in MARKS}
            said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
            missing = f" of {self._count}" if len(record.scenarios) < self._count else ""
            sys.stdout.write(f"{said}{missing}{took}\n")

    def summary(self, record: RunRecord, folder: Path, trouble: str) -> None:
        """The counts, and where the report is."""
        self.counts(record, f" in {time.monotonic() - self._began:.1f} s")
        if trouble:
            sys.stderr.write(f"ftharness: {trouble}\n")
        if (folder / "report.html").exists():
            sys.stdout.write(f"report  {folder / 'report.html'}\n")
        sys.stdout.flush()


def _recovered(record: ScenarioRecord) -> str:
    """What was broken, and how soon it went on."""
    for fault in record.faults:
        first = fault.recovery.first_token_ms
        after = f", next token {first:.1f} ms later" if first is not None else ""
        tokens = f"; {record.tokens.received} tokens"
        exact = record.tokens.lost == record.tokens.duplicated == record.tokens.altered == 0
        return f"  {fault.kind} {fault.target}{after}{tokens}{' exact' if exact else ''}"
    return ""
