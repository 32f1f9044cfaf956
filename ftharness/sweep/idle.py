"""Cells of a sweep in which their planted bug cannot show: they would only pass, as if nobody had planted it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ftharness.scenario.planted import can_show, idle_among, left_out
from ftharness.scenario.runner import Cell
from ftharness.sweep.file import wrong

MATRIX = ".matrix"


class Candidate(NamedTuple):
    """A cell that the file means.

    Attributes:
        name: The cell's.
        where: In the file: of the matrix, or of an ``[[include]]``.
        asked: The scenarios that are asked for there, as they stand there; some are patterns.
        cell: What would be run.
    """

    name: str
    where: str
    asked: Sequence[str]
    cell: Cell

    @property
    def scenario(self) -> str:
        """Its scenario's name."""
        return self.cell.scenario.name

    @property
    def idle(self) -> bool:
        """Whether it has a planted bug that can do nothing in it."""
        return bool(self.cell.bug) and not can_show(self.cell.bug, self.cell.scenario)


def without_idle(path: Path, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[str]]:
    """Those that are to be run; and what to say of the others, as ``ftharness run 'family/*' --bug NAME`` does.

    Raises:
        TomlError: Nothing would be left of what is asked for by its name: of a bug, or of a scenario. Says where it
            stands, and what can show.
    """
    running = {(one.where, one.scenario) for one in candidates if not one.idle}
    words = []
    for where, bug in dict.fromkeys((one.where, one.cell.bug) for one in candidates if one.cell.bug):
        group = [one for one in candidates if (one.where, one.cell.bug) == (where, bug)]
        gone = [name for name in group[0].asked if (where, name) not in running]
        try:
            idle = idle_among(bug, [one.cell.scenario for one in group], gone)
        except ValueError as error:
            raise wrong(path, f"{where}.bugs" if where == MATRIX else where, str(error)) from error
        if idle:
            words.append(left_out(bug, list(dict.fromkeys(_names(group)))))
    return [one for one in candidates if not one.idle], words


def _names(group: Sequence[Candidate]) -> Iterator[str]:
    """Of what is left out the scenarios; the cells where others of that scenario can show it, as what is set decides."""
    shows = {one.scenario for one in group if not one.idle}
    return (one.name if one.scenario in shows else one.scenario for one in group if one.idle)
