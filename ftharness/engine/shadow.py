"""An engine that shares its weights with others: asleep until the lock is its own, then awake, and then it serves.

As Dynamo's workers in shadow mode: what it is told comes by ``ENGINE_ID`` and ``FAILOVER_LOCK_PATH``, its lines are theirs, and
all engines of a group run for the lock from their start, the first one as well.
"""

import argparse
import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

from ftharness.engine import shadow_bugs
from ftharness.engine.engine_child import EngineChild
from ftharness.failover.lock import FailoverLock, FailoverLockError
from ftharness.failover.metrics import FailoverMetrics, create_failover_metrics
from ftharness.failover.states import HEALTHY

_log = logging.getLogger("ftharness.engine.shadow")
LOCK_PATH = "FAILOVER_LOCK_PATH"
ENGINE_ID = "ENGINE_ID"
#: Not Dynamo's: seconds between two heartbeats of whoever holds the lock.
HEARTBEAT_S = "FAILOVER_HEARTBEAT_S"

#: Dynamo's own election: ``elect_and_wake(pause_controller, runtime, lock_path=…, failover_metrics=…)``.
Elect = Callable[..., Any]


class NotAwake(Exception):  # noqa: N818  it names what happened
    """The engine did not wake, and never will in this process; says why."""


class Sleeper:
    """An engine child that is put to sleep and woken: what Dynamo calls a pause controller.

    Args:
        engine: Which.
        wake_s: Seconds that its waking takes.
        fails: Whether it fails at the end of that; asked when it begins.
    """

    def __init__(self, engine: EngineChild, *, wake_s: float, fails: Callable[[], bool]) -> None:
        self._engine = engine
        self._wake_s = wake_s
        self._fails = fails

    async def pause(self, *how: object) -> None:
        """Put it to sleep; returns when it is."""
        del how  # a real engine's levels of sleep
        await self._engine.pause()

    async def resume(self, *how: object) -> None:
        """Wake it; returns when it is awake.

        Raises:
            NotAwake: It is not, and will not be.
            EngineDied: It is gone.
        """
        del how
        reason = await self._engine.resume(self._wake_s, fails=self._fails())
        if reason:
            raise NotAwake(reason)

    def mark_resumed(self) -> None:
        """Nothing more to do."""


class Shadow:
    """One engine's way from its start to its turn.

    Args:
        arguments: The worker's.
        model: What it serves.
        endpoint: Dynamo's, for its page of metrics; None on our own stack.
    """

    def __init__(self, arguments: argparse.Namespace, *, model: str, endpoint: Any = None) -> None:
        self.lock_path = Path(os.environ[LOCK_PATH])
        self.engine_id = os.environ.get(ENGINE_ID, "0")
        self.metrics: FailoverMetrics = create_failover_metrics(
            endpoint, self.engine_id, model, "backend", str(self.lock_path.parent)
        )
        self._wake_s: float = arguments.wake_s
        self._wake_fails: str = arguments.wake_fails
        self._fence_s: float | None = arguments.fence_s
        self._bug: str = arguments.bug
        self._lock: Any = None
        self._took_over = False
        self.metrics.set_state("init")

    @property
    def state(self) -> str:
        """``init``, ``standby``, ``waking``, ``active`` or ``dead``."""
        return self.metrics.state

    @property
    def healthy(self) -> bool:
        """Whether it waits as it should, or serves."""
        return self.state in HEALTHY

    async def take_turn(self, engine: EngineChild, *, asleep: str = "paused") -> str:
        """Sleep until the lock is ours, and wake.

        Cancelled, it lets go of everything.

        Args:
            engine: Awake.
            asleep: How it is told that it sleeps: Dynamo's workers had another word for it.

        Returns:
            Why the engine never will serve: there is no lock to be had, or it is ours and the engine does not wake. "" once
            the engine may be announced.

        Raises:
            EngineDied: It is gone.
        """
        return await self._elected(partial(self._elect, asleep), engine)

    async def take_turn_by(self, elect: Elect, engine: EngineChild, runtime: Any) -> str:
        """The same by Dynamo's own code, which takes the lock from where it imports it."""

        async def election(sleeper: Sleeper) -> Any:
            return await elect(sleeper, runtime, lock_path=str(self.lock_path), failover_metrics=self.metrics)

        return await self._elected(election, engine)

    async def _elected(self, election: Callable[[Sleeper], Any], engine: EngineChild) -> str:
        sleeper = Sleeper(engine, wake_s=self._wake_s, fails=self._does_not_wake)
        await sleeper.pause(1)
        try:
            async with self._fencing():
                # Kept: whoever drops it has it until the process ends, and can never let it go before.
                self._lock = await election(sleeper)
                self._took_over = self._lock is not None and self._lock.was_contended
        except NotAwake as why:
            return f"[Shadow] Wake failed, not registering: {why}"
        except FailoverLockError as error:
            return f"[Shadow] Cannot take the failover lock: {error}"
        if self._bug and self._took_over:
            shadow_bugs.takes_turn(self._bug, self._lock, engine)
            self._lock = shadow_bugs.forgets(self._bug, self._lock)
        return ""

    async def _elect(self, asleep: str, sleeper: Sleeper) -> FailoverLock:
        self.metrics.set_state("standby")
        _log.info("[Shadow] Engine %s, startup probe now passing, waiting for lock", asleep)
        lock = shadow_bugs.lock_of(self._bug, self.lock_path, _heartbeat_s())
        await lock.acquire(f"engine-{self.engine_id}", shadow_bugs.poll_interval(self._bug))
        try:
            _log.info("[Shadow] Lock acquired, waking engine")
            self.metrics.set_state("waking")
            if lock.was_contended:
                self.metrics.record_switch_attempt()
            waking = asyncio.ensure_future(self._wake(sleeper))
            if not (self._bug == "early-registration" and lock.was_contended):
                await waking
        except BaseException:
            lock.release_nowait()
            raise
        return lock

    async def _wake(self, sleeper: Sleeper) -> None:
        await sleeper.resume()
        _log.info("[Shadow] Engine awake, registering with discovery")

    def _does_not_wake(self) -> bool:
        return self._wake_fails == "always" or (self._wake_fails == "takeover" and self.metrics.switching)

    def serves(self) -> None:
        """It is registered: requests may come. Said again, it means nothing."""
        if self.state == "active":
            return
        self.metrics.set_state("active")
        if self._took_over:
            self.metrics.record_switch_success()

    def ends(self) -> None:
        """Nothing is served any more: whoever waits may have the lock now, and need not wait for the process's end."""
        self.metrics.set_state("dead")
        if self._lock is not None:
            self._lock.release_nowait()

    @contextlib.asynccontextmanager
    async def _fencing(self) -> AsyncIterator[None]:
        """Meanwhile a holder that is silent for too long is killed, where that is asked for."""
        if self._fence_s is None:
            yield
            return
        fencer = shadow_bugs.fencer_of(self._bug, self.lock_path, self._fence_s)
        watching = asyncio.create_task(fencer.run())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait([watching])


def _heartbeat_s() -> float | None:
    said = os.environ.get(HEARTBEAT_S)
    return float(said) if said else None


def log_by(write: Callable[[str, str, str], None]) -> None:
    """Has what is logged here, and by the lock, written by ``write(level, logger, message)``."""
    ours = logging.getLogger("ftharness")
    ours.setLevel(logging.INFO)
    ours.addHandler(_Lines(write))


class _Lines(logging.Handler):
    def __init__(self, write: Callable[[str, str, str], None]) -> None:
        super().__init__(logging.INFO)
        self._write_line = write

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        level = "WARN" if record.levelno == logging.WARNING else record.levelname
        self._write_line(level, f"{record.module}.{record.funcName}", record.getMessage())
