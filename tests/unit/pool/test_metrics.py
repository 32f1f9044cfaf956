"""The manager's metrics: what each counts, and that the page is one that Prometheus and its users expect."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ftharness.logs import read_metrics
from ftharness.pool.config import PoolConfig
from ftharness.pool.devices import Devices, DeviceSnapshot
from ftharness.pool.engine_states import EngineState
from ftharness.pool.log_events import EVENTS
from ftharness.pool.metrics import OTHER, OUTCOMES, REFUSED, PoolMetrics
from ftharness.pool.registry import Refused, Registry

GPU = DeviceSnapshot(
    id=0, compute_capability="9.0", vram_total_bytes=80_000, vram_free_bytes=70_000, uuid="GPU-0", name="a GPU"
)
POOLS = [
    PoolConfig(id="a", engine="command", command=["true"], slots_per_engine=2, replicas=2, device_mask=[0]),
    PoolConfig(id="b", engine="sim"),
]
#: All that a label may say in this configuration.
VALUES = {
    "pool_id": {"a", "b", ""},
    "to": {"ready", "unready"},
    "state": {*get_args(EngineState), "closed", "open", "half_open"},
    "outcome": {*OUTCOMES, OTHER},
    "reason": {*REFUSED, OTHER},
    "how": {"released", "expired", "revoked"},
    "device": {"0"},
    "engine": {"command", "sim"},
    "engine_version": {"", "1.2"},
    "model_id": {"", "m"},
    "call": {"acquire", OTHER},
    "status": {"201", "404"},
}


_NAME = re.compile(r"[a-z][a-z0-9_]*")
#: Base units are seconds, bytes, ratios: what stands for another one, or is short for one.
_UNITS = {
    "ms",
    "milliseconds",
    "microseconds",
    "nanoseconds",
    "minutes",
    "hours",
    "days",
    "kb",
    "mb",
    "gb",
    "kilobytes",
    "megabytes",
    "gigabytes",
    "percent",
    "sec",
    "secs",
    "s",
}
_TYPES = {"gauge", "counter", "histogram", "summary"}
_SUFFIXES = ("_total", "_count", "_sum", "_bucket", "_created")


def problems(page: str, values: Mapping[str, set[str]]) -> Iterator[str]:
    """What is wrong with a page, by the rules of promtool's ``check metrics``; and labels that are not bounded.

    Args:
        page: In Prometheus's text format.
        values: All that each label may say.
    """
    families = list(text_string_to_metric_families(page))
    typed = re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE)
    if not families:
        yield "there are none"
    for name, kind in typed:
        yield from (f"{name}: {problem}" for problem in _of_name(name, kind))
    names = [name for name, _ in typed]
    yield from (f"{name}: told twice" for name in {*names} if names.count(name) > 1)
    for family in families:
        if not family.documentation.strip().endswith("."):
            yield f"{family.name}: no sentence says what it is"
        seen: set[tuple[str, ...]] = set()
        for sample in family.samples:
            labels = {key: value for key, value in sample.labels.items() if key != "le"}
            for key, value in labels.items():
                if value not in values.get(key, set()):
                    yield f"{family.name}: {key}={value!r} is not among what that label may say"
            series = (sample.name, *map(str, sorted(sample.labels.items())))
            if series in seen:
                yield f"{family.name}: a series twice: {sample.labels}"
            seen.add(series)


def _of_name(name: str, kind: str) -> Iterator[str]:
    words = set(name.split("_"))
    if not name.startswith("ftharness_pool_"):
        yield "not ours by its name"
    if not _NAME.fullmatch(name):
        yield "not in lower case with underscores"
    if kind == "counter" and not name.endswith("_total"):
        yield "a counter's name ends with _total"
    if kind != "counter" and name.endswith(_SUFFIXES):
        yield "ends as names of other kinds do"
    if kind not in _TYPES:
        yield f"its type is {kind}"
    yield from (f"{word} is no base unit" for word in sorted(words & _UNITS))
    yield from (f"its type, {word}, is in its name" for word in sorted(words & _TYPES))


class Held:
    """A registry, its metrics, and the clock that both go by."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.registry = Registry(POOLS, Devices(gpus=(GPU,)), clock=lambda: self.now, zero_s=1.7e9)
        self.metrics = PoolMetrics(self.registry)
        self.registry.subscribe(self.metrics.changed)

    def ready(self, engine: str) -> None:
        """It goes all the way."""
        self.registry.engine_state(engine, "starting")
        self.registry.engine_ready(engine, url="http://127.0.0.1:9", engine_version="1.2", model_id="m", slots=2)

    def values(self, name: str, **labels: str) -> dict[str, float]:
        """By what its samples are labelled with beside ``labels``."""
        found = {}
        for sample in read_metrics(self.metrics.text().decode()):
            if sample.name == f"ftharness_pool_{name}" and labels.items() <= sample.labels.items():
                rest = [sample.labels[key] for key in sorted(sample.labels, key=_place) if key not in labels]
                found[" ".join(rest)] = sample.value
        return found


def _place(label: str) -> tuple[bool, str]:
    return label != "pool_id", label


@pytest.fixture
def held() -> Held:
    return Held()


def test_readiness_is_told_as_it_is_and_every_transition_is_counted(held: Held) -> None:
    """An engine that is unready and is then lost ceased to be ready once."""
    assert held.values("ready") == {"a": 0, "b": 0}
    held.ready("a-1")
    held.ready("a-2")
    assert held.values("ready") == {"a": 1, "b": 0}
    held.registry.engine_unready("a-1", "no answer")
    held.registry.engine_lost("a-1", "it was killed")
    held.registry.engine_lost("a-2", "it was killed")
    assert held.values("ready") == {"a": 0, "b": 0}
    assert held.values("readiness_transitions_total", pool_id="a") == {"ready": 2, "unready": 2}
    assert held.values("engines", pool_id="a", state="stopped") == {"": 2}
    assert held.values("live") == {"a": 1, "b": 1}


def test_capacity_and_leases_are_told(held: Held) -> None:
    """Slots, those that are free, leases that are held, granted, ended by how, refused by why."""
    held.ready("a-1")
    leases = [held.registry.acquire("a", ttl_s=10) for _ in range(2)]
    for pool, times in (("a", 1), ("b", 2), ("nothing", 1)):
        for _ in range(times):
            with pytest.raises(Refused):
                held.registry.acquire(pool)
    held.registry.release(leases[0].id)
    held.now += 11
    held.registry.acquire("a")
    held.registry.draining("a", draining=True)
    with pytest.raises(Refused):
        held.registry.acquire("a")
    assert held.values("active_leases") == {"a": 1, "b": 0}
    assert held.values("slots") == {"a": 4, "b": 0}
    assert held.values("slots_free") == {"a": 0, "b": 0}
    assert held.values("draining") == {"a": 1, "b": 0}
    assert held.values("leases_granted_total") == {"a": 3, "b": 0}
    assert held.values("leases_ended_total", pool_id="a") == {"released": 1, "expired": 1, "revoked": 0}
    refused = {"a full": 1, "b not_ready": 2, " unknown": 1, "a draining": 1}
    assert held.values("lease_refusals_total") == refused


def test_one_page_adds_up(held: Held) -> None:
    """A lease whose time is over when the page is asked for is over on all of it."""
    held.ready("a-1")
    held.registry.acquire("a", ttl_s=10)
    held.now += 11
    page = held.metrics.text().decode()
    assert 'ftharness_pool_active_leases{pool_id="a"} 0.0' in page
    assert 'ftharness_pool_leases_granted_total{pool_id="a"} 1.0' in page
    assert 'ftharness_pool_leases_ended_total{how="expired",pool_id="a"} 1.0' in page


def test_restarts_backoff_and_losses_are_counted(held: Held) -> None:
    """A first start is no restart, one after an adopted engine's end is; the wait that is under way is told, in seconds."""
    event = held.metrics.event
    event("engine_started", pool_id="a", engine_id="a-1", pid=1)
    event("engine_adopted", pool_id="a", engine_id="a-2", pid=2)
    assert held.values("engine_restarts_total") == {"a": 0, "b": 0}
    for engine, delay_ms in (("a-1", 1000), ("a-2", 1500)):
        event("engine_lost", pool_id="a", engine_id=engine, exit="signal 9", reason="it was killed")
        event("restart_scheduled", pool_id="a", engine_id=engine, delay_ms=delay_ms, reason="it was killed")
        event("engine_started", pool_id="a", engine_id=engine, pid=3)
    event("probe_failed", pool_id="b", engine_id="b-1", reason="no answer", failures=1)
    held.registry.engine_state("a-2", "backoff", backoff_ms=1500)
    assert held.values("engine_restarts_total") == {"a": 2, "b": 0}
    assert held.values("engine_losses_total") == {"a": 2, "b": 0}
    assert held.values("backoffs_total") == {"a": 2, "b": 0}
    assert held.values("backoff_seconds_total") == {"a": 2.5, "b": 0}
    assert held.values("backoff_current_seconds") == {"a": 1.5, "b": 0}
    assert held.values("probe_failures_total") == {"a": 0, "b": 1}


def test_the_breakers_states_are_told(held: Held) -> None:
    """How many engines have theirs in each; closed from the start."""
    assert held.values("breakers", pool_id="a") == {"closed": 2, "open": 0, "half_open": 0}
    held.metrics.event("breaker_open", pool_id="a", engine_id="a-1", reason="5 restarts in 60 s")
    assert held.values("breakers", pool_id="a") == {"closed": 1, "open": 1, "half_open": 0}
    held.metrics.event("breaker_half_open", pool_id="a", engine_id="a-1")
    assert held.values("breakers", pool_id="a") == {"closed": 1, "open": 0, "half_open": 1}
    held.metrics.event("breaker_closed", pool_id="a", engine_id="a-1", reason="it ran")
    assert held.values("breakers", pool_id="a") == {"closed": 2, "open": 0, "half_open": 0}


def test_drains_and_reloads_are_measured_by_their_outcome(held: Held) -> None:
    """In seconds; an outcome that nobody knows is one label, not one of its own each time."""
    held.metrics.event("drain_ended", pool_id="a", outcome="stopped", duration_ms=1500)
    for n in range(3):
        held.metrics.event("reload_ended", pool_id="a", outcome=f"word {n}", duration_ms=20)
    assert held.values("drain_duration_seconds_sum") == {"a stopped": 1.5}
    assert held.values("drain_duration_seconds_count") == {"a stopped": 1}
    assert held.values("reload_duration_seconds_count") == {"a other": 3}


def test_devices_and_speed_are_told_in_base_units(held: Held) -> None:
    """Bytes by device, tokens per second, seconds to the first token; nothing of a pool that has no devices."""
    held.ready("a-1")
    held.registry.measured("a-1", tokens_per_s=120.0, first_token_ms=40.0)
    assert held.values("vram_bytes") == {"a 0": 80_000}
    assert held.values("vram_free_bytes") == {"a 0": 70_000}
    assert held.values("tokens_per_second") == {"a": 120}
    assert held.values("first_token_seconds") == {"a": 0.04}
    assert held.values("info") == {"a command 1.2 m": 1, "b sim  ": 1}
    assert held.values("last_heartbeat_timestamp_seconds") == {"a": pytest.approx(1.7e9 + 1000)}


def test_a_call_is_counted_by_its_name_and_status(held: Held) -> None:
    """And measured in seconds."""
    held.metrics.called("acquire", 201, 0.25)
    held.metrics.called(OTHER, 404, 0.5)
    assert held.values("http_requests_total") == {"acquire 201": 1, "other 404": 1}
    assert held.values("http_request_duration_seconds_sum") == {"acquire": 0.25, "other": 0.5}


def test_the_page_is_as_prometheus_expects_and_its_labels_are_bounded(held: Held) -> None:
    """Everything that can happen has happened, with words that clients, engines and errors make up."""
    for engine in ("a-1", "a-2", "b-1"):
        held.ready(engine)
        held.registry.measured(engine, tokens_per_s=1.0, first_token_ms=1.0)
    for n in range(20):
        for pool in ("a", f"nothing-{n}"):
            try:
                held.registry.acquire(pool, holder=f"holder {n}")
            except Refused:
                continue
    held.registry.engine_lost("a-1", "signal 9")
    for name, event in EVENTS.items():
        for n in range(3):
            says: dict[str, Any] = dict.fromkeys(event.says, f"word {n}")
            says |= {said: n for said in event.says if said.endswith("_ms")}
            held.metrics.event(name, pool_id="a", engine_id="a-1", **says)
    held.metrics.called("acquire", 201, 0.1)
    held.metrics.called(OTHER, 404, 0.1)
    assert list(problems(held.metrics.text().decode(), VALUES)) == []


@pytest.mark.parametrize(
    "name, kind, labels, problem",
    [
        ("other_up", "gauge", "", "not ours"),
        ("ftharness_pool_losses", "counter", "", "_total"),
        ("ftharness_pool_slots_total", "gauge", "", "ends as"),
        ("ftharness_pool_wait_ms", "gauge", "", "ms is no base unit"),
        ("ftharness_pool_gauge_of_it", "gauge", "", "in its name"),
        ("ftharness_pool_upNow", "gauge", "", "lower case"),
        ("ftharness_pool_up", "untyped", "", "its type is"),
        ("ftharness_pool_up", "gauge", '{holder="me"}', "holder='me'"),
        ("ftharness_pool_up", "gauge", '{pool_id="c"}', "pool_id='c'"),
    ],
)
def test_a_page_that_is_not_is_found(name: str, kind: str, labels: str, problem: str) -> None:
    """Each rule, by a page that breaks it."""
    page = f"# HELP {name} A sentence.\n# TYPE {name} {kind}\n{name}{labels} 1\n"
    assert problem in "; ".join(problems(page, VALUES))


def test_pages_that_are_no_pages_are_found() -> None:
    """Empty, without a sentence, with a series twice."""
    good = "# HELP ftharness_pool_up Up.\n# TYPE ftharness_pool_up gauge\nftharness_pool_up 1\n"
    assert list(problems(good, VALUES)) == []
    assert list(problems("", VALUES)) == ["there are none"]
    assert "no sentence" in next(problems(good.partition("\n")[2], VALUES))
    assert "a series twice" in next(problems(f"{good}ftharness_pool_up 1\n", VALUES))
