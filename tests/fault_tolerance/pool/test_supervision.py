"""Engines that crash, hang, lie and come back, under a manager that lives on: real processes, sockets and signals."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftharness.pool.adoption import AnotherManager, StateError
from ftharness.pool.config import BackoffConfig, BreakerConfig, ProbeConfig, WarmupConfig
from ftharness.pool.manager import NotStarted
from ftharness.pool.registry import Refused

_ASKS_OFTEN = {"interval_s": 0.05, "timeout_s": 0.3}


async def test_a_pool_is_ready_only_after_all_its_steps(kit: Any) -> None:
    """Staged, prepared, started, healthy, warm: in that order, and no lease before; then version, model and speed are known."""
    model = kit.model("llama")
    async with kit.manager(kit.pool(model=model, args=["--slow-start-s", "0.3"])) as (manager, told):
        states: list[str] = []
        manager.registry.subscribe(lambda change: change.what == "state" and states.append(change.after))
        assert manager.registry.health("p")["live"]
        assert not manager.registry.pool("p").ready
        await told.until("engine_started")
        with pytest.raises(Refused, match="ready"):
            manager.registry.acquire("p")
        await kit.ready(manager, told)
        assert states == ["staging", "preparing", "starting", "warming", "ready"]
        health = manager.registry.health("p")
        assert (health["engine_version"], health["model_id"]) == ("1.0", "llama")
        assert 100 < health["perf_tokens_per_s"] < 300  # the engine's own pace is 200
        assert 0 < health["first_token_ms"] < 1000
        assert [line["digest_verified"] for line in told.all("model_staged")] == [False]
        assert told.all("advisory")


@pytest.mark.parametrize("code, how", [(0, "exit status 0"), (1, "exit status 1"), (-9, "SIGKILL")])
async def test_an_exit_that_nobody_asked_for_is_a_crash(kit: Any, code: int, how: str) -> None:
    """Whatever the code, also 0: the lease is revoked and its holder can see why; last_error says it; the engine comes back."""
    async with kit.manager(kit.pool()) as (manager, told):
        url = await kit.ready(manager, told)
        lease = manager.registry.acquire("p")
        first = told.all("engine_started")[0]["pid"]
        await kit.misbehave(url, crash_code=code, crash_after_s=0.0)
        lost = await told.until("engine_lost")
        assert lost["exit"] == how
        assert not manager.registry.pool("p").ready
        over = manager.registry.lease(lease.id)
        assert (over.state, over.reason) == ("revoked", "it ended by itself")
        assert how in manager.registry.health("p")["last_error"]
        second = await told.until("engine_started", 2)
        assert second["pid"] != first
        assert not kit.lives(first)
        await kit.ready(manager, told)
        assert manager.registry.health("p")["restarts"] == 1


async def test_what_a_killed_engine_leaves_is_gone_before_the_next_starts(kit: Any) -> None:
    """A child that outlives its engine's SIGKILL may hold the device: the next engine is not started beside it."""
    async with kit.manager(kit.pool(args=["--engine-child"])) as (manager, told):
        await kit.ready(manager, told)
        before = kit.processes()
        assert len(before) == 2
        at_start: list[list[bool]] = []
        event = told.event

        def looks(name: str, **says: Any) -> None:
            if name == "engine_started":
                at_start.append([kit.lives(pid) for pid in before])
            event(name, **says)

        told.event = looks  # type: ignore[method-assign]
        os.kill(told.all("engine_started")[0]["pid"], signal.SIGKILL)
        await told.until("engine_started", 2)
        assert at_start == [[False, False]]


async def test_a_crash_loop_follows_the_backoff(kit: Any) -> None:
    """Each wait is twice the last, up to the cap, give or take the jitter; and it is waited."""
    policy = BackoffConfig(initial_s=0.05, factor=2.0, max_s=0.3, jitter=0.1)
    storm = BreakerConfig(restarts=100)
    loop = kit.pool(args=["--exit-at-start", "3"], backoff=policy, breaker=storm)
    async with kit.manager(loop) as (_, told):
        await told.until("engine_started", 6)
        waits = told.all("restart_scheduled")[:5]
        for wait, planned in zip(waits, [50, 100, 200, 300, 300], strict=True):
            assert planned * 0.9 - 1 <= wait["delay_ms"] <= planned * 1.1 + 1
        assert (
            len({wait["delay_ms"] / planned for wait, planned in zip(waits, [50, 100, 200, 300, 300], strict=True)}) > 1
        )
        for wait, started in zip(waits, told.all("engine_started")[1:], strict=False):
            assert started["t"] - wait["t"] >= wait["delay_ms"] / 1000 - 0.002


async def test_a_stable_run_resets_the_backoff(kit: Any) -> None:
    """An engine that ran for long enough comes back after the first wait, however often it had failed before."""
    policy = BackoffConfig(initial_s=0.05, factor=4.0, max_s=10.0, jitter=0.0, stable_s=0.05)
    async with kit.manager(
        kit.pool(args=["--crash-after-s", "0.6"], backoff=policy, warmup=WarmupConfig(requests=0))
    ) as (_, told):
        await told.until("restart_scheduled", 3)
        assert [line["delay_ms"] for line in told.all("restart_scheduled")] == [50, 50, 50]


async def test_a_restart_storm_opens_the_breaker(kit: Any) -> None:
    """After so many restarts in the window none is tried, until somebody resets it; then it is tried at once."""
    storm = BreakerConfig(restarts=2, window_s=60.0, half_open_s=0)
    async with kit.manager(kit.pool(args=["--exit-at-start", "3"], breaker=storm)) as (manager, told):
        await told.until("breaker_open")
        assert len(told.all("engine_started")) == 3  # the first, and two restarts
        assert manager.registry.engine("p-1").state == "broken"
        assert manager.pool("p").supervisors["p-1"].breaker_state == "open"
        operation = await manager.operations.until_over(manager.preload("p").id)
        assert operation.state == "failed"
        assert "too many restarts" in operation.error
        await manager.operations.until_over(manager.reset_breaker("p").id)
        await told.until("breaker_closed")
        await told.until("engine_started", 4)


async def test_a_half_open_breaker_lets_one_try_through(kit: Any) -> None:
    """One try after a while; it fails: open again. The next holds: closed."""
    storm = BreakerConfig(restarts=1, window_s=60.0, half_open_s=0.2)
    cured = kit.pool(args=["--exit-at-start", "3", "--fail-starts", "3"], breaker=storm)
    async with kit.manager(cured) as (manager, told):
        await kit.ready(manager, told)
        names = [line["event"] for line in told.lines if line["event"].startswith(("breaker", "engine_started"))]
        assert names == [
            *("engine_started", "engine_started", "breaker_open"),
            *("breaker_half_open", "engine_started", "breaker_open"),
            *("breaker_half_open", "engine_started", "breaker_closed"),
        ]


async def test_a_probe_that_fails_flips_ready_and_costs_no_lease(kit: Any) -> None:
    """Unready as long as the answers are bad, ready again with the first good one; leases stay, the engine is the same."""
    async with kit.manager(kit.pool()) as (manager, told):
        url = await kit.ready(manager, told)
        lease = manager.registry.acquire("p")
        for _ in range(2):
            await kit.misbehave(url, health=503)
            await told.holds(lambda: not manager.registry.pool("p").ready, "unready")
            with pytest.raises(Refused, match="ready"):
                manager.registry.acquire("p")
            assert "status 503" in manager.registry.health("p")["last_error"]
            await kit.misbehave(url, health=200)
            await kit.ready(manager, told)
        assert manager.registry.lease(lease.id).state == "held"
        assert len(told.all("engine_started")) == 1
        assert told.all("probe_failed")[0]["failures"] == 1


async def test_bad_answers_up_to_the_threshold_restart_the_engine(kit: Any) -> None:
    """Three answers that do not come, and the engine is stopped and started again; it is not called ready in between."""
    probe = ProbeConfig(**_ASKS_OFTEN, restart_after=3)
    async with kit.manager(kit.pool(probe=probe)) as (manager, told):
        url = await kit.ready(manager, told)
        lease = manager.registry.acquire("p")
        await kit.misbehave(url, hang_health=True)
        stopped = await told.until("engine_stopped")
        assert "failed 3 times in a row" in stopped["reason"]
        assert [line["failures"] for line in told.all("probe_failed")] == [1, 2, 3]
        assert manager.registry.lease(lease.id).state == "revoked"
        await told.until("engine_started", 2)
        await kit.ready(manager, told)


async def test_an_engine_that_hears_nothing_is_killed(kit: Any) -> None:
    """One that ignores SIGTERM is killed when the grace is over, and comes back."""
    probe = ProbeConfig(**_ASKS_OFTEN, restart_after=1)
    deaf = kit.pool(args=["--ignore-sigterm"], probe=probe, stop_grace_s=0.1)
    async with kit.manager(deaf) as (manager, told):
        await kit.misbehave(await kit.ready(manager, told), hang_health=True)
        assert (await told.until("engine_stopped"))["exit"] == "SIGKILL"
        await told.until("engine_started", 2)


async def test_fail_open_leases_what_is_not_ready_and_says_so(kit: Any) -> None:
    """On a developer's machine an engine whose probe fails can be leased; ready is false all the same."""
    async with kit.manager(kit.pool(), fail_mode="open") as (manager, told):
        await kit.misbehave(await kit.ready(manager, told), health=503)
        await told.holds(lambda: not manager.registry.pool("p").ready, "unready")
        assert manager.registry.acquire("p").state == "held"
        health = manager.registry.health("p")
        assert (health["ready"], health["engines"][0]["leasable"]) == (False, True)
        assert "status 503" in health["last_error"]


@pytest.mark.parametrize("mode, ends", [("fast", True), ("open", False)])
async def test_fail_fast_ends_with_a_pool_that_cannot_start(kit: Any, mode: str, ends: bool) -> None:
    """With fail-fast the manager says which pool and why, to whoever serves it; with fail-open it goes on trying."""
    async with kit.manager(kit.pool(args=["--exit-at-start", "3"]), fail_mode=mode) as (manager, told):
        await told.until("engine_lost", 2)
        assert manager.failed.done() is ends
        if ends:
            said = manager.failed.result()
            assert "pool 'p' cannot be started" in said
            assert "exit status 3" in said
            assert "initialisation failed" in said


async def test_one_engine_that_does_not_start_at_first_does_not_end_a_manager(kit: Any) -> None:
    """Another one of its pool is ready: it is tried again, as after any crash."""
    program = """
import http.server, os, sys
if sys.argv[1].endswith("-2") and not os.path.exists(sys.argv[3]):
    open(sys.argv[3], "w").close()
    sys.exit(3)
class Well(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Well).serve_forever()
"""
    command = [sys.executable, "-c", program, "{engine_id}", "{port}", str(kit.folder / "tried")]
    config = kit.pool(engine="command", command=command, replicas=2, warmup=WarmupConfig(requests=0))
    async with kit.manager(config, fail_mode="fast") as (manager, told):
        await told.holds(
            lambda: all(one.state == "ready" for one in manager.registry.pool("p").engines.values()), "both"
        )
        assert [line["engine_id"] for line in told.all("engine_lost")] == ["p-2"]
        assert not manager.failed.done()


async def test_a_cuda_error_in_the_log_ends_readiness(kit: Any) -> None:
    """Though its health is good: not ready, what to do stands in last_error, and it is restarted past the threshold."""
    probe = ProbeConfig(**_ASKS_OFTEN, restart_after=4)
    async with kit.manager(kit.pool(probe=probe), fail_mode="open") as (manager, told):
        await kit.misbehave(await kit.ready(manager, told), say_cuda_error="ecc")
        seen = await told.until("engine_error")
        assert seen["remediation"]
        assert not manager.registry.pool("p").ready
        assert seen["remediation"] in manager.registry.health("p")["last_error"]
        with pytest.raises(Refused):  # not even where probes may fail
            manager.registry.acquire("p")
        assert "ECC" in (await told.until("engine_stopped"))["reason"]
        await told.until("engine_started", 2)
        await kit.ready(manager, told)


async def test_a_killed_shim_costs_one_restart(kit: Any) -> None:
    """The shim is SIGKILLed: its engine and that one's child are gone before the next engine starts."""
    async with kit.manager(kit.pool(args=["--engine-child"])) as (manager, told):
        await kit.ready(manager, told)
        before = kit.processes()
        record = manager.pool("p").supervisors["p-1"].slot.record()
        os.kill(record.shim.pid, signal.SIGKILL)
        await told.until("engine_started", 2)
        assert not [pid for pid in before if kit.lives(pid)]
        await kit.ready(manager, told)


async def test_a_frozen_shim_costs_one_restart(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is killed while its shim is frozen: the leases end at once, the shim is killed, and the engine comes back."""
    monkeypatch.setattr("ftharness.pool.engine_process._END_S", 0.5)
    monkeypatch.setattr("ftharness.pool.supervisor._STATUS_S", 0.2)
    async with kit.manager(kit.pool(args=["--engine-child"])) as (manager, told):
        await kit.ready(manager, told)
        before = kit.processes()
        lease = manager.registry.acquire("p")
        os.kill(manager.pool("p").supervisors["p-1"].slot.record().shim.pid, signal.SIGSTOP)
        os.kill(told.all("engine_started")[0]["pid"], signal.SIGKILL)
        await told.holds(lambda: manager.registry.lease(lease.id).state == "revoked", "revoked")
        await told.until("engine_started", 2)
        assert not [pid for pid in before if kit.lives(pid)]
        await kit.ready(manager, told)


async def test_a_model_that_is_not_there_is_waited_for(kit: Any) -> None:
    """Staging fails: no engine is started, last_error says what is missing; when it is there, the pool becomes ready."""
    missing = kit.folder / "later"
    async with kit.manager(kit.pool(model=str(missing)), fail_mode="open") as (manager, told):
        await told.until("restart_scheduled", 2)
        assert not told.all("engine_started")
        assert str(missing) in manager.registry.health("p")["last_error"]
        kit.model("later")
        await kit.ready(manager, told)


async def test_a_slot_that_cannot_be_written_is_an_error_of_that_engine(kit: Any) -> None:
    """With a file where a slot's folder is to be: last_error names it, nothing is started, and the manager goes on."""
    engines = kit.state / "engines"
    engines.mkdir(parents=True)
    (engines / "p-1").write_text("in the way")
    async with kit.manager(kit.pool(), fail_mode="open") as (manager, told):
        await told.until("restart_scheduled")
        assert str(engines / "p-1") in manager.registry.health("p")["last_error"]
        assert not told.all("engine_started")
        (engines / "p-1").unlink()
        await kit.ready(manager, told)


async def test_a_state_folder_that_cannot_be_written_is_said_at_the_start(kit: Any) -> None:
    """A manager that could remember nothing does not begin."""
    kit.state.write_text("in the way")
    with pytest.raises(StateError, match="state_dir has to be a folder that can be written"):
        async with kit.manager(kit.pool()):
            pass


async def test_a_mistake_in_a_probe_costs_one_restart(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in the manager's own question: the engine is not left alone and not called ready; it is restarted."""

    async def mistaken(url: str, timeout_s: float) -> str:
        monkeypatch.undo()
        raise ZeroDivisionError("of the test")

    async with kit.manager(kit.pool()) as (manager, told):
        await kit.ready(manager, told)
        before = kit.processes()
        monkeypatch.setattr("ftharness.pool.readiness.look", mistaken)
        assert "ZeroDivisionError" in (await told.until("engine_stopped"))["reason"]
        await told.until("engine_started", 2)
        await kit.ready(manager, told)
        assert not set(before) & set(kit.processes())


@pytest.fixture
def small_disk(kit: Any) -> Iterator[Callable[[], None]]:
    """The state folder on a disk of 1 MB; what is given back fills it to the last byte."""
    if os.geteuid() != 0:
        pytest.skip("not applicable: a disk that can be filled is mounted by root alone")
    kit.state.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", kit.state], check=True)

    def fill() -> None:
        with Path(kit.state, "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
            while True:
                filler.write(b"x" * 4096)

    yield fill
    subprocess.run(["/bin/umount", "-l", kit.state], check=True)


async def test_a_full_disk_costs_no_engine(kit: Any, small_disk: Callable[[], None]) -> None:
    """With no byte left where the state folder lies, a killed engine comes back: all that it takes has its place already."""
    async with kit.manager(kit.pool()) as (manager, told):
        await kit.ready(manager, told)
        small_disk()
        os.kill(told.all("engine_started")[0]["pid"], signal.SIGKILL)
        await told.until("engine_started", 2)
        url = await kit.ready(manager, told)
        assert manager.registry.acquire("p").url == url


async def test_a_second_manager_is_told_who_has_the_folder(kit: Any) -> None:
    """Two managers of one state folder would start two engines for one slot: the second one does not begin."""
    async with kit.manager(kit.pool()) as (manager, told):
        await kit.ready(manager, told)
        manager.announce("http://127.0.0.1:4711")
        with pytest.raises(AnotherManager, match=rf"pid {os.getpid()}, .* at http://127.0.0.1:4711"):
            async with kit.manager(kit.pool()):
                pass
        assert manager.registry.pool("p").ready
        assert len(kit.processes()) == 1


async def test_nothing_is_started_in_a_folder_that_was_removed(kit: Any) -> None:
    """Another manager could have it by now: the reason says so, and no folder comes back."""
    async with kit.manager(kit.pool(breaker=BreakerConfig(restarts=10_000))) as (manager, told):
        await kit.ready(manager, told)
        scratch = (kit.state / "engines" / "p-1" / "tmp").readlink()
        assert scratch.is_dir()
        shutil.rmtree(kit.state)
        os.kill(told.all("engine_started")[0]["pid"], signal.SIGKILL)
        await told.until("restart_scheduled", 2)
        assert "was removed or replaced while its manager runs" in manager.registry.pool("p").last_error
        assert not kit.state.exists()
        assert not scratch.exists()  # though nothing tells of it any more
        async with kit.manager(kit.pool()) as (another, told_another):
            await kit.ready(another, told_another)
            await told.until("restart_scheduled", len(told.all("restart_scheduled")) + 1)
            assert len(told.all("engine_started")) == 1
            assert another.registry.pool("p").ready


async def test_leases_end_when_nobody_renews_them(kit: Any) -> None:
    """A timer ends a lease at its time, without anybody asking; one that is renewed meanwhile lives on."""
    async with kit.manager(kit.pool()) as (manager, told):
        await kit.ready(manager, told)
        ended: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        manager.registry.subscribe(
            lambda change: (
                change.what == "lease" and change.after != "held" and ended.put_nowait((change.lease_id, change.after))
            )
        )
        long, short, renewed = (manager.registry.acquire("p", ttl_s=ttl_s) for ttl_s in (30.0, 0.1, 0.15))
        manager.registry.renew(renewed.id, 30.0)
        async with asyncio.timeout(5):
            assert await ended.get() == (short.id, "expired")
        another = manager.registry.acquire("p", ttl_s=0.1)
        async with asyncio.timeout(5):
            assert await ended.get() == (another.id, "expired")
        assert {manager.registry.lease(lease.id).state for lease in (long, renewed)} == {"held"}


async def test_engines_of_one_pool_fail_alone(kit: Any) -> None:
    """Of three engines one is killed: the leases on the others stay, and the pool is ready all the while."""
    async with kit.manager(kit.pool(replicas=3)) as (manager, told):
        await told.holds(
            lambda: all(one.state == "ready" for one in manager.registry.pool("p").engines.values()), "all"
        )
        leases = [manager.registry.acquire("p") for _ in range(6)]
        victim = manager.pool("p").supervisors["p-2"].process.pid
        os.kill(victim, signal.SIGKILL)
        await told.until("engine_lost")
        states = {lease.engine_id: manager.registry.lease(lease.id).state for lease in leases}
        assert states == {"p-1": "held", "p-2": "revoked", "p-3": "held"}
        assert manager.registry.pool("p").ready


async def test_nothing_is_left_when_the_manager_ends(kit: Any) -> None:
    """Engines, their children and their shims are gone when the context is left, also by an exception."""
    with pytest.raises(RuntimeError, match="of the test"):
        async with kit.manager(kit.pool(replicas=2, args=["--engine-child"])) as (manager, told):
            await kit.ready(manager, told)
            raise RuntimeError("of the test")
    assert kit.processes("p-1") + kit.processes("p-2") == []
    assert not [path for path in Path(kit.state, "engines").iterdir() if not (path / "lock").exists()]


async def test_a_pool_is_waited_for(kit: Any) -> None:
    """Until an engine is ready, also where it is ready already; where the pool cannot be started it is said why."""
    async with kit.manager(kit.pool()) as (manager, _):
        async with asyncio.timeout(20):
            await manager.until_ready("p")
        assert manager.registry.acquire("p").state == "held"
        await manager.until_ready("p")
    async with kit.manager(kit.pool(args=["--exit-at-start", "3"])) as (manager, _):
        with pytest.raises(NotStarted, match="pool 'p' cannot be started"):
            async with asyncio.timeout(20):
                await manager.until_ready("p")


async def test_a_preload_that_somebody_else_began_is_the_one_that_counts(kit: Any) -> None:
    """The manager's own comes second, and is no error; it still ends where the pool cannot be started."""
    async with kit.manager(kit.pool(args=["--exit-at-start", "3"])) as (manager, _):
        operation = manager.preload("p")
        assert (await manager.operations.until_over(operation.id)).state == "failed"
        async with asyncio.timeout(5):
            assert "cannot be started" in await manager.failed
