"""What runs in a worker's process: some of a sweep's cells, one after the other."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing import parent_process
from pathlib import Path

from ftharness.coordinator import Reports
from ftharness.sentence import sentence
from ftharness.session import NOT_BEGUN, Session, Told
from ftharness.stack import NotAvailable
from ftharness.sweep.folder import FinishedCell, SweepFolder
from ftharness.sweep.matrix import Planned

_TOLD_TO_END = 128 + signal.SIGTERM


def run_share(rank: int, world_size: int, results_queue: Reports, root: Path, cells: Sequence[Planned]) -> None:
    """Run every ``world_size``-th of the cells, from the ``rank``-th on, that is not finished.

    It reports ``begins``, ``ends`` and ``refused`` of a cell by its place, and ``trouble``. What it would say on a terminal is
    in ``sweep/worker-RANK.log``. SIGTERM ends the running cell as its own teardown does, and no other begins.
    """
    folder = SweepFolder(root)
    _leave_the_terminal(folder.own / f"worker-{rank}.log")
    left_out = results_queue.attempt.skip_batches
    with folder.at_work():
        parent = parent_process()
        if parent is not None and not parent.is_alive():  # before there was somebody to wait for
            sys.exit(_TOLD_TO_END)
        session = Session(root, Told())
        with session.interruptible():
            for cell in cells[rank::world_size]:
                if session.interrupted:
                    break
                if cell.place not in left_out and not folder.is_finished(cell.place):
                    _run(cell, folder, session, results_queue)
        if session.interrupted:
            sys.exit(_TOLD_TO_END)
    results_queue.put({"status": "complete", "skipped_batches": sorted(left_out)})


def _run(cell: Planned, folder: SweepFolder, session: Session, reports: Reports) -> None:
    began = time.monotonic()
    folder.empty(cell)
    reports.put({"status": "running", "batch_idx": cell.place, "begins": cell.place})
    try:
        record = session.run_one(cell.cell, cell.folder)
    except NOT_BEGUN as error:
        missing = isinstance(error, NotAvailable)
        reports.put({"refused": cell.place, "why": sentence(error), "missing": missing})
        return
    if session.interrupted:
        return  # it is run anew
    seconds = round(time.monotonic() - began, 3)
    folder.finish(cell, FinishedCell(cell.name, seconds, record))
    reports.put({"ends": cell.place})
    if session.trouble:
        reports.put({"trouble": session.trouble})
        session.trouble = ""


def _leave_the_terminal(log: Path) -> None:
    """A session of its own gets no Ctrl-C and no hang-up of the terminal's: the sweep's process decides, and tells."""
    os.setsid()
    log.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    for number in (1, 2):
        os.dup2(fd, number)
    os.close(fd)
