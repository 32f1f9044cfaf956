"""The workflow of the night names stacks, engines and tests that there are."""

import re
from pathlib import Path

import yaml

from ftharness.stack import find_stack
from ftharness.stack.profiles import shipped_profiles

WORKFLOW = Path(__file__).parents[3] / ".github" / "workflows" / "nightly.yml"


def test_each_job_is_a_stack_with_a_profile_for_gpus() -> None:
    """And each such profile has its job."""
    job = yaml.safe_load(WORKFLOW.read_text())["jobs"]["gpu"]
    cells = {(cell["stack"], cell["engine"]) for cell in job["strategy"]["matrix"]["include"]}
    assert cells == {(one.stack, one.engine) for one in shipped_profiles().values() if one.device == "gpu"}
    for stack, engine in cells:
        assert engine in find_stack(stack).engines
    (tests,) = [step["run"] for step in job["steps"] if "pytest" in step.get("run", "")]
    for option in re.findall(r"--ft-[a-z-]+", tests):
        assert option in {"--ft-stack", "--ft-engine", "--ft-sut-python", "--ft-out"}
    assert job["steps"][-1]["with"]["path"] == tests.partition("--ft-out ")[2].partition("/")[0]
