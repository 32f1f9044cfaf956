"""The manager's log: one JSON object a line, without secrets, bounded, each line about a pool with what is known of it."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from ftharness.pool.correlation import correlation_id
from ftharness.pool.log_events import POOL_FIELDS, check
from ftharness.pool.log_sink import LONGEST, LineSink
from ftharness.pool.without_secrets import without_secrets
from ftharness.process import Redactor

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

#: Characters of a text, at most; the next one is tried where the whole line is still too long.
_CLIPS = (1_000, 200, 40)
#: Seconds within which a library's line that comes again is only counted.
_REPEATS_S = 1.0
#: What a person who reads along wants to see first.
_LEAD = ("timestamp", "level", "event")
#: What is left of a line that no clipping makes short enough.
_BARE = (*_LEAD, "pool_id", "engine_id", "correlation_id")

#: What is known of a pool, or of one of its engines: some of :data:`~ftharness.pool.log_events.POOL_FIELDS`.
Known = Callable[[str, str], Mapping[str, Any]]


class PoolLog:
    """Writes the events of :mod:`~ftharness.pool.log_events`.

    Args:
        sink: Where the lines go.
        redactor: Knows the secrets.
        level: Events below it are left out: ``debug``, ``info``, ``warning`` or ``error``.
        known: Asked about the pool and the engine of each line.
    """

    def __init__(self, sink: LineSink, *, redactor: Redactor, level: str = "info", known: Known | None = None) -> None:
        self._redactor = redactor
        self._level = LEVELS[level]
        self.known = known
        self._logger = structlog.wrap_logger(
            _Levels(sink, self._lost),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                self._without_secrets,
                _rendered,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(self._level),
            context_class=dict,
            cache_logger_on_first_use=True,
        )

    def event(self, name: str, *, pool_id: str = "", engine_id: str = "", **says: Any) -> None:
        """Write one line; see :class:`~ftharness.pool.log_events.Log`."""
        self._write(name, check(name, says).level, pool_id, engine_id, says)

    def message(self, level: str, logger: str, text: str) -> None:
        """Write what a library said, at its own level."""
        self._write("message", level, "", "", {"logger": logger, "text": text})

    def _write(self, name: str, level: str, pool_id: str, engine_id: str, says: Mapping[str, Any]) -> None:
        if LEVELS[level] < self._level:
            return
        fields: dict[str, Any] = {"pool_id": pool_id, "engine_id": engine_id} if pool_id else {}
        if pool_id:
            fields = dict.fromkeys(POOL_FIELDS) | fields
            if self.known is not None:
                fields |= self.known(pool_id, engine_id)
        fields |= says
        if said := correlation_id.get():
            fields["correlation_id"] = said
        self._logger.log(LEVELS[level], name, **fields)

    def _without_secrets(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        # Before they are written as JSON: a secret with a quote in it would look different afterwards.
        del logger, method
        return {name: without_secrets(value, self._redactor) for name, value in event.items()}

    def _lost(self, lines: int) -> bytes:
        return _rendered(
            None, "", {"level": "warning", "event": "advisory", "reason": f"{lines} lines of this log are lost"}
        )


class _Levels:
    """What structlog calls by a level's name."""

    def __init__(self, sink: LineSink, lost: Callable[[int], bytes]) -> None:
        self._sink = sink
        self._lost = lost

    def debug(self, line: bytes) -> None:
        self._sink.write(line, self._lost)

    info = warning = error = debug


class LibraryLog(logging.Handler):
    """Takes what libraries log by :mod:`logging` into the same stream: a line that is no JSON would spoil it."""

    def __init__(self, log: PoolLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._last: tuple[str, str, str] = "", "", ""
        self._again = 0
        self._since = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one of their lines; the same one over and over is written once a second, with how often it came."""
        level = "error" if record.levelno >= logging.ERROR else "warning"
        said = level, record.name, self.format(record)
        if said == self._last and record.created - self._since < _REPEATS_S:
            self._again += 1
            return
        if self._again:
            was_level, logger, text = self._last
            self._log.message(was_level, logger, f"{text} ({self._again} times more)")
        self._last, self._again, self._since = said, 0, record.created
        self._log.message(*said)


def _rendered(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
    del logger, method
    event = {name: event[name] for name in _LEAD if name in event} | dict(event)
    for most in _CLIPS:
        line = msgspec.json.encode(_clipped(event, most))
        if len(line) < LONGEST:
            return line
    return msgspec.json.encode({**{name: _clipped(event.get(name), _CLIPS[-1]) for name in _BARE}, "clipped": True})


def _clipped(value: Any, most: int) -> Any:
    if isinstance(value, str):
        short = value if len(value) <= most else f"{value[: most - 1]}…"
        # A program's output may hold bytes that are no UTF-8, which Python reads as lone surrogates.
        return short if short.isascii() else short.encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {key: _clipped(one, most) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clipped(one, most) for one in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _clipped(str(value), most)
