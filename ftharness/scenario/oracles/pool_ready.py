"""That engines are leased only while they are well: ``ready_only_when_healthy``."""

from collections.abc import Iterator
from typing import NamedTuple

from ftharness.history import Log
from ftharness.pool.config import ManagerConfig, ProbeConfig
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.pool_holders import asks_engines, of_holders
from ftharness.scenario.oracles.pool_lines import (
    BEGINS,
    ENDS,
    LATE_S,
    NO_POOL,
    Hurt,
    hurt,
    in_fault_phase,
    manager_ended,
    managers,
    policy,
    pool_of,
    said,
    seconds,
)

_NS = 1_000_000_000
#: How much later than it was written a line may be read, in ns.
_READ_NS = 100_000_000
_STATES = (*BEGINS, *ENDS, "engine_ready", "engine_unready")
_OK = "200"


def ready_only_when_healthy(case: Case) -> Finding:
    """No engine was leased that was not ready; one that died or was frozen was said to be so in time, and ready again only then.

    In time is, for one that died, a second; for one that is frozen as many bad answers as its probe's policy says, and a second.
    One that is thawed before it is started again is ready again after one good answer, and a second.
    An engine that was leased answers its holder, unless something befell it meanwhile. Where holders ask, and what an engine
    answered was not seen, that is not known.
    """
    config = policy(case)
    if config is None:
        return NO_POOL
    hurts = hurt(case, "kill_engine", "freeze_engine")
    noticed = list(_noticed(case, config, hurts))
    wrong = [one for one in noticed if isinstance(one, Finding)]
    found = [*_granted_when_ready(case, config), *wrong, *_back(case, config, hurts)]
    found += [*_answered(case, hurts), *_unseen(case)]
    if finding := short_of_passing(found):
        return finding
    granted = [line for line in said(case, "lease_granted") if in_fault_phase(case, line)]
    if not granted:
        return Finding("unknown", "no lease was granted in the fault phase")
    seen = [one for one in noticed if isinstance(one, _Noticed)]
    answers = sum(
        line.captures["status"] == _OK for line in of_holders(case, "lease_used") if in_fault_phase(case, line)
    )
    asked = f"; {answers:,} answered who had leased them" if answers else ""
    reasons = [f"{len(granted):,} leases, each on an engine that was ready{asked}", *_told(seen)]
    return Finding("pass", "; ".join(reasons), tuple(n for one in seen for n in one.evidence))


class _Noticed(NamedTuple):
    """What befell an engine, and was said in time.

    Attributes:
        what: ``main-1 was killed``.
        after_ns: How long after.
        evidence: The events.
    """

    what: str
    after_ns: int
    evidence: tuple[int, int]


def _told(seen: list[_Noticed]) -> Iterator[str]:
    """For a person: how often each befell, and how late that was said at most."""
    for what in dict.fromkeys(one.what for one in seen):
        times = [one.after_ns for one in seen if one.what == what]
        often = f" {len(times)} times" if len(times) > 1 else ""
        yield f"{what}{often}, which was said after {seconds(max(times))}{' at most' if often else ''}"


def _granted_when_ready(case: Case, config: ManagerConfig) -> Iterator[Finding]:
    """By the managers' own lines: what each engine was said to be when a lease on it was granted."""
    state: dict[tuple[str, str], Log] = {}
    for line in said(case, *_STATES, "lease_granted"):
        slot = (line.source, line.captures["engine"])
        before = state.get(slot)
        was = before.event if before is not None else "never started"
        evidence = (*([before.n] if before is not None else []), line.n)
        if line.event == "lease_granted":
            fits = was == "engine_ready" or (was == "engine_unready" and config.fail_mode == "open")
            if not fits:
                lease = line.captures["lease"]
                what = f"lease {lease} was granted on {slot[1]}, of which the last word was {_word(was)}"
                yield Finding("fail", what, evidence, invariant=True)
            continue
        says = line.event.removeprefix("engine_")
        if says in ("ready", "unready") and was not in (*BEGINS, "engine_unready", "engine_ready"):
            yield Finding(
                "fail", f"{slot[1]} was {says}, of which the last word was {_word(was)}", evidence, invariant=True
            )
        state[slot] = line


def _noticed(case: Case, config: ManagerConfig, hurts: list[Hurt]) -> Iterator[Finding | _Noticed]:
    """Each engine that a fault hit was said to be lost, or not ready, in time; and not ready again before it was well."""
    teardown = case.phase_t("teardown") or (case.events[-1].t if case.events else 0)
    for one in hurts:
        assert one.fault.landed is not None
        n = one.fault.landed.n
        pool = pool_of(config, one.engine)
        if pool is None:
            yield Finding("unknown", f"a fault landed on {one.engine}, an engine that no pool has", (n,))
            continue
        frozen = one.fault.requested.fault == "freeze_engine"
        bound_s = _bound_s(pool.probe) if frozen else LATE_S
        until = min(
            [teardown, *_ends_of_managers(case, one.landed), *([one.over] if frozen and one.over is not None else [])]
        )
        what = f"{one.engine} was {'frozen' if frozen else 'killed'}"
        lines = [line for line in said(case, *_STATES, "lease_granted", engine=one.engine) if line.t >= one.begun]
        seen = next((line for line in lines if line.event in (*ENDS, "engine_unready")), None)
        before = next(
            (line for line in reversed(list(said(case, *_STATES, engine=one.engine))) if line.t < one.begun), None
        )
        if frozen and before is not None and before.event == "engine_unready" and not _early(lines, before, until):
            continue  # it was said already
        if until - one.landed < bound_s * _NS and (seen is None or seen.t > until):
            continue  # it was not so for long enough
        if seen is None or seen.t - one.landed > bound_s * _NS:
            said_so = "nobody said so" if seen is None else f"that was said after {seconds(seen.t - one.landed)}"
            yield Finding("fail", f"{what}, and {said_so}; {bound_s:.1f} s were due", (n,), invariant=True)
            continue
        if frozen and (early := _early(lines, seen, until)):
            yield Finding("fail", f"{what}, and was said to be ready meanwhile", (n, early.n), invariant=True)
            continue
        yield _Noticed(what, max(0, seen.t - one.landed), (n, seen.n))


def _back(case: Case, config: ManagerConfig, hurts: list[Hurt]) -> Iterator[Finding]:
    """Each engine that was thawed, and was not ready, was said to be so again; unless it ended, or went on to answer badly."""
    teardown = case.phase_t("teardown") or (case.events[-1].t if case.events else 0)
    for one in hurts:
        pool = pool_of(config, one.engine)
        if one.fault.requested.fault != "freeze_engine" or one.over is None or pool is None:
            continue
        assert one.fault.landed is not None
        answer_s = pool.probe.interval_s + pool.probe.timeout_s
        due = one.over + int((answer_s + LATE_S) * _NS)
        others = (other.begun for other in hurts if other.engine == one.engine and other.begun > one.begun)
        if min([teardown, *others, *_ends_of_managers(case, one.landed)]) < due:
            continue
        lines = [line for line in said(case, *_STATES, "probe_failed", engine=one.engine) if one.begun <= line.t < due]
        unready = next((line for line in lines if line.event == "engine_unready"), None)
        since = one.over + int(answer_s * _NS)  # what failed after that was asked of an engine that was thawed
        excused = any(line.event == "probe_failed" and line.t > since for line in lines)
        again = any(
            line.event in (*ENDS, "engine_ready") and unready is not None and line.n > unready.n for line in lines
        )
        if unready is not None and not excused and not again:
            what = f"{one.engine} was thawed, and nobody said that it is ready; {answer_s + LATE_S:.1f} s were due"
            yield Finding("fail", what, (one.fault.landed.n, unready.n), invariant=True)


def _ends_of_managers(case: Case, since: int) -> list[int]:
    """When managers ended after that moment, before the teardown; in ns."""
    ends = (manager_ended(case, name) for name in managers(case))
    return [end.t for end in ends if end is not None and end.t > since]


def _early(lines: list[Log], seen: Log, until: int) -> Log | None:
    """The line by which a process that is frozen is ready again; one that was started in its place may be."""
    for line in lines:
        if line.n <= seen.n:
            continue
        if line.event in BEGINS or line.t >= until:
            return None
        if line.event == "engine_ready":
            return line
    return None


def _bound_s(probe: ProbeConfig) -> float:
    """How long a manager may take to see that an engine does not answer, in seconds."""
    return probe.unready_after * (probe.interval_s + probe.timeout_s) + LATE_S


def _answered(case: Case, hurts: list[Hurt]) -> Iterator[Finding]:
    """Each holder's engine answered, unless its end was said after the lease was granted, or a fault hit it, or its manager."""
    granted = {line.captures["lease"]: line for line in said(case, "lease_granted")}
    for used in of_holders(case, "lease_used"):
        given = granted.get(used.captures["lease"])
        if used.captures["status"] == _OK or given is None:
            continue
        engine = used.captures["engine"]
        ends = list(said(case, *ENDS, engine=engine))
        gone = manager_ended(case, given.source)
        if (
            any(line.n > given.n and line.t <= used.t + _READ_NS for line in ends)
            or any(one.engine == engine and _befell(one, given, used, ends) for one in hurts)
            or (gone is not None and gone.t <= used.t + _NS)
        ):
            continue
        how = f"its engine, {engine}, did not answer ({used.captures['status']})"
        what = f"lease {used.captures['lease']} was granted, and {how}; nothing had befallen it"
        yield Finding("fail", what, (given.n, used.n), invariant=True)


def _unseen(case: Case) -> Iterator[Finding]:
    """Leases whose holder asks their engine, and is done with them, and never said what that answered."""
    seen = {line.captures["lease"] for line in of_holders(case, "lease_used")}
    got = {line.captures["lease"]: line for line in of_holders(case, "lease_got")}
    for over in of_holders(case, "lease_returned", "lease_lost"):
        lease = over.captures["lease"]
        if lease in got and lease not in seen and asks_engines(case, over.source):
            what = f"{over.source} asks each engine, and what {over.captures['engine']} answered of lease {lease} was not seen"
            yield Finding("unknown", what, (got[lease].n, over.n))


def _befell(one: Hurt, given: Log, used: Log, ends: list[Log]) -> bool:
    """Whether a fault hit the engine that a lease was granted on, and not one before it in its slot."""
    if one.begun > used.t:
        return False
    if one.fault.requested.fault == "freeze_engine":
        return one.over is None or one.over >= given.t
    noticed = next((line for line in ends if line.t >= one.begun), None)
    return noticed is not None and noticed.n > given.n


def _word(event: str) -> str:
    return event.removeprefix("engine_")
