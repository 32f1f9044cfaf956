"""What the registry says, to whom, and when. The order of events is the state machine's: test_registry_states.py."""

import asyncio
import logging
from random import Random

import pytest

from ftharness.pool import (
    Change,
    Devices,
    DeviceSnapshot,
    MaskError,
    PoolConfig,
    Refused,
    Registry,
    UnknownEngine,
    UnknownPool,
)
from ftharness.pool.engine_states import NotPrepared
from ftharness.pool.health import PoolSummary
from ftharness.pool.prepared import Supports

GIB = 1 << 30


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def gpu(place: int, free: int = 10 * GIB, capability: str = "9.0") -> DeviceSnapshot:
    return DeviceSnapshot(
        id=place,
        compute_capability=capability,
        vram_total_bytes=16 * GIB,
        vram_free_bytes=free,
        uuid=f"GPU-{place}{place}{place}",
        name="H100",
    )


def registry(*configs: PoolConfig, devices: Devices | None = None, clock: Clock | None = None) -> Registry:
    luck = Random(0)  # noqa: S311 - ids that can be had again
    return Registry(configs, devices or Devices(), clock=clock or Clock(), random=luck, zero_s=1000.0)


def ready(of: Registry, engine_id: str, *, slots: int = 4, version: str = "1.0", model: str = "m") -> None:
    of.engine_state(engine_id, "starting")
    of.engine_ready(engine_id, url="http://127.0.0.1:1", engine_version=version, model_id=model, slots=slots)


POOL = PoolConfig(id="p", engine="sim")


def test_a_new_pool_is_live_and_not_ready() -> None:
    """Everything that is not known yet is null or 0; there are no devices."""
    health = registry(POOL).health("p")
    engines = health.pop("engines")
    assert [one["state"] for one in engines] == ["stopped"]
    assert {key: value for key, value in health.items() if value} == {
        "id": "p",
        "engine": "sim",
        "live": True,
        "supports": {"quantizations": [], "features": []},
        "leases": {"granted": 0, "held": 0, "released": 0, "expired": 0, "revoked": 0},
    }


def test_a_ready_engine_writes_its_version_and_model() -> None:
    """With the address, the slots that it says and the time of its first good answer."""
    clock = Clock()
    of = registry(POOL, clock=clock)
    clock.now = 150.0
    of.engine_state("p-1", "warming")
    supports = Supports(quantizations=["fp8"])
    of.engine_ready("p-1", url="http://127.0.0.1:9", engine_version="0.32", model_id="m7", slots=6, supports=supports)
    health = of.pool_health("p")
    assert (health.ready, health.engine_version, health.model_id) == (True, "0.32", "m7")
    assert (health.slots_total, health.slots_free, health.last_heartbeat_ms) == (6, 6, 1_150_000)
    assert health.supports.quantizations == ["fp8"]
    clock.now = 151.5
    of.heartbeat("p-1")
    assert of.pool_health("p").last_heartbeat_ms == 1_151_500


def test_no_engine_is_ready_that_was_not_started() -> None:
    """Nor one that was lost since; nobody can say so by its state alone."""
    of = registry(POOL)
    told = {"url": "http://x", "engine_version": "1", "model_id": "m", "slots": 1}
    with pytest.raises(NotPrepared, match="p-1 is stopped"):
        of.engine_ready("p-1", **told)  # type: ignore[arg-type]
    with pytest.raises(NotPrepared, match="engine_ready"):
        of.engine_state("p-1", "ready")
    ready(of, "p-1")
    of.engine_lost("p-1", "SIGKILL")
    with pytest.raises(NotPrepared):
        of.engine_ready("p-1", **told)  # type: ignore[arg-type]
    assert not of.pool_health("p").ready


def test_a_failed_probe_takes_no_lease_away() -> None:
    """The engine is not ready and grants none, unless probes may fail; the holders keep theirs."""
    of = registry(POOL)
    ready(of, "p-1")
    lease = of.acquire("p")
    of.engine_unready("p-1", "no answer within 2 s")
    health = of.pool_health("p")
    assert (health.ready, health.active_leases, health.slots_free, health.last_error) == (
        False,
        1,
        0,
        "p-1: no answer within 2 s",
    )
    with pytest.raises(Refused) as refused:
        of.acquire("p")
    assert refused.value.reason == "not_ready"
    of.engine_unready("p-1", "no answer within 2 s", leasable=True)
    assert (of.pool_health("p").ready, of.pool_health("p").slots_free) == (False, 3)
    of.acquire("p")
    assert of.release(lease.id).state == "released"


def test_a_holder_sees_that_its_engine_died() -> None:
    """Its lease is revoked, with the reason; other engines' leases are not."""
    of = registry(PoolConfig(id="p", engine="sim", replicas=2))
    ready(of, "p-1")
    ready(of, "p-2")
    first, second = of.acquire("p"), of.acquire("p")
    assert {first.engine_id, second.engine_id} == {"p-1", "p-2"}
    assert of.engine_lost(first.engine_id, "SIGKILL") == [of.lease(first.id)]
    assert (of.lease(first.id).state, of.lease(first.id).reason) == ("revoked", "SIGKILL")
    assert of.lease(second.id).state == "held"
    assert of.pool_health("p").last_error == f"{first.engine_id}: SIGKILL"
    assert of.pool_health("p").restarts == 1


def test_a_refusal_says_what_to_do_about_an_engine_that_is_not_tried_again() -> None:
    """Its breaker is open, and may be for minutes."""
    of = registry(POOL)
    of.engine_state("p-1", "broken", reason="too many restarts")
    with pytest.raises(
        Refused, match=r"p-1 broken.*; `ftharness pool reset-breaker p` has what is broken tried again now"
    ):
        of.acquire("p")


@pytest.mark.parametrize("reason", ["unknown", "draining", "full", "not_ready"])
def test_a_refusal_says_why(reason: str) -> None:
    """In one word for programs and a sentence for people; a pool that there is not is no name for a subscriber to keep."""
    of = registry(PoolConfig(id="chat", engine="sim", slots_per_engine=1))
    told: list[Change] = []
    if reason != "not_ready":
        ready(of, "chat-1", slots=9)
    if reason == "full":
        of.acquire("chat")
    of.draining("chat", draining=reason == "draining")
    of.subscribe(told.append)
    with pytest.raises(Refused) as refused:
        of.acquire("chta" if reason == "unknown" else "chat")
    sentences = {
        "unknown": "no pool 'chta'; did you mean chat?",
        "draining": "pool 'chat' is draining, or was drained: `ftharness pool resume chat` has it serve again",
        "full": "pool 'chat' has no slot free: 1 of 1 are leased",
        "not_ready": "no engine of pool 'chat' is ready: chat-1 stopped",
    }
    assert (refused.value.reason, str(refused.value)) == (reason, sentences[reason])
    assert told == [Change("" if reason == "unknown" else "chat", "", "refused", "", "", reason)]


def test_a_configured_number_of_slots_has_the_last_word() -> None:
    """Otherwise the engine's own; one that says none cannot be ready."""
    of = registry(PoolConfig(id="p", engine="sim", slots_per_engine=2), PoolConfig(id="q", engine="sim"))
    assert (of.summary("p").slots_total, of.summary("q").slots_total) == (2, 0)
    ready(of, "p-1", slots=9)
    assert of.summary("p").slots_total == 2
    of.engine_state("q-1", "starting")
    with pytest.raises(ValueError, match="q-1: 0 slots; set slots_per_engine"):
        of.engine_ready("q-1", url="http://x", engine_version="1", model_id="m", slots=0)


def test_a_lease_is_as_long_as_asked_within_the_pools_limit() -> None:
    """60 s where nothing is asked; nonsense is refused, and counts nothing."""
    clock = Clock()
    of = registry(PoolConfig(id="p", engine="sim", lease_ttl_max_s=100.0), clock=clock)
    ready(of, "p-1")
    assert of.acquire("p").expires_ms - of.acquire("p", ttl_s=1.0).expires_ms == 59_000
    for wrong in (0.0, -1.0, 100.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="above 0 and at most 100 s here"):
            of.acquire("p", ttl_s=wrong)
    assert of.lease_counts("p") == {"granted": 2, "held": 2, "released": 0, "expired": 0, "revoked": 0}
    assert of.next_expiry() == 101.0
    clock.now = 101.0
    assert [lease.state for lease in of.expire()] == ["expired"]
    assert of.next_expiry() == 160.0


async def test_whoever_waits_for_an_empty_pool_is_woken() -> None:
    """By the end of its last lease, whatever ends it."""
    of = registry(POOL)
    ready(of, "p-1")
    await of.until_idle("p")
    leases = [of.acquire("p"), of.acquire("p")]
    waiting = asyncio.create_task(of.until_idle("p"))
    of.release(leases[0].id)
    await asyncio.sleep(0)
    assert not waiting.done()
    of.engine_lost("p-1", "SIGKILL")
    await asyncio.wait_for(waiting, 1.0)
    assert of.idle("p")


def test_a_pools_devices_and_hints() -> None:
    """Memory as it is now, of the mask's devices together; the capability that all have; the summary has the seed's fields."""
    there = Devices(gpus=(gpu(0), gpu(1, capability="8.0"), gpu(2, capability="10.0")))
    of = registry(PoolConfig(id="p", engine="vllm", device_mask=["GPU-222", 1]), devices=there)
    ready(of, "p-1", version="0.32", model="m7")
    assert of.measured("p-1", tokens_per_s=100.0, first_token_ms=20.0) is not None
    of.measured("p-1", tokens_per_s=200.0, first_token_ms=10.0)
    of.devices_seen(Devices(gpus=(gpu(0), gpu(1, free=1 * GIB), gpu(2, free=2 * GIB, capability="10.0"))))
    health = of.pool_health("p")
    assert (health.vram_total_bytes, health.vram_free_bytes) == (32 * GIB, 3 * GIB)
    assert health.compute_capability == "9.0"
    assert health.device_mask == [2, 1]
    summary = of.summary("p")
    assert (summary.engine, summary.engine_version, summary.model_id) == ("vllm", "0.32", "m7")
    assert [one.id for one in summary.devices] == [2, 1]
    assert summary.perf_tokens_per_s == pytest.approx(130.0)
    assert summary.first_token_ms == pytest.approx(17.0)
    assert PoolSummary.__struct_fields__ == (
        *("engine", "engine_version", "model_id", "device_mask", "devices"),
        *("slots_total", "slots_free", "perf_tokens_per_s", "first_token_ms"),
    )
    ready(of, "p-1", version="0.33", model="m7")
    assert of.summary("p").perf_tokens_per_s is None


def test_replicas_share_a_mask_out() -> None:
    """So many devices to each, in turn."""
    there = Devices(gpus=(gpu(0), gpu(1), gpu(2), gpu(3)))
    of = registry(
        PoolConfig(id="p", engine="sim", replicas=2, device_mask=[3, 1, 0, 2], devices_per_engine=2), devices=there
    )
    assert [one.device_mask for one in of.pool_health("p").engines] == [[3, 1], [0, 2]]
    with pytest.raises(MaskError, match="no device 7; there are 0"):
        registry(PoolConfig(id="p", engine="sim", device_mask=[7]), devices=there)


def test_an_error_stays_until_it_is_taken_back() -> None:
    """It is bounded; readiness does not take it away, since a reload that was rolled back is ready again, too."""
    of = registry(POOL)
    of.error("p", "x" * 10_000)
    ready(of, "p-1")
    health = of.pool_health("p")
    assert health.last_error == "x" * 2000
    assert health.last_error_ms == 1_100_000
    of.error("p", "")
    assert (of.pool_health("p").last_error, of.pool_health("p").last_error_ms) == (None, None)


def test_subscribers_are_told_what_changed_when_it_has(caplog: pytest.LogCaptureFixture) -> None:
    """They may ask back; one that fails costs nobody anything; who has left hears no more."""
    of = registry(POOL)
    seen: list[tuple[Change, bool]] = []

    def broken(change: Change) -> None:
        raise RuntimeError(change.what)

    leave = of.subscribe(lambda change: seen.append((change, of.pool_health("p").ready)))
    of.subscribe(broken)
    with caplog.at_level(logging.CRITICAL):
        ready(of, "p-1")
    assert seen == [
        (Change("p", "p-1", "state", "stopped", "starting"), False),
        (Change("p", "p-1", "state", "starting", "ready"), True),
        (Change("p", "", "ready", "false", "true"), True),
        (Change("p", "p-1", "version", "", "1.0 m"), True),
    ]
    leave()
    leave()
    with caplog.at_level(logging.CRITICAL):
        of.draining("p", draining=True)
    assert len(seen) == 4


def test_what_is_so_already_is_no_change() -> None:
    """A drain that is asked for twice is told once."""
    of = registry(POOL)
    told: list[Change] = []
    of.subscribe(told.append)
    for draining in (False, True, True):
        of.draining("p", draining=draining)
    of.engine_state("p-1", "stopped")
    assert told == [Change("p", "", "draining", "false", "true")]


def test_an_engine_with_more_leases_than_slots_takes_nothing_from_the_others() -> None:
    """It came back smaller: what it is over is no debt of the pool's."""
    of = registry(PoolConfig(id="p", engine="sim", replicas=2))
    ready(of, "p-1", slots=3)
    leases = [of.acquire("p") for _ in range(3)]
    of.engine_ready("p-1", url="http://x", engine_version="1", model_id="m", slots=1)
    ready(of, "p-2", slots=1)
    assert (of.summary("p").slots_total, of.summary("p").slots_free) == (2, 1)
    of.release(leases[0].id)
    assert of.acquire("p").engine_id == "p-2"
    assert of.summary("p").slots_free == 0


def test_a_lease_that_was_over_is_not_revoked() -> None:
    """Its time had run out before its engine died, also where nobody had looked yet."""
    clock = Clock()
    of = registry(POOL, clock=clock)
    ready(of, "p-1")
    lease = of.acquire("p", ttl_s=1.0)
    clock.now += 1.0
    assert of.engine_lost("p-1", "SIGKILL") == []
    assert of.lease(lease.id).state == "expired"


def test_names_that_there_are_not_are_told_the_nearest() -> None:
    """Of pools and of engines."""
    of = registry(PoolConfig(id="chat", engine="sim"))
    with pytest.raises(UnknownPool, match=r"no pool 'chta'; did you mean chat\?"):
        of.health("chta")
    with pytest.raises(UnknownEngine, match=r"no engine 'chat1'; did you mean chat-1\?"):
        of.heartbeat("chat1")
