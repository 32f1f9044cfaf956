"""Checkpoints: inference that is killed, whose checkpoints are damaged, or whose disk is full goes on from what was committed."""

from ftharness.faults import corrupt_checkpoint, fill_disk, free_disk, hit, kill, named, restart
from ftharness.scenario import (
    Scenario,
    after_fault,
    corruption_found,
    full_disk_told,
    job_completes,
    on_exit,
    on_log,
    results_exact,
    resumes_from_checkpoints,
)
from ftharness.stack import inference, jobs_only

# 20 batches of 10 items, 0.4 s of them; a checkpoint of 20 items each 40 ms. Most of a life is the import of torch.
JOB = inference(items=200, batch=10, checkpoint_every=20, batch_ms=20)

kill_and_resume = Scenario(
    name="checkpoint/kill_and_resume",
    description="A job is killed behind its third checkpoint, and the one that goes on behind its second: the third finishes.",
    topology=jobs_only(),
    workload=[],
    jobs=[JOB],
    faults=[
        on_log("checkpoint_committed", source="job-1", nth=3).inject(kill(named("job-1"))),
        after_fault(0).inject(restart()),
        on_log("checkpoint_committed", source="job-1.2", nth=2).inject(kill(named("job-1.2"))),
        after_fault(2).inject(restart(hit(2))),
    ],
    expect=[job_completes(), results_exact(), resumes_from_checkpoints()],
    stacks=["sim"],
)

corruption = Scenario(
    name="checkpoint/corruption",
    description="A job is killed, and one of its checkpoints is damaged: it is found, and computed again with all behind it.",
    topology=jobs_only(),
    workload=[],
    jobs=[JOB],
    faults=[
        on_log("checkpoint_committed", source="job-1", nth=5).inject(kill(named("job-1"))),
        after_fault(0).inject(corrupt_checkpoint(named("job-1"), checkpoint=2, how="flip")),
        after_fault(1).inject(restart()),
    ],
    expect=[job_completes(), results_exact(), corruption_found(), resumes_from_checkpoints()],
    stacks=["sim"],
)

# The disk stays full until the job has ended: it computes all, cannot keep all, and says so. The next one has room.
full_disk = Scenario(
    name="checkpoint/full_disk",
    description="A job's disk is full behind its second checkpoint: it says so, and what was committed before is not lost.",
    topology=jobs_only(),
    workload=[],
    jobs=[inference(items=200, batch=10, checkpoint_every=20, batch_ms=40, disk_mb=4)],
    faults=[
        on_log("checkpoint_committed", source="job-1", nth=2).inject(fill_disk(named("job-1"))),
        on_exit("job-1").inject(free_disk(named("job-1"))),
        after_fault(1).inject(restart(named("job-1"))),
    ],
    expect=[job_completes(), results_exact(), full_disk_told(), resumes_from_checkpoints()],
    stacks=["sim"],
)
