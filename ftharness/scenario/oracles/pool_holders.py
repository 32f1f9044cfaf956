"""What the holders of leases said, which are jobs, as the oracles of pools see it; and which life of a job a holder was."""

from collections import defaultdict
from collections.abc import Iterator

from ftharness.history import Log, ProcessStarted
from ftharness.scenario.case import Case
from ftharness.scenario.oracles.jobs_lives import option
from ftharness.stack.job import JOB
from ftharness.stack.lives import first_life

#: How long an answer may be on its way on a busy machine, in ns.
INSTANT_NS = 1_000_000_000


def of_holders(case: Case, *events: str) -> Iterator[Log]:
    """What holders said of such a meaning, in the order in which it was read. Not what they said in the teardown."""
    teardown = case.phase_t("teardown")
    for line in case.select(Log):
        if line.event in events and case.roles.get(line.source) == JOB and (teardown is None or line.t < teardown):
            yield line


def renewed_until(case: Case) -> defaultdict[str, list[float]]:
    """Until when each lease was to last, by each renewal that its holder got; seconds since the epoch."""
    told: defaultdict[str, list[float]] = defaultdict(list)
    for line in case.select(Log):
        if line.event == "lease_renewed" and case.roles.get(line.source) == JOB:
            told[line.captures["lease"]].append(int(line.captures["expires_ms"]) / 1000)
    return told


def life_of(case: Case, holder: str, t: int) -> str:
    """The life of a job, ``job-1.2``, whose holder ``job-1/3`` was granted something at ``t``.

    "" where none had begun, or where it may have been asked for by the life before, which had only just ended.
    """
    job = holder.partition("/")[0]
    begun = [
        event.source
        for event in case.select(ProcessStarted, role=JOB)
        if first_life(event.source) == job and event.t <= t
    ]
    if len(begun) > 1:
        ended = case.gone_t(begun[-2])
        if ended is None or t - ended < INSTANT_NS:
            return ""
    return begun[-1] if begun else ""


def asks_engines(case: Case, source: str) -> bool:
    """Whether the holders of a job ask each engine that they lease for an answer."""
    return option(case, source, "--tokens") not in ("", "0")
