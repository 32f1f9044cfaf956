"""What drains and reloads of pools came to: ``operations_come_to``."""

from collections.abc import Sequence
from pathlib import PurePath

from ftharness.history import Log
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.pool_lines import NO_POOL, at, in_fault_phase, policy, said

_ENDS = {"drain_begun": "drain_ended", "reload_begun": "reload_ended"}
_CLOCK_S = 0.02


def operations_come_to(case: Case, outcomes: Sequence[str]) -> Finding:
    """The drains and reloads of the fault phase came to this, in their order, and what was done is what their words say.

    Of drains ``drained``: no lease was taken back; ``stopped``: those that were left, and not before the deadline; ``aborted``:
    none, and leases are granted again. Of reloads ``succeeded``: what is leased next serves the new model; ``rolled_back``: the
    one that was served before.
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
    kind = begun.event.partition("_")[0]
    later = [line for line in said(case, source=begun.source) if line.n > begun.n and _same_pool(line, begun)]
    ended = next((line for line in later if line.event == _ENDS[begun.event]), None)
    what = f"a {kind} of {begun.captures['pool']}"
    if ended is None:
        return Finding("fail", f"{what} was begun, and never ended", (begun.n,), pending=True)
    evidence = (begun.n, ended.n)
    came_to = ended.captures["outcome"]
    if came_to != outcome:
        return Finding("fail", f"{what} came to {came_to}, not to {outcome}", evidence)
    during = [line for line in later if line.n < ended.n]
    after = [line for line in later if line.n > ended.n]
    wrong = _drain(begun, during, outcome) if kind == "drain" else _reload(case, begun, after, outcome)
    if wrong:
        return Finding("fail", f"{what} {wrong}", evidence)
    return Finding("pass", f"{what}: {came_to} after {int(ended.captures['duration_ms']) / 1000:.2f} s", evidence)


def _drain(begun: Log, during: list[Log], outcome: str) -> str:
    """What is wrong with what became of the leases that there were."""
    taken = [line for line in during if line.event == "lease_revoked"]
    # One whose engine died meanwhile is taken back for that.
    taken = [line for line in taken if "deadline" in line.captures.get("reason", "")]
    deadline_s = int(begun.captures["deadline_ms"]) / 1000
    if outcome == "stopped":
        if not taken:
            return "was stopped at its deadline, and no lease was taken back"
        after_s = at(taken[0]) - at(begun)
        if after_s < deadline_s - _CLOCK_S:
            return f"took a lease back after {after_s:.2f} s, and its deadline was {deadline_s:g} s"
    elif taken:
        return f"was {outcome}, and took {len(taken)} leases back"
    return ""


def _reload(case: Case, begun: Log, after: list[Log], outcome: str) -> str:
    """What is wrong with the model that is served next."""
    before = [line for line in said(case, "lease_granted", source=begun.source) if line.n < begun.n]
    granted = [line for line in after if line.event == "lease_granted"]
    wanted = PurePath(begun.captures["reference"].partition("@")[0]).name
    if outcome == "rolled_back" and before:
        wanted = before[-1].captures["model"]
    if outcome not in ("rolled_back", "succeeded"):
        return ""
    if not granted:
        return f"{outcome.replace('_', ' ')}, and nothing was leased afterwards"
    served = granted[0].captures["model"]
    return "" if served == wanted else f"{outcome.replace('_', ' ')}, and {served} is served, not {wanted}"


def _same_pool(line: Log, begun: Log) -> bool:
    return line.captures.get("pool") == begun.captures["pool"]
