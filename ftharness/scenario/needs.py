"""What oracles are about: refused before anything starts where a scenario has no such thing, so that they could show nothing."""

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from ftharness.scenario import oracles
from ftharness.scenario.aims import MAKES_GROUPS
from ftharness.scenario.expect import Expect, find_oracle
from ftharness.scenario.scenario import Scenario
from ftharness.stack import Plan


class _Need(NamedTuple):
    """Something that oracles are about.

    Attributes:
        oracles: Whether one of that name is.
        met: Whether it is there.
        missing: What to say where it is not, and what to do.
    """

    oracles: Callable[[str], bool]
    met: Callable[[Scenario, Plan], bool]
    missing: str


def _groups(_: Scenario, plan: Plan) -> bool:
    return any(launch.group for launch in plan.launches)


def _jobs(_: Scenario, plan: Plan) -> bool:
    return bool(plan.jobs.fault)


def _results(_: Scenario, plan: Plan) -> bool:
    return any(one.work is None or one.work.checkpoints for one in plan.jobs.fault)


def _ranks(_: Scenario, plan: Plan) -> bool:
    return any(one.work is None or one.work.ranks for one in plan.jobs.fault)


def _pool(scenario: Scenario, _: Plan) -> bool:
    return scenario.topology.pool is not None


def _named(*names: str) -> Callable[[str], bool]:
    return names.__contains__


def _in(prefix: str) -> Callable[[str], bool]:
    """Those of our modules whose names begin so: a new one there is about the same."""
    return lambda name: _module(name).startswith(f"{oracles.__name__}.{prefix}")


def _module(name: str) -> str:
    with suppress(LookupError):  # which is said where it is applied
        return find_oracle(name).__module__
    return ""


_NEEDS = (
    _Need(
        _named("took_over_within", "serves_again", "one_active", "legal_states", "nobody_takes_over", "fenced"),
        _groups,
        f"the stack has no shadow engines; {MAKES_GROUPS}",
    ),
    _Need(_in("pool_"), _pool, "the scenario has no manager of pools: topology=pooled(PoolConfig(…)) has"),
    _Need(_in("jobs"), _jobs, "the scenario has no jobs: jobs=[inference(…)] gives it one"),
    _Need(
        _named("results_exact", "resumes_from_checkpoints", "corruption_found", "full_disk_told"),
        _results,
        "no job of the scenario keeps results: inference(…) does",
    ),
    _Need(
        _named("retries_follow_policy", "poison_given_up"),
        _ranks,
        "no job of the scenario has ranks: inference(ranks=2) has",
    ),
)
#: Oracles of what becomes of one kind of fault.
_OF_FAULTS = {
    "corruption_found": "corrupt_checkpoint",
    "full_disk_told": "fill_disk",
    "poison_given_up": "kill_rank",
}


def check_needs(scenario: Scenario, plan: Plan, *, by_test: bool = False) -> None:
    """Whether what is expected is about something that is there.

    Args:
        scenario: What is expected.
        plan: What is launched.
        by_test: Whether a test drives it, which breaks more than a scenario tells of.

    Raises:
        LookupError: It is not; says what is missing, and what has it.
    """
    for expect in scenario.expect:
        for need in _NEEDS:
            if need.oracles(expect.oracle) and not need.met(scenario, plan):
                raise LookupError(f"{scenario.name}: {expect}: {need.missing}")
        if not by_test and (kind := _without_its_fault(scenario, expect)):
            raise LookupError(
                f"{scenario.name}: {expect}: no fault of the scenario is a {kind}, whose outcome it judges"
            )


def _without_its_fault(scenario: Scenario, expect: Expect) -> str:
    """The kind of fault that it is about, where there is none."""
    kind = _OF_FAULTS.get(expect.oracle, "")
    return "" if any(one.fault.kind == kind for one in scenario.faults) else kind
