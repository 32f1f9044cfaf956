"""The pool manager of the stack ``sim``: ``ftharness pool serve``, with a file of its own, in a folder of its own."""

import os
import sys
from importlib.util import find_spec
from typing import Any

import msgspec

import ftharness
from ftharness.engine.bugs import BUGS, PLANTED
from ftharness.logs import load_contract
from ftharness.pool.config import PoolConfig
from ftharness.process import Condition, http_ok
from ftharness.stack.plan import Launch, NotAvailable, Settings
from ftharness.stack.pool_setup import MANAGER, POOL, PoolSetup


def sim_pool(setup: PoolSetup, settings: Settings, port: int) -> Launch:
    """What is launched for a manager. Its engines are none of the plan's: it starts them, and they are found below it.

    Raises:
        NotAvailable: structlog is not installed.
    """
    if find_spec("structlog") is None:
        raise NotAvailable("the pool manager needs structlog, which is not installed: pip install 'ftharness[pool]'")
    folder = (settings.folder / POOL).absolute()
    config = folder / "pool.toml"
    models = {
        folder / name / "misbehave.json": msgspec.json.encode(misbehaves).decode()
        for name, misbehaves in setup.models.items()
    }
    bug = BUGS.get(settings.bug)
    planted = bug is not None and bug.where == PLANTED
    command = ["ftharness.pool.planted", settings.bug] if planted else ["ftharness", "pool", "serve"]
    url = f"http://127.0.0.1:{port}"
    return Launch(
        name=POOL,
        role=MANAGER,
        argv=[sys.executable, "-m", *command, "--config", str(config), "--port", str(port)],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        contract=load_contract("pool", ftharness.__version__),
        ready=[_all_ready(url, pool) for pool in setup.manager.pools if pool.preload],
        ports={"http": port},
        cwd=folder,
        files={config: _toml(setup), **models},
    )


def _all_ready(url: str, pool: PoolConfig) -> Condition:
    return http_ok(f"{url}/v1/pools/{pool.id}/health", lambda body: all(one["ready"] for one in body["engines"]))


def _toml(setup: PoolSetup) -> str:
    """The manager's file: what is not as it is by itself."""
    said = _said(setup.manager)
    pools = said.pop("pool")
    tables = [said, *pools]
    heads = ["", *("\n[[pool]]\n" for _ in pools)]
    return "".join(
        head + "".join(f"{name} = {_value(value)}\n" for name, value in table.items())
        for head, table in zip(heads, tables, strict=True)
    )


def _said(struct: msgspec.Struct) -> dict[str, Any]:
    """The fields that differ from their defaults, by the names that the file has."""
    found = {}
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        default = (
            field.default_factory()
            if field.default is msgspec.NODEFAULT and callable(field.default_factory)
            else field.default
        )
        if value != default:
            found[field.encode_name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _said(value)
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _value(value: Any) -> str:
    """A value in TOML: as in JSON, but for tables."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_value(name)} = {_value(one)}' for name, one in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(_value(one) for one in value)}]"
    return msgspec.json.encode(value).decode()
