"""The engines of one pool together: up, down, drained, serving another model."""

import asyncio
from typing import Literal

from ftharness.pool.house import House
from ftharness.pool.operations import OperationFailed, Progress
from ftharness.pool.pool_model import PoolModel
from ftharness.pool.slot import SlotHeld
from ftharness.pool.staging import StagingError
from ftharness.pool.supervisor import Supervisor

OnTimeout = Literal["stop", "abort"]


class PoolEngines:
    """One pool's engines.

    Args:
        model: What it serves at first.
        supervisors: Of its engines.
        house: What all have in common.

    Attributes:
        model: What it serves.
        supervisors: By engine.
    """

    def __init__(self, model: PoolModel, supervisors: dict[str, Supervisor], house: House) -> None:
        self.model = model
        self.supervisors = supervisors
        self._house = house
        self._id = model.config.id

    async def up(self) -> str:
        """Have all run; returns "" when they are ready, or why one is not."""
        return _told(await self._start(self.model))

    async def down(self, reason: str) -> None:
        """Have none run.

        Raises:
            SlotHeld: The kernel does not let one be killed; the others are down.
        """
        ends = await asyncio.gather(*(one.down(reason) for one in self.supervisors.values()), return_exceptions=True)
        failed = [end for end in ends if isinstance(end, BaseException)]
        if failed:
            raise failed[0]

    async def preload(self, progress: Progress) -> str:
        """Have all run, as an operation.

        Raises:
            OperationFailed: One did not become ready.
        """
        progress("starting")
        reason = await self.up()
        if reason:
            raise OperationFailed(reason)
        return "ready"

    async def resume(self, progress: Progress) -> str:
        """Take leases again, and have all run.

        Raises:
            OperationFailed: One did not become ready.
        """
        self._house.registry.draining(self._id, draining=False)
        return await self.preload(progress)

    def reset_breakers(self) -> None:
        """Those that wait are started now."""
        for supervisor in self.supervisors.values():
            supervisor.reset_breaker()

    async def drain(self, progress: Progress, deadline_s: float, on_timeout: OnTimeout) -> str:
        """Take no more leases, wait for those that there are, and have none run.

        Raises:
            OperationFailed: There were some at the deadline, and the drain was to be aborted then.
        """
        began = self._house.clock()
        outcome = "cancelled"
        try:
            outcome = await self._empty(progress, deadline_s, on_timeout)
            if outcome == "aborted":
                held = self._house.registry.pool(self._id).held
                self._house.registry.draining(self._id, draining=False)
                raise OperationFailed(
                    f"{held} of the leases of pool {self._id!r} were not given back within {deadline_s:g} s; "
                    "it takes leases again",
                    outcome=outcome,
                )
            await self.down("drained" if outcome == "drained" else "the drain's deadline is over")
        except asyncio.CancelledError:
            raise
        except SlotHeld as error:
            outcome = "failed"
            raise OperationFailed(str(error)) from error
        finally:
            self._ended("drain_ended", outcome, began)
        return outcome

    async def reload(self, progress: Progress, new: PoolModel, *, was_draining: bool) -> str:
        """Serve another model; the old one again where that fails.

        It is staged while leases end: a model that cannot be had costs the old engine nothing. Where no engine was to run
        before, drained or never started, there is none to come back to: none runs afterwards, and the outcome is ``failed``.

        Args:
            progress: Gets what it is at.
            new: The other model.
            was_draining: Whether the pool took no leases before: as it stays where nothing is served.

        Raises:
            OperationFailed: The other model is not served; says what is instead.
        """
        began = self._house.clock()
        outcome = "cancelled"
        self._house.log.event("reload_begun", pool_id=self._id, model=new.reference)
        try:
            outcome = await self._reload(progress, new, was_draining=was_draining)
        except OperationFailed as error:
            outcome = error.outcome
            self._house.registry.error(self._id, str(error))
            raise
        finally:
            self._ended("reload_ended", outcome, began)
        return outcome

    async def _reload(self, progress: Progress, new: PoolModel, *, was_draining: bool) -> str:
        old = self.model
        was_up = self._is_up
        staging = asyncio.ensure_future(new.staged())
        emptying = asyncio.ensure_future(self._empty(progress, new.config.drain_deadline_s, "stop", event=False))
        try:
            await asyncio.wait({staging, emptying}, return_when=asyncio.FIRST_EXCEPTION)
            if staging.done():
                staging.result()
            await emptying
            await staging
        except StagingError as error:
            self._house.registry.draining(self._id, draining=was_draining)
            failed = f"reload to {new.reference}: {error}"
            if not was_up:
                raise self._down_as_before(failed, was_draining=was_draining) from error
            raise OperationFailed(
                f"{failed}; {old.reference or 'the old engine'} was not touched", outcome="rolled_back"
            ) from error
        except asyncio.CancelledError:
            self._house.registry.draining(self._id, draining=was_draining)
            raise
        finally:
            for one in (staging, emptying):
                one.cancel()
            await asyncio.gather(staging, emptying, return_exceptions=True)
        try:
            return await self._change(progress, old, new, was_up=was_up, was_draining=was_draining)
        finally:
            self._house.registry.draining(self._id, draining=was_draining and not self._is_up)

    async def _change(
        self, progress: Progress, old: PoolModel, new: PoolModel, *, was_up: bool, was_draining: bool
    ) -> str:
        try:
            progress("stopping the old engine")
            await self.down("reload")
            progress("starting the new engine")
            self.model = new
            reason = _told(await self._start(new, retry=False))
            if not reason:
                return "succeeded"
            progress("the old engine comes back" if was_up else "stopping the new engine")
            await self.down(f"the reload failed: {reason}")
        except SlotHeld as error:
            raise OperationFailed(f"reload to {new.reference}: {error}") from error
        except asyncio.CancelledError:
            self.model = old
            for one in self.supervisors.values():
                await one.down("the reload was called off")
                if was_up:
                    one.up(old)
            raise
        self.model = old
        failed = f"reload to {new.reference}: {reason}"
        if not was_up:
            raise self._down_as_before(failed, was_draining=was_draining)
        again = _told(await self._start(old))
        if again:
            raise OperationFailed(f"{failed}; the old engine does not come back either: {again}; it is tried again")
        raise OperationFailed(f"{failed}; {old.reference or 'the old engine'} serves again", outcome="rolled_back")

    @property
    def _is_up(self) -> bool:
        """Whether an engine of it is to run."""
        return any(one.is_wanted for one in self.supervisors.values())

    def _down_as_before(self, failed: str, *, was_draining: bool) -> OperationFailed:
        """A reload has failed, and there was nothing to go back to."""
        by = "resume" if was_draining else "preload"
        what = self.model.reference or "its engines"
        return OperationFailed(f"{failed}; no engine of pool {self._id!r} runs, as before: {by} starts {what}")

    async def _empty(self, progress: Progress, deadline_s: float, on_timeout: OnTimeout, *, event: bool = True) -> str:
        """Take no more leases, and wait for those that there are; ``drained``, ``stopped`` or ``aborted``."""
        registry = self._house.registry
        if event:
            self._house.log.event(
                "drain_begun", pool_id=self._id, deadline_ms=round(deadline_s * 1000), on_timeout=on_timeout
            )
        registry.draining(self._id, draining=True)
        if registry.idle(self._id):
            return "drained"
        progress(f"waits for {registry.pool(self._id).held} leases")
        idle = asyncio.ensure_future(registry.until_idle(self._id))
        over = asyncio.ensure_future(self._house.sleep(deadline_s))
        try:
            await asyncio.wait({idle, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            idle.cancel()
            over.cancel()
        if registry.idle(self._id):
            return "drained"
        if on_timeout == "abort":
            return "aborted"
        registry.revoke(self._id, "the drain's deadline is over")
        return "stopped"

    async def _start(self, model: PoolModel, *, retry: bool = True) -> dict[str, str]:
        """What became of the first try of each engine."""
        waiting = {engine_id: one.up(model, retry=retry) for engine_id, one in self.supervisors.items()}
        await asyncio.wait(waiting.values())
        return {engine_id: future.result() for engine_id, future in waiting.items()}

    def _ended(self, event: str, outcome: str, began: float) -> None:
        duration_ms = round((self._house.clock() - began) * 1000)
        self._house.log.event(event, pool_id=self._id, outcome=outcome, duration_ms=duration_ms)


def _told(reasons: dict[str, str]) -> str:
    return "; ".join(f"{engine_id}: {reason}" for engine_id, reason in reasons.items() if reason)
