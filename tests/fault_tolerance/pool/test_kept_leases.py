"""Leases of a manager that is killed: what their holders see, and who else gets a slot, under the next one."""

import asyncio
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from ftharness.pool.lease_file import LeaseFile
from ftharness.pool.leases import NotKept, UnknownLease
from ftharness.pool.registry import Refused

#: How often a manager is killed in the midst of granting; a longer run sets more.
KILLS = int(os.environ.get("FTHARNESS_POOL_KILLS", "5"))


async def _end(manager: Any) -> None:
    await manager.operations.until_over(manager.drain("p", 0).id)


async def test_a_holder_keeps_its_lease(kit: Any) -> None:
    """The next manager knows it before it has asked the engine; its slot is not free; it is revoked with its engine."""
    config = kit.pool(slots_per_engine=2)
    first = kit.program(config, engines_survive=True)
    first.until("engine_ready")
    lease, given_back = first.lease(), first.lease()
    first.ask("release", given_back)
    first.until("answered")
    first.kill()
    async with kit.manager(config, engines_survive=True) as (manager, told):
        registry = manager.registry
        before = registry.lease(lease)
        assert (before.state, registry.lease(given_back).state) == ("held", "released")
        assert (registry.engine("p-1").state, registry.pool("p").ready) == ("unready", False)
        assert await kit.ready(manager, told) == before.url
        assert registry.acquire("p").url == before.url
        with pytest.raises(Refused, match="2 of 2 are leased"):
            registry.acquire("p")
        assert registry.renew(lease, 900.0).state == "held"
        os.kill(told.all("engine_adopted")[0]["pid"], signal.SIGKILL)
        await told.until("engine_lost")
        assert registry.lease(lease).state == "revoked"
        await _end(manager)


async def test_an_engine_with_more_leases_than_slots_gets_no_more(kit: Any) -> None:
    """Fewer slots are configured meanwhile: who holds one keeps it, and somebody is told."""
    first = kit.program(kit.pool(slots_per_engine=2), engines_survive=True)
    first.until("engine_ready")
    leases = first.lease(), first.lease()
    first.kill()
    config = kit.pool(slots_per_engine=1)
    async with kit.manager(config, engines_survive=True) as (manager, told):
        (advised,) = told.all("advisory")
        assert "p-1 was adopted with 2 leases, and has 1 slots now" in advised["reason"]
        await kit.ready(manager, told)
        manager.registry.release(leases[0])
        with pytest.raises(Refused, match="1 of 1 are leased"):
            manager.registry.acquire("p")
        manager.registry.release(leases[1])
        manager.registry.acquire("p")
        await _end(manager)


async def test_a_lease_outlives_any_number_of_managers(kit: Any) -> None:
    """One after the other, killed or in order; also for as long as the first one is remembered by nobody but the file."""
    async with kit.manager(kit.pool(), engines_survive=True) as (manager, told):
        await kit.ready(manager, told)
        lease = manager.registry.acquire("p", ttl_s=600.0)
    second = kit.program(kit.pool(), engines_survive=True)
    second.until("engine_ready")
    second.kill()
    async with kit.manager(kit.pool(), engines_survive=True) as (manager, told):
        assert manager.registry.lease(lease.id) == lease
        assert manager.registry.release(lease.id).state == "released"
        await _end(manager)


async def test_time_goes_on_while_nobody_manages(kit: Any) -> None:
    """A lease whose time was over meanwhile has expired, and its slot is free; one with time left has that, and no more."""
    config = kit.pool(slots_per_engine=2)
    first = kit.program(config, engines_survive=True)
    first.until("engine_ready")
    short, long = first.lease(seconds=0.2), first.lease(seconds=1.5)
    first.kill()
    await asyncio.sleep(0.25)  # it is time itself that is tested
    async with kit.manager(config, engines_survive=True) as (manager, told):
        assert [manager.registry.lease(one).state for one in (short, long)] == ["expired", "held"]
        expired: list[str] = []
        manager.registry.subscribe(lambda change: change.after == "expired" and expired.append(change.lease_id))
        await told.holds(lambda: expired == [long], "the other's time is over as well, and nobody has to ask")
        await kit.ready(manager, told)
        assert manager.registry.pool("p").slots_free == 2
        await _end(manager)


@pytest.mark.parametrize("how", ["killed", "another configuration", "no pool"])
async def test_a_lease_on_an_engine_that_is_gone_is_revoked(kit: Any, how: str) -> None:
    """Its holder sees why; the new engine in its slot has all of its slots."""
    first = kit.program(kit.pool(replicas=2, slots_per_engine=1), engines_survive=True)
    pids = {line["engine_id"]: line["pid"] for line in (first.until("engine_started"), first.until("engine_started"))}
    for _ in range(2):
        first.until("engine_ready")
    first.lease(), first.lease()
    granted = {line["lease_id"]: "" for line in first.lines if line["event"] == "answered"}
    first.kill()
    if how == "killed":
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        await kit.ended(*pids.values())
    change = {"args": ["--speed", "100"]} if how == "another configuration" else {}
    config = kit.pool(replicas=1 if how == "no pool" else 2, slots_per_engine=1, **change)
    async with kit.manager(config, engines_survive=True) as (manager, told):
        over = [manager.registry.lease(one) for one in granted]
        why = {
            "killed": "it was ended by SIGKILL",
            "another configuration": "it was started with another configuration",
            "no pool": "no pool of the configuration has it",
        }
        gone = [one for one in over if one.engine_id == "p-2" or how != "no pool"]
        assert {(one.state, one.reason) for one in gone} == {("revoked", why[how])}
        assert len(gone) == (1 if how == "no pool" else 2)
        await told.holds(lambda: manager.registry.engine("p-1").state == "ready", "p-1 is ready")
        assert len(kit.processes("p-1")) == 1
        assert manager.registry.engine("p-1").free == (0 if how == "no pool" else 1)
        counts = manager.registry.lease_counts("p")
        assert counts["granted"] == sum(counts.values()) - counts["granted"] == 2
        await _end(manager)


async def test_leases_end_with_engines_that_do_not_outlive_their_manager(kit: Any) -> None:
    """Nothing is written then; and what a manager of another configuration had written is taken over, once."""
    first = kit.program(kit.pool(), engines_survive=True)
    first.until("engine_ready")
    lease = first.lease()
    first.kill()
    async with kit.manager(kit.pool(), engines_survive=False) as (manager, told):
        assert manager.registry.lease(lease).state == "held"
        await kit.ready(manager, told)
        manager.registry.acquire("p")
        assert not (kit.state / "leases").exists()
    async with kit.manager(kit.pool(preload=False)) as (manager, _):
        with pytest.raises(UnknownLease, match="if an earlier one did, it ended with that one"):
            manager.registry.lease(lease)


async def test_a_half_written_lease_is_told_of_and_costs_no_other(kit: Any) -> None:
    """The manager was killed in the midst of a line: its holder was never answered."""
    first = kit.program(kit.pool(), engines_survive=True)
    first.until("engine_ready")
    lease = first.lease()
    first.kill()
    with (kit.state / "leases").open("ab") as file:
        file.write(b'["+",{"id":"0123')
    async with kit.manager(kit.pool(), engines_survive=True) as (manager, told):
        assert manager.registry.lease(lease).state == "held"
        (advised,) = [line["reason"] for line in told.all("advisory") if "leases" in line["reason"]]
        assert advised == f"{kit.state}/leases: 1 lines are half written; what they said of a lease is lost"
        await _end(manager)


async def test_what_was_answered_is_what_the_next_manager_knows(kit: Any) -> None:
    """Killed in the midst of granting, again and again: each lease is as its holder was last told, or one step further.

    ``FTHARNESS_POOL_KILLS`` sets how often; a hundred take two minutes.
    """
    chance = random.Random(3)  # noqa: S311 - the same moments each time
    config = kit.pool(slots_per_engine=3 * KILLS + 3)
    answered: dict[str, str] = {}
    for _ in range(KILLS):
        program = kit.program(config, engines_survive=True)
        program.until("engine_ready")
        program.ask("churn", "p")
        for _ in range(chance.randrange(1, 300)):
            program.until("answered")
        program.process.kill()
        _read_on(program)
        answered |= {one["lease_id"]: one["state"] for one in program.lines if one["event"] == "answered"}
    async with kit.manager(config, engines_survive=True) as (manager, told):
        await kit.ready(manager, told)
        known = {lease_id: manager.registry.lease(lease_id).state for lease_id in [*answered][-2000:]}
        wrong = {one: state for one, state in known.items() if state != answered[one] and answered[one] != "held"}
        assert not wrong
        held = {one for one, state in answered.items() if state == "held"}
        assert {known.get(one, "held") for one in held} <= {"held", "released"}
        on_the_way = manager.registry.pool("p").held - sum(state == "held" for state in known.values())
        assert 0 <= on_the_way <= KILLS, "written, and the manager was killed before its holder was told"
        await _end(manager)
    assert kit.processes() == []


def _read_on(program: Any) -> None:
    """To the end of what a killed manager had said; the last line may be a half."""
    for line in program.process.stdout:
        if line.startswith("{") and line.endswith("}\n"):
            program.lines.append(json.loads(line))
    program.kill()


async def test_a_lease_that_cannot_be_kept_is_refused(kit: Any, tmp_path: Path) -> None:
    """It says why; what is held stays so, until its time is over, and is given back as ever."""
    async with kit.manager(kit.pool(), engines_survive=True) as (manager, told):
        await kit.ready(manager, told)
        registry = manager.registry
        lease = registry.acquire("p", ttl_s=30.0)
        with pytest.raises(NotKept):
            registry.keep(LeaseFile(tmp_path / "gone" / "leases"))  # as a disk that takes nothing more
        with pytest.raises(
            Refused, match=r"no lease that cannot be written down: .*gone/leases: No such file"
        ) as refused:
            registry.acquire("p")
        assert refused.value.reason == "not_kept"
        with pytest.raises(NotKept, match="gone/leases: No such file"):
            registry.renew(lease.id, 60.0)
        assert registry.lease(lease.id) == lease
        assert registry.pool("p").held == 1
        assert registry.release(lease.id).state == "released"
        await _end(manager)
