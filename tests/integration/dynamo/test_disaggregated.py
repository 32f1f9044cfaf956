"""Prefill and decode apart on the released Dynamo: what exists there, and what does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftharness.client import completion
from ftharness.history import Log
from ftharness.report import excuse
from ftharness.scenario import Scenario, judge, succeeds, tokens_exact
from ftharness.stack import disaggregated

Run = Callable[..., Any]  # the fixture of conftest.py


@pytest.mark.parametrize("version", ["1.4.2", "1.6.1"])
def test_the_frontend_asks_a_prefill_worker_then_a_decode_worker(run: Run, version: str) -> None:
    """Each request of the mocker's passes both."""
    calm = Scenario(
        name="calm/frontend_routed",
        topology=disaggregated(strategy="frontend_routed"),
        workload=[completion(max_tokens=30)],
        expect=[succeeds(), tokens_exact()],
    )
    ran = run(calm, "dynamo-mocker", version)
    received = [e.source for e in ran.events if isinstance(e, Log) and e.event == "request_received"]
    assert received == ["prefill-1", "decode-1"] * 2  # the run without a fault, and the one with none


@pytest.mark.parametrize("strategy", ["decode_first", "prefill_first"])
@pytest.mark.parametrize("stack", ["dynamo-sim", "dynamo-mocker"])
def test_what_does_not_exist_there_is_not_applicable(run: Run, stack: str, strategy: str) -> None:
    """No failure, and no pass: the run says why, also when it is judged again from its history."""
    topology = disaggregated(strategy=strategy)  # type: ignore[arg-type]  # a parameter of this test
    scenario = Scenario(name="calm/apart", topology=topology, workload=[completion()], expect=[succeeds()])
    ran = run(scenario, stack, "1.4.2", check=False)
    for record in (ran.record, judge(scenario, ran.events)):
        note = excuse(record)
        assert record.verdict == "unknown"
        assert note is not None
        assert note.kind == "not_applicable"
        assert f"{strategy} (1 prefill and 1 decode workers) does not exist on {stack}" in note.reason
        assert record.oracles == []


@pytest.fixture
def python(python_of: Callable[[str], Path]) -> Path:
    """Looked up before pytester hides the home folder."""
    return python_of("1.4.2")


def test_a_test_of_what_does_not_exist_there_is_skipped(python: Path, pytester: pytest.Pytester) -> None:
    """With the reason, whether it launches the stack itself or runs a scenario; its teardown fails nothing."""
    pytester.makepyfile(
        """
        from ftharness.client import completion
        from ftharness.scenario import Scenario
        from ftharness.stack import disaggregated

        def test_launch(ft):
            ft.launch(disaggregated(strategy="decode_first"))

        def test_run(ft):
            ft.run(Scenario(name="a/b", topology=disaggregated(strategy="prefill_first"), workload=[completion()]))
        """
    )
    options = ("--ft-stack", "dynamo-mocker", "--ft-sut-python", str(python), "-rs")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines_random(["*not applicable: decode_first*", "*not applicable: prefill_first*"])
