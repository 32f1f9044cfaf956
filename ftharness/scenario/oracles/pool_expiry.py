"""That leases end when nobody renews them, and not before: ``leases_expire_on_time``."""

from itertools import pairwise
from typing import NamedTuple

from ftharness.history import Log
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.jobs_lives import killed
from ftharness.scenario.oracles.pool_holders import renewed_until
from ftharness.scenario.oracles.pool_lines import (
    LATE_S,
    NO_POOL,
    at,
    in_fault_phase,
    killed_t,
    policy,
    said,
    thawed,
)

#: What a manager's clock may be off by between two of its lines; seconds.
_CLOCK_S = 0.05
_ENDS = ("lease_released", "lease_revoked", "lease_expired")
_NS = 1_000_000_000


class _Given(NamedTuple):
    """What was promised of a lease.

    Attributes:
        line: The manager's, by which it was granted or taken over.
        told: Until when it lasts, by the grant and by each renewal that its holder got, in order; seconds since the epoch.
        ttl_s: How long each renewal makes it last.
    """

    line: Log
    told: list[float]
    ttl_s: float

    @property
    def until(self) -> float:
        """When it is over, by the last word that its holder got."""
        return self.told[-1]

    @property
    def lease(self) -> str:
        """Which it is."""
        return self.line.captures["lease"]

    @property
    def who(self) -> str:
        """It, and its holder, for a person."""
        return f"lease {self.lease} of {self.line.captures['holder']}"


def leases_expire_on_time(case: Case) -> Finding:
    """A lease that nobody renews is over when its holder was told that it would be, a second later at most, and never before.

    What is over is not renewed. When is what the manager said at the grant, and at each renewal that the holder knows of. Of a
    holder that was killed the last renewal may not have been told: its leases may last for that much longer. Times are those of
    the manager's own clock.
    """
    if policy(case) is None:
        return NO_POOL
    given = _given(case)
    ends = {line.captures["lease"]: line for line in said(case, *_ENDS)}
    wrong = [finding for one in given.values() if (finding := _wrong(case, one, ends.get(one.lease))) is not None]
    if finding := short_of_passing(wrong):
        return finding
    expired = [
        (given[lease], line)
        for lease, line in ends.items()
        if line.event == "lease_expired" and lease in given and in_fault_phase(case, line)
    ]
    if not expired:
        return Finding("unknown", "no lease expired in the fault phase")
    late_s = max(at(line) - one.until for one, line in expired)
    renewed = sum(len(one.told) - 1 for one in given.values())
    what = f"{len(expired)} leases expired, {max(late_s, 0.0):.2f} s late at most; {renewed:,} renewals were kept"
    return Finding("pass", what, tuple(line.n for _, line in expired))


def _given(case: Case) -> dict[str, _Given]:
    """All leases, as promised."""
    told = renewed_until(case)
    found: dict[str, _Given] = {}
    for line in said(case, "lease_granted", "lease_taken_over"):
        lease, until = line.captures["lease"], int(line.captures["expires_ms"]) / 1000
        if lease in found:  # it was taken over, with what its holder had been told
            found[lease] = found[lease]._replace(line=line)
        else:
            found[lease] = _Given(line, sorted({until, *told[lease]}), until - at(line))
    return found


def _wrong(case: Case, one: _Given, end: Log | None) -> Finding | None:
    """What is wrong with when a lease ended; None: nothing."""
    holder = one.line.captures["holder"].partition("/")[0]
    may_be_renewed = case.in_contract("lease_renewed") and killed(case, holder)
    for before, after in pairwise(one.told):
        if after - one.ttl_s > before + _CLOCK_S:
            revived = f"{one.who} was renewed {after - one.ttl_s - before:.2f} s after it was to be over"
            return Finding("fail", revived, (one.line.n,), invariant=True)
    due = one.until + (one.ttl_s if may_be_renewed else 0.0)
    latest = max(due, thawed(case, one.line, due), at(one.line)) + LATE_S  # who took it over could not end it before
    if end is not None and end.event == "lease_expired" and at(end) < one.until - _CLOCK_S:
        early = f"{one.who} expired {one.until - at(end):.2f} s before its time"
        return Finding("fail", early, (one.line.n, end.n), invariant=True)
    if end is not None and end.event == "lease_released" and at(end) > due + _CLOCK_S:
        # However late its manager looks: it looks when it is asked to take it back.
        revived = (
            f"{one.who} was given back {at(end) - one.until:.2f} s after it was to be over, and was held until then"
        )
        return Finding("fail", revived, (one.line.n, end.n), invariant=True)
    over = at(end) if end is not None else _looked_until(case, one.line)
    if over <= latest:
        return None
    became = f"{end.event.removeprefix('lease_')} then" if end is not None else "held"
    late = f"{one.who} was to be over, and {over - one.until:.2f} s later it is {became}"
    return Finding("fail", late, (one.line.n, *([end.n] if end is not None else [])), invariant=True)


def _looked_until(case: Case, line: Log) -> float:
    """When the manager that had a lease was last at work, by its own clock; seconds since the epoch."""
    ends = [t for t in (killed_t(case, line.source), case.fault_end_t) if t is not None]
    return at(line) + (min(ends, default=line.t) - line.t) / _NS
