"""A pool manager in a stack, as data: its configuration, and the models that its engines are given."""

from typing import Any

import msgspec

from ftharness.pool.config import ManagerConfig, PoolConfig

#: The role of a process that manages pools, and what it is called.
MANAGER, POOL = "manager", "pool"


class PoolSetup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A manager of engine pools, whose engines are the simulated ones.

    Attributes:
        manager: Its configuration, as in its own file; where it listens, and keeps its state, the stack says.
        models: Folders that are made for models, by their paths from the manager's folder, such as ``models/broken``; and how an
            engine misbehaves that loads one: fields of :class:`ftharness.pool.sim_engine.Misbehaviour`.
    """

    manager: ManagerConfig
    models: dict[str, dict[str, Any]] = {}

    def __post_init__(self) -> None:
        """Refuse a manager without a pool, and a model that would lie elsewhere.

        Raises:
            ValueError: Says which.
        """
        if not self.manager.pools:
            raise ValueError("a pool manager has at least one pool: pooled(PoolConfig(…))")
        for name in self.models:
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"models: {name!r} is to lie in the manager's own folder: models/NAME")


def pool_setup(*pools: PoolConfig, models: dict[str, dict[str, Any]] | None = None, **manager: Any) -> PoolSetup:
    """A manager of these pools; ``manager`` are fields of :class:`ftharness.pool.ManagerConfig`."""
    return PoolSetup(manager=ManagerConfig(pools=list(pools), **manager), models=models or {})
