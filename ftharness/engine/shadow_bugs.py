"""Planted bugs of a takeover: locks, fencers and wakings that are wrong in one way each. Our own lock has none of them."""

import asyncio
import contextlib
import gc
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ftharness.engine.engine_child import EngineChild
from ftharness.failover.fence import Fencer
from ftharness.failover.identity import Identity, is_stopped
from ftharness.failover.lock import FailoverLockContended, FlockFailoverLock
from ftharness.failover.lock.flock.record import Record

_log = logging.getLogger("ftharness.engine.shadow_bugs")
#: Seconds between two looks of a lock that looks.
_LOOK_S = 0.02
# Outlives whoever started it by 3 s, with what it inherited.
_OUTLIVES = "import os, select, sys, time; select.select([os.pidfd_open(int(sys.argv[1]))], [], []); time.sleep(3)"


class _Unlinked(FlockFailoverLock):
    """Tidies up its file when it lets go, and does not look whether the one that it waits for is still there."""

    def release_nowait(self) -> None:
        if self.held:
            self._path.unlink(missing_ok=True)
        super().release_nowait()

    def _replaced(self, fd: int) -> bool:
        del fd
        return False


class _Inherited(FlockFailoverLock):
    """Is open in a child of its holder's."""

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:  # noqa: ASYNC109
        token = await super().acquire(engine_id, poll_interval, timeout)
        argv = [sys.executable, "-I", "-S", "-c", _OUTLIVES, str(os.getpid())]
        subprocess.Popen(argv, pass_fds=tuple(self._held))  # noqa: ASYNC220
        return token


class _Presumed(FlockFailoverLock):
    """Takes a takeover that it sees for its own."""

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:  # noqa: ASYNC109
        del timeout
        seen = 0
        while True:
            with contextlib.suppress(FailoverLockContended):
                return await super().acquire(engine_id, poll_interval, _LOOK_S)
            holder = await self.holder()
            if holder is not None and holder.holds:
                if seen and holder.token != seen:
                    _log.info("Failover lock acquired: %s", engine_id)
                    return holder.token
                seen = holder.token


class _Collected(FlockFailoverLock):
    """Lets go when the object is not needed any more. Only after a takeover, so that the run without the fault is right."""

    def __del__(self) -> None:
        if self.was_contended:
            self.release_nowait()


class _TrustsText(FlockFailoverLock):
    """Takes the name in the file for whoever has the lock."""

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:  # noqa: ASYNC109
        del timeout
        while True:
            if await self.owner() is None:
                with contextlib.suppress(FailoverLockContended):
                    return await super().acquire(engine_id, poll_interval, 0)
            await asyncio.sleep(_LOOK_S)


class _Steals(FlockFailoverLock):
    """Breaks the lock of a holder that is stopped."""

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:  # noqa: ASYNC109
        del timeout
        while True:
            with contextlib.suppress(FailoverLockContended):
                return await super().acquire(engine_id, poll_interval, _LOOK_S)
            holder = await self.holder()
            if holder is not None and holder.holds and is_stopped(holder.identity.pid):
                self._path.unlink(missing_ok=True)


class _BlindFencer(Fencer):
    """Takes the lock from whoever misses its deadline, and kills nobody."""

    async def _fence(self, record: Record, identity: Identity) -> None:
        del identity
        _log.error("%s is silent: its lock is broken", record.engine_id)
        self._path.unlink(missing_ok=True)


_LOCKS: dict[str, type[FlockFailoverLock]] = {
    "unlinked-lock": _Unlinked,
    "inherited-lock": _Inherited,
    "presumed-lock": _Presumed,
    "collected-lock": _Collected,
    "trusted-text": _TrustsText,
    "stolen-lock": _Steals,
}


def lock_of(bug: str, path: Path, heartbeat_s: float | None) -> FlockFailoverLock:
    """The lock of an engine, with that bug if it is one of a lock."""
    return _LOCKS.get(bug, FlockFailoverLock)(path, heartbeat_s=heartbeat_s)


def fencer_of(bug: str, path: Path, deadline_s: float) -> Fencer:
    """The fencer of an engine that waits."""
    return (_BlindFencer if bug == "blind-fencer" else Fencer)(path, deadline_s=deadline_s)


def poll_interval(bug: str) -> float:
    """Seconds; a lock that is broken is to be noticed while the run lasts."""
    return _LOOK_S if bug == "blind-fencer" else 1.0


def forgets(bug: str, lock: Any) -> Any:
    """What a worker keeps of a lock that it has acquired."""
    return lock if bug != "collected-lock" else None


def takes_turn(bug: str, lock: FlockFailoverLock | None, engine: EngineChild) -> None:
    """An engine has taken over, and is about to serve."""
    if bug == "released-lock" and lock is not None:
        lock.release_nowait()
    if bug == "collected-lock":
        gc.collect()
    if bug == "other-weights":
        engine.submit = partial(_otherwise, engine.submit)  # type: ignore[method-assign]


def _otherwise(submit: Callable[..., None], name: str, ids: Any, max_tokens: int, seed: int, **how: Any) -> None:
    submit(name, ids, max_tokens, seed + 1, **how)
