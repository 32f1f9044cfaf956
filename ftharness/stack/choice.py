"""Which stack a name or a file means."""

from importlib.metadata import entry_points
from pathlib import Path

from ftharness.stack.plan import StackKind
from ftharness.suggest import nearest


def stack_names() -> list[str]:
    """The names of all stacks that are installed."""
    return sorted(entry.name for entry in entry_points(group="ftharness.stacks"))


def find_stack(name: str) -> StackKind:
    """The stack of that name, or the one that a ``.toml`` file describes.

    Raises:
        LookupError: There is none; names the nearest.
        TomlError: The file is wrong; says where.
        ContractError: The contract that it names is.
    """
    if name.endswith(".toml") or "/" in name:
        from ftharness.stack.custom import CustomStack  # noqa: PLC0415 - only who brings a file pays for its reader

        return CustomStack(Path(name))
    for entry in entry_points(group="ftharness.stacks"):
        if entry.name == name:
            kind: type[StackKind] = entry.load()
            return kind()
    raise LookupError(f"no stack {name!r}; {nearest(name, stack_names(), ', and any ./FILE.toml')}")
