"""What is installed by entry point: faults, oracles, stacks; those of others, too."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ftharness.suggest import nearest


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """All of a group, by name; looked up once, for each look reads the metadata of every package."""
    return {entry.name: entry for entry in entry_points(group=group)}


def find_installed(group: str, name: str, what: str, more: str = "") -> Any:
    """What ``name`` stands for in ``group``.

    Args:
        group: Such as ``ftharness.faults``.
        name: As registered.
        what: What it is, for the error.
        more: What else can be said instead of a name, for the error.

    Raises:
        LookupError: There is none (names the nearest), or it cannot be imported (says why).
    """
    known = installed(group)
    if name not in known:
        raise LookupError(f"no {what} {name!r}; {nearest(name, known, more)}")
    try:
        return known[name].load()
    except (ImportError, AttributeError) as error:
        raise LookupError(f"the {what} {name!r} is {known[name].value}, which cannot be imported: {error}") from error
