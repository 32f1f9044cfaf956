"""Which planted bugs can do anything in a scenario: each is in a part of the stack, which not every scenario runs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ftharness.engine.bugs import BUGS, PLANTED, Bug
from ftharness.scenario.scenario import Scenario


class _Part(NamedTuple):
    """A part of the stack.

    Attributes:
        name: Of what a bug in it is one.
        runs: Whether a scenario has it.
    """

    name: str
    runs: Callable[[Scenario], bool]


def _inference(scenario: Scenario) -> bool:
    return any(job.program == "inference" for job in scenario.jobs)


def _ranks(scenario: Scenario) -> bool:
    return any(job.program == "inference" and job.args.get("ranks", 0) for job in scenario.jobs)


_SERVING = _Part("the frontend and its workers", lambda scenario: scenario.topology.serves)
_SHADOWS = _Part("shadow engines", lambda scenario: scenario.topology.standbys > 0)
_JOB = _Part("a job of inference", _inference)
#: By the module that has the bug; all others are of what serves requests.
_PARTS = {
    "shadow.py": _SHADOWS,
    "shadow_bugs.py": _SHADOWS,
    "part_prefill.py": _Part("prefill workers", lambda scenario: scenario.topology.prefill > 0),
    "job_shard.py": _JOB,
    "job_bugs.py": _JOB,
    "job_inference.py": _Part("the ranks of a job", _ranks),
    PLANTED: _Part("a manager of pools", lambda scenario: scenario.topology.pool is not None),
}


def part_of(bug: str) -> str:
    """The part of the stack that has the bug, in words."""
    return _part(BUGS[bug]).name


def can_show(bug: str, scenario: Scenario) -> bool:
    """Whether the scenario runs what has the bug; not, whether it is hurt in such a way that it shows."""
    return _part(BUGS[bug]).runs(scenario)


def idle_among(bug: str, scenarios: Sequence[Scenario], named: Sequence[str]) -> list[str]:
    """Those scenarios, by their names, in which the bug can do nothing, and which are to be left out.

    Args:
        bug: A planted bug's name.
        scenarios: What is to be run.
        named: What was asked for, by their names; others were found, such as by ``family/*``.

    Raises:
        ValueError: It can do nothing in one that was asked for by its name, or in none at all; says what can.
    """
    idle = [one for one in scenarios if not can_show(bug, one)]
    for one in idle:
        if one.name in named or len(idle) == len(scenarios):
            others = [name for name in BUGS if can_show(name, one)]
            can = f"those that can show in it are {', '.join(others)}" if others else "no other can show in it either"
            raise ValueError(
                f"{one.name}: the planted bug {bug} is one of {part_of(bug)}, which this scenario does not run: it would "
                f"only pass; {BUGS[bug].scenario} is there to reveal it, and {can}"
            )
    return list(dict.fromkeys(one.name for one in idle))


def left_out(bug: str, names: Sequence[str]) -> str:
    """What is said of those that are left out, as the bug cannot show in them."""
    return f"{bug} is a bug of {part_of(bug)}; without that, and left out: {', '.join(names)}"


def _part(bug: Bug) -> _Part:
    return _PARTS.get(bug.where, _SERVING)
