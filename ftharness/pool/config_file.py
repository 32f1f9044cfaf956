"""A manager's file: read, and refused with the line where something in it cannot be meant, before anything starts."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from ftharness.logs import TomlError, read_toml
from ftharness.logs.toml_file import line_of
from ftharness.pool.config import ManagerConfig, PoolConfig
from ftharness.pool.preparation import unknown_placeholders
from ftharness.pool.privileges import PrivilegesError, privileges
from ftharness.pool.profile import find_profile


def load_config(path: Path) -> ManagerConfig:
    """A manager's file. Paths in it that are not whole are from its own folder.

    Raises:
        TomlError: It cannot be read, or something in it cannot be meant; the message begins with ``FILE:LINE:``.
    """
    config = read_toml(path, ManagerConfig)
    text = path.read_text(encoding="utf-8")
    if not config.pools:
        raise TomlError(f"{path}:{line_of(text, '.pool')}: no [[pool]] in it")
    folder = path.absolute().parent

    def whole(name: str) -> str:
        return str(folder / name) if name else ""

    pools = [
        msgspec.structs.replace(
            pool,
            workdir=whole(pool.workdir),
            engine=whole(pool.engine) if pool.engine.endswith(".toml") else pool.engine,
            model=whole(pool.model) if (folder / pool.model).exists() and pool.model else pool.model,
        )
        for pool in config.pools
    ]
    for place, pool in enumerate(pools):
        for where, problem in _problems(pool):
            line = line_of(text, f".pool[{place}].{where}")
            raise TomlError(f"{path}:{line}: pool {pool.id!r}: {problem}")
    return msgspec.structs.replace(
        config, pools=pools, state_dir=whole(config.state_dir), token_file=whole(config.token_file)
    )


def _problems(pool: PoolConfig) -> Iterator[tuple[str, str]]:
    """What cannot be meant, and by which key."""
    try:
        profile = find_profile(pool.engine)
    except (LookupError, TomlError) as error:
        yield "engine", str(error.args[0])
        return
    try:
        privileges(pool.user)
    except PrivilegesError as error:
        yield "user", str(error.args[0])
    if profile.needs_model and not pool.model:
        yield "model", f"engine {pool.engine!r} serves nothing without a model: set model"
    if pool.provisioner and not pool.model:
        yield "provisioner", "it is not asked for a model that has no name: set model"
    yield from unknown_placeholders(pool, profile)
