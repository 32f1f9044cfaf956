"""The coordinator: ranks that are preempted, killed, or crash at one batch, and a job that is done all the same."""

from ftharness.faults import kill_rank, named
from ftharness.faults.kinds import RankSignal
from ftharness.scenario import (
    Injection,
    Scenario,
    job_completes,
    on_log,
    poison_given_up,
    results_exact,
    resumes_from_checkpoints,
    retries_follow_policy,
)
from ftharness.stack import inference, jobs_only


def struck(rank: int, *, batch: int, by: RankSignal, time: int = 1) -> Injection:
    """A signal to a rank when it begins with a batch, for the so-many-th time."""
    moment = on_log("batch_started", source="job-1", captures={"rank": str(rank), "batch": str(batch)}, nth=time)
    return moment.inject(kill_rank(named("job-1"), rank, signal=by))


# Each rank has 8 batches of 10 items, and a checkpoint behind each second one.
preemption_storm = Scenario(
    name="coordinator/preemption_storm",
    description="Three ranks are preempted again and again, and killed in between: each goes on, when its policy says so.",
    topology=jobs_only(),
    workload=[],
    jobs=[inference(items=240, batch=10, checkpoint_every=20, batch_ms=50, ranks=3, spot_retry_s=0.5)],
    faults=[
        struck(0, batch=2, by="SIGTERM"),
        struck(1, batch=3, by="SIGTERM"),
        struck(2, batch=4, by="SIGTERM"),
        struck(0, batch=5, by="SIGTERM"),
        struck(1, batch=5, by="SIGKILL"),
        struck(2, batch=6, by="SIGKILL"),
    ],
    expect=[job_completes(), results_exact(), retries_follow_policy(), resumes_from_checkpoints()],
    stacks=["sim"],
)

# The batch is struck, whoever computes it: what an input does that crashes its model. The job ends with 3, and names it.
poison_batch = Scenario(
    name="coordinator/poison_batch",
    description="A batch crashes its rank twice: it is given up by name, another worker does the rest of its shard.",
    topology=jobs_only(),
    workload=[],
    jobs=[
        inference(items=120, batch=10, checkpoint_every=20, batch_ms=250, ranks=2)
    ],  # longer than we may be stopped for
    faults=[
        struck(1, batch=2, by="SIGSEGV"),
        struck(1, batch=2, by="SIGSEGV", time=2),
    ],
    expect=[job_completes(status=3), results_exact(), poison_given_up(strikes=2), retries_follow_policy()],
    stacks=["sim"],
)
