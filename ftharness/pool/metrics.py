"""The manager's metrics, for Prometheus: counted by the log's events, and read from the registry when somebody asks.

Names, units and types are by Prometheus's conventions. Every label's values are names of the configuration, a device, or one
of a handful of words: nothing that a client can make up, so the configuration bounds the number of series.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ftharness.pool.changes import Change
from ftharness.pool.engine_states import EngineState
from ftharness.pool.log_events import check
from ftharness.pool.pool_entry import PoolEntry
from ftharness.pool.registry import Registry

_PREFIX: Final = "ftharness_pool_"
_LONG_S: Final = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_CALL_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 10, 60)
_BREAKER: Final = {"breaker_closed": "closed", "breaker_open": "open", "breaker_half_open": "half_open"}
#: What a label says of a word that is not among its own.
OTHER: Final = "other"
OUTCOMES: Final = ("drained", "stopped", "aborted", "succeeded", "rolled_back", "failed", "cancelled")
REFUSED: Final = ("unknown", "draining", "full", "not_ready", "not_kept")


class PoolMetrics:
    """What is counted: a :class:`~ftharness.pool.log_events.Log`, beside the one that writes lines, and a registry's listener.

    Args:
        registry: The manager's.
    """

    def __init__(self, registry: Registry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._all = CollectorRegistry()
        self._started: set[str] = set()
        self._breakers = {engine: "closed" for pool in registry.pools() for engine in pool.engines}
        self._all.register(_Now(registry, self._breakers))
        self._transitions = self._counter(
            "readiness_transitions", "Engines that became ready (to=ready) or ceased to be (to=unready).", "to"
        )
        self._losses = self._counter("engine_losses", "Engines that ended and were not asked to.")
        self._restarts = self._counter("engine_restarts", "Starts of engines that had run before.")
        self._backoffs = self._counter("backoffs", "Waits before a restart.")
        self._backoff_s = self._counter("backoff_seconds", "Length of the waits before restarts, together.")
        self._probe_failures = self._counter("probe_failures", "Looks at an engine's health that failed.")
        self._errors = self._counter("engine_errors", "Lines of engines' logs that name a known error.")
        self._refused = self._counter(
            "lease_refusals", "Leases that were refused, by why: what presses on those who place work.", "reason"
        )
        self._drains = self._histogram("drain_duration_seconds", "From a drain's begin to its end, by its outcome.")
        self._reloads = self._histogram("reload_duration_seconds", "From a reload's begin to its end, by its outcome.")
        self._calls = Counter(
            f"{_PREFIX}http_requests", "Calls of the HTTP API.", ["call", "status"], registry=self._all
        )
        self._call_s = Histogram(
            f"{_PREFIX}http_request_duration_seconds",
            "How long calls of the HTTP API took.",
            ["call"],
            registry=self._all,
            buckets=_CALL_S,
        )
        for pool in registry.pools():  # a zero is evidence too
            for counter in (self._losses, self._restarts, self._backoffs, self._backoff_s, self._probe_failures):
                counter.labels(pool.id)
            for to in ("ready", "unready"):
                self._transitions.labels(pool.id, to)

    def event(self, name: str, *, pool_id: str = "", engine_id: str = "", **says: Any) -> None:
        """Count what happened; see :class:`~ftharness.pool.log_events.Log`."""
        check(name, says)
        if name in _BREAKER:
            self._breakers[engine_id] = _BREAKER[name]
        elif name == "engine_started":
            if engine_id in self._started:
                self._restarts.labels(pool_id).inc()
            self._started.add(engine_id)
        elif name == "engine_adopted":
            self._started.add(engine_id)
        elif name == "engine_lost":
            self._losses.labels(pool_id).inc()
        elif name == "restart_scheduled":
            self._backoffs.labels(pool_id).inc()
            self._backoff_s.labels(pool_id).inc(says["delay_ms"] / 1000)
        elif name == "probe_failed":
            self._probe_failures.labels(pool_id).inc()
        elif name == "engine_error":
            self._errors.labels(pool_id).inc()
        elif name in ("drain_ended", "reload_ended"):
            measured = self._drains if name == "drain_ended" else self._reloads
            measured.labels(pool_id, _one_of(says["outcome"], OUTCOMES)).observe(says["duration_ms"] / 1000)

    def changed(self, change: Change) -> None:
        """Count what the registry tells its listeners."""
        if change.what == "state" and "ready" in (change.before, change.after):
            self._transitions.labels(change.pool_id, "ready" if change.after == "ready" else "unready").inc()
        elif change.what == "refused":
            self._refused.labels(change.pool_id, _one_of(change.reason, REFUSED)).inc()

    def called(self, call: str, status: int, seconds: float) -> None:
        """A call of the HTTP API was answered.

        Args:
            call: The endpoint's name; :data:`OTHER` where there is none.
            status: HTTP's.
            seconds: From its first byte to its answer.
        """
        self._calls.labels(call, status).inc()
        self._call_s.labels(call).observe(seconds)

    def text(self) -> bytes:
        """All of it as Prometheus text."""
        return generate_latest(self._all)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}{name}", text, ["pool_id", *labels], registry=self._all)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"{_PREFIX}{name}", text, ["pool_id", "outcome"], registry=self._all, buckets=_LONG_S)


class _Now(Collector):
    """What the registry knows, at the moment in which it is asked for: there is nothing to keep in step."""

    def __init__(self, registry: Registry, breakers: dict[str, str]) -> None:
        self._registry = registry
        self._breakers = breakers

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are in no other collector, and the registry need not be walked to find that out."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The samples."""
        self._registry.expire()  # what is due would end in the midst of them, and they would not add up
        pools = self._registry.pools()
        yield self._gauge("live", "1 as long as the manager is up.", ((pool, (), 1) for pool in pools))
        yield self._gauge("ready", "1 where an engine of the pool is ready.", ((one, (), one.ready) for one in pools))
        yield self._gauge("draining", "1 where the pool takes no leases.", ((one, (), one.draining) for one in pools))
        yield self._gauge(
            "slots", "Leases that the pool's engines carry together.", ((one, (), one.slots_total) for one in pools)
        )
        yield self._gauge("slots_free", "Leases that could be had now.", ((one, (), one.slots_free) for one in pools))
        yield self._gauge("active_leases", "Leases that are held.", ((one, (), one.held) for one in pools))
        yield self._gauge("engines", "Engines by state.", _engines(pools), "state")
        yield self._gauge("breakers", "Engines by the state of their breaker.", self._by_breaker(pools), "state")
        yield self._gauge(
            "backoff_current_seconds",
            "The longest wait before a restart that is under way; 0 where there is none.",
            ((pool, (), max(one.backoff_ms for one in pool.engines.values()) / 1000) for pool in pools),
        )
        yield self._gauge(
            "last_heartbeat_timestamp_seconds",
            "When an engine of the pool last gave a good answer.",
            ((pool, (), max(beats) / 1000) for pool in pools if (beats := _heartbeats(pool))),
        )
        yield self._gauge(
            "info",
            "Which engine and which model the pool had when it was last ready.",
            ((one, (one.config.engine, one.engine_version, one.model_id), 1) for one in pools),
            "engine",
            "engine_version",
            "model_id",
        )
        yield from self._of_summaries(pools)
        yield from self._leases(pools)

    def _of_summaries(self, pools: Sequence[PoolEntry]) -> Iterator[Metric]:
        summaries = [(pool, self._registry.summary(pool.id)) for pool in pools]
        devices = [(pool, device) for pool, summary in summaries for device in summary.devices]
        yield self._gauge(
            "vram_bytes",
            "Memory of a device.",
            ((pool, (device.label,), device.vram_total_bytes) for pool, device in devices),
            "device",
        )
        yield self._gauge(
            "vram_free_bytes",
            "Memory of a device that nobody uses.",
            ((pool, (device.label,), device.vram_free_bytes) for pool, device in devices),
            "device",
        )
        speeds = ((pool, (), one.perf_tokens_per_s) for pool, one in summaries if one.perf_tokens_per_s is not None)
        yield self._gauge("tokens_per_second", "Of one stream, as measured on warm-up, smoothed.", speeds)
        firsts = ((pool, (), one.first_token_ms / 1000) for pool, one in summaries if one.first_token_ms is not None)
        yield self._gauge("first_token_seconds", "From a request to its first token, the same.", firsts)

    def _leases(self, pools: Sequence[PoolEntry]) -> Iterator[Metric]:
        granted = CounterMetricFamily(f"{_PREFIX}leases_granted", "Leases that were granted.", labels=["pool_id"])
        ended = CounterMetricFamily(f"{_PREFIX}leases_ended", "Leases that ended, by how.", labels=["pool_id", "how"])
        for pool in pools:
            counts = self._registry.lease_counts(pool.id)
            granted.add_metric([pool.id], counts["granted"])
            for how in ("released", "expired", "revoked"):
                ended.add_metric([pool.id, how], counts[how])
        yield granted
        yield ended

    def _by_breaker(self, pools: Sequence[PoolEntry]) -> Iterator[tuple[PoolEntry, tuple[str, ...], float]]:
        for pool in pools:
            states = [self._breakers[engine] for engine in pool.engines]
            for state in _BREAKER.values():
                yield pool, (state,), states.count(state)

    @staticmethod
    def _gauge(
        name: str, text: str, samples: Iterable[tuple[PoolEntry, tuple[str, ...], float]], *labels: str
    ) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"{_PREFIX}{name}", text, labels=["pool_id", *labels])
        for pool, values, value in samples:
            family.add_metric([pool.id, *values], value)
        return family


def _engines(pools: Sequence[PoolEntry]) -> Iterator[tuple[PoolEntry, tuple[str, ...], float]]:
    for pool in pools:
        states = [one.state for one in pool.engines.values()]
        for state in get_args(EngineState):
            yield pool, (state,), states.count(state)


def _heartbeats(pool: PoolEntry) -> list[int]:
    return [one.heartbeat_ms for one in pool.engines.values() if one.heartbeat_ms is not None]


def _one_of(word: str, words: Sequence[str]) -> str:
    """Outcomes are words, not texts; what is none of them must not become a series of its own."""
    return word if word in words else OTHER
