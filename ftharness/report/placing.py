"""Labels that do not run into each other, nor into the lines that lead to them."""

import msgspec

GAP = 5.0  # pixels between a line and its own label
_CLEAR = 8.0  # pixels between two labels in one row


class Flag(msgspec.Struct, frozen=True):
    """A label on a vertical line at ``x`` that runs down from it; ``width`` is in pixels."""

    x: float
    width: float


class Placed(msgspec.Struct, frozen=True):
    """Where a flag's label goes: its row from the top, and whether it stands to the left of its line."""

    row: int
    leftward: bool


def place_flags(flags: list[Flag], left: float, right: float) -> list[Placed]:
    """Rows for flags, such that no label covers another label or another flag's line.

    A line runs from its own label's row down through all rows below it. In order of ``x``, every next flag takes the highest
    row that is clear. Where there is none, an older line is let run behind its label; no label ever covers another, since a
    row below all others holds none.

    Args:
        flags: In order of ``x``.
        left: Where labels may begin.
        right: Where they must end.
    """
    done: list[tuple[float, float, float, int]] = []  # line, text from, text to, row
    answer: list[Placed] = []
    for flag in flags:
        rightward = (flag.x + GAP, flag.x + GAP + flag.width)
        leftward = (flag.x - GAP - flag.width, flag.x - GAP)
        sides = [side for side in (rightward, leftward) if side[0] >= left and side[1] <= right] or [rightward]
        row, side = next(
            (row, side)
            for behind in (False, True)
            for row in range(len(flags) + 1)
            for side in sides
            if _clear(done, flag.x, side, row, behind=behind)
        )
        done.append((flag.x, *side, row))
        answer.append(Placed(row, side is leftward))
    return answer


def _clear(
    done: list[tuple[float, float, float, int]], x: float, side: tuple[float, float], row: int, *, behind: bool
) -> bool:
    for line, start, end, other in done:
        if other == row and side[0] < end + _CLEAR and start < side[1] + _CLEAR:
            return False
        if other >= row and start - 2 < x < end + 2:
            return False  # the new line would run through a label below it
        if not behind and other <= row and side[0] - 2 < line < side[1] + 2:
            return False  # an older line would run through the new label
    return True


class Row:
    """Labels in one row, the important ones first: what finds no room is left out.

    Args:
        left: Where labels may begin, in pixels.
        right: Where they must end.
    """

    def __init__(self, left: float, right: float) -> None:
        self.left, self.right = left, right
        self._taken: list[tuple[float, float]] = []

    def take(self, start: float, end: float) -> bool:
        """Whether ``start``..``end`` was free; it is taken then."""
        if start < self.left or end > self.right or any(start < b and a < end for a, b in self._taken):
            return False
        self._taken.append((start, end))
        return True

    def beside(self, x: float, width: float, distance: float = 6.0) -> tuple[float, str] | None:
        """Room for a label right of ``x``, or else left of it: where to anchor it and how. None when there is none."""
        if self.take(x + distance - 2, x + distance + width + 4):
            return x + distance, "start"
        if self.take(x - distance - width - 4, x - distance + 2):
            return x - distance, "end"
        return None
