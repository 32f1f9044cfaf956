"""A request's phases on a worker as stretches of its bar, and the key that says which looks how."""

from collections.abc import Iterable, Iterator
from html import escape

from ftharness.report.clean import one_line
from ftharness.report.scale import Scale
from ftharness.report.served import HELD, PHASES, Part, Served
from ftharness.report.svg import element, label, text_width

KEY_HEIGHT = 20.0
_SIZE = 11.0
_WORDS = {HELD: "KV held"}
#: What a stretch is filled with that is to look hatched: once in a page, and in no section, for one that is folded up lends
#: nothing to the others.
HATCH = element(
    "svg",
    element(
        "defs",
        element(
            "pattern",
            element("path", d="M-2 8L8 -2M-1 -1", class_="hatch"),
            id="hatch",
            width=6.0,
            height=6.0,
            patternUnits="userSpaceOnUse",
        ),
    ),
    width=0.0,
    height=0.0,
    class_="hatches",
    aria_hidden="true",
)


def words(phase: str) -> str:
    """What a phase is called in a label: as the workers do, but for the one that they do not tell."""
    return _WORDS.get(phase, phase)


def draw_parts(
    span: Served, scale: Scale, at: tuple[float, float], color: str, who: str, *, held: bool = True
) -> Iterator[str]:
    """A worker's having a request: a stretch for each phase, or a single one where no line told any.

    Args:
        span: Who, and when.
        scale: Time to pixels.
        at: The top and the height of the bar, in pixels.
        color: CSS class of the worker.
        who: What to say when somebody points at it.
        held: Whether the time is drawn in which the worker only keeps the KV for another.
    """
    for part in span.parts or (Part("", span.start, span.end),):
        if part.end < scale.start or part.start > scale.end or (part.phase == HELD and not held):
            continue
        x = scale.x(part.start)
        wide = max(scale.x(part.end) - x, 1.5)
        said = f"{who}, {words(part.phase)}" if part.phase else who
        yield from _stretch(part.phase, (x, wide), at, color, one_line(said, 120))


def _stretch(phase: str, across: tuple[float, float], at: tuple[float, float], color: str, said: str) -> Iterator[str]:
    (x, wide), (top, high) = across, at
    if phase == HELD:
        top, high = top + high / 3, high / 3
    title = element("title", escape(said)) if said else ""
    kind = f" {phase.replace('_', '-')}" if phase in PHASES else ""
    box = {"x": x, "y": top, "width": wide, "height": high, "rx": min(2.5, wide / 2)}
    yield element("rect", title, **box, class_=f"busy{kind} {color}")
    if phase == "kv_transfer":
        yield element("rect", title, **box, fill="url(#hatch)")


def key(spans: Iterable[Served], scale: Scale, y: float, left: float | None = None) -> list[str]:
    """What each phase that is to be seen looks like, from ``left`` on; nothing where no worker told any."""
    seen = {part.phase for span in spans for part in span.parts if part.start <= scale.end and part.end >= scale.start}
    x = scale.left if left is None else left
    drawn: list[str] = []
    for phase in (phase for phase in PHASES if phase in seen):
        drawn += _stretch(phase, (x, 22.0), (y - 8, 9.0), "key", "")
        drawn.append(label(x + 28, y, text := words(phase), class_="key"))
        x += 28 + text_width(text, _SIZE) + 22
    return drawn
