"""The migration scenarios on the released Dynamo: the same scenario, another release, no change but of data."""

from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]  # the fixture of conftest.py

DEFAULT, NEWEST = "1.4.2", "1.6.1"


@pytest.mark.parametrize("version", [DEFAULT, NEWEST])
@pytest.mark.parametrize("stack", ["dynamo-sim", "dynamo-mocker"])
def test_a_killed_worker_costs_no_token(run: Run, stack: str, version: str) -> None:
    """The request moves once; its claims, the metric and the log lines of the release agree, so nothing is drift."""
    ran = run("migration/worker_failure", stack, version)
    assert ran.record.sut_version == version
    assert ran.record.drift == []
    assert ran.record.tokens.received == ran.record.tokens.expected == 260


@pytest.mark.parametrize(
    "version, endpoint, stream, said",
    [
        (DEFAULT, "completion", True, "an SSE error event with code 500 under HTTP 200 (documented for 1.4.2)"),
        (DEFAULT, "chat", False, "HTTP status 500 (documented for 1.4.2)"),
        (NEWEST, "chat", True, "an SSE error event with code 503 under HTTP 200 (documented for 1.6.1)"),
        (NEWEST, "completion", False, "HTTP status 503 (documented for 1.6.1)"),
    ],
)
def test_with_migration_off_the_request_fails_as_documented(
    run: Run, version: str, endpoint: str, stream: bool, said: str
) -> None:
    """What the frontend counts as a migration and then refuses is none; the code of the error is the release's own."""
    ran = run("migration/disabled_worker_failure", "dynamo-sim", version, endpoint=endpoint, stream=stream)
    reasons = {oracle.name.partition("(")[0]: oracle.reason for oracle in ran.record.oracles}
    assert said in reasons["fails_with"]
    assert "metric: 0, log lines: 0" in reasons["not_migrated"]


@pytest.mark.parametrize(
    "name, stack, version, engine, endpoint, stream",
    [
        ("worker_failure", "dynamo-sim", DEFAULT, "trtllm", "chat", False),
        ("graceful_shutdown", "dynamo-sim", NEWEST, "sglang", "chat", True),
        ("graceful_shutdown", "dynamo-mocker", NEWEST, "sglang", "completion", True),
        ("prefill_failure", "dynamo-mocker", DEFAULT, "trtllm", "completion", True),
        ("drain", "dynamo-mocker", DEFAULT, "vllm", "chat", True),
    ],
)
def test_every_scenario_passes(
    run: Run, name: str, stack: str, version: str, engine: str, endpoint: str, stream: bool
) -> None:
    """With another engine's words, another endpoint, streamed or not; docs/dynamo.md has the whole table."""
    run(f"migration/{name}", stack, version, engine=engine, endpoint=endpoint, stream=stream)


def test_what_a_release_does_otherwise_is_said_in_the_report(run: Run) -> None:
    """From 1.5 on a migrated answer's usage counts, on the mocker, the first worker's tokens as the prompt's."""
    ran = run("migration/worker_failure", "dynamo-mocker", NEWEST)
    notes = [annotation.reason for annotation in ran.record.annotations]
    assert "usage_survives_migration of 1.6.1: no" in notes
    assert not [oracle for oracle in ran.record.oracles if oracle.name.startswith("usage_correct")]
