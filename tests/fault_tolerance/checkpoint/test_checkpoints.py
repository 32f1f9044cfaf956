"""Jobs that lose what they had not committed, and nothing else: killed with all their ranks, or with a damaged checkpoint.

The scenarios as they stand are run with the planted bugs, each once without and once with each.
"""

import pytest

from ftharness.faults import kill, named, restart
from ftharness.pytest_plugin import Ft
from ftharness.scenario import (
    Scenario,
    after_fault,
    job_completes,
    on_log,
    results_exact,
    resumes_from_checkpoints,
)
from ftharness.stack import inference, jobs_only

pytestmark = [pytest.mark.gpu_0, pytest.mark.pre_merge]


@pytest.mark.parametrize("how", ["truncate", "remove_marker"])
def test_damage_is_found_and_computed_again(ft: Ft, how: str) -> None:
    """A half that is cut off takes the ids with it, and a checkpoint without its marker was never committed."""
    ft.run("checkpoint/corruption", stack="sim", how=how)


def test_ranks_that_are_killed_with_their_job_resume(ft: Ft) -> None:
    """SIGKILL to the coordinator and to each rank in the same moment: none has time to write, and each goes on."""
    ft.run(
        Scenario(
            name="checkpoint/all_ranks_killed",
            topology=jobs_only(),
            workload=[],
            jobs=[inference(items=160, batch=10, checkpoint_every=20, batch_ms=40, ranks=2)],
            faults=[
                on_log("checkpoint_committed", source="job-1", nth=4).inject(kill(named("job-1"), tree=True)),
                after_fault(0).inject(restart()),
            ],
            expect=[job_completes(), results_exact(), resumes_from_checkpoints()],
            stacks=["sim"],
        ),
        stack="sim",
    )
