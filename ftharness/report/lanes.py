"""One lane of a picture: a process from its start to its exit, or a request from its sending to its last token."""

from collections.abc import Iterator
from html import escape

import msgspec

from ftharness.report.clean import middle
from ftharness.report.density import Density, draw_tokens
from ftharness.report.phases import draw_parts, words
from ftharness.report.placing import Row
from ftharness.report.scale import Scale
from ftharness.report.served import PHASES, Served
from ftharness.report.states import draw_states, states_of
from ftharness.report.svg import element, label, text_width
from ftharness.report.timeline import ProcessLane, RequestLane
from ftharness.report.units import NS_PER_MS, milliseconds

PROCESS_HEIGHT = 38.0
REQUEST_HEIGHT = 50.0
SIZE = 11.0  # of a label, in pixels; also in style.css
_BAR = 9.0
_TOGETHER = 12.0  # pixels: log lines that are nearer to each other share a label
_NAME = 20  # letters of a lane's name


class Frame(msgspec.Struct, frozen=True):
    """What all lanes of one picture share.

    Attributes:
        scale: Time to pixels.
        colors: CSS class by worker.
        names: What a request is called, by its id.
        close: Whether this is the close view, where log lines are labelled.
    """

    scale: Scale
    colors: dict[str, str]
    names: dict[str, str]
    close: bool


def heading(x: float, y: float, name: str, detail: str, color: str | None) -> Iterator[str]:
    """The name of a lane at its left, with a patch of its colour, and a line below it."""
    if color:
        yield element("rect", x=x, y=y + 9, width=8.0, height=8.0, rx=2.0, class_=f"patch {color}")
    yield label(x + 14, y + 17, middle(name, _NAME), class_="name")
    yield label(x + 14, y + 29, middle(detail, _NAME + 4), class_="detail")


def draw_process(lane: ProcessLane, frame: Frame, y: float) -> Iterator[str]:
    """A process: starting, ready, busy with a request, frozen, signalled, gone."""
    scale, color = frame.scale, frame.colors.get(lane.name, "wx")
    top, level = y + 20.0, Row(scale.left - 4, scale.right + 14)
    above = Row(scale.left, scale.right + 14)
    ready = lane.ready if lane.ready is not None else lane.end
    if states_of(lane):
        yield from draw_states(lane, scale, (top, _BAR), color)
    else:
        yield from _bar(scale, lane.started, ready, top, "starting", f"{lane.name} starts")
    if lane.ready is not None and not states_of(lane):
        yield from _bar(scale, lane.ready, lane.end, top, f"alive {color}", f"{lane.name}, pid {lane.pid}")
    for span in lane.served:
        yield from draw_parts(span, scale, (top, _BAR), color, f"{lane.name}: {_name(frame, span)}")
    for start, end in _frozen(lane):
        yield from _bar(scale, start, end, top, "frozen", f"{lane.name} is stopped")
    if lane.started < scale.end and lane.end > scale.start:
        level.take(scale.x(lane.started), scale.x(lane.end))
    if lane.status and scale.holds(lane.end):
        yield from _exit(lane, scale, top, level, above)
    for signal in lane.signals:
        if scale.holds(signal.t) and not (signal.reason == "heal" and signal.t > lane.end):  # which healed nobody
            x = scale.x(signal.t)
            yield element("path", d=f"M{x - 3.5:.1f} {top - 5:.1f}h7l-3.5 5z", class_=f"signal {signal.reason}")
            # What a signal did is said by the exit label; one that did not end it at once needs a label of its own.
            at_once = lane.status == signal.signal and abs(lane.end - signal.t) < 40 * scale.ns_per_pixel
            if not at_once and not (signal.reason == "teardown" and lane.status == "exit 0"):
                yield from _beside(above, x, y + 12, signal.signal, "detail")
    if frame.close:
        yield from _logged(lane, scale, top + _BAR / 2, above, color)
    else:
        for span in lane.served:
            yield from _who(frame, span, y + 14, above)


def draw_request(
    lane: RequestLane, frame: Frame, how: Density, y: float, gap: tuple[int, int] | None = None
) -> Iterator[str]:
    """A request: sent, waiting for its first token, its tokens, how it ended; and who served it, as a line below.

    Args:
        lane: The request.
        frame: The picture.
        how: How tokens are drawn.
        y: The lane's top, in pixels.
        gap: The two chunks around the gap at the fault, to be measured like a length in a drawing.
    """
    scale, base = frame.scale, y + 40.0
    # Labels above the ticks, which leave 12 pixels free there, and labels beside them.
    above, level = Row(scale.left, scale.right + 14), Row(scale.left, scale.right + 14)
    first = lane.times[0] if lane.times else lane.end
    if lane.sent <= scale.end and lane.end >= scale.start:
        yield element("path", d=f"M{scale.x(lane.sent):.1f} {base}H{scale.x(lane.end):.1f}", class_="request")
    for span in lane.served:
        color = frame.colors.get(span.worker, "wx")
        yield from draw_parts(span, scale, (base + 2, 5.0), color, f"served by {_safe(span.worker)}", held=False)
    yield from draw_tokens(lane, scale, how, base - 1, frame.colors)
    if gap is not None and gap[1] >= scale.start and gap[0] <= scale.end:
        yield from _gap(gap, scale, y, above)
    if lane.times and first <= scale.end and lane.times[-1] >= scale.start:
        level.take(scale.x(first), scale.x(lane.times[-1]))
    if scale.holds(lane.sent):
        yield element("circle", cx=scale.x(lane.sent), cy=base, r=3.0, class_="sent")
        if scale.x(first) - scale.x(lane.sent) > 60:  # noqa: PLR2004 - room for the words
            yield from _beside(level, scale.x(lane.sent), base - 6, f"waits {_ms(first - lane.sent)}", "detail")
    if lane.status and scale.holds(lane.end):
        x, text, class_ = scale.x(lane.end), middle(lane.status, 30), "label" if lane.ok else "label bad"
        yield element("circle", cx=x, cy=base, r=3.5, class_="end ok" if lane.ok else "end bad")
        room = level.beside(x, text_width(text, SIZE))
        if room:
            yield label(room[0], base - 5, text, class_=class_, anchor=_anchor(room[1]))
        else:
            yield from _beside(above, x, y + 9, text, class_)


def _who(frame: Frame, span: Served, y: float, above: Row) -> Iterator[str]:
    """Above a worker's bar which request it has, with its phase where there is room: ``request 0: kv_transfer``."""
    scale, name = frame.scale, _name(frame, span)
    phased = [(part, f"{name}: {words(part.phase)}") for part in span.parts if part.phase in PHASES]
    fits = [
        (part.start, part.end, text)
        for part, text in phased
        if scale.x(part.end) - scale.x(part.start) > text_width(text, SIZE)
    ]
    for start, end, text in fits or [(span.start, span.end, name)]:
        room = (max(scale.x(start), scale.left), min(scale.x(end), scale.right))
        if room[1] - room[0] > text_width(text, SIZE) and above.take(*room):
            yield label(room[0] + 1, y, text, class_="detail")


def _gap(gap: tuple[int, int], scale: Scale, y: float, above: Row) -> Iterator[str]:
    a, b, level = scale.x(gap[0]), scale.x(gap[1]), y + 26.0
    text = f"gap {_ms(gap[1] - gap[0])}"
    yield element("path", d=f"M{a:.1f} {level - 4}v8M{a:.1f} {level}H{b:.1f}M{b:.1f} {level - 4}v8", class_="measure")
    wide = text_width(text, SIZE)
    if b - a > wide + 8:
        yield label((a + b) / 2, level - 4, text, class_="label measured", anchor="middle")
    else:
        x = min(max((a + b - wide) / 2, scale.left), scale.right - wide)
        above.take(x - 4, x + wide + 4)
        yield label(x, y + 10, text, class_="label measured")


def _bar(scale: Scale, start: int, end: int, top: float, class_: str, title: str) -> Iterator[str]:
    if end >= scale.start and start <= scale.end:
        x = scale.x(start)
        wide = max(scale.x(end) - x, 1.5)
        yield element(
            "rect",
            element("title", _safe(title)),
            x=x,
            y=top,
            width=wide,
            height=_BAR,
            rx=min(2.5, wide / 2),
            class_=class_,
        )


def _logged(lane: ProcessLane, scale: Scale, level: float, above: Row, color: str) -> Iterator[str]:
    """A point for each log line, and one label for those that came together, in their order."""
    together: list[tuple[float, list[str]]] = []
    for log in lane.logged:
        if scale.holds(log.t) and log.event != "failover_state":  # which the bar itself shows
            phase = log.captures.get("phase", "") if log.event == "request_phase" else ""
            x, name = scale.x(log.t), middle((phase or log.event).replace("_", " "), 30)
            yield element("circle", element("title", _safe(log.line)), cx=x, cy=level, r=3.0, class_=f"log {color}")
            if together and x - together[-1][0] < _TOGETHER:
                names = together[-1][1]
                if name not in names:
                    names.append(name)
            else:
                together.append((x, [name]))
    for x, names in together:
        text = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")  # noqa: PLR2004 - what can be read at once
        yield from _beside(above, x, level - _BAR - 3.5, text, "detail")


def _exit(lane: ProcessLane, scale: Scale, top: float, level: Row, above: Row) -> Iterator[str]:
    x, middle_y = scale.x(lane.end), top + _BAR / 2
    hard = not lane.status.startswith("exit 0")
    kind = "gone hard" if hard else "gone"
    yield element("path", d=f"M{x - 3.5:.1f} {middle_y - 3.5}l7 7m0 -7l-7 7", class_=kind)
    room = level.beside(x, text_width(lane.status, SIZE), 8.0)
    if room:
        yield label(
            room[0], top + _BAR - 0.5, lane.status, class_="label hard" if hard else "label", anchor=_anchor(room[1])
        )
    else:
        yield from _beside(above, x, top - 8, lane.status, "label hard" if hard else "label")


def _beside(row: Row, x: float, y: float, text: str, class_: str) -> Iterator[str]:
    room = row.beside(x, text_width(text, SIZE), 3.0)
    if room:
        yield label(room[0], y, text, class_=class_, anchor=_anchor(room[1]))


def _frozen(lane: ProcessLane) -> Iterator[tuple[int, int]]:
    since: int | None = None
    for signal in lane.signals:
        if signal.signal == "SIGSTOP":
            since = signal.t if since is None else since
        elif signal.signal in ("SIGCONT", "SIGKILL") and since is not None:
            yield since, min(signal.t, lane.end)
            since = None
    if since is not None:
        yield since, lane.end


def _anchor(side: str) -> str | None:
    return None if side == "start" else side


def _ms(ns: float) -> str:
    return milliseconds(ns / NS_PER_MS)


def _name(frame: Frame, span: Served) -> str:
    return frame.names.get(span.request, middle(span.request, _NAME))


def _safe(text: str) -> str:
    return escape(middle(text, 60))
