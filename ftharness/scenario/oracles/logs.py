"""What was logged and what was not: ``logged``, ``never_logged``."""

from typing import Literal

from ftharness.scenario.case import Case, Finding

Role = Literal["", "frontend", "aggregated", "prefill", "decode"]


def logged(case: Case, event: str, role: Role = "", source: str = "") -> Finding:
    """A line of that meaning was logged in the fault phase."""
    lines = case.logs(event, role=role, source=source)
    who = source or role or "any process"
    if lines:
        return Finding("pass", f"{lines[0].source}: {lines[0].line[:200]}", tuple(line.n for line in lines[:5]))
    if not case.in_contract(event, role=role, source=source):
        return Finding(
            "unknown", f"no contract of {who} knows a line for {event}", drift=(f"{event}: not in the contract",)
        )
    if not case.contract_known(role=role, source=source):
        drift = f"{event}: not seen from {who}, whose version the contract was not written for"
        return Finding("unknown", "no such line, and the contract was not written for this version", drift=(drift,))
    return Finding("fail", f"no line that means {event} from {who} in the fault phase")


def never_logged(case: Case, event: str, role: Role = "", source: str = "") -> Finding:
    """No line of that meaning was logged in the fault phase, which ended with the end of every process."""
    lines = case.logs(event, role=role, source=source)
    who = source or role or "any process"
    if lines:
        return Finding("fail", f"{lines[0].source}: {lines[0].line[:200]}", tuple(line.n for line in lines[:5]))
    if not case.in_contract(event, role=role, source=source):
        return Finding(
            "unknown", f"no contract of {who} knows a line for {event}", drift=(f"{event}: not in the contract",)
        )
    return Finding("pass", f"no line that means {event} from {who} until the end of the run")
