"""The cancellation scenarios on the released Dynamo: the same scenarios, what its releases do otherwise as data."""

from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]  # the fixture of conftest.py

DEFAULT, NEWEST = "1.4.2", "1.6.1"
BOTH = pytest.mark.parametrize("version", [DEFAULT, NEWEST])


@BOTH
@pytest.mark.parametrize(
    "name, engine", [("aggregated", "vllm"), ("aggregated_chat", "trtllm"), ("aggregated_chat_stream", "sglang")]
)
def test_a_client_that_goes_reaches_our_engine_through_dynamo(run: Run, version: str, name: str, engine: str) -> None:
    """By its own id, in its own words, counted once in the frontend and once in the worker."""
    ran = run(f"cancellation/{name}", "dynamo-sim", version, engine=engine)
    reasons = {oracle.name.partition("(")[0]: oracle.reason for oracle in ran.record.oracles}
    assert "by worker-1" in reasons["cancelled_within"]
    assert reasons["cancellations_counted"] == "the frontend counted 1; the workers counted 1"


@BOTH
@pytest.mark.parametrize("name", ["reset", "client_killed", "task_cancelled", "in_migration", "frontend_draining"])
def test_however_and_whenever_it_goes(run: Run, version: str, name: str) -> None:
    """On the mocker, whose lines say less: what is missing is drift, and behaviour decides."""
    run(f"cancellation/{name}", "dynamo-mocker", version)


@BOTH
@pytest.mark.parametrize("stack", ["dynamo-sim", "dynamo-mocker"])
def test_half_a_close_is_taken_for_a_whole_one(run: Run, stack: str, version: str) -> None:
    """The frontend reads the end of the connection, and does not ask whether there is still somebody who reads."""
    ran = run("cancellation/half_close", stack, version)
    assert f"half_close_completes of {version}: no" in [one.reason for one in ran.record.annotations]


@BOTH
@pytest.mark.parametrize("stack", ["dynamo-sim", "dynamo-mocker"])
@pytest.mark.parametrize("name", ["routed_decode_cancel", "routed_prefill_cancel"])
def test_a_client_that_goes_where_prefill_is_apart(run: Run, stack: str, version: str, name: str) -> None:
    """What is not told whom is documented, and stands in the report."""
    told = {annotation.reason for annotation in run(f"cancellation/{name}", stack, version).record.annotations}
    answer = "yes" if stack == "dynamo-sim" else "no"
    documented = {
        "routed_decode_cancel": f"cancelled_decode_tells_prefill of {version}: {answer}",
        "routed_prefill_cancel": f"prefill_cancel_reaches_prefill of {version}: no",
    }
    assert documented[name] in told


@pytest.mark.parametrize("stack", ["dynamo-sim", "dynamo-mocker"])
def test_a_storm_leaves_nothing_behind(run: Run, stack: str) -> None:
    """200 clients, half of them gone, a worker killed meanwhile: every one ends as it was asked to."""
    ran = run(
        "cancellation/storm", stack, NEWEST, max_tokens=40
    )  # long enough for a busy machine, on which tokens come late
    reasons = {oracle.name.partition("(")[0]: oracle.reason for oracle in ran.record.oracles}
    assert reasons["ends_as_asked"].startswith("100 cancelled as asked, 100 complete")
