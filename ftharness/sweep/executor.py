"""Who runs a sweep's cells: the seam between what is to be run and where."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ftharness.sweep.folder import FinishedCell, SweepFolder
from ftharness.sweep.matrix import Planned


class SweepTold(Protocol):
    """What a sweep tells while it runs, in the thread that runs it."""

    def waits(self) -> None:
        """Workers of an earlier call are still at work in the folder."""

    def goes_on(self, done: Sequence[FinishedCell], mended: Sequence[str]) -> None:
        """So many of the cells were finished before; and what was broken in the folder, and what is done about it."""

    def begins(self, cell: Planned) -> None:
        """A cell begins."""

    def ended(self, cell: Planned, finished: FinishedCell) -> None:
        """A cell is finished, and that is kept: it was judged, or given up."""

    def refused(self, cell: Planned, error: Exception) -> None:
        """A cell could not be begun; the others are run."""

    def lost(self, cell: Planned | None, why: str, next_step: str) -> None:
        """A worker ended before its cells did, at this one or between two; and what is done about it."""

    def interrupted(self, came_before: int) -> None:
        """A signal asks for the end, for which so many asked before."""


class Ran(NamedTuple):
    """How far it came; what is finished is in the folder.

    Attributes:
        interrupted: Whether it was told to end.
        refused: What each cell that could not be begun failed with.
        troubles: What the harness itself failed with, or why cells were not run: workers that could not be had, say.
    """

    interrupted: bool = False
    refused: Sequence[Exception] = ()
    troubles: Sequence[str] = ()


class Executor(Protocol):
    """Runs cells, each with ``Session.run_one`` or as that does, and has each finished one in the folder before the next.

    There is one, :class:`~ftharness.sweep.local.LocalExecutor`. One for a cluster needs its folder on a disk that all of its
    machines share, with locks that hold among them, and a way to tell the end of a machine from one that is slow.
    """

    def run(self, cells: Sequence[Planned], folder: SweepFolder, told: SweepTold) -> Ran:
        """Run them; whatever befalls one costs no other.

        Args:
            cells: Those that are not finished.
            folder: The sweep's.
            told: Hears what happens.

        Raises:
            CheckpointError: A finished cell could not be kept.
            OSError: The same.
        """
        ...
