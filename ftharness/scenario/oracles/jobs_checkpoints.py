"""What a job's checkpoints were worth: ``resumes_from_checkpoints``, ``corruption_found``, ``full_disk_told``."""

import errno
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from ftharness.history import FaultLanded, Log
from ftharness.id_ranges import ids_in, ranges
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.jobs_lives import NO_JOB, JobView, ids, jobs, of_job, rank_of, struck
from ftharness.scenario.views import FaultView


@dataclass
class _Kept:
    """What is on the disk of one rank, by what was said: the ids in each checkpoint, which are damaged, and what was begun."""

    checkpoints: dict[int, set[str]] = field(default_factory=dict)
    damaged: set[int] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    recovered: set[str] = field(default_factory=set)
    resumes: int = 0

    def whole(self) -> set[str]:
        """What is in the checkpoints from the first on, up to one that is damaged or was never committed."""
        found: set[str] = set()
        for number in range(len(self.checkpoints)):
            if number in self.damaged or number not in self.checkpoints:
                break
            found |= self.checkpoints[number]
        return found


def resumes_from_checkpoints(case: Case) -> Finding:
    """What was said to be committed is recovered by who comes next, and not computed again.

    But for what a fault damaged, and what is behind that or behind a checkpoint that was never committed: checkpoints are
    taken in order. What is recovered beyond it had at least been begun: its word may have been cut off by the kill.
    """
    found = [_resumed(case, job) for job in jobs(case)]
    return short_of_passing(found) or (found[0] if found else NO_JOB)


def _resumed(case: Case, job: JobView) -> Finding:
    kept: dict[int, _Kept] = {}
    resumes = recovered = 0
    evidence: list[int] = []
    for event in _told_and_damaged(case, job):
        if isinstance(event, FaultLanded):
            kept.setdefault(int(event.evidence["rank"]), _Kept()).damaged.add(int(event.evidence["checkpoint"]))
            continue
        of = kept.setdefault(rank_of(event), _Kept())
        if event.event == "job_resumed":
            committed = of.whole()
            if wrong := _wrongly_resumed(of, event, committed):
                return Finding("fail", f"{event.source}, rank {rank_of(event)}: {wrong}", (event.n,))
            if of.resumes and committed:
                resumes, recovered = resumes + 1, recovered + len(committed)
                evidence.append(event.n)
            of.resumes, of.recovered = of.resumes + 1, ids(event, "recovered")
        elif event.event == "batch_started":
            of.begun |= ids(event)
        elif event.event == "batch_computed" and (again := ids(event) & of.recovered):
            what = f"{ranges(again)} had been recovered, and was computed again"
            return Finding("fail", f"{event.source}, rank {rank_of(event)}: {what}", (event.n,))
        elif event.event == "checkpoint_committed":
            number = int(event.captures["checkpoint"])
            of.checkpoints[number] = ids(event)
            of.damaged.discard(number)
    if not resumes and any(of.damaged and of.checkpoints for of in kept.values()):
        why = "all that had been committed is in, or behind, a checkpoint that a fault damaged"
        return Finding("unknown", f"{job.name}: {why}: there was nothing to recover")
    if not resumes:
        return Finding("unknown", f"{job.name}: nothing had been committed before anybody resumed")
    what = f"{recovered} items that had been committed were recovered, by {resumes} resumes, and not computed again"
    return Finding("pass", f"{job.name}: {what}", tuple(evidence))


def _wrongly_resumed(of: _Kept, line: Log, committed: set[str]) -> str:
    recovered = ids(line, "recovered")
    if lost := committed - recovered:
        return f"{ranges(lost)} had been said to be committed, and was not recovered"
    known = of.begun.union(*of.checkpoints.values())
    if strange := recovered - known:
        return f"{ranges(strange)} was recovered, and nobody had begun it"
    return ""


def _told_and_damaged(case: Case, job: JobView) -> list[Log | FaultLanded]:
    told = of_job(case, job, "checkpoint_committed", "job_resumed", "batch_started", "batch_computed")
    damage = [fault.landed for fault in struck(case, job, "corrupt_checkpoint") if fault.landed is not None]
    return sorted([*told, *damage], key=lambda event: (event.t, event.n))


def corruption_found(case: Case) -> Finding:
    """What a fault damaged is said to be damaged by who reads it next; it is not recovered, and computed again."""
    found = [_found(case, job, fault) for job in jobs(case) for fault in struck(case, job, "corrupt_checkpoint")]
    if not found:
        return Finding("unknown", "no checkpoint was corrupted")
    if finding := short_of_passing(found):
        return finding
    return Finding("pass", "; ".join(one.reason for one in found), tuple(n for one in found for n in one.evidence))


def _found(case: Case, job: JobView, fault: FaultView) -> Finding:
    assert fault.landed is not None
    since, told = fault.landed.t, fault.landed.evidence
    rank, number = int(told["rank"]), int(told["checkpoint"])
    damaged = set(ids_in(str(told.get("ids", ""))))
    what = f"{job.name}, checkpoint {number} of rank {rank} ({told.get('how')})"
    later = [
        line for line in of_job(case, job, "job_resumed", "batch_computed", "checkpoint_quarantined") if line.t > since
    ]
    resumed = next((line for line in later if line.event == "job_resumed" and rank_of(line) == rank), None)
    if resumed is None:
        return Finding("unknown", f"{what}: nobody has read it since")
    evidence = (fault.landed.n, resumed.n)
    if taken := damaged & ids(resumed, "recovered"):
        return Finding("fail", f"{what}: {ranges(taken)} was recovered from it", evidence)
    said = ids(resumed, "corrupted")
    aside = any(
        line.event == "checkpoint_quarantined" and f"shard_{rank}/batch_{number:05d}.pt" in line.captures["path"]
        for line in later
    )
    if not (aside or f"batch_{number}_LOST" in said or (damaged and damaged <= said)):
        named = f"; said to be damaged: {ranges(said) or 'nothing'}"
        return Finding("fail", f"{what}: nobody said that it is damaged{named}", evidence)
    again = {name for line in later if line.event == "batch_computed" and rank_of(line) == rank for name in ids(line)}
    if left := damaged - again:
        if not any(line.source == job.last for line in of_job(case, job, "job_finished", "job_incomplete")):
            return Finding("unknown", f"{what}: found, and the job did not come to its end", evidence, pending=True)
        return Finding("fail", f"{what}: {ranges(left)} was not computed again", evidence)
    return Finding("pass", f"{what}: found, and {ranges(damaged)} computed again", evidence)


def full_disk_told(case: Case) -> Finding:
    """While the disk was full no checkpoint was said to be committed, and one was said to have failed, as the kernel said.

    What had been committed before is recovered afterwards.
    """
    found = [_told(case, job, fault) for job in jobs(case) for fault in struck(case, job, "fill_disk")]
    return short_of_passing(found) or (found[0] if found else Finding("unknown", "no disk was full"))


def _told(case: Case, job: JobView, fault: FaultView) -> Finding:
    assert fault.landed is not None
    since, until = fault.landed.t, _freed_t(case, job, fault)
    told = of_job(case, job, "checkpoint_committed", "checkpoint_failed", "batch_computed", "job_resumed")
    full = [line for line in told if since < line.t < until]
    if line := _said_on_a_full_disk(full):
        what = f"checkpoint {line.captures['checkpoint']} of rank {rank_of(line)} was said to be committed"
        return Finding("fail", f"{line.source}: {what}, while the disk was full", (fault.landed.n, line.n))
    failed = [line for line in full if line.event == "checkpoint_failed"]
    before = [line for line in told if line.event == "checkpoint_committed" and line.t <= since]
    if not failed:
        largest = max((len(ids(line)) for line in before), default=math.inf)
        if sum(len(ids(line)) for line in full if line.event == "batch_computed") >= 2 * largest:
            return Finding(
                "fail", f"{job.name}: nobody said that a checkpoint failed on the full disk", (fault.landed.n,)
            )
        return Finding("unknown", f"{job.name}: no checkpoint was due while the disk was full", (fault.landed.n,))
    kernel = os.strerror(errno.ENOSPC)
    if other := next((line for line in failed if kernel not in line.captures["error"]), None):
        what = f"a checkpoint failed with {other.captures['error']!r}; the kernel says {kernel!r}"
        return Finding("fail", f"{job.name}: {what}", (fault.landed.n, other.n))
    return _still_there(job, fault.landed, failed, before, [one for one in told if one.t > until])


def _said_on_a_full_disk(full: list[Log]) -> Log | None:
    """The first word of a commit that cannot have been one. Of each rank one may have been on its way as the disk became full."""
    failed: set[str] = set()
    committed: set[int] = set()
    for line in full:
        if line.event == "checkpoint_failed":
            failed.add(Path(line.captures["path"]).parent.name)
        elif line.event == "checkpoint_committed":
            if rank_of(line) in committed or f"shard_{rank_of(line)}" in failed:
                return line
            committed.add(rank_of(line))
    return None


def _still_there(job: JobView, full: FaultLanded, failed: list[Log], before: list[Log], later: list[Log]) -> Finding:
    """Of each rank by the first that resumes once there is room again."""
    ranks = {rank_of(line) for line in before}
    if not ranks:
        return Finding("unknown", f"{job.name}: nothing had been committed before the disk was full", (full.n,))
    evidence = [full.n, failed[0].n]
    count = 0
    for rank in sorted(ranks):
        resumed = next((one for one in later if one.event == "job_resumed" and rank_of(one) == rank), None)
        if resumed is None:
            return Finding("unknown", f"{job.name}: nobody resumed rank {rank} once there was room again", (full.n,))
        kept = {name for line in before if rank_of(line) == rank for name in ids(line)}
        if lost := kept - ids(resumed, "recovered"):
            what = f"{ranges(lost)} had been committed before the disk was full, and was not recovered"
            return Finding("fail", f"{resumed.source}, rank {rank}: {what}", (full.n, resumed.n))
        count += len(kept)
        evidence.append(resumed.n)
    what = f"{len(failed)} checkpoints failed, and were said to; {count} items of before it were recovered"
    return Finding("pass", f"{job.name}: {what}", tuple(evidence))


def _freed_t(case: Case, job: JobView, fault: FaultView) -> float:
    """When there was room again."""
    assert fault.landed is not None
    freed = [one.landed.t for one in struck(case, job, "free_disk") if one.landed is not None]
    ends = [*freed, *([fault.healed.t] if fault.healed else [])]
    return min((t for t in ends if t > fault.landed.t), default=math.inf)
