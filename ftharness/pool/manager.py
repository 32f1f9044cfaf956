"""The manager: all pools of one state folder, in one event loop."""

import asyncio
import logging
import random as random_module
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ftharness.pool.adoption import StateError, StateFolder
from ftharness.pool.changes import Change
from ftharness.pool.config import ManagerConfig, PoolConfig
from ftharness.pool.devices import discover
from ftharness.pool.expiry import Expiry
from ftharness.pool.house import ENDS, House, Sleep
from ftharness.pool.lease_file import LEASES
from ftharness.pool.log_events import Log, Silent
from ftharness.pool.operations import Busy, Kind, Operation, Operations, Progress
from ftharness.pool.pool_engines import OnTimeout, PoolEngines
from ftharness.pool.pool_model import PoolModel
from ftharness.pool.predecessor import take_over_engines, take_over_leases
from ftharness.pool.registry import Registry
from ftharness.pool.slot import SlotHeld
from ftharness.pool.supervisor import Supervisor

_LOG = logging.getLogger(__name__)
#: A pool that still starts can be drained and reloaded: whoever waits for the start is told that it was called off.
_A_START: Final[tuple[Kind, ...]] = ("preload",)
#: How often the memory of devices is asked for, where there are devices; nothing tells of it.
_DEVICES_S = 10.0


class NotStarted(Exception):  # noqa: N818 - says what is the case
    """A pool could not be started, and nobody goes on trying; the message says why."""


class Manager:
    """Keeps the pools of a configuration, as an asynchronous context.

    At its begin it takes the state folder, finds what an earlier manager left, and starts the pools that start by themselves.
    At its end engines are stopped, in order, unless they are to survive it. This class is what is embedded; the HTTP API and
    the command line are around it.

    Args:
        config: What to keep.
        registry: Of its pools; None: a new one, of the devices that there are.
        log: Who is told.
        clock: Seconds, monotonic.
        sleep: By the same clock.
        random: For the jitter of waits.

    Attributes:
        config: The same.
        registry: What is known, and who may have what.
        operations: What is under way.
        failed: Done, with why, when a pool could not be started and the configuration says to end then (``fail_mode = "fast"``).
    """

    def __init__(
        self,
        config: ManagerConfig,
        *,
        registry: Registry | None = None,
        log: Log | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        random: random_module.Random | None = None,
    ) -> None:
        self.config = config
        self.registry = Registry(config.pools, discover(), clock=clock) if registry is None else registry
        self.operations = Operations(lambda: int(time.time() * 1000))
        self.failed: asyncio.Future[str]
        self._log = log or Silent()
        self._clock = clock
        self._state = StateFolder(Path(config.state_dir))
        self._house = House(
            registry=self.registry,
            log=self._log,
            clock=clock,
            sleep=sleep,
            random=random or random_module.Random(),  # noqa: S311 - jitter is no secret
            state_dir=self._state.path,
            check_state=self._state.check,
            survive=config.engines_survive,
            fail_open=config.fail_mode == "open",
        )
        self._pools: dict[str, PoolEngines] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._end = ExitStack()

    async def __aenter__(self) -> Self:
        """Begin.

        Raises:
            StateError: The state folder is another manager's, or cannot be used.
            SlotHeld: An earlier manager's engine is left, and cannot be ended.
        """
        self.failed = asyncio.get_running_loop().create_future()
        with ExitStack() as end:
            end.enter_context(self._state)
            self._pools = {config.id: self._pool(config) for config in self.config.pools}
            try:
                gone = await take_over_engines(self._state, self._pools.values(), self._house)
                take_over_leases(self._state.path / LEASES, gone, self._house, end)
            except OSError as error:
                raise StateError(
                    f"what an earlier manager left in {self._state.path} cannot be told: {error}"
                ) from error
            end.enter_context(Expiry(self.registry, self._clock))
            self._end = end.pop_all()
        for pool_id, pool in self._pools.items():
            if pool.model.config.preload or any(one.process for one in pool.supervisors.values()):
                self._keep(self._preload_first(pool_id))
        if self.registry.devices.usable:
            self._keep(self._watch_devices())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: what is under way is called off, leases end, engines are stopped, or left to the next manager."""
        try:
            for task in self._tasks:
                task.cancel()
            await self.operations.close()
            self.end_leases()
            await asyncio.gather(*(self._leave(pool) for pool in self._pools.values()))
        finally:
            self._end.close()

    def end_leases(self) -> None:
        """Grant none any more, and take those back whose engines end with us: while whoever holds one can still be told."""
        for pool_id in self._pools:
            self.registry.draining(pool_id, draining=True)
            if not self._house.survive:
                self.registry.revoke(pool_id, ENDS)

    def announce(self, url: str) -> None:
        """Say where it serves, for whoever wants the same state folder."""
        self._state.announce(url)

    def pool(self, pool_id: str) -> PoolEngines:
        """One pool's engines.

        Raises:
            UnknownPool: There is none of that name.
        """
        return self._pools[self.registry.pool(pool_id).id]

    async def until_ready(self, pool_id: str) -> None:
        """Wait until an engine of a pool can be leased.

        Raises:
            UnknownPool: There is none of that name.
            NotStarted: A pool cannot be started, and the configuration says to end then.
        """
        if self.registry.pool(pool_id).ready:
            return
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def hear(change: Change) -> None:
            if (change.pool_id, change.what, change.after) == (pool_id, "ready", "true") and not ready.done():
                ready.set_result("")

        forget = self.registry.subscribe(hear)
        try:
            await asyncio.wait((ready, self.failed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            forget()
        if not ready.done():
            raise NotStarted(self.failed.result())

    def preload(self, pool_id: str) -> Operation:
        """Begin to stage a pool's model and start its engines.

        Raises:
            UnknownPool: There is none of that name.
            Busy: It is at something else.
        """
        return self.operations.begin("preload", pool_id, self.pool(pool_id).preload)

    def drain(self, pool_id: str, deadline_s: float | None = None, on_timeout: OnTimeout = "stop") -> Operation:
        """Begin to empty a pool: no new leases; when those that there are have ended, its engines are stopped.

        Args:
            pool_id: Which.
            deadline_s: Seconds that leases may take to end; None: as configured.
            on_timeout: What is done when some have not: ``stop``: they are revoked and the engines stopped; ``abort``: the pool
                takes leases again.

        Raises:
            UnknownPool: There is none of that name.
            Busy: It is at something else.
        """
        pool = self.pool(pool_id)
        limit_s = pool.model.config.drain_deadline_s if deadline_s is None else deadline_s
        operation = self.operations.begin(
            "drain", pool_id, lambda progress: pool.drain(progress, limit_s, on_timeout), instead_of=_A_START
        )
        self.registry.draining(pool_id, draining=True)  # from now on, not from its first step on
        return operation

    def resume(self, pool_id: str) -> Operation:
        """Begin to take leases again, after a drain or in the middle of one, which is called off.

        Raises:
            UnknownPool: There is none of that name.
            Busy: It is being reloaded.
        """
        pool = self.pool(pool_id)
        return self.operations.begin("resume", pool_id, pool.resume, instead_of=(*_A_START, "drain"))

    def reload(self, pool_id: str, new_model_ref: str) -> Operation:
        """Begin to serve another model; if its engine fails, the old one comes back.

        Args:
            pool_id: Which.
            new_model_ref: The model, as in the configuration; ``@sha256:…`` behind it is its digest.

        Raises:
            UnknownPool: There is none of that name.
            Busy: It is at something else.
            ValueError: There can be no such model.
        """
        pool = self.pool(pool_id)
        new = pool.model.other(new_model_ref)
        was_draining = self.registry.pool(pool_id).draining
        operation = self.operations.begin(
            "reload",
            pool_id,
            lambda progress: pool.reload(progress, new, was_draining=was_draining),
            instead_of=_A_START,
        )
        self.registry.draining(pool_id, draining=True)
        return operation

    def reset_breaker(self, pool_id: str) -> Operation:
        """Begin to allow restarts again after a storm of them: what waits is started now.

        Raises:
            UnknownPool: There is none of that name.
            Busy: It is at something else.
        """
        pool = self.pool(pool_id)

        async def reset(progress: Progress) -> str:
            del progress
            pool.reset_breakers()
            return "closed"

        return self.operations.begin("reset_breaker", pool_id, reset)

    def operation(self, operation_id: str) -> Operation:
        """An operation, as it is.

        Raises:
            UnknownOperation: There is none.
        """
        return self.operations.get(operation_id)

    # How it is done.

    def _pool(self, config: PoolConfig) -> PoolEngines:
        model = PoolModel(config, self._log)
        supervisors = {
            engine_id: Supervisor(engine_id, model, self._state.slot(engine_id), self._house)
            for engine_id in config.engine_ids
        }
        return PoolEngines(model, supervisors, self._house)

    async def _preload_first(self, pool_id: str) -> None:
        with suppress(Busy):  # somebody was faster
            self.preload(pool_id)
        begun = self.operations.running(pool_id)
        if begun is None or begun.kind != "preload":
            return
        operation = await self.operations.until_over(begun.id)
        if operation.state != "failed" or operation.detail == "cancelled":
            return
        if self.registry.pool(pool_id).ready:
            return  # by another engine; the one that failed is tried again, as after any crash
        if self.config.fail_mode == "fast" and not self.failed.done():
            self.failed.set_result(f"pool {pool_id!r} cannot be started: {operation.error}")

    async def _leave(self, pool: PoolEngines) -> None:
        try:
            if self.config.engines_survive:
                await asyncio.gather(*(one.leave() for one in pool.supervisors.values()))
            else:
                await pool.down(ENDS)
        except SlotHeld as error:
            _LOG.error("%s", error)

    async def _watch_devices(self) -> None:
        while True:
            await asyncio.sleep(_DEVICES_S)
            self.registry.devices_seen(await asyncio.to_thread(discover))

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
