"""One scenario of a stored run, read from its folder: whole, cut short, or missing."""

from pathlib import Path

import msgspec

from ftharness.history import Event, RunFinished
from ftharness.report.kept import Kept, read_kept
from ftharness.report.moments import Moments, moments
from ftharness.report.timeline import Timeline, timeline
from ftharness.scenario.record import CELL_FILE, HISTORY_FILE, ScenarioRecord

TRACE_FILE = "trace.json"
_FILES = (HISTORY_FILE, CELL_FILE, TRACE_FILE)


class LogFile(msgspec.Struct, frozen=True):
    """The raw output of one process; ``path`` is relative to the run's folder, ``size`` in bytes."""

    name: str
    path: str
    size: int


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a scenario.

    Attributes:
        record: Its entry in ``run.json``.
        folder: Where its files are.
        events: Its history, as far as it can be read, in order of time.
        problem: Why the history is not the whole story; empty when it is.
        lanes: The history in lanes.
        faults: The moments of its faults.
        logs: The raw logs.
    """

    record: ScenarioRecord
    folder: Path
    events: list[Event]
    problem: str
    lanes: Timeline
    faults: list[Moments]
    logs: list[LogFile]

    @property
    def files(self) -> list[str]:
        """Its other files, as far as they are there by now; relative to the run's folder."""
        return [_relative(self.record, name) for name in _FILES if (self.folder / name).is_file()]


def read_stored(run_folder: Path, record: ScenarioRecord) -> Stored:
    """Read a scenario of a run; what is damaged or missing is said in ``problem``, not raised."""
    folder = run_folder / record.path
    kept = read_kept(folder / HISTORY_FILE)
    events = sorted(kept.events, key=lambda event: event.t)
    lanes = timeline(events)
    return Stored(
        record=record,
        folder=folder,
        events=events,
        problem=_problem(kept),
        lanes=lanes,
        faults=moments(record.faults, events, lanes),
        logs=[
            LogFile(path.stem, _relative(record, f"logs/{path.name}"), path.stat().st_size)
            for path in sorted(folder.glob("logs/*.log"))
            if path.is_file()
        ],
    )


def _problem(kept: Kept) -> str:
    if kept.problem:
        rest = "" if kept.events else " What this page says of the run is from run.json alone."
        return f"{kept.problem[0].upper()}{kept.problem[1:]}.{rest}"
    finished = next(event for event in reversed(kept.events) if isinstance(event, RunFinished))
    if finished.outcome == "complete":
        return ""
    reason = f": {finished.reason}" if finished.reason not in ("", finished.outcome) else ""
    return f"The run did not complete ({finished.outcome}{reason})."


def _relative(record: ScenarioRecord, name: str) -> str:
    return name if record.path in (".", "") else f"{record.path}/{name}"
