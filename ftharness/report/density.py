"""Tokens over time: each its own tick where there is room, else how many came in each column."""

from collections.abc import Iterable, Iterator

import msgspec

from ftharness.report.scale import Scale
from ftharness.report.svg import element, number
from ftharness.report.timeline import RequestLane

# Above this many chunks in one lane the ticks would touch, and the page would grow with the stream's length.
MOST_TICKS = 420
_TALLEST = 24.0
_TICK, _MORE = 12.0, 3.0  # a tick's height in pixels for one token, and for each further one of the same chunk
_CHUNKS_PER_COLUMN = 4


class Density(msgspec.Struct, frozen=True):
    """How the tokens of one picture are drawn, alike in all its lanes.

    Attributes:
        column_ns: How much time a column stands for; 0 where every chunk has its own tick.
        most: The tokens of the fullest column.
    """

    column_ns: float
    most: int

    @property
    def legend(self) -> str:
        """What a tick or a column is."""
        if not self.column_ns:
            return "each tick is one chunk as it arrived, taller where it held more tokens"
        return f"each column is the tokens of {self.column_ns / 1e6:.3g} ms, the tallest {self.most:,}"


def density(lanes: Iterable[RequestLane], scale: Scale) -> Density:
    """How to draw these lanes' tokens: ticks if every lane has room for them."""
    lanes = list(lanes)
    chunks = [sum(1 for t in lane.times if scale.holds(t)) for lane in lanes]
    if max(chunks, default=0) <= MOST_TICKS:
        return Density(0.0, 0)
    busiest = lanes[max(range(len(lanes)), key=lambda index: chunks[index])]
    inside = [t for t in busiest.times if scale.holds(t)]
    mean_gap = (inside[-1] - inside[0]) / max(len(inside) - 1, 1)
    column_ns = max(2 * scale.ns_per_pixel, _CHUNKS_PER_COLUMN * mean_gap)
    most = max(max(_columns(lane, scale, column_ns).values(), default=0) for lane in lanes)
    return Density(column_ns, most)


def draw_tokens(lane: RequestLane, scale: Scale, how: Density, base: float, colors: dict[str, str]) -> Iterator[str]:
    """The tokens of one lane, standing on ``base``, in the colour of the worker that they came from.

    Args:
        lane: The request.
        scale: Time to pixels.
        how: Ticks or columns, from :func:`density`.
        base: The y of the line that they stand on, in pixels.
        colors: CSS class by worker.
    """
    paths: dict[str, list[str]] = {}
    if how.column_ns:
        width = how.column_ns / scale.ns_per_pixel
        for column, count in _columns(lane, scale, how.column_ns).items():
            t = scale.start + column * how.column_ns
            color = colors.get(lane.worker_at(int(t + how.column_ns / 2)), "wx")
            height = max(1.5, _TALLEST * count / how.most)
            x, wide = scale.x(t), max(width - 0.5, 1.0)
            paths.setdefault(color, []).append(
                f"M{number(x)} {number(base)}v-{number(height)}h{number(wide)}v{number(height)}z"
            )
        for color, path in paths.items():
            yield element("path", d="".join(path), class_=f"column {color}")
        return
    for t, count in zip(lane.times, lane.counts, strict=True):
        if scale.holds(t):
            height = min(_TALLEST, _TICK + _MORE * (count - 1))
            color = colors.get(lane.worker_at(t), "wx")
            paths.setdefault(color, []).append(f"M{number(scale.x(t))} {number(base)}v-{number(height)}")
    for color, path in paths.items():
        yield element("path", d="".join(path), class_=f"tick {color}")


def _columns(lane: RequestLane, scale: Scale, column_ns: float) -> dict[int, int]:
    counts: dict[int, int] = {}
    for t, count in zip(lane.times, lane.counts, strict=True):
        if scale.holds(t):
            column = int((t - scale.start) / column_ns)
            counts[column] = counts.get(column, 0) + count
    return counts
