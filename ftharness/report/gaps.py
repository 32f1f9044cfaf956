"""The picture of the gaps between tokens: what the user of a stream feels of a fault."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from statistics import median

import msgspec

from ftharness.report.chart import COLORS, WIDTH
from ftharness.report.lanes import SIZE
from ftharness.report.moments import Moments
from ftharness.report.scale import ticks
from ftharness.report.svg import element, label, number, text_width
from ftharness.report.timeline import RequestLane, Timeline
from ftharness.report.units import NS_PER_MS, milliseconds

MOST_LINES = 12
_HEIGHT = 210.0
_TOP, _BOTTOM, _RIGHT, _LEFT = 26.0, 34.0, 24.0, 76.0
_COLUMNS = 700


class Gaps(msgspec.Struct, frozen=True, kw_only=True):
    """A drawn picture of gaps; ``legend`` says what a point is, ``text`` what there is to see."""

    svg: str
    legend: str
    text: str


class _Series(msgspec.Struct, frozen=True):
    """The gaps of one request: before which token, and how long in ms."""

    lane: RequestLane
    points: list[tuple[int, float]]


def gaps(lanes: Timeline, faults: Sequence[Moments]) -> Gaps | None:
    """Draw the gaps of the requests with the fault over those of the control; None when there are no gaps."""
    # One that is given the begin of an answer has its tokens at other numbers.
    told = [lane for lane in lanes.requests if lane.check != "cut"]
    series = [one for lane in told if len((one := _series(lane)).points) > 1]
    if not series:
        return None
    aimed = {fault.request.id for fault in faults if fault.request}
    series.sort(key=lambda one: (one.lane.id in aimed, not one.lane.control, max(ms for _, ms in one.points)))
    drawn = series[-MOST_LINES:]
    if not any(one.lane.control for one in drawn):
        drawn = [one for one in series if one.lane.control][-1:] + drawn
    last = max(points[-1][0] for points in (one.points for one in drawn)) or 1
    longest = max(ms for one in drawn for _, ms in one.points)
    shortest = min((ms for one in drawn for _, ms in one.points if ms > 0), default=longest)
    low = 10.0 ** math.floor(math.log10(max(min(shortest, longest / 10), 0.1)))
    high = max(10.0 ** math.ceil(math.log10(max(longest, 0.2)) + 1e-9), low * 10)
    plot = _Plot(last, low, high)
    usual = [ms for one in drawn if one.lane.control for _, ms in one.points]
    body = [*plot.axes()]
    if usual:
        body += plot.usual(median(usual))
    per_point = max(1, math.ceil(last / _COLUMNS))
    for one in drawn:
        worker = lanes.color_of(one.lane.worker_at(one.lane.end))
        color = "control" if one.lane.control else f"w{worker % COLORS}" if worker is not None else "wx"
        body.append(plot.line(_longest_of(one.points, per_point), f"series {color}", one.lane.name))
    marks = [(_point(fault), fault) for fault in faults]
    marked = [(point, fault) for point, fault in marks if point]
    body += plot.marks([point for point, _ in marked])
    text = _words(drawn, usual, [(point[1], fault) for point, fault in marked])
    svg = element(
        "svg",
        element("title", escape(text)) + "".join(body),
        viewBox=f"0 0 {WIDTH:g} {_HEIGHT:g}",
        width=WIDTH,
        height=_HEIGHT,
        role="img",
        aria_label=text,
        class_="gaps",
    )
    each = "each point is one gap" if per_point == 1 else f"each point is the longest gap of {per_point} tokens"
    more = f"; {len(series) - len(drawn)} more requests are not drawn" if len(series) > len(drawn) else ""
    return Gaps(svg=svg, legend=f"{each}, on a logarithmic scale{more}", text=text)


def _series(lane: RequestLane) -> _Series:
    return _Series(
        lane,
        [
            (first, (b - a) / NS_PER_MS)
            for a, b, first in zip(lane.times, lane.times[1:], lane.firsts[1:], strict=False)
        ],
    )


def _longest_of(points: list[tuple[int, float]], per_point: int) -> list[tuple[int, float]]:
    """The longest gap of every ``per_point`` tokens: what a smaller picture may not lose."""
    if per_point == 1:
        return points
    best: dict[int, tuple[int, float]] = {}
    for token, ms in points:
        column = token // per_point
        if column not in best or ms > best[column][1]:
            best[column] = (token, ms)
    return list(best.values())


def _point(fault: Moments) -> tuple[int, float] | None:
    if fault.gap is None or fault.request is None:
        return None
    place = fault.request.times.index(fault.gap[1])
    return fault.request.firsts[place], (fault.gap[1] - fault.gap[0]) / NS_PER_MS


def _words(drawn: Sequence[_Series], usual: list[float], marked: list[tuple[float, Moments]]) -> str:
    parts = []
    if usual:
        parts.append(f"without a fault half of the gaps are under {milliseconds(median(usual))}")
    parts += [f"the gap at {fault.what} is {milliseconds(ms)}" for ms, fault in marked]
    if not marked:
        longest = max((ms for one in drawn if not one.lane.control for _, ms in one.points), default=None)
        if longest is not None:
            parts.append(f"the longest gap is {milliseconds(longest)}")
    text = "; ".join(parts)
    return f"Time between tokens: {text}." if text else "Time between tokens."


class _Plot(msgspec.Struct, frozen=True):
    """Token number across, time up, logarithmic."""

    last: int
    low: float
    high: float

    def x(self, token: float) -> float:
        return _LEFT + token / self.last * (WIDTH - _RIGHT - _LEFT)

    def y(self, ms: float) -> float:
        part = math.log10(min(max(ms, self.low), self.high) / self.low) / math.log10(self.high / self.low)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _BOTTOM - _TOP)

    def axes(self) -> Iterator[str]:
        power = round(math.log10(self.low))
        while 10.0**power <= self.high * 1.001:
            y = self.y(10.0**power)
            yield element("path", d=f"M{_LEFT} {number(y)}H{WIDTH - _RIGHT}", class_="grid")
            ms = 10.0**power
            text = f"{ms:g} ms" if ms < 1_000 else f"{ms / 1_000:g} s"  # noqa: PLR2004 - a second
            yield label(_LEFT - 10, y + 4, text, class_="axis", anchor="end")
            power += 1
        for token in ticks(0, self.last, 10):
            if token == int(token):
                yield label(self.x(token), _HEIGHT - _BOTTOM + 18, f"{token:,.0f}", class_="axis", anchor="middle")
        yield label(_LEFT, 14, "time before each token, by its number in the answer", class_="group")

    def usual(self, ms: float) -> Iterator[str]:
        yield element("path", d=f"M{_LEFT} {number(self.y(ms))}H{WIDTH - _RIGHT}", class_="usual")

    def line(self, points: Sequence[tuple[int, float]], class_: str, name: str) -> str:
        d = "M" + "L".join(f"{number(self.x(token))} {number(self.y(ms))}" for token, ms in points)
        return element("path", element("title", escape(name)), d=d, class_=class_)

    def marks(self, points: Sequence[tuple[int, float]]) -> Iterator[str]:
        taken: list[tuple[float, float, float]] = []
        for token, ms in points:
            x, y, text = self.x(token), self.y(ms), f"{milliseconds(ms)} at token {token:,}"
            yield element("circle", cx=x, cy=y, r=5.0, class_="mark")
            wide = text_width(text, SIZE) * 1.08
            side = 1 if x + 12 + wide < WIDTH else -1
            box = (x + 10, x + 10 + wide) if side > 0 else (x - 10 - wide, x - 10)
            # Two faults with nearly the same gap: the second label would cover the first.
            if not any(a < box[1] and box[0] < b and abs(other - y) < SIZE + 3 for a, b, other in taken):
                taken.append((*box, y))
                yield label(x + 10 * side, y + 4, text, class_="flag mark", anchor=None if side > 0 else "end")
