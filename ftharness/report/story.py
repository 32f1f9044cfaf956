"""The small story of a scenario that did not hold what it promised: on one clock, in under thirty lines."""

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from ftharness.history import Event
from ftharness.report.chronicle import Entry, choose, chronicle
from ftharness.report.clean import one_line, plain
from ftharness.report.moments import Moments, moments
from ftharness.report.recovered import given_up
from ftharness.report.run import MARKS, excuse, of_findings, planted
from ftharness.report.timeline import RequestLane, Timeline, timeline
from ftharness.report.units import NS_PER_MS, amount, milliseconds, moment, pairs
from ftharness.scenario.record import OracleRecord, ScenarioRecord

_HAPPENED = 14  # lines of what happened
_ORACLES = 5
_REASON = 12  # lines
_WIDE = 150
_WHOLE = 30_000  # characters: more than its lines can have
_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\S+\s+")  # a line's own clock; the story has one for all
# Between the control and the teardown is what the story is about; a phase's beginning and the launch are not.
_TOLD = ("fault", "look", "exit", "end", "leak", "log", "pool", "lease", "request", "token")


def story(record: ScenarioRecord, events: Sequence[Event], folder: Path | None = None) -> str:
    """What was asked, what was injected and the proof that it landed, what each party did next, with log lines.

    Args:
        record: The scenario as it was judged.
        events: Its history.
        folder: Where the run is; said in the last line.

    Returns:
        Less than 30 lines, none ends in a newline.
    """
    lanes = timeline(events)
    faults = moments(record.faults, events, lanes)
    on = " · ".join(part for part in (record.stack, record.engine, record.sut_version) if part)
    note = excuse(record)
    known = f" ({note.kind.replace('_', ' ')})" if note else ""
    lines = [f"{record.verdict.upper()}{known}  {one_line(record.name, 80)}{f' on {one_line(on, 60)}' if on else ''}"]
    if bug := planted(record):
        lines[0] += f"  {one_line(bug, 80)}"
    # Where an oracle decided, the reason is its own, and stands among the oracles.
    if record.reason and not any(record.reason in (o.reason, f"{o.name}: {o.reason}") for o in record.oracles):
        # It may hold the last lines of a process that did not start: what its reader needs most.
        lines += _reason(record.reason)
    for said in of_findings(record)[:2]:
        lines += [f"  {part}" for part in wrap(f"{said.kind.replace('_', ' ')} {one_line(said.reason, 600)}", _WIDE)]
    untested = [one for one in record.oracles if one.reason == f"not tested: {record.reason}"]
    lines += _oracles([one for one in record.oracles if one not in untested])
    if untested:
        lines.append(f"  {MARKS['unknown']} not tested: {one_line(', '.join(one.name for one in untested), _WIDE)}")
    zero = next((fault.struck or fault.at for fault in faults if fault.at is not None), None)
    told = _happened(record, events, lanes, faults, zero)
    if told:
        clock = "seconds since the run's start" + (", ms from the fault" if zero is not None else "")
        lines.append(f"  what happened ({clock})")
        lines += [_line(entry, zero) for entry in told]
    taken = [one.takeover for one in faults if one.takeover][:2]
    for takeover in taken:
        how = f"{takeover.fencing}; {takeover.told}" if takeover.fencing else takeover.told
        lines.append(f"  takeover {one_line(how, _WIDE)}")
    lines += [_tokens(one) for one in faults[: 2 - len(taken)] if one.request and one.landed is not None]
    lines += [f"  leak     {one_line(leak, _WIDE)}" for leak in record.leaks[:2]]
    if record.drift:
        lines.append(f"  drift    {one_line('; '.join(record.drift), _WIDE)}")
    if folder is not None:
        place = folder if record.path in (".", "") else folder / record.path
        lines.append(f"  run      {place} (open {folder / 'report.html'})")
    # Whatever a name, a line or a path holds, it shows itself and does nothing to the terminal.
    return plain("\n".join(lines), _WHOLE)


def _reason(reason: str) -> list[str]:
    """A sentence whole, for it may end with the line of a file; of a process's last lines each as far as there is room."""
    lines = [plain(line) for line in reason.splitlines()[:_REASON]]  # one that is long costs those after it nothing
    if len(lines) == 1:
        return [f"  {part}" for part in wrap(lines[0], _WIDE, break_on_hyphens=False)]
    return [one_line_kept(f"  {line}") for line in lines]


def _oracles(oracles: Sequence[OracleRecord]) -> list[str]:
    """Those that failed, then those that cannot tell; of those that passed only how many."""
    order = {"fail": 0, "unknown": 1}
    bad = sorted((one for one in oracles if one.verdict != "pass"), key=lambda one: order[one.verdict])
    lines = [
        f"  {MARKS[one.verdict]} {one_line(one.name, 40)}: {one_line(one.reason, _WIDE)}{known_by(one)}"
        for one in bad[:_ORACLES]
    ]
    rest = [f"{len(bad) - _ORACLES} more did not pass"] if len(bad) > _ORACLES else []
    passed = [one_line(one.name, 40) for one in oracles if one.verdict == "pass"]
    if passed:
        rest.append(f"passed: {', '.join(passed)}")
    return [*lines, f"  {MARKS['pass']} {one_line('; '.join(rest), _WIDE)}"] if rest else lines


def known_by(oracle: OracleRecord) -> str:
    """By which known findings it is explained."""
    return f" [known: {one_line(', '.join(oracle.known), 80)}]" if oracle.known else ""


def _happened(
    record: ScenarioRecord, events: Sequence[Event], lanes: Timeline, faults: Sequence[Moments], zero: int | None
) -> list[Entry]:
    evidence: dict[int, list[str]] = {}
    for oracle in record.oracles:
        if oracle.verdict != "pass":
            for n in oracle.evidence:
                evidence.setdefault(n, []).append(oracle.name)
    phases = {phase.name: phase for phase in lanes.phases}
    start = phases["fault"].start if "fault" in phases else 0
    end = phases["teardown"].start if "teardown" in phases else lanes.end
    entries = chronicle(events, lanes, faults, evidence)
    during = [entry for entry in entries if entry.kind in _TOLD and start <= entry.t <= end]
    proofs = [entry for entry in entries if entry.proves and entry not in during]
    if not during and not proofs:
        # The fault's phase never began: how far it came is the story.
        return entries[-_HAPPENED:]
    aimed = {fault.request.id for fault in faults if fault.request}
    # With hundreds of requests only those that the fault was aimed at, and those that did not end well, are of interest.
    ok = {lane.id for lane in lanes.requests if lane.ok}
    during = [
        entry for entry in during if not entry.request or entry.request in aimed or entry.request not in ok or not aimed
    ]
    around = [fault.at for fault in faults if fault.at is not None] or [zero or end]
    return sorted(choose([*during, *proofs], _HAPPENED, around), key=lambda entry: entry.t)


def _line(entry: Entry, zero: int | None) -> str:
    clock = f"{entry.t / NS_PER_MS / 1000:9.4f}"
    if zero is not None:
        clock += f" {(entry.t - zero) / NS_PER_MS:+10.2f}"
    said = f"  | {one_line(_STAMP.sub('', entry.line), 200)}" if entry.line else ""
    return one_line_kept(f"  {clock}  {entry.source[:14]:<14} {entry.what}{said}")


def one_line_kept(text: str) -> str:
    """Cut to the story's width; its columns stay as they are."""
    return text if len(text) <= _WIDE + 10 else f"{text[: _WIDE + 9]}…"


def _tokens(one: Moments) -> str:
    request: RequestLane | None = one.request
    assert request is not None
    assert one.landed is not None
    before = request.tokens(end=one.landed)
    later = request.tokens() - before
    gap = (
        f", longest gap after it {milliseconds((g[1] - g[0]) / NS_PER_MS)}"
        if (g := request.longest_gap(one.landed))
        else ""
    )
    proof = pairs(one.fault.evidence, 60)
    if one.left:
        after = given_up(one.fault.recovery) or "no worker said that it gave it up"
        phase = f", in {one_line(one.phase, 40)}" if one.phase else ""
        return (
            f"  tokens   {request.name} had {amount(before, 'token')} when {one_line(one.what, 40)} landed at "
            f"{moment(one.landed)}{phase}; {after}"
        )
    return (
        f"  tokens   {request.name} had {amount(before, 'token')} when {one.fault.kind} {one_line(one.fault.target, 30)} "
        f"landed at {moment(one.landed)}{f', in {one_line(one.phase, 40)}' if one.phase else ''}"
        f"{f' ({proof})' if proof else ''}, and got {later:,} more{gap}"
    )
