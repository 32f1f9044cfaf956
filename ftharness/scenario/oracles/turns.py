"""Whose turn it was, of engines that share a failover lock: by their own lines, their ends, and the faults that hit them."""

from ftharness.faults import HARMLESS
from ftharness.history import Log, ProcessStarted, RequestChunk
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.views import FaultView

#: What hits no engine: it joins one, looks at one, or lets one go on.
HITS_NOBODY = (*HARMLESS, "thaw")
#: What tells an engine to end, which it does in its own time; whatever else harms one ends its turn on the spot.
_ASKS = ("terminate", "interrupt")
#: By how much what two processes say, or how one ended, may be read in another order than it happened.
READ_LATE_NS = 100_000_000
NO_GROUPS = Finding("unknown", "there are no shadow engines: aggregated(standbys=1) makes groups of engines")


def groups(case: Case) -> dict[str, list[str]]:
    """The members of each group, in the order in which they were started."""
    found: dict[str, list[str]] = {}
    for source in case.roles:
        if group := case.group(source):
            found.setdefault(group, []).append(source)
    return found


def harmful(case: Case) -> list[FaultView]:
    """The faults that hit something, whatever it was."""
    return [fault for fault in case.faults if fault.landed is not None and fault.requested.fault not in HITS_NOBODY]


def had_its_turn(case: Case, fault: FaultView) -> bool:
    """Whether the engine that was hit had the lock by then, and not only waited for it."""
    return (
        fault.landed is not None
        and fault.requested.fault not in HITS_NOBODY
        and bool(case.group(fault.process))
        and any(wrote_before(case, line, fault) for line in case.select(Log, event="lock_acquired"))
    )


def wrote_before(case: Case, line: Log, fault: FaultView) -> bool:
    """Whether the one that was hit had written this line by then. What it wrote may be read when it is dead."""
    if fault.landed is None or line.source != fault.process:
        return False
    return line.t <= fault.landed.t or _ended_by(case, fault)


def _ended_by(case: Case, fault: FaultView) -> bool:
    """Whether a process wrote nothing after a fault: it was killed by it, or frozen and never thawed."""
    ended = case.exits.get(fault.process)
    if fault.landed is None or ended is None or ended.signal != "SIGKILL" or not case.ended_in_phase(fault.process):
        return False
    if fault.requested.fault == "freeze":
        thawed = thawed_t(case, fault)
        return thawed is None or thawed >= ended.t
    return fault.requested.fault == "kill"


def thawed_t(case: Case, fault: FaultView) -> int | None:
    """When a process that was frozen went on, by the fault's own length or by a ``thaw``; not at the run's end."""
    if fault.landed is None or fault.requested.fault != "freeze":
        return None
    teardown = case.phase_t("teardown")
    thaws = [
        one.landed.t
        for one in case.faults
        if one.landed is not None and one.requested.fault == "thaw" and one.process == fault.process
    ]
    moments = [*([fault.healed.t] if fault.healed else []), *(t for t in thaws if t >= fault.landed.t)]
    return min((t for t in moments if teardown is None or t < teardown), default=None)


def was_fenced_t(case: Case, source: str) -> int | None:
    """When another engine said that it killed this process, since it held the lock and was silent."""
    pids = {str(start.pid) for start in case.select(ProcessStarted, source=source)}
    return next((line.t for line in case.select(Log, event="fenced") if line.captures.get("pid") in pids), None)


def over_by(case: Case, source: str, t: int) -> bool:
    """Whether an engine's turn was over by then: it had ended, had been struck, or had said that it is done.

    What is read a moment later than ``t`` may have been before it, and counts. One that is told to end says so when it has
    let go; of one that tells no states its being told is all there is to go by.
    """
    until = t + READ_LATE_NS
    ends = [case.gone_t(source), was_fenced_t(case, source)]
    ends += [
        line.t
        for event in ("engine_died", "drained", "wake_failed")
        for line in case.select(Log, event=event, source=source)
    ]
    states = list(case.select(Log, event="failover_state", source=source))
    ends += [line.t for line in states if line.captures.get("state") == "dead"]
    for fault in harmful(case):
        if fault.process != source or (fault.requested.fault in _ASKS and states):
            continue
        thawed = thawed_t(case, fault)
        if thawed is None or thawed >= t:
            ends.append(fault.requested.t)
    return any(end is not None and end <= until for end in ends)


def alive_in(case: Case, source: str, since: int, until: int | None = None) -> bool:
    """Whether a process lived at any time between the two; until the run's end, where no other is given."""
    start = next(case.select(ProcessStarted, source=source), None)
    gone = case.gone_t(source)
    return start is not None and (until is None or start.t < until) and (gone is None or gone > since)


def won_after(case: Case, members: list[str], hit: str, since: int) -> Log | None:
    """The first line since then by which another engine of the group says that it has the lock."""
    lines = case.select(Log, event="lock_acquired")
    return next((line for line in lines if line.t >= since and line.source in members and line.source != hit), None)


def served_after(case: Case, members: list[str], hit: str, since: int) -> RequestChunk | None:
    """The first chunk since then that another engine of the group made; not for who checks the reference."""
    chunks = (one for one in case.select(RequestChunk) if not case.in_cut(one.t))
    return next((one for one in chunks if one.t >= since and one.worker in members and one.worker != hit), None)


def in_ms(ns: float) -> str:
    """For a person."""
    return f"{ns / 1e6:.1f} ms"
