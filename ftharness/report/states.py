"""What an engine that shares a lock was doing, as stretches of its bar: waiting, waking, serving; and the key to them."""

from collections.abc import Iterable, Iterator
from html import escape

from ftharness.report.clean import one_line
from ftharness.report.scale import Scale
from ftharness.report.svg import element, label, text_width
from ftharness.report.timeline import ProcessLane

#: The states that have a look of their own, by what the engines call them, and what they are called here.
STATES = {"standby": "waits for the lock", "waking": "wakes", "active": "serves"}
_SIZE = 11.0
_BETWEEN = 22.0


def states_of(lane: ProcessLane) -> list[tuple[str, int, int]]:
    """Each state that it said to be in, from when until when, in ns; none where it told none."""
    said = [(log.captures.get("state", ""), log.t) for log in lane.logged if log.event == "failover_state"]
    if not said:
        return []
    ends = [*(t for _, t in said[1:]), lane.end]
    return [(state, t, max(t, end)) for (state, t), end in zip(said, ends, strict=True)]


def draw_states(lane: ProcessLane, scale: Scale, at: tuple[float, float], color: str) -> Iterator[str]:
    """Its life by its states.

    Args:
        lane: The engine.
        scale: Time to pixels.
        at: The top and the height of the bar, in pixels.
        color: CSS class of the engine.
    """
    told = states_of(lane)
    begun = told[0][1] if told else lane.end
    for state, start, end in [("init", lane.started, begun), *told]:
        if end < scale.start or start > scale.end or end == start:
            continue
        x = scale.x(start)
        wide = max(scale.x(end) - x, 1.5)
        title = element("title", escape(one_line(f"{lane.name}: {STATES.get(state, state)}", 80)))
        look = f"state {state} {color}" if state in STATES else "starting"
        yield element("rect", title, x=x, y=at[0], width=wide, height=at[1], rx=min(2.5, wide / 2), class_=look)


def states_key(lanes: Iterable[ProcessLane], scale: Scale, y: float) -> tuple[list[str], float]:
    """What each state that is to be seen looks like, and where the next key may begin."""
    seen = {
        state for lane in lanes for state, start, end in states_of(lane) if start <= scale.end and end >= scale.start
    }
    drawn: list[str] = []
    x = scale.left
    for state in (state for state in STATES if state in seen):
        drawn.append(element("rect", x=x, y=y - 8, width=22.0, height=9.0, rx=2.5, class_=f"state {state} key"))
        drawn.append(label(x + 28, y, text := STATES[state], class_="key"))
        x += 28 + text_width(text, _SIZE) + _BETWEEN
    return drawn, x
