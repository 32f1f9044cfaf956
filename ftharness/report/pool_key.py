"""The key to the lanes of pools: what each look that is to be seen stands for."""

from collections.abc import Iterable, Iterator, Sequence

from ftharness.report.lanes import SIZE
from ftharness.report.phases import KEY_HEIGHT
from ftharness.report.pools import (
    FULL,
    HALF_OPEN,
    OPEN,
    OPERATIONS,
    READY,
    UNWATCHED,
    Operation,
    PoolLane,
    Stretch,
    Wait,
)
from ftharness.report.scale import Scale
from ftharness.report.slot_lanes import BAR, LOOKS, STRIP, measure
from ftharness.report.svg import element, label, number, text_width

_SAMPLE, _BETWEEN = 22.0, 22.0


def pool_key(pools: Sequence[PoolLane], scale: Scale, y: float) -> tuple[list[str], float]:
    """In as many rows as it takes, the first with its words on ``y``; and how high they are together, in pixels."""
    drawn: list[str] = []
    x, first = scale.left, y
    for look, words in _seen(pools, scale):
        wide = _SAMPLE + 6 + text_width(words, SIZE)
        if x + wide > scale.right + 14 and x > scale.left:
            x, y = scale.left, y + KEY_HEIGHT
        drawn += [*_sample(look, x, y), label(x + _SAMPLE + 6, y, words, class_="key")]
        x += wide + _BETWEEN
    return drawn, y - first + KEY_HEIGHT if drawn else 0.0


def _seen(pools: Sequence[PoolLane], scale: Scale) -> Iterator[tuple[str, str]]:
    """Each look that is in the picture, as a CSS class, and its words."""

    def any_of(those: Iterable[Stretch | Operation | Wait]) -> bool:
        return any(one.start <= scale.end and one.end >= scale.start for one in those)

    slots = [slot for pool in pools for slot in pool.slots]
    told = [one for slot in slots for life in slot.lives for one in life.stretches]
    for what, words in LOOKS.items():
        if any_of(one for one in told if one.what == what):
            yield what, words
    if any_of(one for slot in slots for one in slot.frozen):
        yield "frozen", "stopped by a fault"
    if any_of(one for slot in slots for one in slot.waits):
        yield "wait", "waits before a restart"
    for what in (OPEN, HALF_OPEN):
        if any_of(one for slot in slots for one in slot.breaker if one.what == what):
            yield f"breaker {what.replace(' ', '-')}", f"breaker {what}"
    for kind in OPERATIONS:
        if any_of(one for pool in pools for one in pool.operations if one.kind == kind):
            yield f"change {kind}", kind
    if any(pool.most for pool in pools):
        yield "held-leases", "leases that are held"
    refused = {why == FULL for pool in pools for t, why in pool.refused if scale.holds(t)}
    if True in refused:
        yield "refused full", "refused: full"
    if False in refused:
        yield "refused", "refused: draining, not ready"


def _sample(look: str, x: float, y: float) -> Iterator[str]:
    """A small one of it, whose middle is that of the words."""
    middle = y - 3.5
    if look == "wait":
        yield measure(x, x + _SAMPLE, middle)
    elif look.startswith("refused"):
        yield element(
            "path", d="".join(f"M{number(x + at)} {number(middle - 3.5)}v7" for at in (6, 11, 16)), class_=look
        )
    else:
        high = STRIP if look.startswith("breaker") else BAR / 3 if look == UNWATCHED else BAR
        box = {"x": x, "y": middle - high / 2, "width": _SAMPLE, "height": high, "rx": min(2.5, high / 2)}
        yield element("rect", **box, class_=f"{'state active' if look == READY else look} w0")
        if look == "frozen":
            yield element("rect", **box, fill="url(#hatch)")
