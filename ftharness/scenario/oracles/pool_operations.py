"""What drains and reloads of pools came to: ``operations_come_to``."""

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from ftharness.history import Log
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.pool_drains import wrong_with_drain
from ftharness.scenario.oracles.pool_holders import INSTANT_NS, of_holders
from ftharness.scenario.oracles.pool_lines import NO_POOL, in_fault_phase, manager_ended, policy, said

_ENDS = {"drain_begun": "drain_ended", "reload_begun": "reload_ended"}
#: What a pool comes to in which leases can be had again.
_SERVES = ("aborted", "succeeded", "rolled_back")
_SHUT = ("draining", "not_ready")


def operations_come_to(case: Case, outcomes: Sequence[str]) -> Finding:
    """The drains and reloads of the fault phase came to this, in their order, and what was done is what their words say.

    Of drains ``drained``: no lease was taken back, and none was held any more; ``stopped``: those that were left at the deadline
    were taken back, and not before; ``aborted``: none was, and leases are granted again. Nothing of it came later than a second
    after the deadline, by the manager's own clock. Of reloads ``succeeded``: all that is leased until the next operation serves
    the new model; ``rolled_back``: the one that was served before.
    """
    if policy(case) is None:
        return NO_POOL
    begun = [line for line in said(case, *_ENDS) if in_fault_phase(case, line)]
    if not begun:
        return Finding("unknown", "nothing was drained or reloaded in the fault phase")
    if len(begun) != len(outcomes):
        what = f"{len(begun)} drains and reloads were begun, and {len(outcomes)} outcomes are expected"
        return Finding("unknown", what, tuple(line.n for line in begun))
    found = [_came_to(case, line, outcome) for line, outcome in zip(begun, outcomes, strict=True)]
    return short_of_passing(found) or Finding(
        "pass", "; ".join(one.reason for one in found), tuple(n for one in found for n in one.evidence)
    )


def _came_to(case: Case, begun: Log, outcome: str) -> Finding:
    pool = begun.captures["pool"]
    lines = [line for line in said(case, source=begun.source) if line.captures.get("pool") == pool]
    later = [line for line in lines if line.n > begun.n]
    ended = next((line for line in later if line.event == _ENDS[begun.event]), None)
    what = f"a {begun.event.partition('_')[0]} of {pool}"
    if ended is None and manager_ended(case, begun.source) is not None:
        return Finding("unknown", f"{what} was begun, and its manager was gone before it was over", (begun.n,))
    if ended is None:
        return Finding("fail", f"{what} was begun, and never ended", (begun.n,), pending=True)
    evidence = (begun.n, ended.n)
    came_to = ended.captures["outcome"]
    if came_to != outcome:
        return Finding("fail", f"{what} came to {came_to}, not to {outcome}", evidence)
    if begun.event == "drain_begun" and (wrong := wrong_with_drain(case, lines, begun, ended)):
        return Finding("fail", f"{what} {wrong}", evidence)
    if outcome in _SERVES and (short := _served_next(case, lines, begun, ended)):
        return short._replace(reason=f"{what} {outcome.replace('_', ' ')}, and {short.reason}")
    return Finding("pass", f"{what}: {came_to} after {int(ended.captures['duration_ms']) / 1000:.2f} s", evidence)


def _served_next(case: Case, lines: Sequence[Log], begun: Log, ended: Log) -> Finding | None:
    """What is wrong with what is leased until the next operation, or not known of it; None: it is right."""
    evidence = (begun.n, ended.n)
    after = [line for line in lines if line.n > ended.n]
    following = next((line for line in after if line.event in _ENDS), None)
    granted = [line for line in after if line.event == "lease_granted" and (following is None or line.n < following.n)]
    if not granted:
        ends = (following.t if following is not None else None, case.gone_t(begun.source), case.fault_end_t)
        until = min((t for t in ends if t is not None), default=None)
        # Jobs' lines have the times at which they were read: so has this one, to be compared with them.
        read = next(line.t for line in case.select(Log, source=ended.source) if line.n == ended.n)
        refused = next(_refused(case, begun.captures["pool"], read + INSTANT_NS, until), None)
        if refused is None:
            return Finding("unknown", "nobody leased anything afterwards", evidence)
        how = f"leases were refused afterwards, as {refused.captures['why']}"
        return Finding("fail", how, (*evidence, refused.n))
    wanted = _wanted(lines, begun, ended)
    if not wanted:
        return Finding("unknown", "what was served before was not seen", evidence)
    # A holder says what the engine serves that it has got; the manager, what the pool does.
    leases = {line.captures["lease"] for line in granted}
    got = [line for line in of_holders(case, "lease_got") if line.captures["lease"] in leases]
    other = next((line for line in (*got, *granted) if (line.captures.get("model") or wanted) != wanted), None)
    if other is None:
        return None
    by = f" by {other.captures['engine']}" if other in got else ""
    return Finding("fail", f"{other.captures['model']} is served{by}, not {wanted}", (*evidence, other.n))


def _wanted(lines: Sequence[Log], begun: Log, ended: Log) -> str:
    """The model that is to be served after it; "": that cannot be told."""
    if ended.captures["outcome"] == "succeeded":
        return PurePath(begun.captures["reference"].partition("@")[0]).name
    before = (line for line in lines if line.n < begun.n and line.event in ("engine_ready", "lease_granted"))
    return next((line.captures["model"] for line in reversed(list(before))), "")


def _refused(case: Case, pool: str, since: int, until: int | None) -> Iterator[Log]:
    """The refusals of leases of a pool in a time, as the jobs were told that ask for them; not those for want of a slot."""
    asking = {line.source for line in of_holders(case, "job_started") if line.captures.get("pool") == pool}
    for line in of_holders(case, "lease_refused"):
        if (
            line.source in asking
            and line.captures["why"] in _SHUT
            and since < line.t
            and (until is None or line.t < until)
        ):
            yield line
