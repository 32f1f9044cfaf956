"""A scenario is data: it is written down, read back, and changed by name."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.client import Request, chat, completion
from ftharness.faults import Fault, Target, check_health, freeze, frontend, kill, kill_engine, serving, terminate
from ftharness.scenario import (
    Expect,
    Injection,
    Scenario,
    Trigger,
    fails_with,
    on_token,
    recovers_within,
    succeeds,
    when,
)
from ftharness.scenario.library import find, shipped
from ftharness.scenario.runner import Cell
from ftharness.scenario.scenario import with_params
from ftharness.stack import Topology, aggregated, disaggregated

text = st.text(max_size=20)
positive = st.integers(1, 10_000)
seconds = st.floats(0, 1e4)
# What a user can write as arguments: JSON.
arguments = st.dictionaries(text, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text, max_size=3)
requests = st.builds(
    Request,
    endpoint=st.sampled_from(["completion", "chat"]),
    prompt=text,
    max_tokens=positive,
    stream=st.booleans(),
    n=positive,
    logprobs=st.booleans(),
    stop=st.lists(text, max_size=2),
    at_s=seconds,
    extra=arguments,
)
targets = st.builds(
    Target,
    role=st.sampled_from(["serving", "another_worker", "every_worker", "frontend", "named"]),
    request=st.integers(0, 9),
    name=text,
)
triggers = st.builds(
    Trigger,
    kind=st.sampled_from(["at", "on_token", "on_log", "after_fault", "when"]),
    delay_s=seconds,
    token=positive,
    request=st.integers(0, 9),
    event=text,
    source=text,
    fault=st.integers(0, 9),
    predicate=text,
)
injections = st.builds(Injection, trigger=triggers, fault=st.builds(Fault, kind=text, target=targets, args=arguments))
topologies = st.builds(
    Topology,
    workers=st.integers(1, 64),
    migration_limit=st.integers(0, 9),
    migration_max_seq_len=st.none() | positive,
    speed=st.floats(0.1, 1e5),
    slots=positive,
    drain_s=seconds,
    frontend_args=st.lists(text, max_size=2),
    worker_args=st.lists(text, max_size=2),
)
scenarios = st.builds(
    Scenario,
    name=text,
    topology=topologies,
    workload=st.lists(requests, max_size=3),
    faults=st.lists(injections, max_size=3),
    expect=st.lists(st.builds(Expect, oracle=text, args=arguments, request=text, condition=text), max_size=3),
    description=text,
    seed=st.integers(-(2**53), 2**53),
    idle_s=st.floats(0.1, 1e4),
)


@given(scenarios)
def test_any_scenario_is_read_back_equal(scenario: Scenario) -> None:
    """Stored with its run, and replayed."""
    assert msgspec.json.decode(msgspec.json.encode(scenario), type=Scenario) == scenario


@given(scenarios, text, text, arguments)
def test_any_cell_is_read_back_equal(scenario: Scenario, stack: str, engine: str, params: dict[str, Any]) -> None:
    """With the stack, the engine, and what was set."""
    cell = Cell(scenario=scenario, stack=stack, engine=engine, params=params)
    assert msgspec.json.decode(msgspec.json.encode(cell), type=Cell) == cell


ONE = Scenario(
    name="a/b",
    topology=aggregated(workers=2),
    workload=[completion(max_tokens=10), chat(max_tokens=20)],
    faults=[on_token(5).inject(terminate(serving, grace_s=1)), on_token(9).inject(kill(serving))],
    expect=[succeeds(), recovers_within(ms=100), fails_with(500)],
)


def test_a_parameter_is_set_wherever_it_stands() -> None:
    """In every request, trigger and fault; of an oracle by ``oracle.argument``; JSON where it is JSON."""
    changed = with_params(
        ONE,
        {
            "max_tokens": "7",
            "stream": "false",
            "endpoint": "chat",
            "token": "3",
            "grace_s": "0.5",
            "workers": "4",
            "recovers_within.ms": "1",
            "seed": "8",
            "fails_with.status": "broken",
            "delay_s": "0.5",
            "worker_args": '["--x"]',
        },
    )
    assert [(one.max_tokens, one.stream, one.endpoint) for one in changed.workload] == [(7, False, "chat")] * 2
    assert [one.trigger.token for one in changed.faults] == [3, 3]
    assert changed.faults[0].fault.args["grace_s"] == 0.5
    assert (changed.topology.workers, changed.topology.worker_args, changed.seed) == (4, ["--x"], 8)
    assert (changed.expect[1].args["ms"], changed.expect[2].args["status"]) == (1, "broken")
    assert {one.trigger.delay_s for one in changed.faults} == {0.5}
    assert with_params(ONE, {}) == ONE


@pytest.mark.parametrize(
    "params,says",
    [
        ({"within_s": "-1"}, "within_s: Expected `float` > 0.0"),
        ({"within_s": "0"}, "within_s: Expected `float` > 0.0"),
        ({"path": "health"}, "path: Expected `str` matching regex '^/'"),
        ({"path": ""}, "path: Expected `str` matching regex '^/'"),
    ],
)
def test_a_look_that_nobody_could_answer_is_refused(params: dict[str, str], says: str) -> None:
    """It would be told as a failure of who is looked at."""
    looks = msgspec.structs.replace(ONE, faults=[on_token(5).inject(check_health(frontend))])
    assert with_params(looks, {"within_s": "0.1", "path": "/"}).faults[0].fault.args == {"path": "/", "within_s": 0.1}
    with pytest.raises(ValueError, match=r"a/b") as caught:
        with_params(looks, params)
    assert says in str(caught.value)


def test_a_strategy_that_is_none_is_refused_in_one_error() -> None:
    """Where it is written, and not only once it is run; with what there is. Pytest shows no second error behind it."""
    says = "strategy = 'decode-first': must be one of decode_first, prefill_first, frontend_routed; did you mean decode_first"
    with pytest.raises(ValueError, match=says):
        disaggregated(strategy="decode-first")  # type: ignore[arg-type]
    slow = msgspec.structs.replace(ONE, description=5)
    with pytest.raises(ValueError, match=r"^a/b: Expected `str`") as caught:
        with_params(slow, {})
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "params,says",
    [
        ({"max_token": "1"}, "nothing named 'max_token' to set; did you mean max_tokens?"),
        ({"workers": "two"}, "Expected `int`, got `str`"),
        ({"workers": "0"}, "workers = 0: must be at least 1"),
        ({"ms": "1"}, "nothing named 'ms' to set"),
        ({"wrokers": "1"}, "did you mean workers?"),
        ({"recovers_within.mss": "1"}, "did you mean recovers_within.ms?"),
        ({"grace_s": "long"}, "a/b with grace_s=long: grace_s: Expected `float`, got `str`"),
        ({"then": "shrug"}, "then: 'shrug': must be one of kill, nothing"),
        (
            {"strategy": "decode-first"},
            "topology.strategy = 'decode-first': must be one of decode_first, frontend_routed, prefill_first; did you mean",
        ),
        ({"tree": "1"}, "tree: Expected `bool`, got `int`"),
        ({"recovers_within.ms": "soon"}, "ms: Expected `float`, got `str`"),
        ({"recovers_within.ms": "-1"}, "ms: Expected `float` >= 0.0"),
        ({"fails_with.status": "null"}, "status: Expected `int | str`, got `null`"),
        ({"prompt": "5"}, "Expected `str`, got `int`"),
    ],
)
def test_a_parameter_that_does_not_fit_is_told(params: dict[str, str], says: str) -> None:
    """Which, and what it may be."""
    with pytest.raises(ValueError, match=r"a/b") as caught:
        with_params(ONE, params)
    assert says in str(caught.value)


def test_arguments_of_kinds_that_are_not_ours_are_left_to_them() -> None:
    """Whoever wrote a kind of fault or an oracle knows what it takes; what has no such argument cannot be set."""
    strange = Fault(kind="unplug", target=serving, args={"cable": "red"})
    fault = Injection(trigger=on_token(5), fault=strange)
    one = Scenario(name="a/b", workload=[], faults=[fault], expect=[Expect(oracle="sings", args={"key": "C"})])
    changed = with_params(one, {"cable": "7", "sings.key": "[1, 2]"})
    assert (changed.faults[0].fault.args, changed.expect[0].args) == ({"cable": 7}, {"key": [1, 2]})


def test_a_predicate_is_stored_by_name() -> None:
    """A function at the top of a module; one that cannot be found again is refused."""
    assert when(find).predicate == "ftharness.scenario.library:find"
    with pytest.raises(ValueError, match="only a function at the top of a module"):
        when(lambda events: len(events) > 1)


def test_faults_read_as_they_are_written() -> None:
    """In a report."""
    assert str(on_token(5, request=1, delay_s=0.2)) == "on token 5 of request 1, 0.2 s later"
    assert str(kill_engine(Target(role="serving", request=1)).target) == "serving (request 1)"
    assert freeze(serving, duration_s=1).args == {"duration_s": 1, "tree": True}


def test_families_and_names_are_found() -> None:
    """All of one by ``family/*``, in the order of the file; every shipped one has a sentence."""
    assert [one.name for one in find(["migration/*"])] == [n for n in shipped() if n.startswith("migration/")]
    assert all(one.description.endswith(".") and one.faults and one.expect for one in shipped().values())
    with pytest.raises(LookupError, match="did you mean migration/drain"):
        find(["migration/drane"])


def test_a_request_after_one_that_comes_later_is_refused() -> None:
    """When the scenario is made, not when its stack runs."""
    with pytest.raises(ValueError, match="request 1: after = 1: must be the place of an earlier one"):
        Scenario(name="a/b", workload=[completion(), completion(after=1)])
