"""Which stack a name or a file means."""

from pathlib import Path

from ftharness.registry import find_installed
from ftharness.stack.plan import StackKind


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
    kind: type[StackKind] = find_installed("ftharness.stacks", name, "stack", ", and any ./FILE.toml")
    return kind()
