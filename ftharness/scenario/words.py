"""The names in a scenario that only a stack can give a meaning: log events, processes, roles, documented behaviours.

Looked at when it is known what is launched, and before it is: a name that means nothing would never be seen, and what is
expected of it would be unknown, or not expected at all, where its author believes it tested.
"""

import re
from collections.abc import Iterable, Iterator

from ftharness.logs import shipped_events
from ftharness.scenario.aims import check_aims
from ftharness.scenario.aims_at_jobs import check_job_aims
from ftharness.scenario.expect import Expect
from ftharness.scenario.needs import check_needs
from ftharness.scenario.scenario import Scenario
from ftharness.scenario.trigger import Trigger
from ftharness.stack import Launch, Plan, known_behaviours
from ftharness.stack.groups import is_standby
from ftharness.stack.lives import first_life
from ftharness.suggest import nearest

_GROUP = re.compile(r"\(\?P<(\w+)>")
# What these say, only workers do.
_OF_WORKERS = {"aborted_in", "never_reached"}


def check_words(scenario: Scenario, plan: Plan, *, by_test: bool = False) -> None:
    """Whether each name means something.

    An event that the contract of another backend has is let through: this backend does not say it, which is for the oracles
    to say.

    Args:
        scenario: The names.
        plan: What they may mean.
        by_test: Whether a test drives it, which may start processes that no scenario tells of.

    Raises:
        LookupError: One does not; names the nearest.
    """
    refused = getattr(plan.join, "refused", "")  # of a stack where shadows join, but nobody can start one
    if refused and any(one.fault.kind == "start_standby" for one in scenario.faults):
        raise LookupError(f"{scenario.name}: {refused}")
    launches = [*plan.launches, *plan.jobs.launches]
    own = {event for launch in launches for event in launch.contract.events}
    for where, event in _events(scenario):
        if event not in own and event not in (known := own | shipped_events()):
            raise LookupError(f"{scenario.name}: {where}: no contract has the event {event!r}; {nearest(event, known)}")
    for injection in scenario.faults:
        _check_captures(scenario, injection.trigger, launches)
    for one, role, roles in _roles(scenario, {launch.role for launch in launches}):
        if role not in roles:
            raise LookupError(
                f"{scenario.name}: {one}: the stack has nothing of the role {role!r}; {nearest(role, roles)}"
            )
    names = [launch.name for launch in launches]
    for where, name in _processes(scenario):
        first = _restartable(name, scenario, by_test=by_test)
        if first not in names and not _may_join(first, scenario, plan, by_test=by_test):
            raise LookupError(f"{scenario.name}: {where}: the stack has no process {name!r}; {nearest(name, names)}")
    check_aims(scenario, launches)
    check_job_aims(scenario, plan.jobs)
    check_needs(scenario, plan, by_test=by_test)
    for expect in scenario.expect:
        behaviour = expect.condition.removeprefix("!")
        if behaviour and behaviour not in (documented := {*plan.behaviour, *known_behaviours()}):
            raise LookupError(
                f"{scenario.name}: {expect}.where({expect.condition!r}): of no stack is it documented whether it does that; "
                f"{nearest(behaviour, documented)}"
            )


def _check_captures(scenario: Scenario, trigger: Trigger, launches: Iterable[Launch]) -> None:
    """Whether lines of the trigger's event can say what it asks for."""
    if trigger.kind != "on_log" or not trigger.captures:
        return
    specs = [launch.contract.events.get(trigger.event) for launch in launches]
    known = {name for spec in specs if spec for one in spec.pattern for name in _GROUP.findall(one.regex)}
    for name in trigger.captures if known else ():
        if name not in known:
            raise LookupError(
                f"{scenario.name}: {trigger}: lines of {trigger.event!r} do not say {name!r}; {nearest(name, known)}"
            )


def _may_join(name: str, scenario: Scenario, plan: Plan, *, by_test: bool) -> bool:
    """Whether a standby of that name may be started during the run: one for each ``start_standby``, or by the stack itself."""
    if plan.join is None or not is_standby(name):
        return False
    if by_test or hasattr(plan.join, "refused"):  # there shadows join by themselves
        return True
    groups = len({launch.group for launch in plan.launches if launch.group})
    standbys = sum(is_standby(launch.name) for launch in plan.launches) // groups
    more = sum(one.fault.kind == "start_standby" for one in scenario.faults)
    number = name.rpartition("-")[2]
    return number.isdecimal() and 0 <= (int(number) - 1) // groups < standbys + more


def _restartable(name: str, scenario: Scenario, *, by_test: bool) -> str:
    """The process whose further life may run under that name, ``worker-1.2``; where none may, the name itself.

    There are so many more lives as there are restarts of the process; of one whose target has no name it may be any.
    """
    first, dot, number = name.partition(".")
    if not (dot and number.isdecimal() and int(number) > 1):
        return name
    targets = [one.fault.target for one in scenario.faults if one.fault.kind == "restart"]
    restarts = sum(target.role != "named" or first_life(target.name) == first for target in targets)
    return first if by_test or int(number) <= 1 + restarts else name


def _events(scenario: Scenario) -> Iterator[tuple[object, str]]:
    yield from ((one, one.args["event"]) for one in scenario.expect if isinstance(one.args.get("event"), str))
    yield from ((one.trigger, one.trigger.event) for one in scenario.faults if one.trigger.kind == "on_log")


def _roles(scenario: Scenario, roles: set[str]) -> Iterator[tuple[Expect, str, set[str]]]:
    """Each role that an expectation names, and those that it may be."""
    for one in scenario.expect:
        for key in ("role", "remote"):
            if isinstance(role := one.args.get(key), str) and role:
                yield one, role, roles - {"frontend"} if one.oracle in _OF_WORKERS else roles


def _processes(scenario: Scenario) -> Iterator[tuple[object, str]]:
    named: Iterable[tuple[object, str]] = (
        *((one, one.args["source"]) for one in scenario.expect if isinstance(one.args.get("source"), str)),
        *((one.trigger, one.trigger.source) for one in scenario.faults),
        *((one.fault.target, one.fault.target.name) for one in scenario.faults),
    )
    yield from ((where, name) for where, name in named if name)
