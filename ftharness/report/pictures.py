"""The pictures of one scenario, the nearest first: around its faults, or of what a manager of pools did; then the whole."""

from collections.abc import Iterator

import msgspec

from ftharness.report.chart import Window, around, chart, faulted, launch_of, whole
from ftharness.report.clean import one_line
from ftharness.report.crowd import crowd_of
from ftharness.report.gaps import gaps
from ftharness.report.pool_words import pool_words
from ftharness.report.proofs import failures, proofs_of
from ftharness.report.stored import Stored
from ftharness.report.timeline import Timeline
from ftharness.report.units import NS_PER_MS, milliseconds

_MOST_CLOSE = 3
_CHECKS = {
    "repeat": "the request without the fault, once more",
    "cut": "the same, resubmitted with the tokens that it had when the fault struck",
}


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A drawing with its caption; ``svg`` is markup that is already escaped."""

    title: str
    svg: str
    caption: str


def pictures_of(stored: Stored) -> Iterator[Picture]:
    """Those of what its faults did, the whole run, and the time between tokens; none of a history without lanes."""
    lanes, faults = stored.lanes, stored.faults
    if not lanes.processes and not lanes.requests:
        return
    before = list(_of_pools(stored) if lanes.pools else _close(stored))
    yield from before
    only = bool(lanes.pools) and not before  # so it has to show what the nearer one would
    failed = failures(stored.record.oracles, stored.events) if only else ()
    drawn = chart(lanes, faults, whole(lanes), f"The whole run of {one_line(stored.record.name, 80)}", failed)
    caption = " ".join(
        [
            _caption(drawn.legend, drawn.hidden),
            *_left_out_of(lanes, drawn.window),
            *_checks(lanes),
            *([pool_words(lanes.pools, lanes.start, lanes.end)] if only else []),
        ]
    ).strip()
    yield Picture(title="The whole run", svg=drawn.svg, caption=caption)
    between = gaps(lanes, faults)
    if between:
        yield Picture(
            title="Time between tokens", svg=between.svg, caption=f"{between.text} {_sentence(between.legend)}"
        )


def _of_pools(stored: Stored) -> Iterator[Picture]:
    """What a manager does takes its time, and one fault comes while it still sees to the one before: all in one view."""
    window = faulted(stored.lanes)
    if window is None:
        return
    drawn = chart(
        stored.lanes,
        stored.faults,
        window,
        f"The fault phase of {one_line(stored.record.name, 80)}",
        failures(stored.record.oracles, stored.events),
    )
    caption = (
        f"{_caption(drawn.legend, drawn.hidden)} {pool_words(stored.lanes.pools, window.start, window.end)}".strip()
    )
    yield Picture(title="The fault phase", svg=drawn.svg, caption=caption)


def _close(stored: Stored) -> Iterator[Picture]:
    lanes, faults = stored.lanes, stored.faults
    seen: set[int] = set()
    alone, crowd = crowd_of(faults)
    for one in [*alone, *([crowd.slowest, crowd.first] if crowd else [])]:
        proofs = proofs_of(one, faults, stored.record.oracles, stored.events)
        window = around(one, lanes, proofs)
        if window is None or len(seen) == _MOST_CLOSE or any(window.start < zero < window.end for zero in seen):
            continue
        seen.add(window.zero or 0)
        title = (
            "Around the fault" if sum(not each.harmless for each in faults) == 1 else f"Around {one_line(one.what, 60)}"
        )
        if crowd and one is crowd.slowest and one.given_up is not None:
            title += f", the slowest of {len(crowd.faults):,} to be given up"
        drawn = chart(lanes, faults, window, f"The run around {one_line(one.what, 60)}", proofs)
        caption = f"{drawn.legend}; time counts from the fault" if drawn.legend else "time counts from the fault"
        yield Picture(title=title, svg=drawn.svg, caption=_caption(caption, drawn.hidden))


def _left_out_of(lanes: Timeline, window: Window) -> Iterator[str]:
    launch = launch_of(lanes)
    if launch is not None and window.start > launch.start:
        took = milliseconds((launch.end - launch.start) / NS_PER_MS)
        yield f"Of the launch, which took {took}, only the end is drawn."


def _checks(lanes: Timeline) -> Iterator[str]:
    """What the lanes are that check the reference, of which a reader has not heard."""
    for check, what in _CHECKS.items():
        lane = next((lane for lane in lanes.requests if lane.name.startswith(f"{check} ")), None)
        if lane is not None:
            yield f"“{lane.name}” is {what}."


def _caption(text: str, hidden: str) -> str:
    return _sentence(text) + (f" {_sentence(f'not drawn: {hidden}')}" if hidden else "")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""
