"""How far a sweep is, and how long the rest may take."""

import math
from collections.abc import Iterable
from statistics import median

from ftharness.report.clean import one_line
from ftharness.report.run import MARKS, excuse
from ftharness.sweep.folder import FinishedCell

_MINUTE_S, _HOUR_S = 60, 3600


class Progress:
    """Counts cells.

    Args:
        count: Of the sweep, or of what was chosen of it.
        jobs: So many run at once.
        finished: Of earlier calls: they count, and tell how long one takes.
    """

    def __init__(self, count: int, jobs: int, finished: Iterable[FinishedCell] = ()) -> None:
        self._count = count
        self._jobs = jobs
        self._done = 0
        self._seconds: list[float] = []
        for one in finished:
            self._counts(one)

    def _counts(self, one: FinishedCell) -> None:
        self._done += 1
        if one.seconds:  # one that was given up says nothing of the others
            self._seconds.append(one.seconds)

    @property
    def place(self) -> int:
        """Of the next cell, from 1."""
        return self._done + 1

    def line(self, one: FinishedCell) -> str:
        """A cell is finished: its line."""
        self._counts(one)
        wide = len(str(self._count))
        left = f"  ({words})" if (words := self.left()) else ""
        return f"[{self._done:>{wide}}/{self._count}] {_said(one)}{left}"

    def left(self) -> str:
        """About how long the rest takes, by the median; "" where there is none, or nothing to go by."""
        cells = self._count - self._done
        if cells <= 0 or not self._seconds:
            return ""
        return f"{_long(median(self._seconds) * math.ceil(cells / self._jobs))} left"


def _said(one: FinishedCell) -> str:
    note = excuse(one.record)
    words = one_line(one.record.reason, 150)
    if one.record.verdict == "pass":
        words = ""
    elif note is not None:
        words = f"{note.kind.replace('_', ' ')}: {one_line(note.reason, 120)}"
    seconds = f"  {one.record.duration_s:.1f} s" if one.record.duration_s else ""
    return f"{MARKS[one.record.verdict]} {one_line(one.name, 200)}{seconds}{f'  {words}' if words else ''}"


def _long(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``: about."""
    if seconds < 2 * _MINUTE_S:
        return f"{math.ceil(seconds)} s"
    if seconds < 2 * _HOUR_S:
        return f"{math.ceil(seconds / _MINUTE_S)} min"
    return f"{seconds / _HOUR_S:.1f} h"
