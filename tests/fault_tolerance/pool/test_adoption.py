"""Managers that are killed: what becomes of their engines, and what the next manager finds."""

import asyncio
import os
import random
import shutil
import signal
from typing import Any

import pytest

from ftharness.pool.adoption import StateFolder
from ftharness.pool.config import ProbeConfig
from ftharness.process.process_table import read_entry

#: How often the manager is killed at a moment of chance; a longer run sets more.
KILLS = int(os.environ.get("FTHARNESS_POOL_KILLS", "5"))


async def test_an_engine_is_adopted(kit: Any) -> None:
    """The manager is SIGKILLed: the next has the same process, ready and leasable, whose crash it sees with its wait status."""
    first = kit.program(kit.pool(), engines_survive=True)
    pid = first.until("engine_started")["pid"]
    first.until("engine_ready")
    first.kill()
    assert kit.lives(pid)
    async with kit.manager(kit.pool(), engines_survive=True) as (manager, told):
        await kit.ready(manager, told)
        assert told.all("engine_adopted")[0]["pid"] == pid
        assert not told.all("engine_started")
        lease = manager.registry.acquire("p")
        assert (await kit.info(lease.url))["pid"] == pid
        os.kill(pid, signal.SIGKILL)
        assert (await told.until("engine_lost"))["exit"] == "SIGKILL"
        await told.until("engine_started")
        await manager.operations.until_over(manager.drain("p", 0).id)
    assert kit.processes() == []


async def test_engines_die_with_a_manager_that_they_are_not_to_survive(kit: Any) -> None:
    """The manager is SIGKILLed: its engine, that one's child and the shim are gone within 2 s; the next starts another."""
    first = kit.program(kit.pool(args=["--engine-child"]))
    first.until("engine_ready")
    before = kit.processes()
    assert len(before) == 2
    first.kill()
    await kit.ended(*before)
    async with kit.manager(kit.pool(args=["--engine-child"])) as (manager, told):
        await kit.ready(manager, told)
        gone = told.all("engine_gone")
        assert [line["reason"] for line in gone] == ["it was ended by SIGKILL"]
        assert not told.all("engine_adopted")


async def test_an_end_that_no_manager_saw_is_told_by_the_next(kit: Any) -> None:
    """The engine ends while no manager lives: the next one says how, and starts another."""
    first = kit.program(kit.pool(), engines_survive=True)
    pid = first.until("engine_started")["pid"]
    first.until("engine_ready")
    first.kill()
    os.kill(pid, signal.SIGSEGV)
    await kit.ended(pid)
    async with kit.manager(kit.pool(), engines_survive=True) as (manager, told):
        await kit.ready(manager, told)
        assert told.all("engine_gone") == [
            told.all("engine_gone")[0] | {"pid": pid, "reason": "it was ended by SIGSEGV"}
        ]
        assert not told.all("engine_adopted")
        await manager.operations.until_over(manager.drain("p", 0).id)


@pytest.mark.parametrize(
    "change, same",
    [
        ({"probe": ProbeConfig(interval_s=0.1)}, True),
        ({"args": ["--speed", "100"]}, False),
        ({"model": "other"}, False),
    ],
    ids=["probe", "args", "model"],
)
async def test_an_engine_of_another_configuration_is_not_adopted(kit: Any, change: dict[str, Any], same: bool) -> None:
    """What only the manager does by it may change; what the engine was started with may not: then there is a new one."""
    first = kit.program(kit.pool(), engines_survive=True)
    pid = first.until("engine_started")["pid"]
    first.until("engine_ready")
    first.kill()
    if "model" in change:
        change = {"model": kit.model("other")}
    async with kit.manager(kit.pool(**change), engines_survive=True) as (manager, told):
        await kit.ready(manager, told)
        assert kit.lives(pid) is same
        assert bool(told.all("engine_adopted")) is same
        assert len(kit.processes()) == 1
        await manager.operations.until_over(manager.drain("p", 0).id)


async def test_a_reloaded_model_survives_the_manager(kit: Any) -> None:
    """After a reload the configuration names the old model: the engine with the new one is adopted, and comes back as such."""
    old, new = kit.model("old"), kit.model("new")
    async with kit.manager(kit.pool(model=old), engines_survive=True) as (manager, told):
        await kit.ready(manager, told)
        await manager.operations.until_over(manager.reload("p", new).id)
        pid = told.all("engine_started")[1]["pid"]
    async with kit.manager(kit.pool(model=old), engines_survive=True) as (manager, told):
        await kit.ready(manager, told)
        assert told.all("engine_adopted")[0]["pid"] == pid
        assert manager.registry.health("p")["model_id"] == "new"
        os.kill(pid, signal.SIGKILL)
        await told.until("engine_started")
        assert (await kit.info(await kit.ready(manager, told)))["model"] == "new"
        await manager.operations.until_over(manager.drain("p", 0).id)


async def test_an_engine_that_has_just_ended_is_not_adopted(kit: Any) -> None:
    """Its shim, frozen here, does not know it yet, or has what it left to see to: the kernel says so, and how it ended."""
    first = kit.program(kit.pool(), engines_survive=True)
    pid = first.until("engine_started")["pid"]
    first.until("engine_ready")
    first.kill()
    with StateFolder(kit.state) as state:
        record = state.slot("p-1").record()
        assert record is not None
    os.kill(record.shim.pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGABRT)
    await kit.ended(pid)
    asyncio.get_running_loop().call_later(0.3, os.kill, record.shim.pid, signal.SIGCONT)  # as on a busy machine
    async with kit.manager(kit.pool(), engines_survive=True) as (manager, told):
        assert [(line["pid"], line["reason"]) for line in told.all("engine_gone")] == [(pid, "it was ended by SIGABRT")]
        assert not told.all("engine_adopted")
        await kit.ready(manager, told)
        await manager.operations.until_over(manager.drain("p", 0).id)


async def test_an_adopted_engine_that_dies_at_once_is_started_again(kit: Any) -> None:
    """Before the next manager has asked it anything: that is a crash, and no pool that cannot be started."""
    first = kit.program(kit.pool(), engines_survive=True)
    pid = first.until("engine_started")["pid"]
    first.until("engine_ready")
    first.kill()
    async with kit.manager(kit.pool(), engines_survive=True, fail_mode="fast") as (manager, told):
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            await manager.until_ready("p")
        assert not manager.failed.done()
        assert [line["pid"] for line in told.all("engine_adopted")] == [pid]
        assert len(told.all("restart_scheduled")) == 1
        await manager.operations.until_over(manager.drain("p", 0).id)


async def test_a_copy_of_a_state_folder_is_not_the_folder(kit: Any) -> None:
    """A manager of the copy takes and ends nothing of the first one's, and starts its own; also what is temporary stays."""
    first = kit.program(kit.pool(), engines_survive=True)
    pid = first.until("engine_started")["pid"]
    first.until("engine_ready")
    temporary = (kit.state / "engines" / "p-1" / "tmp").readlink()
    copy = kit.folder / "copy"
    shutil.copytree(kit.state, copy, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    async with kit.manager(kit.pool(), engines_survive=False, state_dir=str(copy)) as (manager, told):
        await kit.ready(manager, told)
        assert not told.all("engine_adopted")
        assert not told.all("engine_gone")
        assert kit.processes() == [pid]
        assert temporary.is_dir()
    assert kit.processes() == [pid]


async def test_an_engine_of_no_pool_is_ended(kit: Any) -> None:
    """A pool that the configuration does not have any more has no engine any more."""
    first = kit.program(kit.pool(), kit.pool(id="q"), engines_survive=True)
    first.until("engine_ready")
    first.until("engine_ready")
    first.kill()
    assert len(kit.processes("q-1")) == 1
    async with kit.manager(kit.pool(), engines_survive=True) as (manager, told):
        await kit.ready(manager, told)
        assert kit.processes("q-1") == []
        assert len(kit.processes("p-1")) == 1
        await manager.operations.until_over(manager.drain("p", 0).id)


@pytest.mark.parametrize("survive", [False, True], ids=["die", "survive"])
async def test_a_ctrl_c_ends_the_manager_in_order(kit: Any, survive: bool) -> None:
    """SIGINT to the manager's whole group, as a terminal sends it: engines are stopped by SIGTERM, or live on untouched."""
    first = kit.program(kit.pool(), engines_survive=survive)
    pid = first.until("engine_started")["pid"]
    first.until("engine_ready")
    os.killpg(first.pid, signal.SIGINT)
    assert first.end() == 130
    assert kit.lives(pid) is survive
    stops = [line for line in first.lines if line["event"] == "engine_stopped"]
    assert [line["exit"] for line in stops] == ([] if survive else ["exit status 0"])
    assert not [line for line in first.lines if line["event"] in ("engine_lost", "")]


async def test_a_second_manager_process_does_not_begin(kit: Any) -> None:
    """The same configuration twice: the second ends, says who has the folder, and has touched nothing."""
    first = kit.program(kit.pool())
    first.until("engine_ready")
    before = kit.processes()
    second = kit.program(kit.pool())
    assert second.end() == 2
    assert f"by the manager with pid {first.pid}" in second.lines[-1]["text"]
    assert kit.processes() == before


async def test_a_frozen_shim_does_not_hold_up_the_next_manager(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager is killed and the shim is frozen: the next manager ends both it and its engine, and starts another."""
    monkeypatch.setattr("ftharness.pool.engine_start._HELLO_S", 0.2)
    monkeypatch.setattr("ftharness.pool.adoption._ENDS_S", 0.2)
    first = kit.program(kit.pool(), engines_survive=True)
    pid = first.until("engine_started")["pid"]
    first.until("engine_ready")
    first.kill()
    os.kill(read_entry(pid).ppid, signal.SIGSTOP)  # its shim
    async with kit.manager(kit.pool(), engines_survive=True) as (manager, told):
        await kit.ready(manager, told)
        assert not kit.lives(pid)
        assert len(kit.processes()) == 1
        await manager.operations.until_over(manager.drain("p", 0).id)


@pytest.mark.parametrize("survive", [False, True], ids=["die", "survive"])
async def test_never_two_engines_for_one_slot(kit: Any, survive: bool) -> None:
    """Killed at moments of chance from its first line on, again and again: there is never a second engine in the slot.

    ``FTHARNESS_POOL_KILLS`` sets how often; a hundred take a minute and a half.
    """
    chance = random.Random(7)  # noqa: S311 - the same moments each time
    for _ in range(KILLS):
        manager = kit.program(kit.pool(), engines_survive=survive)
        if chance.random() < 0.5:
            manager.until("engine_ready")
        await asyncio.sleep(chance.uniform(0, 0.4))  # the moment of chance itself
        seen = kit.processes() if (kit.state / "owner").exists() else []
        manager.kill()
        assert len(seen) <= 1
    async with kit.manager(kit.pool(), engines_survive=survive) as (manager, told):
        await kit.ready(manager, told)
        assert len(kit.processes()) == 1
        assert (await kit.info(manager.registry.engine("p-1").url))["pid"] == kit.processes()[0]
        await manager.operations.until_over(manager.drain("p", 0).id)
    assert kit.processes() == []
