"""One call of ``ftharness run``: its cells, one after the other, into one run folder with one report."""

import asyncio
import os
import re
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import msgspec

import ftharness
from ftharness.engine.bugs import BUGS
from ftharness.faults import fault_kind
from ftharness.history import Event, HistoryError, RunStarted, read_history
from ftharness.report import RUN_FILE, ReportError, RunRecord, prepare, read_run, write_report, write_run
from ftharness.scenario import Scenario, ScenarioRecord, judge, worst
from ftharness.scenario.expect import find_oracle
from ftharness.scenario.library import find
from ftharness.scenario.runner import Cell, run_cell
from ftharness.scenario.scenario import with_params
from ftharness.stack import find_stack
from ftharness.suggest import nearest

CELL_FILE = "scenario.json"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class StoredCell(msgspec.Struct, frozen=True):
    """A scenario of a stored run: what was run, its history as far as it can be read, and where they are."""

    cell: Cell
    events: list[Event]
    folder: Path
    path: str


class Told:
    """What a session tells while it runs; this one is silent."""

    def begins(self, cell: Cell, place: int, count: int) -> None:
        """A cell begins, the ``place``-th of ``count``, from 1."""

    def phase(self, name: str) -> None:
        """The cell enters a phase."""

    def ended(self, cell: Cell, record: ScenarioRecord, folder: Path) -> None:
        """A cell was judged."""


def new_folder(name: str, base: Path = Path("reports")) -> Path:
    """A folder for a run that nobody else has, made now: ``reports/20260131-120000-NAME``.

    Raises:
        OSError: It cannot be made.
    """
    stem = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{safe_name(name)}"
    base.mkdir(parents=True, exist_ok=True)
    for ending in ("", *(f"-{number}" for number in range(2, 1000))):
        try:
            (base / f"{stem}{ending}").mkdir()
        except FileExistsError:  # another one began in the same second
            continue
        return base / f"{stem}{ending}"
    raise FileExistsError(f"{base / stem}: a thousand runs of that name began in this second")


def safe_name(name: str) -> str:
    """``name`` as the name of a folder."""
    return _UNSAFE.sub("-", name).strip("-.") or "run"


class Session:
    """Runs cells, and leaves a readable run folder whatever happens.

    A first Ctrl-C (or SIGTERM) ends the running cell as its own teardown does, judges what there is, and writes the report;
    a second one ends everything at once.

    Args:
        folder: Of the run.
        told: Hears what happens.

    Attributes:
        interrupted: Whether it was.
        trouble: Why the report could not be written, or "".
    """

    def __init__(self, folder: Path, told: Told) -> None:
        self.folder = folder
        self.interrupted = False
        self.trouble = ""
        self._told = told
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._task: asyncio.Task[ScenarioRecord] | None = None

    def run(self, cells: Sequence[Cell], *, seed: int) -> RunRecord:
        """Run ``cells`` in this thread, which must be the main one: it takes SIGINT and SIGTERM meanwhile.

        Raises:
            NotAvailable: What a stack needs is not installed.
            ValueError: A topology does not exist on its stack.
            OSError: The folder cannot be written.
        """
        before = [(number, signal.signal(number, self._interrupt)) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            return asyncio.run(self._run(cells, seed))
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.interrupted:
            os._exit(130)  # the guardian ends everything that we started
        self.interrupted = True
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def _run(self, cells: Sequence[Cell], seed: int) -> RunRecord:
        records: list[ScenarioRecord] = []
        preparing = asyncio.get_running_loop().run_in_executor(None, _prepare)
        for place, cell in enumerate(cells, 1):
            if self.interrupted:
                break
            path = "." if len(cells) == 1 else f"{place:0{len(str(len(cells)))}d}-{safe_name(cell.scenario.name)}"
            self._told.begins(cell, place, len(cells))
            record = await self._one(cell, path)
            records.append(record)
            self._told.ended(cell, record, self.folder)
            if len(cells) > 1 and place < len(cells):
                self._keep(lambda: write_run(self.folder, self._record(records, seed)))
        run = self._record(records, seed)
        await preparing
        self._keep(lambda: write_report(self.folder, run))
        return run

    async def _one(self, cell: Cell, path: str) -> ScenarioRecord:
        folder = self.folder / path
        kind = find_stack(cell.stack)
        self._task = asyncio.create_task(run_cell(cell, kind, folder, path=path, say=self._told.phase))
        if self.interrupted:  # between the signal and this line
            self._task.cancel()
        try:
            return await self._task
        except asyncio.CancelledError:
            return judge(cell.scenario, read_events(folder), path=path)
        except Exception as error:
            events = read_events(folder)
            if not events:  # nothing was started: the caller is told
                raise
            # A failure of the harness's own tests nothing, and costs none of the other runs their report.
            place = folder / "harness-error.txt"
            place.write_text(traceback.format_exc(), encoding="utf-8")
            self.trouble = f"the harness failed: {type(error).__name__}: {error}; see {place}"
            return judge(cell.scenario, events, path=path)
        finally:
            self._task = None

    def _record(self, records: list[ScenarioRecord], seed: int) -> RunRecord:
        return _run_of(records, seed, self._started_at)

    def _keep(self, write: Callable[[], object]) -> None:
        try:
            write()
        except ReportError as error:
            self.trouble = str(error)


def _prepare() -> None:
    """Import what is needed later, while the processes of the first stack start and the harness waits for them."""
    import httpx  # noqa: F401, PLC0415
    import prometheus_client.parser  # noqa: F401, PLC0415

    prepare()


def cell_of(
    scenario: str | Scenario,
    stack: str,
    *,
    engine: str = "",
    sut_python: str = "",
    seed: int = 0,
    bug: str = "",
    params: Mapping[str, Any] = MappingProxyType({}),
) -> Cell:
    """A scenario, by its name or itself, as it is to be run.

    Raises:
        LookupError: No such scenario, engine, planted bug, kind of fault or oracle; names the nearest.
        ValueError: A parameter does not exist or does not fit, or the stack has no planted bugs.
    """
    kind = find_stack(stack)
    found = find([scenario])[0] if isinstance(scenario, str) else scenario
    if engine and engine not in kind.engines:
        raise LookupError(f"the stack {stack} has no engine {engine!r}; {nearest(engine, kind.engines)}")
    if bug and bug not in BUGS:
        raise LookupError(f"no planted bug {bug!r}; {nearest(bug, BUGS)}")
    if bug and not kind.bugs:
        raise ValueError(f"the stack {stack} has no planted bugs: it is not ours")
    for injection in found.faults:
        fault_kind(injection.fault.kind)
    for expect in found.expect:
        find_oracle(expect.oracle)
    given = {
        key: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for key, value in (params or {}).items()
    }
    changed = with_params(found, given)
    return Cell(
        scenario=msgspec.structs.replace(changed, seed=seed or changed.seed),
        stack=stack,
        engine=engine,
        bug=bug,
        params=given,
        sut_python=sut_python,
    )


def keep_records(folder: Path, records: Sequence[ScenarioRecord], *, seed: int) -> RunRecord:
    """Write the report of a run that was driven otherwise than by a session.

    Raises:
        ReportError: It cannot be written.
    """
    run = _run_of(records, seed, datetime.now(UTC).isoformat(timespec="seconds"))
    write_report(folder, run)
    return run


def _run_of(records: Sequence[ScenarioRecord], seed: int, started_at: str) -> RunRecord:
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
        return list(read_history(folder / "history.jsonl"))
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
    return _run_of(records, cells[0].cell.scenario.seed, started)
