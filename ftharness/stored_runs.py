"""Stored runs: found in their folders, read as far as they can be, judged again, gathered into one report."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import ftharness
from ftharness.history import Event, HistoryError, RunStarted, read_history
from ftharness.report import RUN_FILE, RunRecord, read_run, write_report
from ftharness.scenario import ScenarioRecord, judge, worst
from ftharness.scenario.record import CELL_FILE, HISTORY_FILE
from ftharness.scenario.runner import Cell


class StoredCell(msgspec.Struct, frozen=True):
    """A scenario of a stored run: what was run, its history as far as it can be read, and where they are."""

    cell: Cell
    events: list[Event]
    folder: Path
    path: str


def keep_records(folder: Path, records: Sequence[ScenarioRecord], *, seed: int) -> RunRecord:
    """Write the report of a run that was driven otherwise than by a session.

    Raises:
        ReportError: It cannot be written.
    """
    run = run_of(records, seed, datetime.now(UTC).isoformat(timespec="seconds"))
    write_report(folder, run)
    return run


def run_of(records: Sequence[ScenarioRecord], seed: int, started_at: str) -> RunRecord:
    """The record over several scenarios."""
    return RunRecord(
        ftharness=ftharness.__version__,
        seed=seed,
        started_at=started_at,
        verdict=worst(record.verdict for record in records),
        scenarios=list(records),
    )


def gather(folder: Path, *, seed: int) -> bool:
    """One report over all the runs in folders of ``folder``; whether there were any."""
    records = []
    for file in sorted(folder.glob(f"*/{RUN_FILE}")):
        for record in read_run(file.parent).scenarios:
            path = file.parent.name if record.path == "." else f"{file.parent.name}/{record.path}"
            records.append(msgspec.structs.replace(record, path=path))
    if records:
        keep_records(folder, records, seed=seed)
    return bool(records)


def read_events(folder: Path) -> list[Event]:
    """The history of a scenario's folder, as far as it can be read; none where there is none."""
    try:
        return list(read_history(folder / HISTORY_FILE))
    except (OSError, HistoryError):
        return []


def stored_cells(folder: Path) -> list[StoredCell]:
    """What a stored run ran, also one that was cut short before it could write its ``run.json``.

    Raises:
        LookupError: It is no run, or what it ran cannot be read; says which file.
    """
    files = sorted(folder.glob(f"*/{CELL_FILE}"))
    if (folder / CELL_FILE).is_file():
        files = [folder / CELL_FILE]
    if not files:
        what = (
            "is not a run: no scenario.json in it, nor in a folder of it"
            if folder.is_dir()
            else "there is no such folder"
        )
        raise LookupError(f"{folder}: {what}")
    cells = []
    for file in files:
        try:
            cell = msgspec.json.decode(file.read_bytes(), type=Cell)
        except (OSError, msgspec.MsgspecError) as error:
            raise LookupError(f"{file}: cannot be read: {error}") from error
        path = "." if file.parent == folder else file.parent.name
        cells.append(StoredCell(cell, read_events(file.parent), file.parent, path))
    return cells


def judge_again(folder: Path) -> RunRecord:
    """Judge a stored run once more, from its files alone.

    Raises:
        LookupError: It is no run.
    """
    cells = stored_cells(folder)
    records = [judge(one.cell.scenario, one.events, path=one.path) for one in cells]
    started = next((event.started_at for one in cells for event in one.events if isinstance(event, RunStarted)), "")
    return run_of(records, cells[0].cell.scenario.seed, started)
