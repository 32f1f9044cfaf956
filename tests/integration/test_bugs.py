"""Every planted bug is caught by the oracle that is there for it, and by no accident."""

import pytest

from ftharness.engine.bugs import BUGS, Bug
from ftharness.pytest_plugin import Ft
from ftharness.registry import installed
from ftharness.scenario.library import shipped


@pytest.mark.parametrize("bug", BUGS.values(), ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught_by_its_oracle(ft: Ft, bug: Bug) -> None:
    """The oracles that fail are the bug's own and those that its consequences concern; no other does."""
    record = ft.run(bug.scenario, stack="sim", bug=bug.name, check=False, idle_s=5, **bug.params)
    failed = {one.name.partition("(")[0] for one in record.oracles if one.verdict == "fail"}
    assert failed == {bug.oracle, *bug.also}
    assert record.verdict == "fail"


def test_every_oracle_has_a_bug_that_fails_it() -> None:
    """An oracle that no planted bug has ever failed is not an oracle."""
    assert set(installed("ftharness.oracles")) == {bug.oracle for bug in BUGS.values()}


# What these rest on is what clients and a supervisor see; the few words of engines that they need, the others need too. And a
# job has no engine, nor has a pool manager more than one kind.
ONE_ENGINE = ("gateway/", "checkpoint/", "coordinator/", "pool/")
REVEALING = {bug.scenario: bug.params for bug in BUGS.values()}
# The field's own tests of cancellation run these as they stand: tests/fault_tolerance/cancellation.
RUN_THERE = {
    ("cancellation/aggregated", "sglang"),
    ("cancellation/aggregated", "trtllm"),
    ("cancellation/aggregated_chat_stream", "vllm"),
    ("cancellation/decode_cancel", "vllm"),
    ("cancellation/decode_cancel", "trtllm"),
}
ENGINES = [
    (name, engine)
    for name in sorted(REVEALING)
    for engine in ("vllm", "sglang", "trtllm")
    if (engine == "vllm" or not name.startswith(ONE_ENGINE)) and (name, engine) not in RUN_THERE
]


@pytest.mark.parametrize("name,engine", ENGINES)
def test_the_same_scenario_passes_without_a_bug(ft: Ft, name: str, engine: str) -> None:
    """What fails with a bug fails because of it; with each engine's words, of which the contract misses none."""
    assert ft.run(name, stack="sim", engine=engine, **REVEALING[name]).drift == []


# What these two promise, they promise of tokens that a client sees coming: there is nothing to ask of one body.
STREAMED_ONLY = {"migration/drain", "migration/prefill_failure"}
FORMS = [
    (name, endpoint, stream)
    for name, scenario in shipped().items()
    for endpoint in ("completion", "chat")
    for stream in (True, False)
    if name.startswith("migration/")
    and (stream or name not in STREAMED_ONLY)
    # Its own form is run above, where nothing else of it is changed for a bug.
    and not (
        REVEALING.get(name) == {} and all((one.endpoint, one.stream) == (endpoint, stream) for one in scenario.workload)
    )
]


@pytest.mark.parametrize("name,endpoint,stream", FORMS)
def test_both_endpoints_streamed_or_not(ft: Ft, name: str, endpoint: str, stream: bool) -> None:
    """A scenario holds for completions and chats, as a stream of events or as one body."""
    ft.run(name, stack="sim", endpoint=endpoint, stream=stream)
