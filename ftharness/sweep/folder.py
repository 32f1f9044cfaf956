"""A sweep's folder: what is finished is on the disk before the next begins, what is not is kept and run anew.

::

    01-migration-drain/ …       a cell's files, as of any run
    sweep/plan.json             what was begun
    sweep/manifest.json         one shard, of which each finished cell is a batch
    sweep/shard_0/              a record for each finished cell
    sweep/interrupted/          what was half written when its worker, or the sweep, was ended

All that is the sweep's own lies deeper than runs are looked for in a folder, so that ``ftharness check`` finds the cells alone.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from ftharness.checkpoint import CheckpointManifest
from ftharness.checkpoint.commit import commit, make_folder, remove_orphans
from ftharness.checkpoint.shard import shard_folder
from ftharness.checkpoint.storage import DISK
from ftharness.report import RUN_FILE
from ftharness.scenario import ScenarioRecord
from ftharness.session import unused_folder
from ftharness.stored_runs import holds_run
from ftharness.sweep.matrix import Planned
from ftharness.sweep.plan import Plan, differences

#: A sweep is one shard: which worker ran a cell matters to nobody who resumes, with more workers, or fewer.
_SHARD = 0
_RECORD = re.compile(r"cell_(\d+)\.json")
_REPORT = (RUN_FILE, "junit.xml", "report.html")


class FinishedCell(msgspec.Struct, frozen=True):
    """A cell that need not be run again.

    Attributes:
        name: Of the cell.
        seconds: That it took, start and stop and judgement included.
        record: Its entry in the report.
    """

    name: str
    seconds: float
    record: ScenarioRecord


class SweepFolder:
    """The folder, for the sweep's own process and for each of its workers.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.own = root / "sweep"
        self._records = shard_folder(self.own, _SHARD)
        self._plan = self.own / "plan.json"
        self._manifest = CheckpointManifest(self.own / "manifest.json")

    def plan(self) -> Plan | None:
        """What was begun here; None where nothing was.

        Raises:
            ValueError: It cannot be read.
        """
        try:
            return msgspec.json.decode(self._plan.read_bytes(), type=Plan)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise ValueError(f"{self._plan} is damaged: {error}; take another folder") from error

    def compare(self, plan: Plan) -> None:
        """Whether what is finished here is what this plan would have run.

        Raises:
            ValueError: It is not, or there is a run in the folder that is no sweep; says what to do.
        """
        before = self.plan()
        if before is None:
            if holds_run(self.root):
                raise ValueError(f"{self.root}: there is a run in this folder already")
            return
        if not self._manifest.exists():  # it was ended before there was one
            return
        fits, _ = self._manifest.validate_run_compatibility(plan.matrix, plan.work)
        if not fits:
            changed = "; ".join(differences(before, plan)) or "the manifest beside its plan is of another one"
            raise ValueError(
                f"{self.root} is of another sweep than {plan.file}: {changed}. "
                "Take another folder, put the file back, or begin anew with --force-restart"
            )

    def begin(self, plan: Plan) -> Plan:
        """Make it fit for a sweep, or for the rest of one; the plan that was begun here, now or earlier.

        Raises:
            ValueError: As :meth:`compare`.
            CheckpointError: The disk does not take it.
        """
        self.compare(plan)
        before = self.plan()
        make_folder(DISK, self._records)
        if before is None or not self._manifest.exists():
            commit(DISK, self._plan, lambda stream: stream.write(msgspec.json.format(msgspec.json.encode(plan))))
            self._manifest.initialize(1, input_fingerprint=plan.matrix, model_config_hash=plan.work)
            before = plan
        remove_orphans(DISK, self._records)
        # The records decide: a kill may have come between one and its line in the manifest.
        finished = self.finished()
        for place in self._places() - finished.keys():
            path = self._records / _file(place)
            path.rename(path.with_suffix(".damaged"))
        held = [(place, 1, _file(place)) for place in finished]
        self._manifest.reconcile_shard(_SHARD, held)
        return before

    def forget(self) -> None:
        """Remove what a sweep left here; the records first, so that a kill in between leaves nothing that would count.

        Raises:
            ValueError: Its plan cannot be read: what is its own is not known.
            OSError: It cannot be removed.
        """
        plan = self.plan()
        if plan is None:
            return
        shutil.rmtree(self._records, ignore_errors=True)
        for cell in plan.cells:
            shutil.rmtree(self.root / Path(cell.folder).name, ignore_errors=True)
        for name in _REPORT:
            (self.root / name).unlink(missing_ok=True)
        shutil.rmtree(self.own)

    def finished(self) -> dict[int, FinishedCell]:
        """What is finished, by place, in the matrix's order; a record that is damaged is none."""
        found: dict[int, FinishedCell] = {}
        for place in sorted(self._places()):
            with suppress(msgspec.MsgspecError):
                found[place] = self.kept(place)
        return found

    def kept(self, place: int) -> FinishedCell:
        """One that is.

        Raises:
            OSError: It is not.
            msgspec.MsgspecError: Its record is damaged.
        """
        return msgspec.json.decode((self._records / _file(place)).read_bytes(), type=FinishedCell)

    def _places(self) -> set[int]:
        names = (path.name for path in self._records.glob("cell_*.json"))
        return {int(number[1]) for name in names if (number := _RECORD.fullmatch(name))}

    def is_finished(self, place: int) -> bool:
        """Whether that cell is."""
        return (self._records / _file(place)).exists()

    def finish(self, cell: Planned, finished: FinishedCell) -> None:
        """A cell is finished: that is on the disk when this returns.

        Raises:
            CheckpointError: The manifest cannot be written.
            OSError: The record cannot.
        """
        data = msgspec.json.format(msgspec.json.encode(finished))
        commit(DISK, self._records / _file(cell.place), lambda stream: stream.write(data))
        self._manifest.update_shard_checkpoint(_SHARD, cell.place, 1, _file(cell.place), cell.name)

    def complete(self) -> None:
        """All cells are."""
        self._manifest.mark_shard_complete(_SHARD)

    def empty(self, cell: Planned) -> Path:
        """The cell's folder, not there yet; what an attempt at it left is kept under another name."""
        folder = self.root / cell.folder
        if folder.exists():
            place = unused_folder(self.own / "interrupted" / cell.folder)
            folder.rename(place)  # onto an empty folder, which is replaced
        return folder

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """For a worker, as long as it writes: whoever resumes waits for its end."""
        with self._lock_file() as fd:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield

    def wait_for_workers(self, told: Callable[[], object]) -> None:
        """Wait until those of a sweep that was killed are gone: they still stop their stacks. ``told`` is called if there are."""
        with self._lock_file() as fd:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                told()
                fcntl.flock(fd, fcntl.LOCK_EX)

    @contextmanager
    def _lock_file(self) -> Iterator[int]:
        self.own.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.own / "workers.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            yield fd
        finally:
            os.close(fd)


def _file(place: int) -> str:
    return f"cell_{place:05d}.json"
