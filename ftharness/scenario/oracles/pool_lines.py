"""What managers of engine pools said, and what faults did to their engines, as the oracles of pools see it."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple
from weakref import WeakKeyDictionary

import msgspec

from ftharness.history import Log, ProcessExited
from ftharness.pool.config import ManagerConfig, PoolConfig
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.views import FaultView
from ftharness.stack.pool_setup import MANAGER

#: What an oracle says of a run that has no manager.
NO_POOL = Finding("unknown", "no manager of engine pools was run")
#: The lines by which an engine's process is there, and those by which it is not.
BEGINS, ENDS = ("engine_started", "engine_adopted"), ("engine_lost", "engine_stopped", "engine_gone")
#: Seconds that a manager may be late, on a machine whose processors are all busy, with what it does at a moment.
LATE_S = 1.0


class Hurt(NamedTuple):
    """A fault that landed on an engine of a pool.

    Attributes:
        engine: Its slot.
        pid: The process's.
        begun: When it was asked for, in ns: it struck after that, and before it was seen to have landed.
        landed: When that was, in ns.
        over: When it was undone, in ns; None: it was not, before the teardown.
        fault: The fault.
    """

    engine: str
    pid: str
    begun: int
    landed: int
    over: int | None
    fault: FaultView


def policy(case: Case) -> ManagerConfig | None:
    """What the managers were told; None where there is none."""
    told = case.params.get("pool")
    return None if told is None else msgspec.convert(told, ManagerConfig)


def pool_of(config: ManagerConfig, engine: str) -> PoolConfig | None:
    """The pool that has a slot; None: none has one of that name."""
    return next((pool for pool in config.pools if engine in pool.engine_ids), None)


def managers(case: Case) -> list[str]:
    """The managers of the run, one after the other: ``pool``, ``pool.2``."""
    return [source for source, role in case.roles.items() if role == MANAGER]


def said(case: Case, *events: str, engine: str = "", source: str = "") -> Iterator[Log]:
    """What managers said of such a meaning, in the order in which they wrote it; all of it where none is named.

    Each line has the time at which it was written. Not what they said in the teardown, in which all that they have is ended.
    """
    teardown = case.phase_t("teardown")
    for line in _written(case):
        if teardown is not None and line.t >= teardown:
            continue
        if events and line.event not in events:
            continue
        if engine in ("", line.captures.get("engine")) and source in ("", line.source):
            yield line


def _written(case: Case) -> list[Log]:
    """The lines of managers, at the times at which they were written: on a busy machine they may be read seconds later.

    A line has its manager's clock. How far that is from ours is told by the line that was read fastest: none is read before it
    is written. The order of a manager's lines is that in which they came, whatever their stamps say.
    """
    if case not in _WRITTEN:
        lines = [line for line in case.select(Log) if case.roles.get(line.source) == MANAGER]
        stamps = {line.n: int(at(line) * 1e9) for line in lines if "at" in line.captures}
        apart: dict[str, int] = {}
        for line in lines:
            if line.n in stamps:
                apart[line.source] = min(line.t - stamps[line.n], apart.get(line.source, line.t))
        last: dict[str, int] = {}
        found = []
        for line in lines:
            before = last.get(line.source, 0)
            written = stamps[line.n] + apart[line.source] if line.n in stamps else before
            last[line.source] = max(before, min(line.t, written))
            found.append(msgspec.structs.replace(line, t=last[line.source]))
        _WRITTEN[case] = sorted(found, key=lambda line: (line.t, line.n))
    return _WRITTEN[case]


_WRITTEN: WeakKeyDictionary[Case, list[Log]] = WeakKeyDictionary()


def engines(case: Case) -> list[str]:
    """The slots of all pools that something was said of."""
    return sorted({name for line in said(case) if (name := line.captures.get("engine"))})


def at(line: Log) -> float:
    """When a manager said a line, by its own clock, in seconds: what it did between two lines is not the time of our reads."""
    return datetime.fromisoformat(line.captures["at"]).timestamp()


def killed_t(case: Case, manager: str) -> int | None:
    """When a manager ended, before the teardown; in ns."""
    return case.gone_t(manager)


def manager_ended(case: Case, manager: str) -> ProcessExited | None:
    """How it ended before the teardown; None: it did not."""
    return case.exits.get(manager) if case.ended_in_phase(manager) else None


def hurt(case: Case, *kinds: str) -> list[Hurt]:
    """The faults of those kinds that landed on engines in slots."""
    teardown = case.phase_t("teardown")
    found = []
    for fault in case.faults:
        if fault.landed is None or fault.requested.fault not in kinds or "engine" not in fault.landed.evidence:
            continue
        evidence = fault.landed.evidence
        healed = fault.healed.t if fault.healed is not None else None
        over = healed if healed is not None and (teardown is None or healed < teardown) else None
        engine, pid = str(evidence["engine"]), str(evidence["engine_pid"])
        found.append(Hurt(engine, pid, fault.requested.t, fault.landed.t, over, fault))
    return found


def thawed(case: Case, line: Log, due: float) -> float:
    """When a manager that was frozen as something was due could do it; s since the epoch, by its clock; 0: it was not frozen.

    Args:
        case: The run.
        line: One of the manager's, for its clock.
        due: When, by the same clock.
    """

    def by_its_clock(t: int) -> float:
        return at(line) + (t - line.t) / 1e9

    found = 0.0
    for fault in case.faults:
        froze = fault.requested.fault == "freeze" and fault.landed is not None and fault.landed.source == line.source
        if froze and fault.landed is not None and by_its_clock(fault.landed.t) < due + LATE_S:
            found = max(found, by_its_clock(fault.healed.t if fault.healed is not None else case.events[-1].t))
    return found


def in_fault_phase(case: Case, line: Log) -> bool:
    """Whether it was said once faults could strike."""
    begin = case.phase_t("fault")
    return begin is not None and line.t >= begin


def seconds(ns: int) -> str:
    """For a person."""
    return f"{ns / 1e9:.2f} s"
