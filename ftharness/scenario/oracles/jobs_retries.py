"""What a coordinator did about ranks that ended: ``retries_follow_policy``, ``poison_given_up``."""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import msgspec

from ftharness.history import Log
from ftharness.id_ranges import ranges
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.jobs_lives import (
    NO_JOB,
    JobView,
    given_up,
    ids,
    jobs,
    killed,
    last_results,
    lines,
    rank_of,
    rank_struck,
    struck,
)

#: How an attempt may end whose process a signal hit: a kill alone says nothing of memory, a crash may be a batch's fault.
_KINDS = {"SIGTERM": ("spot",), "SIGKILL": ("transient", "oom"), "SIGSEGV": ("poison", "transient")}
_LONGEST_S, _POISON_S = 60.0, 1.0
#: Lines are stamped when they are read: on a busy machine that of an end may be late, and that of the next begin not. So of the
#: wait between the two so much has to be seen; the whole of it has to be, where a fault tells by when the attempt lived.
_SEEN = 0.5


def retries_follow_policy(case: Case) -> Finding:
    """Each end of an attempt is of the kind that its cause was, and followed by what the policy says, no earlier than it says.

    Preempted: again after the configured time, for ever. Memory, and what passes: after 1, 2, 4, … s, so often as configured.
    A crash at a batch: again after 1 s, until the batch has its last strike. And by nothing else. What is wrong about one end
    is wrong whatever the other faults came to: a rank that is not tried again cannot be struck again.
    """
    found = [_followed(case, life) for job in jobs(case) for life in job.lives]
    return short_of_passing(one for one in found if one) or _all_followed(case, [one for one in found if one])


def _all_followed(case: Case, found: list[Finding]) -> Finding:
    if not jobs(case):
        return NO_JOB
    if not found:
        return Finding("unknown", "no attempt failed")
    return Finding("pass", "; ".join(one.reason for one in found), tuple(n for one in found for n in one.evidence))


def _followed(case: Case, life: str) -> Finding | None:
    """Of one life of a job; None where no attempt failed and no rank was hit."""
    for job in jobs(case):
        for fault in struck(case, job, "kill_rank") if life in job.lives else ():
            began = rank_struck(case, fault) if fault.process == life else None
            assert fault.landed is not None
            if began is not None and (wrong := _wrong_kind(case, began, fault.landed.evidence)):
                return Finding("fail", f"{life}: {wrong}", (fault.landed.n, began.n), invariant=True)
    ends, starts = list(lines(case, life, "attempt_ended")), list(lines(case, life, "attempt_started"))
    failed = [line for line in ends if line.captures["decision"] != "done"]
    if not failed:
        return None
    if not any(lines(case, life, "job_started")):
        return Finding("unknown", f"{life} did not say that it began, and with what policy")
    begun = {_attempt(line): line for line in starts}
    over, lived = killed(case, life) is not None, _lived(case, life)
    for shard in sorted({rank_of(line) for line in ends}):
        for end, decision, delay_s in _due(case, life, [line for line in ends if rank_of(line) == shard]):
            _, number = _attempt(end)
            following = begun.get((shard, number + 1))
            if wrong := _not_as_due(end, decision, delay_s, following, lived.get((shard, number)), over=over):
                evidence = (end.n, *([following.n] if following else []))
                return Finding("fail", f"{life}, shard {shard}: {wrong}", evidence, invariant=True)
    ended = {_attempt(line) for line in ends}
    for (shard, number), line in begun.items():
        if number > 1 and (shard, number - 1) not in ended:
            wrong = f"attempt {number} began, and attempt {number - 1} had not ended"
            return Finding("fail", f"{life}, shard {shard}: {wrong}", (line.n,), invariant=True)
    kinds = Counter(_kind(line) for line in failed)
    what = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return Finding("pass", f"{life}: {len(starts)} attempts; ended early: {what}", tuple(line.n for line in failed))


def _wrong_kind(case: Case, began: Log, evidence: dict[str, object]) -> str:
    """What is wrong with how the attempt ended that a fault hit."""
    signal = str(evidence.get("signal", "SIGKILL"))
    rank, attempt = rank_of(began), began.captures["attempt"]
    what = f"{signal} to attempt {attempt} of rank {rank}"
    ended = next(
        (
            line
            for line in lines(case, began.source, "attempt_ended")
            if rank_of(line) == rank and line.captures["attempt"] == attempt
        ),
        None,
    )
    if ended is None:
        return "" if killed(case, began.source) else f"{what}: its end was not noticed"
    kind = _kind(ended)
    if kind in _KINDS.get(signal, (kind,)):
        return ""
    return f"{what}: taken for {kind or 'the end of its work'}, not for {' or '.join(_KINDS[signal])}"


def _attempt(line: Log) -> tuple[int, int]:
    """The shard, or the rank, and the number of the attempt that a line is about."""
    return rank_of(line), int(line.captures["attempt"])


def _lived(case: Case, life: str) -> dict[tuple[int, int], int]:
    """When attempts lived still, as they had not been struck yet; in ns."""
    found: dict[tuple[int, int], int] = {}
    for job in jobs(case):
        for fault in struck(case, job, "kill_rank"):
            began = rank_struck(case, fault) if fault.process == life else None
            if began is not None and fault.landed is not None:
                found[_attempt(began)] = fault.landed.t
    return found


def _kind(end: Log) -> str:
    """How an attempt failed; "" where it did not: of what is empty a line has no capture."""
    return end.captures.get("kind", "")


def _due(case: Case, life: str, ends: list[Log]) -> Iterator[tuple[Log, str, float]]:
    """What the policy says about each end of one shard's attempts, and after how many seconds; on each device anew."""
    told = next(lines(case, life, "job_started")).captures
    strikes: Counter[tuple[str, str]] = Counter()
    passed: Counter[str] = Counter()
    for end in ends:
        kind, worker, batch = _kind(end), end.captures["worker"], end.captures.get("batch", "")
        if end.captures["decision"] == "done":
            yield end, "done", 0.0
        elif kind == "spot":
            yield end, "retry", float(told["spot_retry_s"])
        elif kind == "poison":
            strikes[worker, batch] += 1
            last = strikes[worker, batch] >= int(told["max_retries_poison"])
            yield end, "gave_up" if last else "retry", _POISON_S
        else:
            delay_s = min(2.0 ** passed[worker], _LONGEST_S)
            passed[worker] += 1
            yield end, "retry" if passed[worker] <= int(told["max_retries_transient"]) else "gave_up", delay_s


def _not_as_due(
    end: Log, decision: str, delay_s: float, following: Log | None, lived: int | None, *, over: bool
) -> str:
    """What is wrong with what followed an end.

    Args:
        end: Which.
        decision: What should have been decided.
        delay_s: Seconds after which the next attempt was due.
        following: The next attempt's begin.
        lived: When the attempt lived still; None: no fault tells.
        over: Whether the job itself was killed, so that something may have had no time.
    """
    what = f"attempt {end.captures['attempt']} ended ({_kind(end) or 'done'})"
    if end.captures["decision"] != decision:
        return f"{what}, and the decision was {end.captures['decision']}, not {decision}"
    if decision == "done":
        return f"{what}, and was tried once more" if following else ""
    if decision == "gave_up":
        same = following is not None and following.captures["worker"] == end.captures["worker"]
        return f"{what}, was given up, and was tried once more on the same device" if same else ""
    if following is None:
        return "" if over else f"{what}, was to be tried again, and never was"
    after_s = (following.t - end.t) / 1e9
    too_soon = lived is not None and following.t - lived < delay_s * 1e9
    if too_soon or after_s < delay_s * _SEEN:
        return f"{what}, and was tried again after {after_s:.2f} s, not after {delay_s:g} s"
    return ""


def poison_given_up(case: Case, strikes: Annotated[int, msgspec.Meta(ge=1)] = 2) -> Finding:
    """A batch at which faults struck so often was tried just so often, then given up by name; and all else was done."""
    found = [
        _given_up(case, job, life, rank, batch, strikes)
        for job in jobs(case)
        for life in job.lives
        for (rank, batch), count in _struck_at(case, job, life).items()
        if count >= strikes
    ]
    if not jobs(case):
        return NO_JOB
    if not found:
        return Finding("unknown", f"no batch was struck {strikes} times")
    if finding := short_of_passing(found):
        return finding
    return Finding("pass", "; ".join(one.reason for one in found), tuple(n for one in found for n in one.evidence))


def _struck_at(case: Case, job: JobView, life: str) -> Counter[tuple[int, str]]:
    """How often faults hit a rank at each batch, by rank and batch."""
    count: Counter[tuple[int, str]] = Counter()
    for fault in struck(case, job, "kill_rank"):
        began = rank_struck(case, fault) if fault.process == life else None
        if began is None or fault.landed is None:
            continue
        at = [
            line
            for line in lines(case, life, "batch_started")
            if rank_of(line) == rank_of(began) and began.t <= line.t <= fault.landed.t
        ]
        if at:
            count[rank_of(began), at[-1].captures["batch"]] += 1
    return count


def _given_up(case: Case, job: JobView, life: str, rank: int, batch: str, strikes: int) -> Finding:
    what = f"{life}, batch {batch} of rank {rank}"
    tries = [line for line in lines(case, life, "batch_started") if _is(line, rank, batch)]
    evidence = tuple(line.n for line in tries)
    told = [line for line in lines(case, life, "batch_given_up") if _is(line, rank, batch)]
    if len(tries) != strikes:
        named = "given up" if told else "not given up"
        return Finding("fail", f"{what}: tried {len(tries)} times, not {strikes}, and {named}", evidence)
    if not told:
        return Finding("fail", f"{what}: nobody said that it was given up", evidence)
    done = {name for line in last_results(case, life) for name in ids(line)}
    expected = {name for line in lines(case, job.control, "result") for name in ids(line)}
    if lost := expected - done - given_up(case, life):
        return Finding("fail", f"{what}: given up, and with it {ranges(lost)}", (*evidence, told[0].n))
    return Finding("pass", f"{what}: given up at strike {strikes}; all else is done", (*evidence, told[0].n))


def _is(line: Log, rank: int, batch: str) -> bool:
    return rank_of(line) == rank and line.captures["batch"] == batch
