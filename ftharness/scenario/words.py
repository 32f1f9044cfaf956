"""The names in a scenario that only a stack can give a meaning: log events, processes, roles, documented behaviours.

Looked at when it is known what is launched, and before it is: a name that means nothing would never be seen, and what is
expected of it would be unknown, or not expected at all, where its author believes it tested.
"""

from collections.abc import Iterable, Iterator

from ftharness.logs import shipped_events
from ftharness.scenario.aims import check_aims
from ftharness.scenario.expect import Expect
from ftharness.scenario.scenario import Scenario
from ftharness.stack import Plan, known_behaviours
from ftharness.stack.groups import is_standby
from ftharness.suggest import nearest

# What these say, only workers do.
_OF_WORKERS = {"aborted_in", "never_reached"}


def check_words(scenario: Scenario, plan: Plan) -> None:
    """Whether each name means something.

    An event that the contract of another backend has is let through: this backend does not say it, which is for the oracles
    to say.

    Raises:
        LookupError: One does not; names the nearest.
    """
    refused = getattr(plan.join, "refused", "")  # of a stack where shadows join, but nobody can start one
    if refused and any(one.fault.kind == "start_standby" for one in scenario.faults):
        raise LookupError(f"{scenario.name}: {refused}")
    own = {event for launch in plan.launches for event in launch.contract.events}
    for where, event in _events(scenario):
        if event not in own and event not in (known := own | shipped_events()):
            raise LookupError(f"{scenario.name}: {where}: no contract has the event {event!r}; {nearest(event, known)}")
    for one, role, roles in _roles(scenario, {launch.role for launch in plan.launches}):
        if role not in roles:
            raise LookupError(
                f"{scenario.name}: {one}: the stack has nothing of the role {role!r}; {nearest(role, roles)}"
            )
    names = [launch.name for launch in plan.launches]
    for where, name in _processes(scenario):
        if name not in names and not (plan.join is not None and is_standby(name)):  # one may join later
            raise LookupError(f"{scenario.name}: {where}: the stack has no process {name!r}; {nearest(name, names)}")
    check_aims(scenario, {launch.role for launch in plan.launches})
    for expect in scenario.expect:
        behaviour = expect.condition.removeprefix("!")
        if behaviour and behaviour not in (documented := {*plan.behaviour, *known_behaviours()}):
            raise LookupError(
                f"{scenario.name}: {expect}.where({expect.condition!r}): of no stack is it documented whether it does that; "
                f"{nearest(behaviour, documented)}"
            )


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
