"""The picture of a run: a lane per process and per request over one clock, and the faults as lines through all of them."""

from collections.abc import Iterator, Sequence
from html import escape

import msgspec

from ftharness.report.clean import one_line
from ftharness.report.crowd import Crowd, crowd_of
from ftharness.report.density import density
from ftharness.report.flags import ROW, close_flags, place, proof_flags, whole_flags
from ftharness.report.lanes import PROCESS_HEIGHT, REQUEST_HEIGHT, SIZE, Frame, draw_process, draw_request, heading
from ftharness.report.moments import Moments
from ftharness.report.phases import KEY_HEIGHT, key
from ftharness.report.pool_key import pool_key
from ftharness.report.pool_lanes import draw_pool, slots_shown
from ftharness.report.pools import PoolLane, SlotLane
from ftharness.report.proofs import Proof, reach
from ftharness.report.scale import Scale, ticks
from ftharness.report.states import states_key
from ftharness.report.svg import element, label, text_width
from ftharness.report.timeline import Phase, ProcessLane, RequestLane, Timeline
from ftharness.report.units import NS_PER_MS, milliseconds

WIDTH = 1120.0
GUTTER = 172.0
_RIGHT = 24.0
_BAND = 22.0
_AXIS = 24.0
_TITLE = 18.0
MOST_PROCESSES = 16
MOST_REQUESTS = 12
_MOST_CLOSE = 6
COLORS = 6
_AROUND_NS = 30 * NS_PER_MS
_MOST_OF_RUN = 0.7  # what shows more is no close view
_MOST_OF_PHASE = 0.85  # and what shows more than that is nearly the whole run
_S_NS = 1_000 * NS_PER_MS
_PHASES = {
    "control": "control: no fault",
    "repeat": "control: once more",
    "fault": "with the fault",
    "cut": "control: cut where the fault was",
}
_KINDS = {
    "launch": "launch",
    "control": "control",
    "repeat": "control",
    "fault": "fault",
    "cut": "control",
    "teardown": "teardown",
}


class Window(msgspec.Struct, frozen=True):
    """What part of a run a picture shows; with ``zero`` its axis counts from there, as a close view does."""

    start: int
    end: int
    zero: int | None = None


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """A drawn picture.

    Attributes:
        svg: Its markup.
        legend: What its ticks or columns stand for.
        hidden: What was left out, in words; empty when nothing was.
        window: What it shows.
    """

    svg: str
    legend: str
    hidden: str
    window: Window


def whole(lanes: Timeline) -> Window:
    """The window of a whole run; of a launch that took longer than all that followed only its last stretch."""
    launch = launch_of(lanes)
    if launch is None or launch.end - launch.start <= lanes.end - launch.end:
        return Window(lanes.start, lanes.end)
    return Window(launch.end - (lanes.end - launch.end) // 8, lanes.end)


def launch_of(lanes: Timeline) -> Phase | None:
    """The phase in which everything is started; None where nothing came after it, so that there is nothing else to see."""
    return next((phase for phase in lanes.phases if phase.name == "launch" and phase.end < lanes.end), None)


def faulted(lanes: Timeline) -> Window | None:
    """The window of the time in which faults could strike; None where that is nearly all of the run, or there was none."""
    phase = next((phase for phase in lanes.phases if phase.name == "fault"), None)
    if phase is None or phase.end - phase.start > (lanes.end - lanes.start) * _MOST_OF_PHASE:
        return None
    return Window(phase.start, phase.end)


def around(fault: Moments, lanes: Timeline, proofs: Sequence[Proof] = ()) -> Window | None:
    """The close view of a fault that landed: 30 ms after it and half of that before, more where recovery took longer.

    And more where what oracles rest on lies further off, as long as it is at most ten times as far as all that is nearer.

    None where it would show little less than the whole run, and where nothing was broken: nothing follows from that.
    """
    if fault.struck is None or fault.harmless:
        return None
    beyond = max(_AROUND_NS, round((fault.last - fault.struck) * 1.6))
    before = max(_AROUND_NS // 2, beyond // 5, round((fault.struck - fault.gap[0]) * 1.2) if fault.gap else 0)
    most = (lanes.end - lanes.start) * _MOST_OF_RUN
    if before + beyond >= most:
        return None
    before, beyond = reach(fault.struck, (before, beyond), most, proofs)
    return Window(fault.struck - before, fault.struck + beyond, fault.struck)


def chart(
    lanes: Timeline, faults: Sequence[Moments], window: Window, title: str, proofs: Sequence[Proof] = ()
) -> Chart:
    """Draw the part of a run that ``window`` says.

    Args:
        lanes: The run.
        faults: What was injected.
        window: From when to when.
        title: For those who cannot see it.
        proofs: What oracles rest on, of what the picture is about; those of one that failed are pointed at.
    """
    close = window.zero is not None
    scale = Scale(window.start, window.end, GUTTER, WIDTH - _RIGHT)
    processes, slots, requests, hidden = _shown(lanes, faults, window)
    frame = Frame(
        scale,
        {lane.name: f"w{lane.color % COLORS}" for lane in lanes.processes if lane.color is not None},
        {lane.id: lane.name for lane in lanes.requests},
        close,
    )
    alone, crowd = crowd_of(faults)
    if close and crowd:  # of the many those that this picture is about
        alone = [*alone, *(one for one in crowd.faults if one.struck == window.zero)]
    flags = (
        [*close_flags(alone, window.zero or 0), *proof_flags(proofs, window.zero or 0)]
        if close
        else [*whole_flags(alone, crowd), *proof_flags(proofs)]
    )
    lines, rows = place(flags, scale, WIDTH)
    flag_area = rows * ROW + (4 if rows else 0)
    top = flag_area + (0 if close else _BAND)
    body: list[str] = []
    y = top
    how = density(requests, scale)
    pools = [] if close else lanes.pools  # whose doings take longer than a close view
    for name, group in (("Processes", processes), ("Engine pools", pools), ("Requests", requests)):
        if not group:
            continue
        y += _TITLE
        body.append(label(2, y - 3, name.upper(), class_="group"))
        body.append(element("path", d=f"M{GUTTER} {y - 6.5:.1f}H{WIDTH - _RIGHT}", class_="rule"))
        for lane in group:
            if isinstance(lane, ProcessLane):
                body += heading(2, y, lane.name, f"{lane.role or 'process'} · {lane.pid}", frame.colors.get(lane.name))
                body += draw_process(lane, frame, y)
                y += PROCESS_HEIGHT
            elif isinstance(lane, PoolLane):
                drawn, y = draw_pool(lane, slots, scale, y)
                body += drawn
            else:
                body += heading(2, y + 6, lane.name, lane.id[:8], None)
                body += draw_request(lane, frame, how, y, _gap_of(lane, faults) if close else None)
                y += REQUEST_HEIGHT
    bottom = y + 6
    parts = [
        element("title", escape(title)),
        *([] if close else _phases(lanes, scale, flag_area, bottom, [line.x for line in lines])),
        *_axis(scale, window, top, bottom),
        *(_leavers(crowd, scale, flag_area, bottom) if crowd else ()),
        *(line.below(bottom) for line in lines),
        *body,
        *(line.text() for line in lines),
    ]
    states, left = states_key(processes, scale, bottom + _AXIS + 9)
    phases = key([span for lane in processes for span in lane.served], scale, bottom + _AXIS + 9, left)
    of_pools, high = pool_key(pools, scale, bottom + _AXIS + 9)
    parts += [*states, *phases, *of_pools]
    height = bottom + _AXIS + max(KEY_HEIGHT if states or phases else 0, high)
    svg = element(
        "svg",
        "".join(parts),
        viewBox=f"0 0 {WIDTH:g} {height:.0f}",
        width=WIDTH,
        height=round(height),
        role="img",
        class_="close" if close else None,
        tabindex="0",
        aria_label=title,
        data_start=f"{window.start / NS_PER_MS:.4f}",
        data_end=f"{window.end / NS_PER_MS:.4f}",
        data_left=GUTTER,
        data_right=WIDTH - _RIGHT,
        data_bottom=bottom,
    )
    return Chart(svg=svg, legend=density(requests, scale).legend if requests else "", hidden=hidden, window=window)


def _shown(
    lanes: Timeline, faults: Sequence[Moments], window: Window
) -> tuple[list[ProcessLane], list[SlotLane], list[RequestLane], str]:
    """The lanes that there is room for: those that the faults touched first, then in the run's own order."""
    processes = [lane for lane in lanes.processes if lane.started <= window.end and lane.end >= window.start]
    requests = [lane for lane in lanes.requests if lane.sent <= window.end and lane.end >= window.start]
    targets = {one.process for one in faults} | {one.rerouted_to for one in faults}
    targets |= {one.takeover.engine for one in faults if one.takeover}
    aimed: dict[str, int] = {}  # how far from what a close view is about the request was hit
    for fault in faults:
        if fault.request:
            far = 0 if window.zero is None else abs((fault.struck or fault.at or 0) - window.zero)
            aimed[fault.request.id] = min(far, aimed.get(fault.request.id, far))
    kept_processes = sorted(processes, key=lambda lane: (lane.name not in targets, lane.color is not None))
    kept_requests = sorted(
        requests, key=lambda lane: (lane.id not in aimed, aimed.get(lane.id, 0), lane.ok, lane.control)
    )
    first = [lane for lane in processes if lane in kept_processes[:MOST_PROCESSES]]
    kept = kept_requests[: MOST_REQUESTS if window.zero is None else _MOST_CLOSE]
    second = sorted(
        (lane for lane in requests if lane in kept),
        key=lambda lane: window.zero is not None and aimed.get(lane.id) != 0,
    )
    slots = slots_shown(lanes.pools)
    left_out = [
        f"{count} more {one if count == 1 else several}"
        for count, one, several in (
            (len(processes) - len(first), "process", "processes"),
            (sum(len(pool.slots) for pool in lanes.pools) - len(slots), "engine of a pool", "engines of pools"),
            (len(requests) - len(second), "request", "requests"),
        )
        if count
    ]
    return first, slots, second, " and ".join(left_out)


def _gap_of(lane: RequestLane, faults: Sequence[Moments]) -> tuple[int, int] | None:
    return next((fault.gap for fault in faults if fault.request and fault.request.id == lane.id and fault.gap), None)


def _phases(lanes: Timeline, scale: Scale, top: float, bottom: float, lines: Sequence[float]) -> Iterator[str]:
    for phase in lanes.phases:
        x, wide = scale.x(phase.start), scale.x(phase.end) - scale.x(phase.start)
        name = _PHASES.get(phase.name, phase.name)
        kind = _KINDS.get(phase.name, "other")
        text = element("title", escape(f"{one_line(name, 60)}: {milliseconds((phase.end - phase.start) / NS_PER_MS)}"))
        yield element("rect", text, x=x, y=top, width=max(wide, 0.5), height=bottom - top, class_=f"phase {kind}")
        yield element("path", d=f"M{x:.1f} {top:.1f}V{bottom:.1f}", class_="border")
        for short in (name, phase.name):
            needed = text_width(short, SIZE) + 10
            # At the phase's beginning, or else behind a line that would run through it.
            free = (at for at in (x, *lines) if x <= at and not any(at < line < at + needed for line in lines))
            at = next(free, x)
            if at + needed < x + wide:
                yield label(at + 6, top + 14, short, class_=f"band {kind}")
                break


def _axis(scale: Scale, window: Window, top: float, bottom: float) -> Iterator[str]:
    zero = window.zero or 0
    unit = NS_PER_MS if window.end - window.start < 4 * _S_NS and window.zero is not None else _S_NS
    name = "ms" if unit == NS_PER_MS else "s"
    for tick in ticks((window.start - zero) / unit, (window.end - zero) / unit, 10):
        x = scale.x(tick * unit + zero)
        yield element("path", d=f"M{x:.1f} {top:.1f}V{bottom:.1f}", class_="grid")
        sign = "−" if tick < -1e-9 else "+" if tick > 1e-9 and window.zero is not None else ""  # noqa: PLR2004 - zero
        yield label(x, bottom + 15, f"{sign}{abs(tick):g} {name}", class_="axis", anchor="middle")


def _leavers(crowd: Crowd, scale: Scale, top: float, bottom: float) -> Iterator[str]:
    """A thin line for each of many clients that went away."""
    times = [one.landed for one in crowd.faults if one.landed is not None and scale.holds(one.landed)]
    d = "".join(f"M{x:.1f} {top:.1f}V{bottom:.1f}" for x in sorted({round(scale.x(t), 1) for t in times}))
    if d:
        yield element("path", element("title", escape(crowd.what)), d=d, class_="line left")
