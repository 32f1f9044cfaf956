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
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from ftharness.checkpoint import CheckpointManifest, ManifestCorruptedError
from ftharness.checkpoint.commit import commit, make_folder, remove_orphans
from ftharness.checkpoint.shard import shard_folder
from ftharness.checkpoint.storage import DISK
from ftharness.report import RUN_FILE
from ftharness.report.units import amount
from ftharness.scenario import ScenarioRecord
from ftharness.session import unused_folder
from ftharness.stored_runs import holds_run, places, unproved
from ftharness.sweep.log import logged
from ftharness.sweep.matrix import Planned
from ftharness.sweep.plan import Plan, differences
from ftharness.sweep.remains import cells_of, has_report

#: A sweep is one shard: which worker ran a cell matters to nobody who resumes, with more workers, or fewer.
_SHARD = 0
_RECORD = re.compile(r"cell_(\d+)\.json")
# What the manifest answers with where there is none, or none that means anything.
_UNREADABLE = (FileNotFoundError, ManifestCorruptedError, KeyError, TypeError, ValueError)
_NAMED = 5
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


class Begun(NamedTuple):
    """A folder that is fit for a sweep, or for the rest of one.

    Attributes:
        plan: That was begun there, now or earlier.
        mended: What was found broken, and what is done about it: a sentence each.
    """

    plan: Plan
    mended: list[str]


class SweepFolder:
    """The folder, for the sweep's own process and for each of its workers.

    Args:
        root: The folder.

    Raises:
        ValueError: There is something of that name that is no folder.
    """

    def __init__(self, root: Path) -> None:
        if root.exists() and not root.is_dir():
            raise ValueError(
                f"{root}: is a file, and a sweep needs a folder: name another one, or one that is not there"
            )
        self.root = root
        self.own = root / "sweep"
        self._records = shard_folder(self.own, _SHARD)
        self._plan = self.own / "plan.json"
        self._manifest = CheckpointManifest(self.own / "manifest.json")

    def plan(self) -> Plan | None:
        """What was begun here; None where nothing was.

        Raises:
            ValueError: It is missing or cannot be read, though a sweep was begun; says what to do.
        """
        with suppress(FileNotFoundError):
            try:
                return self._read_plan()
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise ValueError(f"{self._plan} is damaged: {error}; {self._without_plan()}") from error
        if self._was_begun():
            raise ValueError(f"{self._plan} is missing; {self._without_plan()}")
        return None

    def _without_plan(self) -> str:
        return (
            f"name its file, and it is made again:  ftharness sweep FILE --out {shlex.quote(str(self.root))}  "
            "(with --force-restart to begin anew)"
        )

    def _read_plan(self) -> Plan:
        return msgspec.json.decode(self._plan.read_bytes(), type=Plan)

    def _known_plan(self) -> Plan | None:
        """The plan, as far as it can be read; the manifest knows whether it was that of a file, too."""
        try:
            return self._read_plan()
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _was_begun(self) -> bool:
        return self._plan.exists() or self._manifest.exists() or bool(self._places())

    def compare(self, plan: Plan) -> None:
        """Whether what is finished here is what this plan would have run.

        Raises:
            ValueError: It is not, or there is a run in the folder that is no sweep; says what to do.
        """
        if not self._was_begun():
            if holds_run(self.root):
                raise ValueError(
                    f"{self.root}: there is a run in this folder already: take another folder, or, to remove it and begin anew, "
                    "--force-restart, which leaves alone what is no run of several scenarios"
                )
            return
        before = self._known_plan()
        fits = self._fits(plan, before)
        if fits is None:
            raise ValueError(
                f"{self.root}: neither its sweep/plan.json nor the manifest beside it can be read, so that nobody knows of which "
                "sweep it is. Take another folder, or begin anew with --force-restart"
            )
        if not fits:
            changed = "what the manifest in it has is of another one"
            if before is not None:
                changed = "; ".join(differences(before, plan)) or changed
            raise ValueError(
                f"{self.root} is of another sweep than {plan.file}: {changed}. "
                "Take another folder, put the file back, or begin anew with --force-restart"
            )

    def _fits(self, plan: Plan, before: Plan | None) -> bool | None:
        """Whether the sweep that was begun here is that of ``plan``; None where nothing tells."""
        if self._in_manifest() is not None:
            with suppress(*_UNREADABLE):
                return self._manifest.validate_run_compatibility(plan.matrix, plan.work)[0]
        if not self._places():  # it was ended before there was a manifest
            return True
        return None if before is None else (before.matrix, before.work) == (plan.matrix, plan.work)

    def begin(self, plan: Plan) -> Begun:
        """Make it fit for a sweep, or for the rest of one; no worker may be at work in it.

        Raises:
            ValueError: As :meth:`compare`.
            CheckpointError: The disk does not take it.
        """
        self.compare(plan)
        anew = not self._was_begun()
        mended: list[str] = []
        make_folder(DISK, self._records)
        with logged(self.own):
            known = self._in_manifest()
            before = self._known_plan()
            if before is None and not anew:
                mended.append(f"{self._plan} {self._aside(self._plan)}: it is made again, from {plan.file}")
            if before is None or (known is None and not self._places()):
                commit(DISK, self._plan, lambda stream: stream.write(msgspec.json.format(msgspec.json.encode(plan))))
                before = plan
            if known is None:
                path = self._manifest.manifest_path
                if self._places() or path.exists():
                    mended.append(f"{path} {self._aside(path)}: it is made again, from the cells' records")
                for copy in ("slot0", "slot1"):  # of the one that is not there any more
                    path.with_suffix(f".{copy}").unlink(missing_ok=True)
                self._manifest.initialize(1, input_fingerprint=plan.matrix, model_config_hash=plan.work)
            remove_orphans(DISK, self._records)
            mended += self._take_back(before, known or set())
            # The records decide: a kill may have come between one and its line in the manifest.
            self._manifest.reconcile_shard(_SHARD, [(place, 1, _file(place)) for place in self.finished()])
        return Begun(before, mended)

    def _in_manifest(self) -> set[int] | None:
        """The places that the manifest has as finished; None where there is none that could be gone on with."""
        with suppress(*_UNREADABLE):
            shard = self._manifest.get_shard_status(_SHARD)
            return None if shard is None else {one["batch_idx"] for one in shard["checkpoints"]}
        return None

    def _aside(self, path: Path) -> str:
        """Keep a file that cannot be read under another name; what was wrong with it."""
        try:
            path.rename(path.with_suffix(".damaged"))
        except FileNotFoundError:
            return "is missing"
        return "is damaged"

    def _take_back(self, plan: Plan, known: set[int]) -> Iterator[str]:
        """Have run anew what was finished and can be proved no longer: which, and why, a sentence each."""
        lost = self.unproved()
        for place in lost:
            self._aside(self._records / _file(place))
        lost |= dict.fromkeys(known - self._places() - lost.keys(), "its record is missing")
        for place, why in sorted(lost.items())[:_NAMED]:
            name = plan.cells[place].name if place < len(plan.cells) else f"cell {place + 1}"
            yield f"{name} was finished, and is to be run anew: {why}"
        if len(lost) > _NAMED:
            yield f"the same of {amount(len(lost) - _NAMED, 'more cell')}"

    def unproved(self) -> dict[int, str]:
        """What is finished by its record alone, by place, and why that is no proof: of what passed the history must be whole."""
        finished = self.finished()
        found = {place: unproved(self.root, one.record) for place, one in finished.items()}
        found |= dict.fromkeys(self._places() - finished.keys(), "its record is damaged")
        return {place: why for place, why in found.items() if why}

    def forget(self) -> None:
        """Remove what a sweep left here, or a run of several scenarios, and nothing else.

        The records go first, so that a kill in between leaves nothing that would count. Of what no plan tells, that is removed
        which is a run's by its name and what is in it.

        Raises:
            ValueError: There is another run in it, as in a folder of a name of its own; nothing is removed.
            OSError: It cannot be removed.
        """
        plan, begun = self._known_plan(), self._was_begun()
        cells = cells_of(self.root)
        if plan is not None:
            cells = [self.root / Path(cell.folder).name for cell in plan.cells]
        if not (begun or cells or has_report(self.root)):
            return
        ours = {*cells, self.own}
        others = [place for place in places(self.root) if not ours & {place, *place.parents}]
        if others:
            raise ValueError(f"{others[0]}: this run is no sweep's: take another folder, or move it away")
        shutil.rmtree(self._records, ignore_errors=True)
        for cell in cells:
            shutil.rmtree(cell, ignore_errors=True)
        for name in _REPORT:
            (self.root / name).unlink(missing_ok=True)
        if begun:
            shutil.rmtree(self.own)

    def finished(self) -> dict[int, FinishedCell]:
        """What is finished, by place, in the matrix's order; a record that is damaged is none."""
        found: dict[int, FinishedCell] = {}
        for place in sorted(self._places()):
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):
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
