"""The faults' lines through a picture: what each says, and where its words find room."""

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from ftharness.report.clean import middle
from ftharness.report.crowd import Crowd
from ftharness.report.lanes import SIZE
from ftharness.report.moments import Moments
from ftharness.report.placing import Flag, place_flags
from ftharness.report.proofs import Proof
from ftharness.report.scale import Scale
from ftharness.report.svg import element, label, text_width
from ftharness.report.takeover import Takeover
from ftharness.report.units import after, moment, pairs

ROW = 17.0  # pixels: of a row of words
_MOST_PROOFS = 3  # of one oracle
Wanted = tuple[int, str, str]  # when, what it says, and its CSS class


class Line(msgspec.Struct, frozen=True):
    """A flag and its line, placed."""

    x: float
    row: int
    leftward: bool
    words: str
    class_: str

    def below(self, bottom: float) -> str:
        """The line, from its words down."""
        return element("path", d=f"M{self.x:.1f} {self.row * ROW + 3:.1f}V{bottom:.1f}", class_=f"line {self.class_}")

    def text(self) -> str:
        """The words."""
        x = self.x - 5 if self.leftward else self.x + 5
        anchor = "end" if self.leftward else None
        return label(x, self.row * ROW + 13, self.words, class_=f"flag {self.class_}", anchor=anchor)


def place(wanted: list[Wanted], scale: Scale, width: float) -> tuple[list[Line], int]:
    """Those that the picture holds, each with room for its words; and how many rows of words there are."""
    inside = [(scale.x(t), words, class_) for t, words, class_ in sorted(wanted) if scale.holds(t)]
    # Bold letters are wider than plain ones.
    places = place_flags([Flag(x, text_width(words, SIZE) * 1.12) for x, words, _ in inside], 0, width)
    lines = [
        Line(x, place.row, place.leftward, words, class_)
        for (x, words, class_), place in zip(inside, places, strict=True)
    ]
    return lines, max((place.row + 1 for place in places), default=0)


def whole_flags(faults: Sequence[Moments], crowd: Crowd | None = None) -> list[Wanted]:
    """Of the picture of a whole run: what was broken, and when that was undone."""
    flags: list[Wanted] = [(crowd.span[0], crowd.what, "landed")] if crowd else []
    for one in faults:
        what = middle(one.operation or one.what, 40)
        if one.harmless:
            flags.append((one.landed or 0, f"{what} at {moment(one.landed or 0)}", _class(one)))
        elif one.landed is not None:
            # Of an engine in a slot the slot's own lane shows how it ended.
            proof = "" if one.slot else pairs(one.fault.evidence, 60)
            flags.append((one.landed, f"{what} at {moment(one.landed)}{': ' if proof else ''}{proof}", "landed"))
        elif one.requested is not None:
            flags.append((one.requested, f"{what} did not land", "missed"))
        if one.takeover and one.takeover.fenced is not None:
            flags.append((one.takeover.fenced, one.takeover.fencing, "landed"))
        elif one.healed is not None and not one.at_end:
            flags.append((one.healed, f"healed {after(one.healed - (one.struck or 0))}", "healed"))
    return flags


def _class(harmless: Moments) -> str:
    """How it looks: what is started is good news, what a process says of its health is news."""
    return "healed" if harmless.joined else "step"


def close_flags(faults: Sequence[Moments], zero: int) -> list[Wanted]:
    """Of a close view: each step of what followed, with its distance from ``zero``, where the axis has its own."""
    flags: list[Wanted] = []
    for one in faults:
        if one.landed is None or one.struck is None:
            continue
        if one.harmless:
            flags.append((one.struck, f"{middle(one.what, 40)} {after(one.struck - zero)}", _class(one)))
            continue
        proof = pairs(one.fault.evidence, 60)
        late = f" {after(one.landed - zero)}" if one.landed != zero else ""
        flags.append((one.landed, f"{middle(one.what, 40)} landed{late}{': ' if proof else ''}{proof}", "landed"))
        if one.landed != one.struck:
            flags.append((one.struck, "its grace is over", "landed"))
        if one.takeover:
            flags += _takeover_flags(one, one.takeover, zero)
            continue
        to = f" to {middle(one.rerouted_to, 20)}" if one.rerouted_to else ""
        for t, words, class_ in (
            (one.requested, "asked for", "requested"),
            (one.detected, "detected", "detected"),
            (one.rerouted, f"rerouted{to}", "rerouted"),
            (one.first_token, "first token", "token"),
            (one.given_up, f"given up in {middle(one.fault.recovery.given_up_by, 20)}", "token"),
            (None if one.at_end else one.healed, "healed", "healed"),
        ):
            if t is not None:
                flags.append((t, f"{words} {after(t - zero)}", class_))
    return flags


def proof_flags(proofs: Sequence[Proof], zero: int | None = None) -> Iterator[Wanted]:
    """Where the first of what an oracle failed by stands: the others are like it; a distance from ``zero``, if there is one."""
    told: Counter[str] = Counter()
    for proof in dict.fromkeys(proofs):
        told[proof.oracle] += proof.failed
        if proof.failed and told[proof.oracle] <= _MOST_PROOFS:
            when = f"at {moment(proof.t)}" if zero is None else after(proof.t - zero)
            yield proof.t, f"✗ {proof.oracle}: {proof.what} {when}", "proof"


def _takeover_flags(one: Moments, takeover: Takeover, zero: int) -> Iterator[Wanted]:
    """The steps by which another engine took the place of the one that was hit; the first says whose they are."""
    who = middle(takeover.engine, 20)
    for t, words, class_ in (
        (one.requested, "asked for", "requested"),
        (one.detected, "detected", "detected"),
        (takeover.fenced, takeover.fencing, "landed"),
    ):
        if t is not None:
            yield t, f"{words} {after(t - zero)}", class_
    for name, t in takeover.steps:
        words = f"{who} has the lock" if name == "lock" else name
        yield t, f"{words} {after(t - zero)}", "token" if name == "first token" else "step"
