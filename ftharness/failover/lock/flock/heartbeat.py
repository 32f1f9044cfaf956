"""A sign of life beside the lock: what tells a holder that serves from one that is frozen and holds all the same."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from ftharness.failover.lock.flock.record import Record, newest, restore
from ftharness.failover.lock.interface import FailoverLockError
from ftharness.failover.slots import Slots

_log = logging.getLogger("ftharness.failover.heartbeat")


def last_beat(lock_path: Path, record: Record) -> int | None:
    """When the holder of a record beat last, CLOCK_MONOTONIC, ns; None where nothing is known of its beats.

    Raises:
        OSError: It cannot be read.
    """
    beat = Slots(beats(lock_path)).read()
    known = beat is not None and beat.get("token") == record.token and isinstance(beat.get("t"), int)
    return int(beat["t"]) if beat is not None and known else None


def start_beating(lock_path: Path, record: Record, *, still: Callable[[], bool]) -> None:
    """Beat as the record promises, for as long as it is the last one and ``still`` says so; the first time at once.

    It beats from the event loop: a loop that does not turn is as good as frozen.

    Raises:
        OSError: The disk does not take the first beat.
    """
    interval_s = record.heartbeat_s
    if interval_s is None:
        return
    slots, loop = Slots(beats(lock_path)), asyncio.get_running_loop()

    def put() -> None:
        slots.write({"token": record.token, "t": time.monotonic_ns()})

    def beat() -> None:
        if not still():
            return
        try:
            last = newest(lock_path)
            if last is not None and last.token > record.token:
                _log.error("%s: token %d is not the last any more: no further heartbeat", lock_path, record.token)
                return
            if last != record:
                restore(lock_path, record)
            put()
        except (OSError, FailoverLockError) as error:  # the next may come through
            _log.warning("%s: no heartbeat: %s", lock_path, error)
        loop.call_later(interval_s, beat)

    put()
    loop.call_later(interval_s, beat)


def beats(lock_path: Path) -> Path:
    """Where the last beat lies."""
    return lock_path.with_name(lock_path.name + ".heartbeat")
