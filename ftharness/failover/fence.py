"""The answer to a holder that is frozen: it keeps its flock, so nobody takes over until it is thawed, or killed."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ftharness.failover.identity import Identity
from ftharness.failover.lock.flock.heartbeat import last_beat
from ftharness.failover.lock.flock.record import Record, holds, newest, stopped_holders
from ftharness.failover.lock.interface import FailoverLockError

_log = logging.getLogger("ftharness.failover.fence")
#: In so many steps a fencer sees the last part of a deadline pass; one that is late by all of that was stopped itself.
_TICKS = 3


class Fenced(NamedTuple):
    """A holder that was killed.

    Attributes:
        engine_id: Whose it was.
        pid: The process.
        token: Of its acquisition.
        silent_s: Seconds from its last heartbeat to the kill.
    """

    engine_id: str
    pid: int
    token: int
    silent_s: float


class Fencer:
    """Watches the heartbeat of whoever holds a lock, and kills by SIGKILL who misses its deadline; the kernel frees the lock.

    It kills by pidfd, and only a process that verifiably holds the lock: the same boot, pid namespace and start time, and the
    flock among its open files. A holder that promised no heartbeat is never killed. Any number of fencers may watch one lock.

    Who was granted the lock and frozen before it could say so is found by the lock itself, among the open files of this
    machine's processes, and is killed where it has been stopped for all of the deadline.

    Args:
        lock_path: The lock file.
        deadline_s: Seconds without a heartbeat; a few times the holder's interval, since a busy machine is late at times. Never
            less than twice that interval is waited for.
        on_fenced: Told of each.

    Raises:
        ValueError: The deadline is not above 0.
    """

    def __init__(
        self,
        lock_path: str | os.PathLike[str],
        *,
        deadline_s: float,
        on_fenced: Callable[[Fenced], None] = lambda _: None,
    ) -> None:
        if not deadline_s > 0:
            raise ValueError(f"deadline_s = {deadline_s:g}: must be more than 0 seconds")
        self._path = Path(os.path.abspath(lock_path))  # noqa: PTH100 - as the lock
        self._deadline_s = deadline_s
        self._told = on_fenced
        self._heard: tuple[int, int, bool] = (
            0,
            0,
            False,
        )  # of a token: since when it is silent, in ns; whether that was a beat
        self._refused = 0  # the token of a holder that we may not kill

    async def run(self) -> None:
        """Watch, until cancelled."""
        while True:
            try:
                await self._look()
            except (OSError, FailoverLockError) as error:
                _log.warning("%s: cannot tell who holds it: %s", self._path, error)
                await asyncio.sleep(self._deadline_s / 4)

    async def _look(self) -> None:
        record = newest(self._path)
        if record is None or record.heartbeat_s is None or record.token == self._refused or not record.identity.here:
            await asyncio.sleep(self._deadline_s / 4)
        elif record.identity.lives:
            if await self._is_silent(record):
                await self._fence(record, record.identity)
        else:
            await self._look_for_another(record)

    async def _is_silent(self, record: Record) -> bool:
        """Whether the holder has missed its deadline; returns at that moment, or when it has beaten again."""
        assert record.heartbeat_s is not None, "who promised nothing is not watched"
        deadline_s = max(self._deadline_s, 2 * record.heartbeat_s)
        awake_s = min(1.5 * record.heartbeat_s, deadline_s / 2)
        since = self._since(record)
        await asyncio.sleep(max(0.0, since + deadline_s - awake_s - _now_s()))
        # Whatever stops the holder may have stopped us as well, and the whole machine: what we were not awake for is no
        # evidence. So it has to stay silent for a time that we see pass, tick by tick.
        ticks = _TICKS
        while ticks:
            asked = max(awake_s / _TICKS, since + deadline_s - _now_s() - awake_s / _TICKS * (ticks - 1))
            before = _now_s()
            await asyncio.sleep(asked)
            ticks = ticks - 1 if _now_s() - before - asked < awake_s else _TICKS
            if self._since(record) > since:
                return False
        last = newest(self._path)
        return last is not None and last.token == record.token

    def _since(self, record: Record) -> float:
        """Since when the holder has been silent, in seconds on our clock: its last beat, or when we first missed that."""
        beat = last_beat(self._path, record)
        token, _, known = self._heard
        if beat is not None:
            self._heard = record.token, beat, True
        elif (
            token != record.token or known
        ):  # its file was deleted, say: that is no sign of how long it has been silent
            self._heard = record.token, time.monotonic_ns(), False
        return self._heard[1] / 1e9

    async def _look_for_another(self, record: Record) -> None:
        """Where the last known holder is gone: one that waited may have been granted the lock, and frozen before it said so."""
        stopped = stopped_holders(self._path)
        await asyncio.sleep(self._deadline_s if stopped else self._deadline_s / 4)
        last = newest(self._path)
        if last is not None and last.token == record.token:
            for identity in stopped & stopped_holders(self._path):
                await self._fence(record, identity)

    async def _fence(self, record: Record, identity: Identity) -> None:
        pid, silent_s = identity.pid, _now_s() - self._since(record)
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            # After the pidfd: now it is this process that is asked about, or none.
            if not identity.lives or not holds(identity, self._path):
                return  # it let the lock go meanwhile, and may live
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _log.error("Fenced %s: process %d was silent for %.3f s", record.engine_id, pid, silent_s)
            await _ended(pidfd)
        except PermissionError as error:
            self._refused = record.token
            _log.error(
                "%s is silent for %.3f s, and may not be killed: process %d: %s", record.engine_id, silent_s, pid, error
            )
            return
        finally:
            os.close(pidfd)
        self._told(Fenced(record.engine_id, pid, record.token, silent_s))


def _now_s() -> float:
    return time.monotonic_ns() / 1e9


async def _ended(pidfd: int) -> None:
    """Wait for a process's end."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, ended.set_result, None)
    try:
        await ended
    finally:
        loop.remove_reader(pidfd)
