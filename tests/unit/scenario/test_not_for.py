"""Scenarios that mean nothing on a stack, whatever it launches there."""

import pytest

from ftharness.scenario.library import shipped
from ftharness.scenario.runner import not_for
from ftharness.stack import find_stack


@pytest.mark.parametrize(
    "name, stack, why",
    [
        ("engine/child_killed", "sim", "it is about vllm, sglang: on sim it would say nothing"),
        ("engine/child_killed", "vllm", ""),
        (
            "migration/worker_failure",
            "smg",
            "it is about requests that move to another worker, which they do not do on smg",
        ),
        ("migration/disabled_worker_failure", "smg", "it is about requests that move"),
        ("migration/worker_failure", "vllm", ""),
        ("gateway/rejoin", "smg", ""),
    ],
)
def test_a_scenario_that_means_nothing_on_a_stack(name: str, stack: str, why: str) -> None:
    said = not_for(shipped()[name], find_stack(stack))
    assert said.startswith(why)
    assert bool(said) == bool(why)
