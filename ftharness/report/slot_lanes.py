"""One slot of a pool in a picture: its engines' lives, how each ended, the waits between them, and its breaker."""

from collections.abc import Iterator
from html import escape

from ftharness.report.clean import middle, one_line
from ftharness.report.lanes import SIZE
from ftharness.report.placing import Row
from ftharness.report.pools import READY, STARTING, UNREADY, UNWATCHED, Life, SlotLane, Stretch, Wait
from ftharness.report.scale import Scale
from ftharness.report.svg import element, label, number, text_width
from ftharness.report.units import NS_PER_MS, milliseconds, moment

BAR, STRIP = 9.0, 5.0  # pixels: of a life's bar, and of a breaker's
#: What an engine is while it lives, as the key says it.
LOOKS = {
    STARTING: "starts",
    READY: "ready",
    UNREADY: "runs, and is not ready",
    UNWATCHED: "without a manager",
}
_HEIGHT, _BREAKER = 38.0, 28.0
_BOLD = 1.12  # bold letters are wider
_MANY, _APART = 100, 3.0  # lives of one slot; pixels
_AT_THE_END = "the manager ends"


def slot_height(lane: SlotLane) -> float:
    """How much room a slot's lane takes, in pixels: more where its breaker opened."""
    return _HEIGHT + (_BREAKER if lane.breaker else 0)


def draw_slot(lane: SlotLane, scale: Scale, y: float, color: str, *, models: bool) -> Iterator[str]:
    """Its lives as bars, crosses where they ended, waits measured as lengths in a drawing are.

    Args:
        lane: The slot.
        scale: Time to pixels.
        y: The lane's top, in pixels.
        color: CSS class of the slot.
        models: Whether the pool had several, so that it is said which engine served which.
    """
    top = y + 20.0
    labels, marks = _Labels(scale, top + BAR - 0.5, y + 12), _Marks(scale, many=len(lane.lives) > _MANY)
    for life in lane.lives:
        yield from _life(life, lane, marks, top, color)
        if (box := scale.across(life.start, life.end)) is not None:
            labels.level.take(box[0], box[0] + box[1])
    for frozen in lane.frozen:
        half = (top + BAR / 2, BAR / 2)  # what its manager takes it for stays to be seen above
        yield from stretch(frozen, scale, half, "frozen", f"{lane.name} is stopped")
        yield from stretch(frozen, scale, half, "hatched", f"{lane.name} is stopped")
    for wait in (wait for wait in lane.waits if marks.room("wait", wait.start, wait.end)):
        yield from _wait(wait, lane, scale, top, labels)
    # The more important first: a label for which there is no room is left out, and its title stays.
    ended = [life for life in lane.lives if marks.room(f"end {life.hard}", life.end, life.end)]
    for life in (life for life in ended if life.hard):
        yield from _end(life, lane, scale, top, labels)
    for life in lane.lives if models else ():
        if life.model and (box := scale.across(life.start, life.end)) is not None:
            yield from labels.within(*box, middle(life.model, 24))
    for life in (life for life in ended if not life.hard):
        yield from _end(life, lane, scale, top, labels)
    yield from _breaker(lane, scale, y + _HEIGHT - 4)


class _Labels:
    """The words of a lane, above its bar and beside it, such that none lies on another."""

    def __init__(self, scale: Scale, level_y: float, above_y: float) -> None:
        self.level, self.above = Row(scale.left - 4, scale.right + 14), Row(scale.left, scale.right + 14)
        self._level_y, self._above_y = level_y, above_y

    def at(self, x: float, text: str, *, hard: bool) -> Iterator[str]:
        """Beside a cross, or else above."""
        wide, class_ = text_width(text, SIZE) * (_BOLD if hard else 1), "label hard" if hard else "label"
        if room := self.level.beside(x, wide, 8.0):
            yield label(room[0], self._level_y, text, class_=class_, anchor=anchor(room[1]))
        elif room := self.above.beside(x, wide, 3.0):
            yield label(room[0], self._above_y, text, class_=class_, anchor=anchor(room[1]))

    def within(self, x: float, wide: float, text: str) -> Iterator[str]:
        """Above a bar, at its begin or wherever there is room."""
        needed = text_width(text, SIZE) + 4
        for start in (x, x + wide - needed, x + (wide - needed) / 2) if needed <= wide else ():
            if self.above.take(start, start + needed):
                yield label(start + 1, self._above_y, text, class_="detail")
                return

    def over(self, x: float, wide: float, text: str) -> Iterator[str]:
        """Above the middle of what may be narrower."""
        needed = text_width(text, SIZE)
        start = min(max(x + wide / 2 - needed / 2, self.above.left + 3), self.above.right - 4 - needed)
        if self.above.take(start - 3, start + needed + 3):
            yield label(start, self._above_y, text, class_="detail")


class _Marks:
    """Where the marks of a lane are: of very many, those that would lie on another of their kind are left out.

    Args:
        scale: Time to pixels.
        many: Whether they are; else all are drawn.
    """

    def __init__(self, scale: Scale, *, many: bool) -> None:
        self.scale = scale
        self._many, self._taken = many, set[tuple[str, int]]()

    def room(self, kind: str, start: int, end: int) -> bool:
        """Whether there is room for one, which is taken then."""
        if not self._many or (box := self.scale.across(start, end, 0.0)) is None or box[1] >= _APART:
            return True
        place = (kind, int(box[0] / _APART))
        new = place not in self._taken
        self._taken.add(place)
        return new


def _life(life: Life, lane: SlotLane, marks: _Marks, top: float, color: str) -> Iterator[str]:
    for one in (one for one in life.stretches if marks.room(one.what, one.start, one.end)):
        look = {READY: f"state active {color}", STARTING: "starting"}.get(one.what, f"{one.what} {color}")
        at = (top + BAR / 3, BAR / 3) if one.what == UNWATCHED else (top, BAR)
        model = f", model {life.model}" if life.model else ""
        yield from stretch(one, marks.scale, at, look, f"{lane.name}, pid {life.pid}{model}: {LOOKS[one.what]}")


def _end(life: Life, lane: SlotLane, scale: Scale, top: float, labels: _Labels) -> Iterator[str]:
    """A cross where it ended, with how; of one that was asked to end, with why, but for the end of all."""
    if not life.status or not scale.holds(life.end):
        return
    x, middle_y = scale.x(life.end), top + BAR / 2
    why = f"{lane.name}, pid {life.pid}, ended at {moment(life.end)}: {life.status}; {life.why}"
    yield element(
        "path",
        element("title", escape(one_line(why, 200))),
        d=f"M{x - 3.5:.1f} {middle_y - 3.5}l7 7m0 -7l-7 7",
        class_="gone hard" if life.hard else "gone",
    )
    said = life.status if life.hard else life.why.removesuffix(_AT_THE_END)
    if said:
        yield from labels.at(x, middle(said, 28), hard=life.hard)


def _wait(wait: Wait, lane: SlotLane, scale: Scale, top: float, labels: _Labels) -> Iterator[str]:
    if (box := scale.across(wait.start, wait.end)) is None:
        return
    title = element("title", escape(f"{lane.name} is started again after {wait.words}"))
    yield measure(box[0], sum(box), top + BAR / 2, title)
    labels.level.take(box[0], sum(box))
    yield from labels.over(*box, wait.words)


def measure(start: float, end: float, y: float, title: str = "") -> str:
    """A length, as in a drawing."""
    d = f"M{number(start)} {number(y - 4)}v8M{number(start)} {number(y)}H{number(end)}M{number(end)} {number(y - 4)}v8"
    return element("path", title, d=d, class_="wait")


def _breaker(lane: SlotLane, scale: Scale, top: float) -> Iterator[str]:
    """A strip below the lives while it is open or half open, with for how long; and a point where it is closed again."""
    level, below = Row(scale.left - 4, scale.right + 14), Row(scale.left - 4, scale.right + 14)
    for one in lane.breaker:
        look = f"breaker {one.what.replace(' ', '-')}"
        yield from stretch(one, scale, (top, STRIP), look, f"{lane.name}: breaker {one.what}")
        if (box := scale.across(one.start, one.end)) is not None:
            level.take(box[0], sum(box))
    for t in (t for t in lane.closed if scale.holds(t)):
        title = element("title", escape(f"{lane.name}: breaker closed at {moment(t)}"))
        yield element("circle", title, cx=scale.x(t), cy=top + STRIP / 2, r=3.5, class_="end ok")
        if room := level.beside(scale.x(t), text_width("closed", SIZE), 8.0):
            yield label(room[0], top + STRIP + 1.5, "closed", class_="detail", anchor=anchor(room[1]))
    for one in reversed(lane.breaker):  # the last has its words below itself, and those before make room for it
        if (box := scale.across(one.start, one.end)) is None:
            continue
        text = f"{one.what} {length(one.end - one.start)}"
        wide = text_width(text, SIZE)
        x = next((x for x in (box[0], sum(box) - wide - 7) if below.take(x - 1, x + wide + 5)), None)
        if x is not None:
            yield label(x, top + STRIP + 14, text, class_="detail")


def stretch(one: Stretch, scale: Scale, at: tuple[float, float], look: str, said: str) -> Iterator[str]:
    """A bar for as long as something was so, which says what when somebody points at it.

    Args:
        one: From when until when.
        scale: Time to pixels.
        at: Its top and its height, in pixels.
        look: CSS class.
        said: What it is.
    """
    if (box := scale.across(one.start, one.end)) is not None:
        title = element("title", escape(one_line(f"{said}, {length(one.end - one.start)}", 160)))
        rounded = min(2.5, box[1] / 2, at[1] / 2)
        fill = "url(#hatch)" if look == "hatched" else None
        yield element(
            "rect",
            title,
            x=box[0],
            y=at[0],
            width=box[1],
            height=at[1],
            rx=rounded,
            class_=None if fill else look,
            fill=fill,
        )


def anchor(side: str) -> str | None:
    """Of a label that stands to that side."""
    return None if side == "start" else side


def length(ns: int) -> str:
    """For a person."""
    return milliseconds(ns / NS_PER_MS)
