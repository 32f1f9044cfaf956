"""A rank that fails for good: what is left of its shard is done by another.

The scenarios as they stand are run with the planted bugs, each once without and once with each.
"""

import pytest

from ftharness.faults import kill_rank, named
from ftharness.pytest_plugin import Ft
from ftharness.scenario import (
    Scenario,
    job_completes,
    on_log,
    results_exact,
    resumes_from_checkpoints,
    retries_follow_policy,
)
from ftharness.stack import inference, jobs_only

pytestmark = [pytest.mark.gpu_0, pytest.mark.pre_merge]


def test_another_worker_does_what_is_left(ft: Ft) -> None:
    """It goes on from the shard's checkpoints, and every item comes once."""
    record = ft.run(
        Scenario(
            name="coordinator/rank_lost",
            topology=jobs_only(),
            workload=[],
            jobs=[inference(items=120, batch=10, checkpoint_every=20, batch_ms=40, ranks=2, max_retries_transient=0)],
            faults=[
                on_log("batch_started", source="job-1", captures={"rank": "1", "batch": "4"}).inject(
                    kill_rank(named("job-1"), 1)
                )
            ],
            expect=[job_completes(), results_exact(), retries_follow_policy(), resumes_from_checkpoints()],
            stacks=["sim"],
        ),
        stack="sim",
    )
    (policy,) = [one for one in record.oracles if one.name.startswith("retries_follow_policy")]
    assert policy.reason == "job-1: 3 attempts; ended early: 1 transient"
