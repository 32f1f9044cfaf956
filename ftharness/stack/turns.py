"""Which engine of a group serves, wakes or waits: by its own lines, as its role in a fault's target says."""

from collections.abc import Sequence

from ftharness.faults import Target
from ftharness.history import History, Log
from ftharness.process import Living

#: What an engine is once it has said that; the last that it said counts.
_BY_EVENT = {"standby": "standby", "waking": "waking", "ready": "active"}


def turn_of(history: History, source: str) -> str:
    """``standby``, ``waking`` or ``active``; "" of a process that has not come so far, or is in no group."""
    said = [_BY_EVENT[line.event] for line in history.select(Log, source=source) if line.event in _BY_EVENT]
    return said[-1] if said else ""


def engine_for(target: Target, members: Sequence[Living], history: History) -> Living:
    """The engine of a group that a target means now.

    Args:
        target: ``active``, ``waking`` or ``standby``.
        members: Of the target's group, also those that have ended.
        history: With their lines.

    Raises:
        LookupError: There is none; says what each is.
    """
    if not members:
        raise LookupError(
            f"{target}: there is no group {target.group} of engines; aggregated(standbys=1) makes such groups"
        )
    now = {one.name: "ended" if one.exit is not None else turn_of(history, one.name) for one in members}
    for one in members:
        if now[one.name] == target.role:
            return one
    told = ", ".join(f"{name}: {turn or 'still starting'}" for name, turn in now.items())
    raise LookupError(f"{target}: no engine of group {target.group} is that now; {told}")
