"""The events of the manager's log: their names, their levels, and what each one always says.

These names are a contract: scenarios read the log by them, and so do the log pipelines of others. An event that is renamed is
a change that breaks, and stands in the changelog.

What the registry tells its listeners (``engine_ready``, ``engine_unready``, ``lease_…``) is written from there, by
:mod:`~ftharness.pool.telling`; everything else by whoever does it, by one call of :class:`Log`. Metrics count the same calls.
"""

from typing import Any, Final, NamedTuple, Protocol


class LogEvent(NamedTuple):
    """What a line of that name means.

    Attributes:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        says: Its own fields, beside those that every line about a pool has (:data:`POOL_FIELDS`).
        sentence: When it is written.
    """

    level: str
    says: tuple[str, ...]
    sentence: str


#: On every line about a pool, whatever it tells; null or 0 where it is not known.
POOL_FIELDS: Final = (
    "pool_id",
    "engine_id",
    "engine",
    "engine_version",
    "device_mask",
    "model_id",
    "restart_count",
    "backoff_ms",
    "last_error",
    "correlation_id",
)

EVENTS: Final[dict[str, LogEvent]] = {
    "manager_started": LogEvent("info", ("host", "port", "pid"), "The manager serves."),
    "manager_stopped": LogEvent("info", ("reason",), "The manager has ended what is its own, and ends."),
    "engine_started": LogEvent("info", ("pid",), "An engine's process runs; nothing is known of its health yet."),
    "engine_ready": LogEvent("info", ("url", "slots"), "Staged, prepared, healthy and warmed up: it can be leased."),
    "engine_unready": LogEvent("warning", ("reason",), "Its probe fails, or its log names an error; leases stay."),
    "engine_lost": LogEvent("error", ("exit", "reason"), "It ended, and nobody had asked it to."),
    "engine_stopped": LogEvent("info", ("exit", "reason"), "It ended because the manager stopped it."),
    "engine_error": LogEvent("error", ("reason", "remediation"), "A line of its log that is recognised."),
    "engine_adopted": LogEvent("info", ("pid",), "It ran already, under a manager that is gone; this one has it now."),
    "engine_gone": LogEvent("warning", ("pid", "reason"), "One that an earlier manager had does not run any more."),
    "probe_failed": LogEvent("warning", ("reason", "failures"), "One look at its health failed."),
    "restart_scheduled": LogEvent("warning", ("delay_ms", "reason"), "It is started again after that delay."),
    "backoff_reset": LogEvent(
        "info", ("reason",), "A wait that is under way is over, and the next is the first again."
    ),
    "breaker_open": LogEvent("error", ("reason",), "Too many restarts: none is tried for a while."),
    "breaker_half_open": LogEvent("warning", (), "One restart is tried."),
    "breaker_closed": LogEvent("info", ("reason",), "Restarts are allowed again."),
    "lease_granted": LogEvent("info", ("lease_id", "holder", "expires_ms"), "A slot of an engine has a holder."),
    "lease_taken_over": LogEvent(
        "info", ("lease_id", "holder", "expires_ms"), "An earlier manager granted it, and nobody had ended it."
    ),
    "lease_released": LogEvent("info", ("lease_id", "holder"), "Its holder gave it back."),
    "lease_revoked": LogEvent("warning", ("lease_id", "holder", "reason"), "Its engine is gone, or was stopped."),
    "lease_expired": LogEvent("warning", ("lease_id", "holder"), "Nobody renewed it in time."),
    "lease_refused": LogEvent("info", ("reason",), "None was granted."),
    "drain_begun": LogEvent("info", ("deadline_ms", "on_timeout"), "No new leases from now on."),
    "drain_ended": LogEvent("info", ("outcome", "duration_ms"), "The pool is empty, was emptied, or serves again."),
    "reload_begun": LogEvent("info", ("model",), "The pool is to serve another model."),
    "reload_ended": LogEvent(
        "info",
        ("outcome", "duration_ms"),
        "It does (`succeeded`), or the old one serves again (`rolled_back`), or neither (`failed`).",
    ),
    "model_staged": LogEvent("info", ("path", "digest_verified"), "The model is on this machine."),
    "advisory": LogEvent(
        "warning", ("reason",), "Nothing is wrong, but somebody should know: once a pool, or each time that it begins."
    ),
    "message": LogEvent("warning", ("logger", "text"), "A library that the manager stands on has said something."),
    "request": LogEvent("debug", ("method", "path", "status", "duration_ms"), "One call of the HTTP API was answered."),
    "request_failed": LogEvent("error", ("method", "path", "reason"), "A call met an error of the manager's own."),
}


class Log(Protocol):
    """Where whoever does something says so."""

    def event(self, name: str, *, pool_id: str = "", engine_id: str = "", **says: Any) -> None:
        """Write one line.

        Args:
            name: One of :data:`EVENTS`.
            pool_id: The pool that it is about; the fields that all lines about it have are added.
            engine_id: The engine slot, ``<pool_id>-<n>``.
            says: At least the event's own fields.

        Raises:
            LookupError: There is no such event.
        """


class Silent:
    """Where nobody reads a log: what is wrong with a call is told all the same."""

    def event(self, name: str, *, pool_id: str = "", engine_id: str = "", **says: Any) -> None:
        """Write nothing."""
        del pool_id, engine_id
        check(name, says)


def check(name: str, says: dict[str, Any]) -> LogEvent:
    """The event of that name.

    Raises:
        LookupError: There is none, or what it always says is missing.
    """
    event = EVENTS.get(name)
    if event is None:
        raise LookupError(f"no log event {name!r}; the list is in ftharness/pool/log_events.py")
    missing = [field for field in event.says if field not in says]
    if missing:
        raise LookupError(f"the log event {name} always says {', '.join(missing)}")
    return event
