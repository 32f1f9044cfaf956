"""Cells in worker processes of this machine, seen through by the coordinator."""

import signal
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ftharness.coordinator import (
    Diagnosis,
    Ending,
    ErrorClass,
    Finished,
    GPUProcessCoordinator,
    RuntimeConfig,
    Told,
    classify,
)
from ftharness.report.units import amount
from ftharness.scenario import ScenarioRecord, judge
from ftharness.session import INTERRUPTS
from ftharness.stack import NotAvailable
from ftharness.stored_runs import read_events
from ftharness.sweep.executor import Ran, SweepTold
from ftharness.sweep.folder import FinishedCell, SweepFolder
from ftharness.sweep.log import logged
from ftharness.sweep.matrix import Planned
from ftharness.sweep.worker import run_share

#: Times that a cell may take its worker down.
STRIKES = 2
_GRACE_S = 60.0  # to stop a stack; a real engine's takes its time
_AGAIN_S = 5.0  # after somebody told a worker to end, and not the sweep
_LOOK_S = 3600.0  # nothing is polled for


class LocalExecutor:
    """Runs so many cells at once, each in a worker process that runs its share of them.

    A worker that is lost, however, is started again, and goes on at the cell at which it was. A cell that takes its worker
    down twice is given up, and the others go on.

    Args:
        jobs: Workers. Each launches one stack at a time; two on few cores slow each other down.
    """

    def __init__(self, jobs: int = 1) -> None:
        self._jobs = jobs

    def run(self, cells: Sequence[Planned], folder: SweepFolder, told: SweepTold) -> Ran:
        """As :meth:`Executor.run`, in the main thread: it takes the signals that interrupt meanwhile."""
        config = RuntimeConfig(
            enable_checkpointing=False,  # of embeddings; ours are the records
            timeout_per_attempt=None,
            max_retries_poison=STRIKES,
            spot_retry_poll_interval=_AGAIN_S,
        )
        watch = _Watch(cells, folder, told)
        with (
            logged(folder.own),
            GPUProcessCoordinator(
                min(self._jobs, len(cells)),
                folder.own,
                grace_s=_GRACE_S,
                masked=False,  # a stack reserves its GPUs itself
                leave_out_poison=True,
                diagnose=diagnose,
                told=watch,
            ) as coordinator,
        ):
            coordinator.setup_signal_handlers(*(n for n in INTERRUPTS if signal.getsignal(n) is not signal.SIG_IGN))
            try:
                coordinator.spawn_workers(run_share, (folder.root, tuple(cells)))
                coordinator.monitor_workers_async(config, check_interval=_LOOK_S)
            except SystemExit:
                return watch.ran(interrupted=True)
            return watch.ran(failures=coordinator.failures.values())


def diagnose(ending: Ending) -> Diagnosis:
    """What ended a worker: at a cell, whatever it was counts against the cell; elsewhere it may pass.

    Not where somebody told it to end, and not the sweep.
    """
    found, place = classify(ending), cell_at(ending.reports)
    if found.kind is ErrorClass.SPOT or ending.ended_by:
        return found._replace(batch_idx=place)
    return Diagnosis(ErrorClass.TRANSIENT if place is None else ErrorClass.POISON, found.evidence, place)


def cell_at(reports: Sequence[dict[str, Any]]) -> int | None:
    """The place of the cell at which a worker was, by what it said; None where it was at none."""
    place: int | None = None
    for report in reports:
        if "begins" in report:
            place = report["begins"]
        elif "ends" in report or "refused" in report:
            place = None
    return place


class _Watch(Told):
    """Hears the coordinator, and tells it in a sweep's words."""

    def __init__(self, cells: Sequence[Planned], folder: SweepFolder, told: SweepTold) -> None:
        self._cells = {cell.place: cell for cell in cells}
        self._folder = folder
        self._told = told
        self._refused: dict[int, Exception] = {}
        self._troubles: list[str] = []

    def report(self, report: dict[str, Any]) -> None:
        """What a worker said."""
        match report:
            case {"begins": int(place)}:
                self._told.begins(self._cells[place])
            case {"ends": int(place)}:
                self._told.ended(self._cells[place], self._folder.kept(place))
            case {"refused": int(place), "why": str(why), "missing": bool(missing)} if place not in self._refused:
                # A worker that is started again tries it again, and says so again.
                self._refused[place] = NotAvailable(why) if missing else ValueError(why)
                self._told.refused(self._cells[place], self._refused[place])
            case {"trouble": str(what)}:
                self._troubles.append(what)

    def finished(self, finished: Finished) -> None:
        """A worker ended; a cell that is given up for it is finished so."""
        diagnosis, decision = finished.diagnosis, finished.decision
        if diagnosis is None or decision is None:
            return
        place = diagnosis.batch_idx if decision.poisoned is None else decision.poisoned
        cell = None if place is None else self._cells[place]
        if cell is None or decision.poisoned is None:
            self._told.lost(cell, diagnosis.evidence, f"again in {decision.delay_s:g} s" if decision.retry else "")
            return
        finish = FinishedCell(cell.name, 0.0, given_up(cell, self._folder, diagnosis.evidence))
        self._folder.finish(cell, finish)
        self._told.ended(cell, finish)

    def signalled(self, came_before: int) -> None:
        """The end is asked for."""
        self._told.interrupted(came_before)

    def ran(self, *, interrupted: bool = False, failures: Iterable[str] = ()) -> Ran:
        """How far it came. Why workers were given up counts where cells were not run for it."""
        left = [place for place in self._cells if place not in self._refused and not self._folder.is_finished(place)]
        if left and not interrupted:
            why = "; ".join(dict.fromkeys(failures))
            self._troubles.append(f"{amount(len(left), 'cell')} of the sweep could not be run: {why}")
        return Ran(interrupted, list(self._refused.values()), self._troubles)


def given_up(cell: Planned, folder: SweepFolder, evidence: str) -> ScenarioRecord:
    """The record of a cell that took its workers down: nothing of it was tested, as far as it came."""
    events = read_events(folder.root / cell.folder)
    seen = judge(cell.cell.scenario, events, path=cell.folder)
    return msgspec.structs.replace(
        seen,
        stack=seen.stack or cell.cell.stack,
        engine=seen.engine or cell.cell.engine,
        params=cell.cell.params,
        verdict="unknown",
        reason=f"given up: it took its worker down {STRIKES} times, the last time: {evidence}",
        annotations=[],
        oracles=[],
    )
