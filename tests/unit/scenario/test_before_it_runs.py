"""What a scenario with jobs could never show is refused when it is known what is launched, and before it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftharness.client import completion
from ftharness.faults import (
    Fault,
    Target,
    corrupt_checkpoint,
    fill_disk,
    free_disk,
    hit,
    kill,
    kill_rank,
    named,
    restart,
    serving,
)
from ftharness.pool.config import PoolConfig
from ftharness.scenario import Expect, Scenario, on_log
from ftharness.scenario.library import shipped
from ftharness.scenario.words import check_words
from ftharness.stack import Job, Settings, aggregated, find_stack, inference, jobs_only, leases, pooled

POOLED = pooled(PoolConfig(id="main", engine="sim", replicas=1))
NOW = on_log("job_started", source="job-1")


def check(one: Scenario, folder: Path) -> None:
    """As before a run on the stack ``sim``."""
    plan = find_stack("sim").plan(one.topology, Settings(engine="vllm", folder=folder, jobs=one.jobs))
    plan.close()
    check_words(one, plan)


def with_job(*faults: Fault, job: Job, **more: Any) -> Scenario:
    """A scenario of one job, whose faults come when it has begun."""
    given = {"topology": jobs_only(), "workload": [], "jobs": [job], **more}
    return Scenario(name="jobs/none", faults=[NOW.inject(fault) for fault in faults], **given)


ALONE = inference(items=100, batch=10)
RANKS = inference(items=100, batch=10, ranks=3)


@pytest.mark.parametrize(
    "job,fault,why",
    [
        (ALONE, kill_rank(named("job-1")), "kill_rank job-1: job-1 has no ranks, and does all of its work itself"),
        (ALONE, kill_rank(named("job-1")), r"inference\(ranks=2\) divides it, and kill\(…\) hits the job itself"),
        (RANKS, kill_rank(named("job-1"), 3), "kill_rank job-1: there is no rank 3: job-1 has 3, counted from 0"),
        (RANKS, kill_rank(named("job-1.2"), 9), "kill_rank job-1.2: there is no rank 9: job-1 has 3"),
        (RANKS, kill_rank(hit(0), 9), "kill_rank what fault 0 hit: there is no rank 9: job-1 has 3"),
        (
            ALONE,
            corrupt_checkpoint(named("job-1"), rank=1),
            "corrupt_checkpoint job-1: there is no rank 1: job-1 keeps checkpoints of 1, counted from 0",
        ),
        (RANKS, corrupt_checkpoint(named("job-1"), rank=3), "there is no rank 3: job-1 keeps checkpoints of 3"),
        (
            RANKS,
            corrupt_checkpoint(named("job-1"), rank=1, checkpoint=4),
            "there is no checkpoint 4 of rank 1: its 4 batches make 4 checkpoints at most, counted from 0",
        ),
        (ALONE, fill_disk(named("job-1")), r"job-1 has no disk of its own; inference\(disk_mb=4\) gives it one"),
        (ALONE, free_disk(hit(0)), "free_disk what fault 0 hit: job-1 has no disk of its own"),
        (
            inference(disk_mb=4),
            fill_disk(named("disk-1")),
            r"fill_disk disk-1: it hits what a job keeps, such as named\('job-1'\), and disk-1 is none",
        ),
    ],
)
def test_what_no_life_of_a_job_has_is_not_aimed_at(tmp_path: Path, job: Job, fault: Fault, why: str) -> None:
    """What was asked, what there is, and what to do: it would only be missed, when all is over."""
    one = with_job(kill(named("job-1")), restart(), fault, job=job)
    with pytest.raises(LookupError, match=f"^jobs/none: .*{why}"):
        check(one, tmp_path)


@pytest.mark.parametrize("fault", [corrupt_checkpoint, fill_disk, free_disk])
def test_who_serves_requests_keeps_nothing(tmp_path: Path, fault: Callable[[Target], Fault]) -> None:
    """By its name, or by a request."""
    for target in (named("worker-1"), serving):
        one = with_job(fault(target), job=ALONE, topology=aggregated(workers=1), workload=[completion()])
        with pytest.raises(
            LookupError, match=rf"it hits what a job keeps, such as named\('job-1'\), and {target} is none"
        ):
            check(one, tmp_path)


def test_a_job_of_leases_has_neither_ranks_nor_checkpoints(tmp_path: Path) -> None:
    """Whatever its arguments are."""
    for fault, why in (
        (kill_rank(named("job-1")), "job-1 has no ranks"),
        (corrupt_checkpoint(named("job-1")), "job-1 keeps no checkpoints; a job of inference does"),
    ):
        with pytest.raises(LookupError, match=why):
            check(with_job(fault, job=leases(), topology=POOLED), tmp_path)


@pytest.mark.parametrize(
    "job,fault",
    [
        (RANKS, kill_rank(named("job-1"), 2)),
        (inference(items=100, batch=10, ranks=1), kill_rank(named("job-1"))),
        (RANKS, corrupt_checkpoint(named("job-1.2"), rank=1, checkpoint=3)),
        (ALONE, corrupt_checkpoint(hit(1), checkpoint=9)),
        (inference(disk_mb=4), fill_disk(hit(0))),
    ],
)
def test_what_may_be_there_is_let_through(tmp_path: Path, job: Job, fault: Fault) -> None:
    """The last of each that there can be."""
    check(with_job(kill(named("job-1")), restart(), fault, job=job), tmp_path)


NO_JOB = r"the scenario has no jobs: jobs=\[inference\(…\)\] gives it one"
NO_KEEPER = r"no job of the scenario keeps results: inference\(…\) does"
NO_RANKS = r"no job of the scenario has ranks: inference\(ranks=2\) has"
NO_POOL = r"the scenario has no manager of pools: topology=pooled\(PoolConfig\(…\)\) has"
OF_JOBS = [
    "job_completes",
    "results_exact",
    "resumes_from_checkpoints",
    "corruption_found",
    "full_disk_told",
    "retries_follow_policy",
    "poison_given_up",
]
OF_POOLS = [
    "leases_conserved",
    "leases_expire_on_time",
    "ready_only_when_healthy",
    "backoff_follows_policy",
    "no_double_start",
    "operations_come_to",
]


def expecting(*names: str, **more: Any) -> Scenario:
    """A scenario that expects these."""
    args: dict[str, dict[str, Any]] = {"operations_come_to": {"outcomes": []}}
    given = {"workload": [], **more}
    return Scenario(name="jobs/none", expect=[Expect(oracle=name, args=args.get(name, {})) for name in names], **given)


@pytest.mark.parametrize("name,why", [*((one, NO_JOB) for one in OF_JOBS), *((one, NO_POOL) for one in OF_POOLS)])
def test_what_is_expected_of_nobody_is_refused(tmp_path: Path, name: str, why: str) -> None:
    """It could only be unknown; also where a test asks, which starts no jobs."""
    one = expecting(name, topology=aggregated(workers=1), workload=[completion()])
    with pytest.raises(LookupError, match=rf"^jobs/none: {name}\(.*\): {why}"):
        check(one, tmp_path)
    plan = find_stack("sim").plan(one.topology, Settings(engine="vllm", folder=tmp_path))
    plan.close()
    with pytest.raises(LookupError, match=why):
        check_words(one, plan, by_test=True)


@pytest.mark.parametrize(
    "name,more,why",
    [
        ("results_exact", {"topology": POOLED, "jobs": [leases()]}, NO_KEEPER),
        ("resumes_from_checkpoints", {"topology": POOLED, "jobs": [leases()]}, NO_KEEPER),
        ("retries_follow_policy", {"topology": jobs_only(), "jobs": [ALONE]}, NO_RANKS),
        ("poison_given_up", {"topology": jobs_only(), "jobs": [ALONE]}, NO_RANKS),
        ("leases_conserved", {"topology": jobs_only(), "jobs": [ALONE]}, NO_POOL),
        (
            "corruption_found",
            {"topology": jobs_only(), "jobs": [ALONE]},
            "no fault of the scenario is a corrupt_checkpoint",
        ),
        ("full_disk_told", {"topology": jobs_only(), "jobs": [ALONE]}, "no fault of the scenario is a fill_disk"),
        ("poison_given_up", {"topology": jobs_only(), "jobs": [RANKS]}, "no fault of the scenario is a kill_rank"),
    ],
)
def test_what_its_jobs_and_faults_cannot_show_is_refused(
    tmp_path: Path, name: str, more: dict[str, Any], why: str
) -> None:
    """A job of another kind, or without what is asked about."""
    with pytest.raises(LookupError, match=why):
        check(expecting(name, **more), tmp_path)


def test_what_ships_is_let_through(tmp_path: Path) -> None:
    """Each scenario of jobs and pools, as it is."""
    ours = [one for one in shipped().values() if one.jobs]
    assert len(ours) > 10
    for one in ours:
        check(one, tmp_path)
