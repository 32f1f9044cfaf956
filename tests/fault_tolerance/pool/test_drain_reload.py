"""Drain and reload of pools whose engines are real processes with work in flight."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from ftharness.pool.operations import Busy, UnknownOperation
from ftharness.pool.registry import Refused, UnknownPool
from ftharness.pool.staging import digest


async def test_a_drain_waits_for_what_is_in_flight(kit: Any) -> None:
    """No new lease from the first moment; the answer that streams comes whole; the engine is stopped when it was given back."""
    async with kit.manager(kit.pool()) as (manager, told):
        url = await kit.ready(manager, told)
        lease = manager.registry.acquire("p")

        async def work() -> int:
            body = {"model": "p", "prompt": "x", "max_tokens": 60, "stream": True}
            async with (
                httpx.AsyncClient(trust_env=False) as client,
                client.stream("POST", f"{url}/v1/completions", json=body) as answer,
            ):
                lines = [line async for line in answer.aiter_lines()]
            manager.registry.release(lease.id)
            assert lines[-2:] == ["data: [DONE]", ""] or "data: [DONE]" in lines
            return sum('"text"' in line for line in lines)

        working = asyncio.create_task(work())
        operation = manager.drain("p", deadline_s=20)
        with pytest.raises(Refused) as refused:
            manager.registry.acquire("p")
        assert refused.value.reason == "draining"
        over = await manager.operations.until_over(operation.id)
        assert (over.state, over.detail, await working) == ("succeeded", "drained", 60)
        assert manager.registry.lease(lease.id).state == "released"
        assert kit.processes() == []
        assert [line["outcome"] for line in told.all("drain_ended")] == ["drained"]
        over = await manager.operations.until_over(manager.resume("p").id)
        assert (over.state, manager.registry.pool("p").ready) == ("succeeded", True)
        assert manager.registry.acquire("p").state == "held"


async def test_at_the_deadline_a_drain_stops_by_force(kit: Any) -> None:
    """A lease that is not given back is revoked at the deadline, not before and not late, and its engine is stopped."""
    async with kit.manager(kit.pool()) as (manager, told):
        await kit.ready(manager, told)
        lease = manager.registry.acquire("p")
        revoked: list[float] = []
        manager.registry.subscribe(lambda change: change.after == "revoked" and revoked.append(time.monotonic()))
        began = time.monotonic()
        over = await manager.operations.until_over(manager.drain("p", deadline_s=0.3, on_timeout="stop").id)
        assert (over.state, over.detail) == ("succeeded", "stopped")
        assert manager.registry.lease(lease.id).state == "revoked"
        assert "deadline" in manager.registry.lease(lease.id).reason
        assert 0.3 <= revoked[0] - began < 0.6
        assert kit.processes() == []


async def test_at_the_deadline_a_drain_aborts_where_it_was_asked_to(kit: Any) -> None:
    """The lease stays, the engine stays, new leases are granted again, and the operation says what was the case."""
    async with kit.manager(kit.pool()) as (manager, told):
        await kit.ready(manager, told)
        before = kit.processes()
        lease = manager.registry.acquire("p")
        over = await manager.operations.until_over(manager.drain("p", deadline_s=0.1, on_timeout="abort").id)
        assert (over.state, over.detail) == ("failed", "aborted")
        assert "1 of the leases" in over.error
        assert manager.registry.lease(lease.id).state == "held"
        assert manager.registry.acquire("p").state == "held"
        assert kit.processes() == before
        assert told.all("drain_ended")[0]["outcome"] == "aborted"


async def test_one_operation_at_a_time(kit: Any) -> None:
    """What comes while a pool drains is refused with what is under way; the other pool is free; what is not there is said."""
    async with kit.manager(kit.pool(), kit.pool(id="q")) as (manager, told):
        await kit.ready(manager, told)
        await kit.ready(manager, told, "q")
        manager.registry.acquire("p")
        operation = manager.drain("p", deadline_s=20)
        with pytest.raises(Busy) as busy:
            manager.reload("p", "other")
        assert busy.value.operation.id == operation.id
        assert manager.operation(operation.id).state == "running"
        assert (await manager.operations.until_over(manager.drain("q", deadline_s=1).id)).state == "succeeded"
        with pytest.raises(UnknownPool, match="no pool 'r'"):
            manager.drain("r")
        with pytest.raises(UnknownOperation):
            manager.operation("op-99")


async def test_a_drain_can_be_called_off(kit: Any) -> None:
    """Resume in the middle of a drain: the drain is over, its lease stays, and the pool takes leases."""
    async with kit.manager(kit.pool()) as (manager, told):
        await kit.ready(manager, told)
        before = kit.processes()
        lease = manager.registry.acquire("p")
        drain = manager.drain("p", deadline_s=20)
        await told.until("drain_begun")
        resume = await manager.operations.until_over(manager.resume("p").id)
        assert (manager.operation(drain.id).state, manager.operation(drain.id).detail) == ("failed", "cancelled")
        assert resume.state == "succeeded"
        assert manager.registry.acquire("p").state == "held"
        assert manager.registry.lease(lease.id).state == "held"
        assert kit.processes() == before


async def test_a_pool_that_still_starts_can_be_drained(kit: Any) -> None:
    """Nobody has to wait for a start that takes long: it is called off, and its process is gone."""
    async with kit.manager(kit.pool(args=["--slow-start-s", "20"])) as (manager, told):
        await told.until("engine_started")
        over = await manager.operations.until_over(manager.drain("p", deadline_s=5).id)
        assert (over.state, over.detail) == ("succeeded", "drained")
        assert kit.processes() == []
        assert not manager.failed.done()  # it did not fail


async def test_a_reload_serves_the_new_model(kit: Any) -> None:
    """Drained, restarted, healthy, ready: then the new model and version are published, and no lease was granted in between."""
    old, new = kit.model("old"), kit.model("new")
    async with kit.manager(kit.pool(model=old)) as (manager, told):
        await kit.ready(manager, told)
        before = kit.processes()
        lease = manager.registry.acquire("p")
        changes: list[Any] = []
        manager.registry.subscribe(changes.append)
        operation = manager.reload("p", new)
        await asyncio.sleep(0.1)
        with pytest.raises(Refused, match="draining"):
            manager.registry.acquire("p")
        assert kit.processes() == before  # it waits for the lease
        manager.registry.release(lease.id)
        over = await manager.operations.until_over(operation.id)
        assert (over.state, over.detail) == ("succeeded", "succeeded")
        assert manager.registry.health("p")["model_id"] == "new"
        assert ("1.0 old", "1.0 new") in [(one.before, one.after) for one in changes if one.what == "version"]
        assert not set(before) & set(kit.processes())
        assert (await kit.info(manager.registry.acquire("p").url))["model"] == "new"
        assert [line["outcome"] for line in told.all("reload_ended")] == ["succeeded"]


@pytest.mark.parametrize(
    "wrong", [{"exit_at_start": 3}, {"crash_at_request": 1}, {"hang_health": True}], ids=lambda wrong: next(iter(wrong))
)
async def test_a_reload_that_fails_brings_the_old_one_back(kit: Any, wrong: dict[str, Any]) -> None:
    """An engine that ends, fails its first request or never answers: the old model serves again, and the error is published."""
    old, new = kit.model("old"), kit.model("new", **wrong)
    async with kit.manager(kit.pool(model=old, ready_timeout_s=2.0)) as (manager, told):
        await kit.ready(manager, told)
        over = await manager.operations.until_over(manager.reload("p", new).id)
        assert (over.state, over.detail) == ("failed", "rolled_back")
        assert f"{old} serves again" in over.error
        health = manager.registry.health("p")
        assert (health["ready"], health["draining"], health["model_id"]) == (True, False, "old")
        assert health["last_error"] == over.error
        assert (await kit.info(manager.registry.acquire("p").url))["model"] == "old"
        assert len(kit.processes()) == 1
        # And it is the old one that comes back after a crash.
        await kit.misbehave(manager.registry.engine("p-1").url, crash_after_s=0.0)
        await told.holds(lambda: not manager.registry.pool("p").ready, "lost")
        assert (await kit.info(await kit.ready(manager, told)))["model"] == "old"


async def test_a_model_that_cannot_be_had_costs_the_old_engine_nothing(kit: Any) -> None:
    """Staging fails, also by a digest that is another's: the old engine is the same process, and takes leases again."""
    old, new = kit.model("old"), kit.model("new")
    async with kit.manager(kit.pool(model=old)) as (manager, told):
        await kit.ready(manager, told)
        before = kit.processes()
        for reference, says in (
            (str(kit.folder / "none"), "there is nothing"),
            (f"{new}@sha256:{'0' * 64}", "another model"),
        ):
            over = await manager.operations.until_over(manager.reload("p", reference).id)
            assert (over.state, over.detail) == ("failed", "rolled_back")
            assert says in over.error
        assert kit.processes() == before
        assert manager.registry.acquire("p").state == "held"


@pytest.mark.parametrize("new", [{"exit_at_start": 3}, None], ids=["its engine fails", "it cannot be had"])
@pytest.mark.parametrize("drained", [False, True], ids=["never started", "drained"])
async def test_where_nothing_was_served_nothing_is_rolled_back(
    kit: Any, drained: bool, new: dict[str, Any] | None
) -> None:
    """The reload has failed, and says what the pool is left as: as it was, drained or not, with nothing running."""
    old = kit.model("old")
    reference = str(kit.folder / "none") if new is None else kit.model("new", **new)
    async with kit.manager(kit.pool(model=old, preload=drained)) as (manager, told):
        if drained:
            await kit.ready(manager, told)
            await manager.operations.until_over(manager.drain("p").id)
        started = len(told.all("engine_started"))
        over = await manager.operations.until_over(manager.reload("p", reference).id)
        assert (over.state, over.detail) == ("failed", "failed")
        assert ("there is nothing" if new is None else "exit status 3") in over.error
        by = "resume" if drained else "preload"
        assert over.error.endswith(f"no engine of pool 'p' runs, as before: {by} starts {old}")
        assert kit.processes() == []
        assert len(told.all("engine_started")) - started == (
            new is not None
        )  # the new one's; the old one's would be one more
        health = manager.registry.health("p")
        assert (health["ready"], health["draining"], health["last_error"]) == (False, drained, over.error)
        with pytest.raises(Refused) as refused:
            manager.registry.acquire("p")
        assert refused.value.reason == ("draining" if drained else "not_ready")
        assert [line["outcome"] for line in told.all("reload_ended")] == ["failed"]
        again = manager.resume("p") if drained else manager.preload("p")
        assert (await manager.operations.until_over(again.id)).state == "succeeded"
        assert (await kit.info(manager.registry.acquire("p").url))["model"] == "old"


async def test_a_reload_of_a_drained_pool_that_is_called_off_leaves_it_drained(kit: Any) -> None:
    """While the new engine starts: nothing runs, and no lease is granted."""
    old, new = kit.model("old"), kit.model("new", slow_start_s=20.0)
    async with kit.manager(kit.pool(model=old, preload=False)) as (manager, told):
        await manager.operations.until_over(manager.drain("p").id)
        operation = manager.reload("p", new)
        await told.until("engine_started")
        await manager.operations.call_off("p")
        assert manager.operation(operation.id).detail == "cancelled"
        assert kit.processes() == []
        assert manager.registry.pool("p").draining


async def test_a_reload_verifies_the_digest_that_it_is_given(kit: Any) -> None:
    """``MODEL@sha256:…``: staged only if it is that one, and said to be verified."""
    old, new = kit.model("old"), kit.model("new")
    async with kit.manager(kit.pool(model=old)) as (manager, told):
        await kit.ready(manager, told)
        over = await manager.operations.until_over(manager.reload("p", f"{new}@sha256:{digest(Path(new))}").id)
        assert over.state == "succeeded"
        assert told.all("model_staged")[-1]["digest_verified"]


async def test_neither_new_nor_old(kit: Any) -> None:
    """The old engine does not come back either: the operation says both, and it is tried on until it does."""
    old, new = kit.model("old"), kit.model("new", exit_at_start=3)
    async with kit.manager(kit.pool(model=old)) as (manager, told):
        await kit.ready(manager, told)
        file = Path(old, "misbehave.json")
        file.write_text(json.dumps({"exit_at_start": 4}))
        over = await manager.operations.until_over(manager.reload("p", new).id)
        assert (over.state, over.detail) == ("failed", "failed")
        assert "exit status 3" in over.error
        assert "exit status 4" in over.error
        file.write_text("{}")
        assert (await kit.info(await kit.ready(manager, told)))["model"] == "old"


async def test_a_pool_that_does_not_start_by_itself_is_preloaded(kit: Any) -> None:
    """Nothing runs until it is asked for; then the operation ends when the pool is ready."""
    async with kit.manager(kit.pool(preload=False)) as (manager, _):
        assert manager.registry.engine("p-1").state == "stopped"
        assert kit.processes() == []
        over = await manager.operations.until_over(manager.preload("p").id)
        assert (over.state, over.detail, manager.registry.pool("p").ready) == ("succeeded", "ready", True)


async def test_a_manager_that_ends_in_the_middle_of_a_reload_leaves_nothing(kit: Any) -> None:
    """The operation is called off, and no engine is left, neither the new nor the old."""
    old, new = kit.model("old"), kit.model("new", slow_start_s=20.0)
    async with kit.manager(kit.pool(model=old)) as (manager, told):
        await kit.ready(manager, told)
        operation = manager.reload("p", new)
        await told.until("engine_started", 2)
    assert manager.operation(operation.id).detail == "cancelled"
    assert kit.processes() == []
