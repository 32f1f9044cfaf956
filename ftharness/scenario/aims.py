"""Whom the faults of a scenario are aimed at: refused before anything starts where there is, and will be, no such thing."""

from collections.abc import Collection, Iterator

from ftharness.faults import ROLE_OF, TURNS, Fault
from ftharness.faults.kinds import OF_CLIENTS, OF_PROCESSES
from ftharness.scenario.scenario import Scenario
from ftharness.stack import Launch

MAKES_GROUPS = "aggregated(standbys=1) makes groups of engines that share a lock"


def check_aims(scenario: Scenario, launches: Collection[Launch]) -> None:
    """Whether each fault can hit what it is aimed at, and its trigger can fire; ``launches`` are the stack's processes.

    Raises:
        LookupError: One cannot; says which, and what there is.
    """
    for why in _wrong(scenario, launches):
        raise LookupError(f"{scenario.name}: {why}")


def _wrong(scenario: Scenario, launches: Collection[Launch]) -> Iterator[str]:
    count, roles = len(scenario.workload), {launch.role for launch in launches}
    for place, request in enumerate(scenario.workload):
        if request.after_fault is not None and not 0 <= request.after_fault < len(scenario.faults):
            yield f"request {place}, after_fault = {request.after_fault}: {_no_fault(scenario, request.after_fault)}"
    for place, one in enumerate(scenario.faults):
        fault, trigger = one.fault, one.trigger
        what = f"{fault.kind} {fault.target}"
        if why := _astray(fault) or _of_no_group(fault, launches):
            yield f"{what}: {why}"
        if fault.target.needs_request and fault.target.request >= count:
            yield f"{what}: there is no request {fault.target.request}: {_counted(count, 'request')}"
        sent = scenario.workload[fault.target.request : fault.target.request + 1]
        if fault.kind == "kill_client" and not all(request.own_process for request in sent):
            yield f"{what}: that client has no process of its own; completion(own_process=True) gives it one"
        if trigger.kind == "on_token" and not 0 <= trigger.request < count:
            yield f"{what}, {trigger}: there is no request {trigger.request}: {_counted(count, 'request')}"
        if fault.target.role == "hit" and (why := _hit_by_none(scenario, place)):
            yield f"{what}: {why}"
        if trigger.kind == "after_fault" and not 0 <= trigger.fault < len(scenario.faults):
            yield f"{what}, {trigger}: {_no_fault(scenario, trigger.fault)}"
        if trigger.kind == "after_fault" and trigger.fault == place:
            yield f"{what}, {trigger}: that is the fault itself"
        role = ROLE_OF.get(fault.target.role)
        if role is not None and role not in roles:
            yield f"{what}: this stack has no {role} workers; disaggregated(…) has"


def _astray(fault: Fault) -> str:
    """Why the kind cannot hit the target; a kind that is not ours may hit whatever it likes."""
    if fault.kind in OF_CLIENTS and fault.target.role != "client":
        return "it hits the client of a request, such as client_of(0), and no process"
    if fault.kind in OF_PROCESSES and fault.target.role == "client":
        return f"it hits a process, such as serving; of a client there are {', '.join(OF_CLIENTS)}"
    return ""


def _hit_by_none(scenario: Scenario, place: int) -> str:
    """Why the fault that the target of the one at ``place`` goes by hits no process for it."""
    other = scenario.faults[place].fault.target.fault
    if not 0 <= other < len(scenario.faults):
        return _no_fault(scenario, other)
    if other == place:
        return "that is the fault itself"
    if scenario.faults[other].fault.target.role == "client":
        return f"{scenario.faults[other].fault.kind} hits a client, and no process"
    return ""


def _no_fault(scenario: Scenario, place: int) -> str:
    return f"there is no fault {place}: {_counted(len(scenario.faults), 'fault')}"


def _of_no_group(fault: Fault, launches: Collection[Launch]) -> str:
    """Why it cannot hit an engine that shares a lock with others, where it is to."""
    groups = {launch.group for launch in launches if launch.group}
    target = fault.target
    if target.role in TURNS and f"worker-{target.group}" not in groups:
        return f"there is no group {target.group} of engines; " + (
            f"there {'is 1' if len(groups) == 1 else f'are {len(groups)}'}, counted from 1" if groups else MAKES_GROUPS
        )
    named = [launch for launch in launches if launch.name == target.name]
    if fault.kind == "start_standby" and (not groups or any(not launch.group for launch in named)):
        return f"it shares no lock that one more could wait for; {MAKES_GROUPS}"
    return ""


def _counted(count: int, noun: str) -> str:
    return f"the scenario has {count} {noun}{'' if count == 1 else 's'}, counted from 0"
