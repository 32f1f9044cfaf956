"""One scenario of a stored run, read from its folder: whole, cut short, or missing."""

from pathlib import Path

import msgspec

from ftharness.history import AnyEvent, Event, HistoryError, RunFinished, read_history
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
    events, problem = read_events(folder / HISTORY_FILE)
    events.sort(key=lambda event: event.t)
    lanes = timeline(events)
    return Stored(
        record=record,
        folder=folder,
        events=events,
        problem=problem,
        lanes=lanes,
        faults=moments(record.faults, events, lanes),
        logs=[
            LogFile(path.stem, _relative(record, f"logs/{path.name}"), path.stat().st_size)
            for path in sorted(folder.glob("logs/*.log"))
            if path.is_file()
        ],
    )


def read_events(path: Path) -> tuple[list[Event], str]:
    """The events of a history as far as they can be read, and what is wrong with it, or an empty text."""
    try:
        events = read_history(path)
    except HistoryError as error:
        return _up_to_the_damage(path), f"The history is damaged: {error}. What stands before that line is shown."
    except FileNotFoundError:
        return [], f"There is no history: {path} is missing. What this page says is from run.json alone."
    except OSError as error:
        return [], f"The history cannot be read: {path}: {error.strerror}."
    if not events:
        return [], f"The history is empty: {path}. The harness ended before it wrote anything."
    finished = next((event for event in reversed(events) if isinstance(event, RunFinished)), None)
    if finished is None:
        return events, (
            "The history is cut short: it ends without saying that the run did, as when the harness is killed. "
            "What is shown is what was written until then."
        )
    if finished.outcome != "complete":
        reason = f": {finished.reason}" if finished.reason not in ("", finished.outcome) else ""
        return events, f"The run did not complete ({finished.outcome}{reason})."
    return events, ""


def _up_to_the_damage(path: Path) -> list[Event]:
    decoder = msgspec.json.Decoder(AnyEvent)
    events: list[Event] = []
    with path.open("rb") as file:
        for line in file:
            try:
                events.append(decoder.decode(line))
            except msgspec.MsgspecError:
                break
    return events


def _relative(record: ScenarioRecord, name: str) -> str:
    return name if record.path in (".", "") else f"{record.path}/{name}"
