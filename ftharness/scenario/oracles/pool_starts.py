"""That there is one process to a slot: ``no_double_start``, by what managers said and by what the kernel shows."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from ftharness.history import Log
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.pool_lines import (
    BEGINS,
    ENDS,
    NO_POOL,
    engines,
    hurt,
    in_fault_phase,
    managers,
    policy,
    said,
)
from ftharness.scenario.views import FaultView

#: How long the word of an end may be on its way, in ns.
_SAID_NS = 1_000_000_000


def no_double_start(case: Case) -> Finding:
    """No slot of a pool had two processes at a time, also not across the end of a manager.

    What a manager finds of an earlier one's it adopts, or finds gone, as it was configured. A ``count_engines`` shows by the
    kernel's word what managers did not say.
    """
    config = policy(case)
    if config is None:
        return NO_POOL
    slots = engines(case)
    looks = [fault for fault in case.faults if fault.requested.fault == "count_engines" and fault.landed is not None]
    for look in looks:
        assert look.landed is not None
        there: dict[str, Any] = look.landed.evidence.get("engines", {})
        for slot, pids in there.items():
            if len(pids) > 1:
                two = " and ".join(map(str, pids))
                # Whatever became of other faults: two processes are two.
                return Finding("fail", f"{slot} has the processes {two} at once", (look.landed.n,), invariant=True)
        for slot, pids in there.items():
            begun = {line.captures["pid"] for line in said(case, *BEGINS, engine=slot)}
            if unknown := [pid for pid in pids if str(pid) not in begun]:
                what = f"{slot} has the process {unknown[0]}, of which no manager said that it had started it"
                return Finding("fail", what, (look.landed.n,), invariant=True)
        for slot in slots:
            if wrong := _not_there(case, slot, look, there.get(slot, [])):
                return Finding("fail", wrong, (look.landed.n,), invariant=True)
    found = [_one_slot(case, slot, survive=config.engines_survive) for slot in slots]
    found += [one for slot in slots for one in _passed_over(case, slot)]
    if finding := short_of_passing(found):
        return finding
    again = [line for line in said(case, *BEGINS, "engine_gone") if in_fault_phase(case, line)]
    if not again and not looks:
        return Finding("unknown", "no engine was started, adopted or found gone in the fault phase")
    counts = {event: sum(line.event == event for line in again) for event in (*BEGINS, "engine_gone")}
    words = (
        (counts["engine_started"], "started"),
        (counts["engine_adopted"], "adopted"),
        (counts["engine_gone"], "gone"),
    )
    told = ", ".join(f"{count} {word}" for count, word in words if count) or "none started"
    looked = f"; {len(looks)} looks into /proc" if looks else ""
    return Finding("pass", f"{len(slots)} slots: {told}, never two at once{looked}", tuple(line.n for line in again))


def _not_there(case: Case, slot: str, look: FaultView, pids: list[int]) -> str:
    """What is wrong with a slot in which the kernel shows nothing, though a manager has said for a while that something is."""
    assert look.landed is not None
    before = [line for line in said(case, *BEGINS, *ENDS, engine=slot) if line.t < look.landed.t]
    if pids or not before or before[-1].event in ENDS or look.landed.t - before[-1].t < _SAID_NS:
        return ""
    if any(
        one.engine == slot and one.begun <= look.landed.t < one.landed + _SAID_NS for one in hurt(case, "kill_engine")
    ):
        return ""
    gone = case.gone_t(before[-1].source)
    if gone is not None and gone < look.landed.t:
        return ""  # and its engines may be gone with it: the next one has not said so yet
    return f"{slot} has no process, and {before[-1].captures['pid']} was said to be there"


def _passed_over(case: Case, slot: str) -> Iterator[Finding]:
    """Managers that serve, and never said what became of the process that the one before had in a slot."""
    for before, after in pairwise(managers(case)):
        last = next(reversed(list(said(case, *BEGINS, *ENDS, engine=slot, source=before))), None)
        serves = next(said(case, "manager_started", source=after), None)
        if last is None or last.event in ENDS or serves is None:
            continue
        if next(said(case, *BEGINS, *ENDS, engine=slot, source=after), None) is None:
            what = f"{slot}: {before} left process {last.captures['pid']}, and {after} never said what became of it"
            yield Finding("fail", what, (last.n, serves.n), invariant=True)


def _one_slot(case: Case, slot: str, *, survive: bool) -> Finding:
    """What was said of one slot, line by line."""
    killed = {one.pid: one.landed for one in hurt(case, "kill_engine") if one.engine == slot}
    now: Log | None = None
    for line in said(case, *BEGINS, *ENDS, engine=slot):
        pid = line.captures.get("pid", "")
        before = now.captures["pid"] if now is not None else ""
        evidence = (*(() if now is None else (now.n,)), line.n)
        if line.event == "engine_started":
            if now is not None:
                what = f"{slot}: process {pid} was started, and of {before} nobody had said that it had ended"
                return Finding("fail", what, evidence, invariant=True)
            now = line
        elif line.event == "engine_adopted":
            if not survive:
                what = f"{slot}: process {pid} was adopted, and engines were to end with their manager"
                return Finding("fail", what, evidence, invariant=True)
            if pid != before:
                what = f"{slot}: process {pid} was adopted, and {before or 'none'} was there before"
                return Finding("fail", what, evidence, invariant=True)
            now = line
        elif line.event == "engine_gone":
            if before and pid != before:
                what = f"{slot}: process {pid} was gone, and {before} was there before"
                return Finding("fail", what, evidence, invariant=True)
            if survive and pid == before and pid not in killed:
                what = f"{slot}: process {pid} was gone, and was to outlive its manager"
                return Finding("fail", what, evidence, invariant=True)
            now = None
        else:
            if now is None and line.event == "engine_lost":
                what = f"{slot}: an engine was lost, and nobody had said that one was there"
                return Finding("fail", what, evidence, invariant=True)
            now = None
    return Finding("pass", slot)
