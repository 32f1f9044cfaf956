"""What a drain of a pool did to the leases and the engines that there were, held against the word that it came to."""

from collections.abc import Sequence

from ftharness.history import Log
from ftharness.scenario.case import Case
from ftharness.scenario.oracles.pool_lines import BEGINS, ENDS, LATE_S, at, hurt, thawed

#: What a manager's clock may be off by between two of its lines; seconds.
_CLOCK_S = 0.02
_LEASED = ("lease_granted", "lease_taken_over")
_OVER = ("lease_released", "lease_revoked", "lease_expired")
_AT_DEADLINE = {"stopped": "stop", "aborted": "abort"}


def wrong_with_drain(case: Case, lines: Sequence[Log], begun: Log, ended: Log) -> str:
    """What is wrong with it; "" where nothing is.

    Args:
        case: The run.
        lines: All that its manager said of the pool.
        begun: The line by which it began.
        ended: And that by which it was over.
    """
    outcome = ended.captures["outcome"]
    if outcome not in ("drained", *_AT_DEADLINE):
        return ""
    to_do = begun.captures["on_timeout"]
    if _AT_DEADLINE.get(outcome, to_do) != to_do:
        return f"was {outcome}, and was to {to_do} at its deadline"
    until = [line for line in lines if line.n < ended.n]
    over = [line for line in until if line.n > begun.n and line.event in _OVER]
    taken = [line for line in over if line.event == "lease_revoked" and not _of_its_engine(case, lines, line)]
    if outcome == "stopped" and not taken:
        return "was stopped at its deadline, and no lease was taken back"
    if outcome != "stopped" and taken:
        return f"was {outcome}, and took {len(taken)} leases back"
    if outcome != "aborted":
        if held := _left(until, _LEASED, _OVER, "lease"):
            return f"was {outcome}, and {len(held)} leases were held"
        if running := _left(until, BEGINS, ENDS, "engine"):
            return f"was {outcome}, and {' and '.join(running)} had not been stopped"
    return _wrong_time(case, begun, [ended] if outcome == "aborted" else taken, (taken or over or [begun])[-1], ended)


def _wrong_time(case: Case, begun: Log, not_before: Sequence[Log], last: Log, ended: Log) -> str:
    """Whether something came before its deadline that may not, or the last of it too late."""
    outcome, deadline_s = ended.captures["outcome"], int(begun.captures["deadline_ms"]) / 1000
    due = at(begun) + deadline_s
    if not_before and at(not_before[0]) < due - _CLOCK_S:
        did = "gave up" if outcome == "aborted" else "took a lease back"
        return f"{did} after {at(not_before[0]) - at(begun):.2f} s, and its deadline was {deadline_s:g} s"
    late_s = at(ended if outcome == "aborted" else last) - max(due, thawed(case, begun, due))
    if late_s > LATE_S:
        return f"was {outcome} {late_s:.2f} s after its deadline of {deadline_s:g} s; {LATE_S:g} s are allowed"
    return ""


def _left(lines: Sequence[Log], begins: Sequence[str], ends: Sequence[str], name: str) -> list[str]:
    """What has begun by these lines, and has not ended: leases, or engines."""
    found: dict[str, None] = {}
    for line in lines:
        if line.event in begins:
            found[line.captures[name]] = None
        elif line.event in ends:
            found.pop(line.captures[name], None)
    return list(found)


def _of_its_engine(case: Case, lines: Sequence[Log], taken: Log) -> bool:
    """Whether a lease was taken back since its engine ended, or was to be started again: no drain did that.

    All leases of an engine that ends are taken back at once, before that is said: until then none on it is granted or ends
    otherwise. What a probe, or a fault, has stopped is started again, and what a drain has stopped is not.
    """
    engine = taken.captures["engine"]
    of_engine = [line for line in lines if line.captures.get("engine") == engine]
    later = [line for line in of_engine if line.n > taken.n]
    end = next((one for one in later if one.event in (*ENDS, *_LEASED, "lease_released", "lease_expired")), None)
    if end is not None and end.event == "engine_lost":
        return True
    pid = next((one.captures["pid"] for one in reversed(of_engine) if one.n < taken.n and one.event in BEGINS), "")
    if any(one.pid == pid and one.begun <= taken.t for one in hurt(case, "kill_engine", "freeze_engine")):
        return True
    follows = next((one.event for one in later if one.event in ("restart_scheduled", "breaker_open", *BEGINS)), "")
    return end is not None and end.event == "engine_stopped" and follows in ("restart_scheduled", "breaker_open")
