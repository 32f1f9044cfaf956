"""Which stack a name or a file means."""

import tomllib
from collections.abc import Callable
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
        if _is_of_kind_k8s(Path(name)):
            on_cluster: Callable[[Path], StackKind] = find_installed("ftharness.stacks", "k8s", "stack")
            return on_cluster(Path(name))
        from ftharness.stack.custom import CustomStack  # noqa: PLC0415 - only who brings a file pays for its reader

        return CustomStack(Path(name))
    kind: type[StackKind] = find_installed("ftharness.stacks", name, "stack", ", and any ./FILE.toml")
    return kind()


def _is_of_kind_k8s(path: Path) -> bool:
    """Whether the file says so; what else may be wrong with it is for its reader to say."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")).get("kind") == "k8s"
    except (OSError, ValueError):
        return False
