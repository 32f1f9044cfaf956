"""Stored runs: found in their folders, read as far as they can be, judged again, gathered into one report."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import ftharness
from ftharness.history import Event, RunStarted
from ftharness.report import RUN_FILE, Kept, RunError, RunRecord, read_kept, read_run, write_report
from ftharness.report.units import amount
from ftharness.scenario import ScenarioRecord, judge, worst
from ftharness.scenario.by_test import with_test
from ftharness.scenario.record import CELL_FILE, HISTORY_FILE, OracleRecord
from ftharness.scenario.runner import Cell

# The records of a sweep's finished cells; a sweep stands above this, so what is read of them is said here.
_SWEPT = "sweep/shard_0/cell_*.json"


class _Swept(msgspec.Struct):
    record: ScenarioRecord


class StoredCell(msgspec.Struct, frozen=True):
    """A scenario of a stored run: what was run, its history as far as it can be read, and where it is in the run."""

    cell: Cell
    kept: Kept
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
    return read_kept(folder / HISTORY_FILE).events


def stored_cells(folder: Path) -> list[StoredCell]:
    """What a stored run ran, also one that was cut short before it could write its ``run.json``.

    Raises:
        LookupError: It is no run, or what it ran cannot be read; says which file.
    """
    found = places(folder)
    if not found:
        raise LookupError(f"{folder}: {_why_no_cells(folder)}")
    return [_stored_cell(folder, place) for place in found]


def holds_run(folder: Path) -> bool:
    """Whether there is a run in the folder, or a part of one."""
    return (folder / RUN_FILE).exists() or bool(places(folder))


def places(folder: Path) -> list[Path]:
    """The folders of a run's scenarios: itself, one for each scenario, or those of the tests of one call of pytest."""
    files = (f"{below}{name}" for below in ("", "*/", "*/*/") for name in (CELL_FILE, HISTORY_FILE))
    return sorted({file.parent for pattern in files for file in folder.glob(pattern)})


def _why_no_cells(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder"
    if _empty_run(folder):
        return "no scenario was run: it was ended before the first one began"
    return f"is not a run: no {CELL_FILE} in it, nor in a folder of it"


def _stored_cell(folder: Path, place: Path) -> StoredCell:
    file = place / CELL_FILE
    try:
        cell = msgspec.json.decode(file.read_bytes(), type=Cell)
    except FileNotFoundError:
        raise LookupError(f"{file}: is missing: what the history beside it is of cannot be known") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise LookupError(f"{file}: cannot be read: {error}") from error
    return StoredCell(cell, read_kept(place / HISTORY_FILE), str(place.relative_to(folder)))


def cells_to_replay(folder: Path) -> list[Cell]:
    """What a stored run ran, as far as the harness can run it again by itself.

    Raises:
        LookupError: It is no run, or what it ran cannot be read; says which file.
        ValueError: A part of what it ran is not stored; says how to run it again.
    """
    cells = [one.cell for one in stored_cells(folder)]
    if gone := _gone(folder):
        raise LookupError(f"{_nothing_left(folder, gone[0])}: what it ran cannot be known")
    if any(cell.redacted for cell in cells):
        raise ValueError(f"{folder}: secrets among its arguments were not stored; run it again with `ftharness run`")
    tests = [cell.by_test.node for cell in cells if cell.by_test is not None]
    if tests:
        more = f" (and {amount(len(tests) - 1, 'more test')})" if len(tests) > 1 else ""
        raise ValueError(
            f"{folder}: what the test did is not stored; run the test again: pytest {shlex.quote(tests[0])}{more}"
        )
    return cells


def judge_again(folder: Path) -> RunRecord:
    """Judge a stored run once more, from its files alone; one that was ended before its first scenario has none.

    A scenario that its report has, and of which there is nothing left, is unknown: a report is no evidence.

    Raises:
        LookupError: It is no run.
    """
    empty = _empty_run(folder)
    if empty is not None and not places(folder):
        return empty
    gone = _gone(folder)
    cells = stored_cells(folder) if places(folder) or not gone else []
    started = next(
        (event.started_at for one in cells for event in one.kept.events if isinstance(event, RunStarted)), ""
    )
    records = [*map(_judged, cells), *(_of_nothing(record, _nothing_left(folder, record)) for record in gone)]
    seed = cells[0].cell.scenario.seed if cells else 0
    return run_of(sorted(records, key=lambda record: Path(record.path)), seed, started)


def _gone(folder: Path) -> list[ScenarioRecord]:
    """What was run, by the run's report or a sweep's records, and has neither its scenario nor its history any more."""
    return [record for record in _recorded(folder) if not _anything_in(folder / record.path)]


def _anything_in(place: Path) -> bool:
    return any((place / name).exists() for name in (CELL_FILE, HISTORY_FILE))


def _nothing_left(folder: Path, record: ScenarioRecord) -> str:
    place = folder / record.path
    missing = f"{place / HISTORY_FILE} and {CELL_FILE} beside it are" if place.is_dir() else f"{place} is"
    return f"nothing of it is left to be judged: {missing} missing"


def _recorded(folder: Path) -> list[ScenarioRecord]:
    """What is said to have been run. A sweep that was killed has not told its report of what it finished last."""
    records: dict[str, ScenarioRecord] = {}
    for file in sorted(folder.glob(_SWEPT)):
        with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):  # one that is damaged says nothing
            record = msgspec.json.decode(file.read_bytes(), type=_Swept).record
            records[record.path] = record
    with suppress(RunError):
        records |= {record.path: record for record in read_run(folder).scenarios}
    return list(records.values())


def _empty_run(folder: Path) -> RunRecord | None:
    try:
        run = read_run(folder)
    except RunError:
        return None
    return None if run.scenarios else run


def _judged(one: StoredCell) -> ScenarioRecord:
    cell, kept = one.cell, one.kept
    record = judge(cell.scenario, kept.events, path=one.path)
    if cell.by_test is not None:
        record = with_test(record, cell.scenario, cell.by_test, kept.events)
    if not any(isinstance(event, RunStarted) for event in kept.events):
        record = msgspec.structs.replace(record, stack=cell.stack, engine=cell.engine, params=cell.params)
    return _of_a_part(record, kept.problem) if kept.problem else record


def _of_a_part(record: ScenarioRecord, problem: str) -> ScenarioRecord:
    """What a part of a history shows: that something failed, but never that it held to the end."""
    oracles = [_of_an_oracle(one, problem) for one in record.oracles]
    verdict = worst([*(one.verdict for one in oracles), "unknown"])
    return msgspec.structs.replace(record, verdict=verdict, reason=problem, oracles=oracles)


def _of_nothing(record: ScenarioRecord, problem: str) -> ScenarioRecord:
    """What only a report shows: what was run, and nothing of what came of it, be it a failure or an excuse."""
    oracles = [
        msgspec.structs.replace(one, verdict="unknown", reason=f"not tested: {problem}", evidence=[], known=[])
        for one in record.oracles
    ]
    return ScenarioRecord(
        name=record.name,
        stack=record.stack,
        engine=record.engine,
        sut_version=record.sut_version,
        params=record.params,
        path=record.path,
        verdict="unknown",
        reason=problem,
        oracles=oracles,
    )


def _of_an_oracle(one: OracleRecord, problem: str) -> OracleRecord:
    if one.verdict == "fail":
        return one
    return msgspec.structs.replace(one, verdict="unknown", reason=f"not tested: {problem}")


def unproved(folder: Path, record: ScenarioRecord) -> str:
    """Why what is stored of a scenario no longer proves its verdict; "" where it does. An unknown one needs no proof."""
    if record.verdict == "unknown":
        return ""
    place = folder / record.path
    if not _anything_in(place):
        return _nothing_left(folder, record)
    try:
        return _stored_cell(folder, place).kept.problem
    except LookupError as error:
        return str(error)


def damage(folder: Path, run: RunRecord) -> Iterator[str]:
    """What is wrong by now with the histories of scenarios that were judged when these were whole."""
    for record in run.scenarios:
        if record.verdict != "unknown" and (problem := read_kept(folder / record.path / HISTORY_FILE).problem):
            yield problem
