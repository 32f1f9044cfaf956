"""The lanes of a pool in a picture: what was leased of it, its drains and reloads, and below them a lane for each slot."""

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from ftharness.report.clean import middle
from ftharness.report.lanes import SIZE, heading
from ftharness.report.placing import Row
from ftharness.report.pools import FULL, OPERATIONS, Operation, PoolLane, SlotLane
from ftharness.report.scale import Scale
from ftharness.report.slot_lanes import BAR, anchor, draw_slot, length, slot_height
from ftharness.report.svg import element, label, number, text_width
from ftharness.report.units import amount, moment

MOST_SLOTS = 12
_LEASES, _OPERATION = 46.0, 24.0  # pixels: of a pool's lane, and more for each kind of operation
_TALLEST = 22.0  # of the leases that are held
_COLUMN = 2.0
_BOLD = 1.12
_COLORS = 6


def slots_shown(pools: Sequence[PoolLane]) -> list[SlotLane]:
    """Those that there is room for: first those that something befell, then in their own order."""
    slots = [slot for pool in pools for slot in pool.slots]
    kept = sorted(slots, key=lambda slot: not slot.eventful)[:MOST_SLOTS]
    return [slot for slot in slots if slot in kept]


def draw_pool(lane: PoolLane, slots: Sequence[SlotLane], scale: Scale, y: float) -> tuple[list[str], float]:
    """Its own lane, and one for each of those slots.

    Args:
        lane: The pool.
        slots: Those that there is room for, also of other pools.
        scale: Time to pixels.
        y: The top, in pixels.

    Returns:
        What is drawn, and where the next lane may begin.
    """
    kinds = [kind for kind in OPERATIONS if any(one.kind == kind for one in lane.operations)]
    drawn: list[str] = []
    for kind in kinds:
        drawn += _changes([one for one in lane.operations if one.kind == kind], scale, y)
        y += _OPERATION
    drawn += [*heading(2, y, lane.name, f"at most {amount(lane.most, 'lease')}", None), *_leases(lane, scale, y + 28)]
    y += _LEASES
    models = len({life.model for slot in lane.slots for life in slot.lives if life.model}) > 1
    for slot in (slot for slot in slots if slot.pool == lane.name):
        color = f"w{lane.slots.index(slot) % _COLORS}"
        drawn += heading(2, y, slot.name, f"engine · {amount(len(slot.lives), 'start')}", color)
        drawn += draw_slot(slot, scale, y, color, models=models)
        y += slot_height(slot)
    return drawn, y


def _changes(operations: Sequence[Operation], scale: Scale, y: float) -> Iterator[str]:
    """Drains, or reloads, as bars, and above each what it came to."""
    seen = [(one, box) for one in operations if (box := scale.across(one.start, one.end)) is not None]
    for one, (x, wide) in seen:
        title = element("title", escape(f"{one.words}, from {moment(one.start)}"))
        at = {"x": x, "y": y + 14, "width": wide, "height": BAR - 2, "rx": min(2.5, wide / 2)}
        yield element("rect", title, **at, class_=f"change {one.kind}")
    for one, text, x in _words(seen, Row(scale.left, scale.right + 14)):
        yield label(x, y + 10, text, class_="label" if one.good else "label hard")


def _words(seen: Sequence[tuple[Operation, tuple[float, float]]], whole: Row) -> list[tuple[Operation, str, float]]:
    """The longest words that leave room for those of all others; where none do, as many as there is room for.

    Those that begin where the bar does, or else end where it does; or the other way round, which may leave more room.
    """
    found: list[tuple[Operation, str, float]] = []
    for shorter in range(3):
        for order in (1, -1):
            row, placed = Row(whole.left, whole.right), []
            for one, (x, wide) in seen:
                text = (one.words, one.brief, one.came_to)[shorter]
                needed = text_width(text, SIZE) * (1 if one.good else _BOLD)
                sides = (x, x + wide - needed)[::order]
                if (at := next((at for at in sides if row.take(at - 2, at + needed + 4)), None)) is not None:
                    placed.append((one, text, at))
            found = max(found, placed, key=len)  # of two as good the first, whose words are longer
    return found


def _leases(lane: PoolLane, scale: Scale, base: float) -> Iterator[str]:
    """How many were held, above a line; those that were refused, below it; and when there was nobody to ask."""
    yield element("path", d=f"M{number(scale.left)} {number(base)}H{number(scale.right)}", class_="request")
    yield from _held(lane, scale, base)
    yield from _refused(lane, scale, base)
    row = Row(scale.left, scale.right + 14)
    for gap in lane.unmanaged:
        if (box := scale.across(gap.start, gap.end)) is None:
            continue
        x, wide = box
        text = f"no manager for {length(gap.end - gap.start)}"
        title = element("title", escape(f"{lane.name}: {text}, from {moment(gap.start)}"))
        at = {"x": x, "y": base - _TALLEST, "width": wide, "height": _TALLEST + 8, "rx": min(2.5, wide / 2)}
        yield element("rect", title, **at, class_="unmanaged")
        if text_width(text, SIZE) < wide - 4 and row.take(x, x + wide):
            yield label(x + wide / 2, base - 8, text, class_="detail", anchor="middle")
        elif room := row.beside(x + wide, text_width(text, SIZE)):
            yield label(room[0], base - 8, text, class_="detail", anchor=anchor(room[1]))


def _held(lane: PoolLane, scale: Scale, base: float) -> Iterator[str]:
    """As an area: in each column the most that were held in it, of which the most of all is as high as there is room."""
    columns: dict[int, int] = {}
    ends = [*(t for t, _ in lane.held[1:]), scale.end]
    for (start, count), end in zip(lane.held, ends, strict=True):
        if count and (box := scale.across(start, end, 0.0)) is not None:
            first, last = (int((x - scale.left) / _COLUMN) for x in (box[0], sum(box)))
            columns |= {column: max(count, columns.get(column, 0)) for column in range(first, last + 1)}
    path, rights = "", round((scale.right - scale.left) / _COLUMN)
    # Columns of one height that stand side by side are one rectangle: their place less their rank is the same.
    for (_, count), side in groupby(enumerate(sorted(columns)), key=lambda one: (one[1] - one[0], columns[one[1]])):
        own = [column for _, column in side]
        x, high = scale.left + own[0] * _COLUMN, _TALLEST * count / lane.most
        wide = (min(own[-1] + 1, rights) - own[0]) * _COLUMN
        path += f"M{number(x)} {number(base)}v-{number(high)}h{number(wide)}v{number(high)}z"
    if path:
        title = element("title", escape(f"{middle(lane.name, 60)}: at most {amount(lane.most, 'lease')} at once"))
        yield element("path", title, d=path, class_="held-leases")


def _refused(lane: PoolLane, scale: Scale, base: float) -> Iterator[str]:
    """A tick for each; those because all slots are taken are not so loud."""
    for full in (True, False):
        times = [t for t, why in lane.refused if (why == FULL) == full and scale.holds(t)]
        path = "".join(f"M{number(x)} {number(base + 2)}v7" for x in sorted({round(scale.x(t)) for t in times}))
        if path:
            why = "as all slots were taken" if full else "as the pool was draining or not ready"
            title = element("title", f"{amount(len(times), 'lease')} refused, {why}")
            yield element("path", title, d=path, class_="refused full" if full else "refused")
