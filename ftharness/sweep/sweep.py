"""A sweep from its cells to its one report: what is finished is not run again, and the order is the matrix's."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ftharness.report import ReportError, RunRecord, write_report
from ftharness.session import locked
from ftharness.stored_runs import run_of
from ftharness.sweep.executor import Executor, Ran, SweepTold
from ftharness.sweep.file import SweepFile, read_sweep
from ftharness.sweep.folder import SweepFolder
from ftharness.sweep.matrix import Planned, planned
from ftharness.sweep.plan import plan_of


class Sweep(NamedTuple):
    """A sweep's file, and the cells that it means.

    Attributes:
        path: The file.
        file: What it says.
        cells: All of them.
        left_out: For a person: those of the matrix in which their planted bug cannot show; they are none of the cells.
    """

    path: Path
    file: SweepFile
    cells: list[Planned]
    left_out: list[str]


class Swept(NamedTuple):
    """What came of it.

    Attributes:
        record: Over everything that is finished in the folder, in the matrix's order.
        interrupted: Whether it was told to end.
        trouble: Why the report could not be written, or cells were not run; "" where nothing was.
        refused: What each cell that could not be begun failed with.
    """

    record: RunRecord
    interrupted: bool
    trouble: str
    refused: Sequence[Exception]


def load(path: Path) -> Sweep:
    """Read a sweep's file, and find out what it means.

    Raises:
        TomlError: It is wrong; says where. And what else :func:`~ftharness.sweep.matrix.planned` raises.
    """
    file = read_sweep(path)
    cells, left_out = planned(path, file)
    return Sweep(path, file, cells, left_out)


def file_of(root: Path) -> Path:
    """The file of the sweep that was begun in a folder.

    Raises:
        LookupError: None was.
        ValueError: What was cannot be read; says what to do.
    """
    plan = SweepFolder(root).plan()
    if plan is None:
        raise LookupError(
            f"{root}: no sweep was begun here: there is no sweep/plan.json in it; begin one with  ftharness sweep FILE"
        )
    return Path(plan.file)


@contextmanager
def opened(root: Path) -> Iterator[SweepFolder]:
    """A sweep's folder to oneself, made if need be; one that nothing was put into is removed again.

    Raises:
        ValueError: A run, or a sweep, is being written into it, or it is a file.
        OSError: It cannot be made.
    """
    folder, made = SweepFolder(root), not root.exists()
    try:
        with locked(root):
            yield folder
    finally:
        if made:
            with suppress(OSError):  # there is something in it
                root.rmdir()


def run_sweep(
    sweep: Sweep, cells: Sequence[Planned], folder: SweepFolder, executor: Executor, told: SweepTold
) -> Swept:
    """Run those of ``cells`` that are not finished, and write the report over all that are.

    Args:
        sweep: Whose.
        cells: Those that are wanted now.
        folder: Opened.
        executor: Runs them.
        told: Hears what happens.

    Raises:
        ValueError: The folder is of another sweep; says what changed.
        CheckpointError: A finished cell could not be kept.
        OSError: The same.
        Exception: No cell could be begun: why the first could not.
    """
    plan = plan_of(sweep.path, sweep.cells, datetime.now(UTC).isoformat(timespec="seconds"))
    folder.compare(plan)  # nothing is put into a folder of another one, not even a lock
    folder.wait_for_workers(told.waits)
    plan, mended = folder.begin(plan)
    earlier = folder.finished()
    told.goes_on([earlier[cell.place] for cell in cells if cell.place in earlier], mended)
    todo = [cell for cell in cells if cell.place not in earlier]
    ran = executor.run(todo, folder, told) if todo else Ran()
    finished = folder.finished()
    if ran.refused and not finished and not ran.interrupted:
        raise ran.refused[0]
    if len(finished) == len(sweep.cells):
        folder.complete()
    record = run_of([one.record for one in finished.values()], sweep.cells[0].cell.scenario.seed, plan.started_at)
    trouble = list(ran.troubles)
    try:
        write_report(folder.root, record)
    except ReportError as error:
        trouble.append(str(error))
    return Swept(record, ran.interrupted, "; ".join(trouble), ran.refused)
