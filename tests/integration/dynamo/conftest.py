"""What the tests on the released Dynamo share: its interpreters, and a run of one scenario on one release."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ftharness.history import Event
from ftharness.report import story
from ftharness.scenario import Scenario, ScenarioRecord
from ftharness.scenario.runner import run_cell
from ftharness.session import cell_of
from ftharness.stack import find_stack
from ftharness.stack.provision import find_interpreter
from ftharness.stored_runs import read_events

REQUIRE = "FTHARNESS_REQUIRE_DYNAMO"


class Ran(NamedTuple):
    """A scenario that was run."""

    record: ScenarioRecord
    events: list[Event]
    folder: Path


@pytest.fixture
def python_of() -> Callable[[str], Path]:
    """The interpreter of a release; skips the test where it is not provisioned, or fails it where it has to be."""
    return _python_of


def _python_of(version: str) -> Path:
    python = find_interpreter(f"dynamo=={version}")
    if python is None:
        message = f"not applicable: Dynamo {version} is not provisioned; `ftharness provision dynamo=={version}`"
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(f"{message} ({REQUIRE}=1)", pytrace=False)
        pytest.skip(message)
    return python


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ran]:
    """Run a scenario on a release: ``run(name, stack, version, engine=…, check=…, **numbers to replace)``."""

    def run_one(
        scenario: str | Scenario,
        stack: str,
        version: str,
        *,
        engine: str = "vllm",
        check: bool = True,
        python: Path | None = None,
        **params: object,
    ) -> Ran:
        __tracebackhide__ = True
        python = python or _python_of(version)
        cell = cell_of(scenario, stack, engine=engine, sut_python=str(python), params=params)
        folder = tmp_path / "run"
        record = asyncio.run(run_cell(cell, find_stack(stack), folder))
        events = read_events(folder)
        if check and record.verdict != "pass":
            pytest.fail(story(record, events, folder), pytrace=False)
        return Ran(record, events, folder)

    return run_one
