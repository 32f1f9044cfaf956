"""What becomes of pools, engines and leases, told to the log and to the metrics alike."""

from collections.abc import Mapping
from typing import Any

from ftharness.pool.changes import Change
from ftharness.pool.log_events import Log
from ftharness.pool.registry import Registry, UnknownEngine, UnknownPool


class Both:
    """One :class:`~ftharness.pool.log_events.Log` that is several."""

    def __init__(self, *logs: Log) -> None:
        self._logs = list(logs)

    def add(self, log: Log) -> None:
        """One more is told from now on."""
        self._logs.append(log)

    def event(self, name: str, *, pool_id: str = "", engine_id: str = "", **says: Any) -> None:
        """Tell each."""
        for log in self._logs:
            log.event(name, pool_id=pool_id, engine_id=engine_id, **says)


class Known:
    """What the registry knows of the pool, or the engine, of a log line.

    Args:
        registry: The manager's.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(self, pool_id: str, engine_id: str) -> Mapping[str, Any]:
        """Some of :data:`~ftharness.pool.log_events.POOL_FIELDS`; nothing of one that there is not."""
        try:
            pool = self._registry.pool(pool_id)
        except UnknownPool:
            return {}
        try:
            engines = [self._registry.engine(engine_id)] if engine_id else list(pool.engines.values())
        except UnknownEngine:
            engines = list(pool.engines.values())
        return {
            "engine": pool.config.engine,
            "engine_version": pool.engine_version or None,
            "device_mask": engines[0].mask.words if engine_id else pool.mask.words,
            "model_id": pool.model_id or None,
            "restart_count": sum(one.restarts for one in engines),
            "backoff_ms": max(one.backoff_ms for one in engines),
            "last_error": pool.last_error or None,
        }


class Teller:
    """Listens to a registry, and says what it hears.

    Args:
        registry: Asked for what a change does not say itself.
        log: Who is told.
    """

    def __init__(self, registry: Registry, log: Log) -> None:
        self._registry = registry
        self._log = log

    def __call__(self, change: Change) -> None:
        """Say one change, if it is one that the log has a name for."""
        if change.what == "lease":
            self._lease(change)
        elif change.what == "refused":
            self._log.event("lease_refused", pool_id=change.pool_id, reason=change.reason)
        elif change.what == "state" and change.after == "ready":
            engine = self._registry.engine(change.engine_id)
            about = {"pool_id": change.pool_id, "engine_id": change.engine_id}
            self._log.event("engine_ready", **about, url=engine.url, slots=engine.slots)
        elif change.what == "state" and change.after == "unready":
            about = {"pool_id": change.pool_id, "engine_id": change.engine_id}
            self._log.event("engine_unready", **about, reason=change.reason)

    def _lease(self, change: Change) -> None:
        if change.before == change.after:
            return  # renewed: every few seconds, by every holder
        lease = self._registry.told_lease(change.lease_id)
        says: dict[str, Any] = {"lease_id": lease.id, "holder": lease.holder}
        begins = "lease_taken_over" if change.before == "earlier" else "lease_granted"
        name = begins if change.after == "held" else f"lease_{change.after}"
        if change.after == "held":
            says["expires_ms"] = lease.expires_ms
        elif change.after == "revoked":
            says["reason"] = change.reason
        self._log.event(name, pool_id=change.pool_id, engine_id=change.engine_id, **says)
