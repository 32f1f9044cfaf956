"""One call of ``ftharness run``: its cells, one after the other, into one run folder with one report."""

import asyncio
import fcntl
import os
import re
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import msgspec

from ftharness.engine.bugs import BUGS
from ftharness.faults import fault_kind
from ftharness.logs import ContractError, TomlError
from ftharness.report import ReportError, RunRecord, prepare, write_report, write_run
from ftharness.scenario import Scenario, ScenarioRecord, judge
from ftharness.scenario.expect import find_oracle
from ftharness.scenario.findings import known_findings
from ftharness.scenario.library import find
from ftharness.scenario.runner import Cell, keep_cell, run_cell
from ftharness.scenario.scenario import with_params
from ftharness.scenario.trigger import find_predicate
from ftharness.stack import NotAvailable, find_stack
from ftharness.stored_runs import holds_run, read_events, run_of
from ftharness.suggest import nearest

#: The signals that ask for the end of a run.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class Told:
    """What a session tells while it runs; this one is silent."""

    def begins(self, cell: Cell, place: int, count: int) -> None:
        """A cell begins, the ``place``-th of ``count``, from 1."""

    def phase(self, name: str) -> None:
        """The cell enters a phase."""

    def ended(self, cell: Cell, record: ScenarioRecord, folder: Path) -> None:
        """A cell was judged."""

    def refused(self, cell: Cell, error: Exception) -> None:
        """A cell of several could not be begun; the others were run. Told when they have ended."""


#: Why a cell cannot be begun: the call, a file of the user's, or the folder is wrong, or what it needs is missing.
NOT_BEGUN = (NotAvailable, TomlError, ContractError, LookupError, ValueError, OSError)


def new_folder(name: str, base: Path = Path("reports")) -> Path:
    """A folder for a run that nobody else has, made now: ``reports/20260131-120000-NAME``.

    Raises:
        OSError: It cannot be made.
    """
    return unused_folder(base / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{safe_name(name)}")


def unused_folder(place: Path) -> Path:
    """A folder that nobody else has, made now: at ``place``, or beside it with a number behind its name.

    Raises:
        OSError: It cannot be made.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    for ending in ("", *(f"-{number}" for number in range(2, 1000))):
        folder = place.with_name(f"{place.name}{ending}")
        try:
            folder.mkdir()
        except FileExistsError:  # another one was quicker
            continue
        return folder
    raise FileExistsError(f"{place}: there are a thousand folders of that name")


@contextmanager
def run_folder(out: Path | None, name: str) -> Iterator[Path]:
    """The folder that was asked for, or a new one; where nothing was put into it, one that was made here is removed again.

    Raises:
        ValueError: There is a run in it, or one is being written.
        OSError: It cannot be made.
    """
    made = out is None or not out.exists()
    folder = out or new_folder(name)
    try:
        with claimed(folder):
            yield folder
    finally:
        if made:
            with suppress(OSError):  # there is a run in it
                folder.rmdir()


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have the folder to oneself, made if need be: of two runs at once into one, the second is refused.

    Raises:
        ValueError: There is a run in it, or one is being written.
        OSError: It cannot be made.
    """
    with locked(folder):
        if holds_run(folder):
            raise ValueError(f"{folder}: there is a run in this folder already")
        yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The same, whatever is in it.

    Raises:
        ValueError: A run is being written into it.
        OSError: It cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another run is being written into this folder") from None
        yield
    finally:
        os.close(handle)


def safe_name(name: str) -> str:
    """``name`` as the name of a folder."""
    return _UNSAFE.sub("-", name).strip("-.") or "run"


class Session:
    """Runs cells, and leaves a readable run folder whatever happens.

    A first Ctrl-C (or SIGTERM, SIGHUP, SIGQUIT) ends the running cell as its own teardown does, judges what there is, and writes
    the report; a second one ends everything at once.

    Args:
        folder: Of the run.
        told: Hears what happens.

    Attributes:
        interrupted: Whether it was.
        refused: What each cell that could not be begun failed with, where others of the same call were run.
        trouble: Why the report could not be written, or what the harness itself failed with, or "".
    """

    def __init__(self, folder: Path, told: Told) -> None:
        self.folder = folder
        self.interrupted = False
        self.refused: list[Exception] = []
        self.trouble = ""
        self._told = told
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._task: asyncio.Task[ScenarioRecord] | None = None

    def run(self, cells: Sequence[Cell], *, seed: int) -> RunRecord:
        """Run ``cells`` in this thread, which must be the main one: it takes the signals that interrupt meanwhile.

        One that cannot be begun costs the others nothing; where none can be, the first one's error is raised.

        Raises:
            NotAvailable: What a stack needs is not installed.
            LookupError: A name in a scenario means nothing on its stack.
            ValueError: A topology cannot be launched on its stack.
            TomlError: A file that it names is wrong.
            OSError: The folder cannot be written.
        """
        with self.interruptible():
            return asyncio.run(self._run(cells, seed))

    def run_one(self, cell: Cell, path: str) -> ScenarioRecord:
        """Run one cell into the folder ``path`` of the run's, within :meth:`interruptible`; who reports it is the caller.

        Raises:
            Exception: As :meth:`run`.
        """
        return asyncio.run(self._one(cell, path))

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Take the signals that interrupt, in this thread, which must be the main one."""
        # A terminal that is closed is an interrupt, too; under nohup it is none.
        numbers = [n for n in INTERRUPTS if signal.getsignal(n) is not signal.SIG_IGN]
        before = [(number, signal.signal(number, self._interrupt)) for number in numbers]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.interrupted:
            # The guardian ends everything that we started.
            _say(f"ended at once; what there is of the run is judged by: ftharness report {self.folder}")
            os._exit(130)
        _say("interrupted: stopping the stack, and writing the report; once more ends all at once")
        self.interrupted = True
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def _run(self, cells: Sequence[Cell], seed: int) -> RunRecord:
        records: list[ScenarioRecord] = []
        refused: list[tuple[Cell, Exception]] = []
        preparing = asyncio.get_running_loop().run_in_executor(None, _prepare)
        for place, cell in enumerate(cells, 1):
            if self.interrupted and (records or refused):
                break
            path = "." if len(cells) == 1 else f"{place:0{len(str(len(cells)))}d}-{safe_name(cell.scenario.name)}"
            self._told.begins(cell, place, len(cells))
            try:
                record = await self._one(cell, path)
            except NOT_BEGUN as error:
                refused.append((cell, error))
                continue
            except Exception:
                if records:  # those of the others are not lost for it
                    self._keep(lambda: write_report(self.folder, self._record(records, seed)))
                raise
            records.append(record)
            self._told.ended(cell, record, self.folder)
            if len(cells) > 1 and place < len(cells):
                self._keep(lambda: write_run(self.folder, self._record(records, seed)))
        for cell, why in refused[0 if records else 1 :]:
            self._told.refused(cell, why)
        if refused and not records:
            raise refused[0][1]
        self.refused = [why for _, why in refused]
        run = self._record(records, seed)
        await preparing
        self._keep(lambda: write_report(self.folder, run))
        return run

    async def _one(self, cell: Cell, path: str) -> ScenarioRecord:
        folder = self.folder / path
        kind = find_stack(cell.stack)
        self._task = asyncio.create_task(run_cell(cell, kind, folder, path=path, say=self._told.phase))
        if self.interrupted:  # before it could begin
            keep_cell(cell, folder)
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
        return run_of(records, seed, self._started_at)

    def _keep(self, write: Callable[[], object]) -> None:
        try:
            write()
        except ReportError as error:
            self.trouble = str(error)


def _say(message: str) -> None:
    """On standard error, whatever is being written there: this comes between any two steps."""
    with suppress(OSError):
        os.write(2, f"\nftharness: {message}\n".encode())


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
        LookupError: No such scenario, engine, planted bug, kind of fault, predicate or oracle; names the nearest.
        ValueError: A parameter does not exist or does not fit, the stack has no planted bugs, or a path leads nowhere.
        TomlError: The launch profile is wrong; says where.
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
        if injection.trigger.kind == "when":
            find_predicate(injection.trigger.predicate)
    for expect in found.expect:
        find_oracle(expect.oracle)
    given = {
        key: value if isinstance(value, str) else msgspec.json.encode(value).decode() for key, value in params.items()
    }
    changed = with_params(found, given)
    for key in ("profile", "model"):
        if key in given and not kind.profiles:
            raise ValueError(f"{key}={given[key]}: the stack {stack} launches no engine that this could be said of")
    cell = Cell(
        scenario=msgspec.structs.replace(changed, seed=seed or changed.seed),
        stack=stack,
        engine=engine,
        bug=bug,
        params=given,
        sut_python=sut_python,
    )
    return checked(cell)


def untried(cell: Cell) -> str:
    """What to say of a version that its launch profile was never compared with; "" where there is nothing to say."""
    kind = find_stack(cell.stack)
    python = Path(cell.sut_python) if cell.sut_python else None
    return kind.untried(cell.scenario.topology, cell.engine or kind.engines[0], python)


def checked(cell: Cell) -> Cell:
    """The same, with paths that mean the same wherever it is run again.

    Raises:
        LookupError: It has a name that could mean something on no machine.
        ValueError: Or a path, such as of an interpreter that is none.
        TomlError: A file that it names is wrong; says where.
    """
    known_findings()  # one that is wrong is told now, and not when the run is over
    kind = find_stack(cell.stack)
    is_file = cell.stack.endswith(".toml") or "/" in cell.stack
    python = cell.sut_python and Path(cell.sut_python).absolute()
    if python and not (python.is_file() and os.access(python, os.X_OK)):
        raise ValueError(f"--sut-python {cell.sut_python}: there is no such interpreter")
    topology = kind.checked(cell.scenario.topology, cell.engine or kind.engines[0])
    return msgspec.structs.replace(
        cell,
        scenario=msgspec.structs.replace(cell.scenario, topology=topology),
        stack=str(Path(cell.stack).absolute()) if is_file else cell.stack,
        sut_python=str(python),
    )
