"""Faults that are aimed at a job, or at what it keeps: refused before anything starts where it can have no such thing."""

from collections.abc import Iterator

from ftharness.faults import Fault, Target
from ftharness.scenario.scenario import Scenario
from ftharness.stack.job import JobPlan, JobPlans
from ftharness.stack.lives import first_life

#: Faults on what a job keeps, which nothing else has.
_ON_WHAT_IT_KEEPS = ("corrupt_checkpoint", "fill_disk", "free_disk")


def check_job_aims(scenario: Scenario, jobs: JobPlans) -> None:
    """Whether each fault on a rank, a checkpoint or a disk can hit one; ``jobs`` are the stack's plans for the scenario's.

    Raises:
        LookupError: One cannot; says which, what there is, and what to do.
    """
    for one in scenario.faults:
        for why in _wrong(scenario, one.fault, {plan.job.name: plan for plan in jobs.fault}):
            raise LookupError(f"{scenario.name}: {one.fault.kind} {one.fault.target}: {why}")


def _wrong(scenario: Scenario, fault: Fault, plans: dict[str, JobPlan]) -> Iterator[str]:
    name = _process(scenario, fault.target)
    plan = plans.get(name)
    if fault.kind in _ON_WHAT_IT_KEEPS and plan is None:
        # Of a chain of targets that ends at a request, which is no job's.
        yield f"it hits what a job keeps, such as named('job-1'), and {name or fault.target} is none"
    if plan is None:
        return
    if fault.kind == "kill_rank":
        yield from _of_ranks(fault, name, plan)
    elif fault.kind == "corrupt_checkpoint":
        yield from _of_checkpoints(fault, name, plan)
    elif fault.kind in _ON_WHAT_IT_KEEPS and plan.disk is None:
        yield f"{name} has no disk of its own; inference(disk_mb=4) gives it one"


def _process(scenario: Scenario, target: Target) -> str:
    """The process that is meant, by the name of its first life; "" where only the run can tell."""
    for _ in scenario.faults:  # what a fault hit may in turn be what another one did
        if target.role != "hit":
            break
        target = scenario.faults[target.fault].fault.target
    return first_life(target.name) if target.role == "named" else ""


def _of_ranks(fault: Fault, name: str, plan: JobPlan) -> Iterator[str]:
    rank = int(fault.args.get("rank", 0))
    if plan.work is None or rank < plan.work.ranks:
        return
    if not plan.work.ranks:
        yield (
            f"{name} has no ranks, and does all of its work itself; "
            "inference(ranks=2) divides it, and kill(…) hits the job itself"
        )
    else:
        yield f"there is no rank {rank}: {name} has {plan.work.ranks}, counted from 0"


def _of_checkpoints(fault: Fault, name: str, plan: JobPlan) -> Iterator[str]:
    if plan.work is None:
        return
    rank, number, most = int(fault.args.get("rank", 0)), int(fault.args.get("checkpoint", 0)), plan.work.checkpoints
    if not most:
        yield f"{name} keeps no checkpoints; a job of inference does"
    elif rank >= len(most):
        yield f"there is no rank {rank}: {name} keeps checkpoints of {len(most)}, counted from 0"
    elif number >= most[rank]:
        made = (
            "1 batch makes 1 checkpoint" if most[rank] == 1 else f"{most[rank]} batches make {most[rank]} checkpoints"
        )
        yield f"there is no checkpoint {number} of rank {rank}: its {made} at most, counted from 0"
