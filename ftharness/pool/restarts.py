"""When an engine that has ended is started again: after a wait that grows, and not at all while a storm of restarts lasts."""

import asyncio

from ftharness.pool.backoff import Backoff
from ftharness.pool.breaker import Breaker
from ftharness.pool.config import PoolConfig
from ftharness.pool.house import House

_BY_HAND = "it was reset by hand"


class Restarts:
    """The restarts of one engine.

    Args:
        engine_id: Whose.
        config: Of its pool: backoff and breaker.
        house: The clock, and who is told.
    """

    def __init__(self, engine_id: str, config: PoolConfig, house: House) -> None:
        self._engine_id = engine_id
        self._pool_id = config.id
        self._house = house
        self._clock = house.clock
        self._backoff = Backoff(config.backoff, house.random)
        self._breaker = Breaker(config.breaker)
        self._reset = asyncio.Event()

    @property
    def breaker_state(self) -> str:
        """``closed``, ``open`` or ``half_open``."""
        return self._breaker.state

    def is_up(self) -> None:
        """It is started, well and warm."""
        self._backoff.started(self._clock())
        if self._breaker.held():
            self._say("breaker_closed", reason="the engine is up")

    async def wait(self, reason: str) -> None:
        """Wait until it may be started again.

        Args:
            reason: Why it has to be.
        """
        self._reset.clear()
        delay_s = self._backoff.failed(self._clock())
        if self._breaker.restart(self._clock()):
            delay_ms = round(delay_s * 1000)
            self._house.registry.engine_state(self._engine_id, "backoff", reason=reason, backoff_ms=delay_ms)
            self._say("restart_scheduled", delay_ms=delay_ms, reason=reason)
            await self._pause(delay_s)
            return
        self._house.registry.engine_state(
            self._engine_id, "broken", reason=f"too many restarts; the last one: {reason}"
        )
        self._say("breaker_open", reason=reason)
        await self._until_tried()

    def reset_by_hand(self) -> None:
        """Somebody has seen to it, and says so."""
        self._say("backoff_reset", reason=_BY_HAND)
        self.reset(_BY_HAND)

    def reset(self, reason: str) -> None:
        """All is as at first, and a wait is over."""
        self._backoff.reset()
        if self._breaker.state != "closed":
            self._breaker.reset()
            self._say("breaker_closed", reason=reason)
        self._reset.set()

    async def _until_tried(self) -> None:
        at = self._breaker.half_open_at
        if at is None:
            await self._reset.wait()
            return
        await self._pause(at - self._clock())
        if self._breaker.restart(self._clock()) and self._breaker.state == "half_open":
            self._say("breaker_half_open")

    async def _pause(self, seconds: float) -> None:
        """So long, or until the reset."""
        both = [asyncio.ensure_future(self._house.sleep(max(0.0, seconds))), asyncio.ensure_future(self._reset.wait())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()

    def _say(self, event: str, **says: object) -> None:
        self._house.log.event(event, pool_id=self._pool_id, engine_id=self._engine_id, **says)
