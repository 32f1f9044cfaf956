"""The answer to a holder that is frozen: it keeps its flock, so nobody takes over until it is thawed, or killed."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ftharness.failover.lock.flock.heartbeat import last_beat
from ftharness.failover.lock.flock.record import Record, holds, newest
from ftharness.failover.lock.interface import FailoverLockError

_log = logging.getLogger("ftharness.failover.fence")


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

    It kills by pidfd, and only the process that verifiably holds the lock: the same boot, pid namespace and start time, and the
    flock among its open files. A holder that promised no heartbeat is never killed. Any number of fencers may watch one lock.

    Args:
        lock_path: The lock file.
        deadline_s: Seconds without a heartbeat; a few times the holder's interval, since a busy machine is late at times.
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
        self._deadline_ns = int(deadline_s * 1e9)
        self._told = on_fenced
        self._counts_from = 0  # what happened before is no evidence: we were frozen ourselves
        self._refused = 0  # the token of a holder that we may not kill

    async def run(self) -> None:
        """Watch, until cancelled."""
        while True:
            record, due = self._due()
            wait_ns = self._deadline_ns // 4 if record is None else due - time.monotonic_ns()
            woken_at = time.monotonic_ns() + max(0, wait_ns)
            await asyncio.sleep(max(0, wait_ns) / 1e9)
            if time.monotonic_ns() - woken_at > self._deadline_ns // 2:
                self._counts_from = time.monotonic_ns()  # whatever stopped us may have stopped the holder
                continue
            again, due = self._due()
            if again is not None and record is not None and again.token == record.token and due <= time.monotonic_ns():
                await self._fence(again)

    def _due(self) -> tuple[Record | None, int]:
        """Who is watched, and when its time is up; None where nobody is to be."""
        try:
            record = newest(self._path)
            if record is None or record.heartbeat_s is None or record.token == self._refused:
                return None, 0
            if not (record.identity.here and record.identity.lives):
                return None, 0  # the kernel has freed its lock; or it is not ours to judge
            return record, max(last_beat(self._path, record), self._counts_from) + self._deadline_ns
        except (OSError, FailoverLockError) as error:
            _log.warning("%s: cannot read the heartbeat: %s", self._path, error)
            return None, 0

    async def _fence(self, record: Record) -> None:
        pid = record.identity.pid
        silent_s = (time.monotonic_ns() - last_beat(self._path, record)) / 1e9
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            # After the pidfd: now it is this process that is asked about, or none.
            if not record.identity.lives:
                return
            if not holds(record.identity, self._path):
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


async def _ended(pidfd: int) -> None:
    """Wait for a process's end."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, ended.set_result, None)
    try:
        await ended
    finally:
        loop.remove_reader(pidfd)
