"""An engine of a pool in a test, as docs/pool.md shows it: leased, killed, seen to be lost, and back for the next test."""

import asyncio
import math
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from ftharness.pool import EngineGone, leased
from ftharness.pool.auth import TokenError
from ftharness.pool.calls import NotDone, NotReached
from ftharness.process.process_table import read_entry

TOKEN = "0123456789abcdef-right"  # noqa: S105 - of these tests alone


async def test_an_engine_is_leased_and_given_back(kit: Any, served: Any) -> None:
    """For as long as the block runs, longer than the lease lasts unrenewed; its holder is named after the test."""
    one = await served(kit.pool(slots_per_engine=1))
    async with leased("p", url=one.url, ttl_s=0.3) as engine:
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{engine.url}/health")).status_code == 200
        with pytest.raises(TimeoutError, match=rf"lease {engine.lease['id']} was not lost within 0\.8 s"):
            await engine.lost(within_s=0.8)
        assert one.manager.registry.lease(engine.lease["id"]).state == "held"
        assert "test_an_engine_is_leased_and_given_back" in engine.lease["holder"]
    assert one.manager.registry.lease(engine.lease["id"]).state == "released"


async def test_an_engine_that_is_killed_is_lost_and_comes_back(kit: Any, served: Any) -> None:
    """The process that is signalled is the pool's; how the lease ended is told; the next lease is on another process."""
    one = await served(kit.pool())
    async with leased("p", url=one.url) as engine:
        before = await engine.health()
        assert await engine.kill() == before["pid"] in one.manager.pool("p").supervisors["p-1"].slot.record().engine
        assert "was revoked" in await engine.lost()
        with pytest.raises(EngineGone, match=r"SIGKILL was not sent: lease .* was revoked"):
            await engine.kill()
    async with leased("p", url=one.url) as engine:
        assert (await engine.health())["pid"] != before["pid"]
        assert (await engine.health())["restarts"] == 1


async def test_only_what_is_ours_is_hurt(kit: Any, served: Any) -> None:
    """Not the next engine in the slot, whoever has it by now, nor what was given back; what is not here is said to be so."""
    one = await served(kit.pool())
    async with leased("p", url=one.url) as engine:
        pid = (await engine.health())["pid"]
        os.kill(pid, signal.SIGKILL)
        await one.told.until("restart_scheduled")
        await kit.ready(one.manager, one.told)
        async with leased("p", url=one.url) as another:
            with pytest.raises(EngineGone, match="was revoked"):
                await engine.kill()
            assert (await another.health())["state"] == "ready"
            with pytest.raises(TimeoutError):
                await another.lost(within_s=0.1)
            another._process = (2**22 - 1, 1)  # as of a manager on another machine
            with pytest.raises(EngineGone, match="is not a process of this machine, or not any more"):
                await another.kill()
    with pytest.raises(EngineGone, match="was given back"):
        await another.kill()
    with pytest.raises(EngineGone, match="was given back"):
        await another.lost()


async def test_a_signal_may_be_another_one(kit: Any, served: Any) -> None:
    """A frozen engine keeps its lease until its probe fails for too long; here it is thawed before."""
    one = await served(kit.pool())
    async with leased("p", url=one.url) as engine:
        await engine.kill(signal.SIGSTOP)
        await one.told.until("probe_failed")
        await engine.thaw()
        await one.told.holds(lambda: one.manager.registry.engine("p-1").state == "ready", "it is ready again")
        with pytest.raises(TimeoutError):
            await engine.lost(within_s=0.1)


async def test_an_engine_that_was_frozen_is_given_back_as_it_was(kit: Any, served: Any) -> None:
    """Also by a test that fails: nobody else has to wait for the pool to find out."""
    one = await served(kit.pool())
    with pytest.raises(ZeroDivisionError):
        async with leased("p", url=one.url) as engine:
            pid = await engine.kill(signal.SIGSTOP)
            raise ZeroDivisionError
    entry = read_entry(pid)
    assert entry is not None
    assert entry.state != "T"


async def test_the_token_is_in_a_file(kit: Any, served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which a variable names, for this as for the commands."""
    one = await served(kit.pool(), token=TOKEN)
    with pytest.raises(NotDone, match="token"):
        async with leased("p", url=one.url):
            pytest.fail("there was a lease")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("FTHARNESS_POOL_TOKEN_FILE", str(tmp_path / "token"))
    async with leased("p", url=one.url) as engine:
        assert (await engine.health())["state"] == "ready"


@pytest.mark.parametrize("token", ["short", f"{TOKEN}\nand more", f"{TOKEN}ä"])
async def test_a_token_that_is_none_is_refused_and_not_repeated(token: str) -> None:
    """Before anybody is asked."""
    with pytest.raises(TokenError, match=r"the token has|a token is") as refused:
        async with leased("p", url="http://127.0.0.1:9", token=token):
            pytest.fail("there was a lease")
    assert token not in str(refused.value)


@pytest.mark.parametrize("ttl_s", [0, -1, math.nan, math.inf])
async def test_a_time_that_is_none_is_refused(ttl_s: float) -> None:
    """By the name that the caller gave it."""
    with pytest.raises(ValueError, match=rf"ttl_s = {ttl_s}: it is the seconds that a lease lasts, 0\.001 or more"):
        async with leased("p", url="http://127.0.0.1:9", ttl_s=ttl_s):
            pytest.fail("there was a lease")


async def test_a_pool_that_is_full_is_waited_for(kit: Any, served: Any) -> None:
    """Until there is a slot, or for as long as was said; what time does not mend is told at once."""
    one = await served(kit.pool(slots_per_engine=1))
    held = one.manager.registry.acquire("p")
    with pytest.raises(NotDone, match="no slot free"):
        async with leased("p", url=one.url, within_s=0.3):
            pytest.fail("there was a lease")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:

        async def second() -> str:
            async with leased("p", url=one.url) as engine:
                return str(engine.lease["engine_id"])

        waiting = group.create_task(second())
        await one.told.holds(lambda: len(one.lines("lease_refused")) >= 4, "it asks again")
        one.manager.registry.release(held.id)
    assert waiting.result() == "p-1"
    with pytest.raises(NotDone, match="no pool 'q'"):
        async with leased("q", url=one.url):
            pytest.fail("there was a lease")
    with pytest.raises(NotReached, match="`ftharness pool serve` starts one"):
        async with leased("p", url="http://127.0.0.1:9"):
            pytest.fail("there was a lease")


async def test_a_lease_is_given_back_where_the_test_fails(kit: Any, served: Any) -> None:
    """Whatever is raised in the block comes out, and the slot is free."""
    one = await served(kit.pool(slots_per_engine=1))
    with pytest.raises(ZeroDivisionError):
        async with leased("p", url=one.url):
            raise ZeroDivisionError
    assert one.manager.registry.acquire("p").state == "held"
