"""One engine of a pool, kept as it is wanted: started, watched, started again; or down."""

import asyncio
import logging
from contextvars import Context
from typing import Any

from ftharness.pool.engine_errors import recognise
from ftharness.pool.engine_process import EngineProcess
from ftharness.pool.engine_states import HOLDING
from ftharness.pool.house import ENDS, House
from ftharness.pool.launch import NOT_STARTED, launch, remembered, stop_container
from ftharness.pool.pool_model import PoolModel
from ftharness.pool.prepared import PreparedEngine
from ftharness.pool.readiness import Readiness
from ftharness.pool.restarts import Restarts
from ftharness.pool.slot import Slot, SlotHeld

_LOG = logging.getLogger(__name__)
_LAST_LINES = 3
_STATUS_S = 2.0  # for a shim to say how an engine ended; one that lives and is not frozen takes some 0.2 ms


class Supervisor:
    """Keeps one engine.

    Args:
        engine_id: Which.
        model: What it is to serve.
        slot: Where it runs.
        house: What all have in common.
    """

    def __init__(self, engine_id: str, model: PoolModel, slot: Slot, house: House) -> None:
        self.engine_id = engine_id
        self.slot = slot
        self._model = model
        self._house = house
        self._registry = house.registry
        self._pool_id = model.config.id
        self._restarts = Restarts(engine_id, model.config, house)
        self._engine: EngineProcess | None = None
        self._prepared: PreparedEngine | None = None
        self._adopted = False
        self._readiness: Readiness | None = None
        self._life: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[str]] = []

    @property
    def process(self) -> EngineProcess | None:
        """Its process, where there is one."""
        return self._engine

    @property
    def breaker_state(self) -> str:
        """``closed``, ``open`` or ``half_open``."""
        return self._restarts.breaker_state

    @property
    def is_wanted(self) -> bool:
        """Whether it is to run."""
        return self._life is not None and not self._life.done()

    def adopt(self, engine: EngineProcess) -> bool:
        """Take an engine that an earlier manager started; False: it is not the one that is wanted."""
        prepared = remembered(engine.about, self._model, self.engine_id, self._house)
        if prepared is None:
            return False
        engine.survive(yes=self._house.survive)
        self._registry.engine_runs(self.engine_id, engine.process)
        self._engine, self._prepared, self._adopted = engine, prepared, True
        return True

    def up(self, model: PoolModel, *, retry: bool = True) -> asyncio.Future[str]:
        """Have it run, and keep it so.

        Args:
            model: What it is to serve.
            retry: Whether it is started again where it does not become ready the first time.

        Returns:
            Done when it is ready, with "", or when a start has failed, with the reason.
        """
        settled: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        state = self._registry.engine(self.engine_id).state
        if self.is_wanted:
            if state in ("ready", "broken"):
                settled.set_result("" if state == "ready" else self._registry.engine(self.engine_id).reason)
                return settled
        else:
            self._model = model
            # A context of its own: its later crashes are no work of the call that had it started.
            self._life = asyncio.get_running_loop().create_task(
                self._live(retry=retry), name=f"engine {self.engine_id}", context=Context()
            )
        self._waiting.append(settled)
        return settled

    async def down(self, reason: str, *, grace_s: float | None = None) -> None:
        """Have it not run; its leases are revoked.

        Args:
            reason: Why.
            grace_s: Seconds from SIGTERM to SIGKILL; None: as configured.

        Raises:
            SlotHeld: The kernel does not let it be killed.
        """
        await self._end_life()
        self._settle(reason)
        engine = self._engine
        if engine is not None:
            if self._registry.engine(self.engine_id).state in HOLDING:
                self._registry.engine_state(self.engine_id, "draining", reason=reason)
            await self._end(engine, reason, self._model.config.stop_grace_s if grace_s is None else grace_s)
        self._restarts.reset(reason)
        self._registry.engine_state(self.engine_id, "stopped", reason=reason)

    async def leave(self) -> None:
        """Let it go on without us."""
        await self._end_life()
        self._settle(ENDS)
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def reset_breaker(self) -> None:
        """Somebody has seen to it: where it waits, it is started now."""
        self._restarts.reset_by_hand()

    def line(self, line: str) -> None:
        """A line of its output."""
        error = recognise(line)
        if error is None or self._readiness is None or self._readiness.flaw:
            return
        reason = f"{error.name}: {line.strip()[:300]}"
        self._readiness.flaw = f"{reason}; {error.remediation}"
        self._say("engine_error", reason=reason, remediation=error.remediation)
        if self._registry.engine(self.engine_id).state in HOLDING:
            self._registry.engine_unready(self.engine_id, self._readiness.flaw)
        self._registry.error(self._pool_id, f"{self.engine_id}: {self._readiness.flaw}")

    async def _end_life(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            life.cancel()
            await asyncio.wait((life,))

    async def _live(self, *, retry: bool) -> None:
        """Start it, see it end, wait, and again."""
        try:
            while True:
                was_found = self._adopted
                reason = await self._one_run()
                if was_found:  # what ended is none of our starts, of which whoever waits wants to know
                    await self._restarts.wait(reason)
                    continue
                was_awaited = bool(self._waiting)
                self._settle(reason)
                if was_awaited and not retry:
                    self._registry.engine_state(self.engine_id, "stopped", reason=reason)
                    return
                await self._restarts.wait(reason)
        except Exception as error:  # noqa: BLE001 - a mistake of ours: it may cost one engine, not the manager
            _LOG.exception("the supervisor of %s", self.engine_id)
            reason = f"{self.engine_id}: the manager's own mistake: {type(error).__name__} {error}"
            self._registry.error(self._pool_id, reason)
            self._registry.engine_state(self.engine_id, "broken", reason=reason)
            self._settle(reason)

    async def _one_run(self) -> str:
        """From its start to its end; returns why it ended."""
        self._readiness = None
        try:
            if self._engine is None:
                self._adopted = False
                self._engine, self._prepared = await launch(
                    self._model, self.engine_id, self.slot, self._house, self.line
                )
                self._registry.engine_runs(self.engine_id, self._engine.process)
                self._say("engine_started", pid=self._engine.pid)
        except NOT_STARTED as error:
            self._model.forget()
            self._registry.error(self._pool_id, f"{self.engine_id}: {error}")
            return str(error)
        engine, prepared = self._engine, self._prepared
        assert prepared is not None
        self._readiness = Readiness(self.engine_id, self._model.config, prepared, self._house, self._is_ready)
        try:
            return await self._until_its_end(engine, self._readiness)
        except SlotHeld as error:
            self._registry.error(self._pool_id, str(error))
            return str(error)

    async def _until_its_end(self, engine: EngineProcess, readiness: Readiness) -> str:
        care = asyncio.ensure_future(readiness.look_after(warm=not self._adopted))
        both: set[asyncio.Future[Any]] = {care, engine.ended}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            care.cancel()
        if not engine.ended.done():
            reason = _outcome(care)
            self._registry.engine_lost(self.engine_id, reason)
            await self._end(engine, reason, self._model.config.stop_grace_s)
            return reason
        self._registry.engine_lost(self.engine_id, "it ended by itself")  # nobody waits for its shim to say how
        await asyncio.wait((engine.exited,), timeout=_STATUS_S)
        how = str((engine.exit or await engine.gone()).how)
        reason = _last_words(how, readiness.flaw, engine.tail(_LAST_LINES))
        self._registry.error(self._pool_id, f"{self.engine_id}: {reason}")
        self._say("engine_lost", exit=how, reason=reason)
        await engine.gone()
        await self._let_go(engine)
        return reason

    def _is_ready(self) -> None:
        self._restarts.is_up()
        self._settle("")

    async def _end(self, engine: EngineProcess, reason: str, grace_s: float) -> None:
        how = await engine.stop(grace_s)
        self._say("engine_stopped", exit=str(how), reason=reason)
        await self._let_go(engine)

    async def _let_go(self, engine: EngineProcess) -> None:
        engine.close()
        self._engine = None
        if self._prepared is not None:
            await stop_container(self._prepared)

    def _settle(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(reason)

    def _say(self, event: str, **says: object) -> None:
        self._house.log.event(event, pool_id=self._pool_id, engine_id=self.engine_id, **says)


def _outcome(care: asyncio.Future[str]) -> str:
    """Why it has to be started again; a mistake of ours in looking after it costs it a restart, and nobody else anything."""
    error = care.exception()
    if error is None:
        return care.result()
    _LOG.error("looking after an engine failed", exc_info=error)
    return f"the manager's own mistake: {type(error).__name__} {error}"


def _last_words(how: str, flaw: str, lines: list[str]) -> str:
    """Why it ended, as far as it said."""
    said = flaw or " | ".join(line.strip() for line in lines if line.strip())[-500:]
    return f"it ended by itself: {how}" + (
        f"; its last lines: {said}" if said and not flaw else f"; {flaw}" if flaw else ""
    )
