"""From time to pixels, and the ticks between."""

import math
from collections.abc import Iterator

import msgspec


class Scale(msgspec.Struct, frozen=True):
    """Linear: ``start``..``end`` (ns) onto ``left``..``right`` (pixels)."""

    start: int
    end: int
    left: float
    right: float

    def x(self, t: float) -> float:
        """Where ``t`` lies; outside of the range it is put at the edge."""
        return self.left + self.fraction(t) * (self.right - self.left)

    def fraction(self, t: float) -> float:
        """Which part of the range ``t`` is at, 0 to 1."""
        return min(max((t - self.start) / max(self.end - self.start, 1), 0.0), 1.0)

    def holds(self, t: float | None) -> bool:
        """Whether ``t`` lies within."""
        return t is not None and self.start <= t <= self.end

    def across(self, start: float, end: float, least: float = 1.5) -> tuple[float, float] | None:
        """Where a stretch begins and how wide it is, at least ``least`` pixels; None where nothing of it lies within."""
        if end < self.start or start > self.end:
            return None
        x = self.x(start)
        return x, max(self.x(end) - x, least)

    @property
    def ns_per_pixel(self) -> float:
        """How much time one pixel is."""
        return max(self.end - self.start, 1) / (self.right - self.left)


def ticks(start: float, end: float, about: int) -> Iterator[float]:
    """Round numbers between ``start`` and ``end``, some ``about`` of them, always with 0 when it is between."""
    raw = max(end - start, 1e-9) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    place = math.ceil(start / step - 1e-9)
    while place * step <= end + step * 1e-9:
        yield place * step
        place += 1
