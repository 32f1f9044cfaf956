"""From an engine's start to its being ready, and whether it stays so."""

from collections.abc import Callable
from http import HTTPStatus

import msgspec

from ftharness.pool.config import PoolConfig
from ftharness.pool.engine_states import HOLDING
from ftharness.pool.house import House
from ftharness.pool.prepared import PreparedEngine, Told
from ftharness.pool.probe import CannotLook, look
from ftharness.pool.warmup import NotWarm, warm_up
from ftharness.process.http_get import NoAnswer, http_get

# While it starts, nothing tells when it answers: it is asked, soon at first.
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5


class Readiness:
    """Looks after one run of an engine.

    Args:
        engine_id: Which engine.
        config: Of its pool.
        prepared: How it was started.
        house: The clock, and who is told.
        is_ready: Called when it is ready for the first time.

    Attributes:
        flaw: What its log says is wrong with it for good; as long as there is something, no answer makes it ready.
    """

    def __init__(
        self,
        engine_id: str,
        config: PoolConfig,
        prepared: PreparedEngine,
        house: House,
        is_ready: Callable[[], None],
    ) -> None:
        self.flaw = ""
        self._engine_id = engine_id
        self._config = config
        self._prepared = prepared
        self._house = house
        self._registry = house.registry
        self._is_ready = is_ready
        self._version = prepared.version
        self._slots = prepared.slots

    async def look_after(self, *, warm: bool) -> str:
        """See it become ready, and ask how it is for as long as it lives.

        Args:
            warm: Whether it is new, and has to be made warm first.

        Returns:
            Why it has to be started again.
        """
        reason = await self._become_ready(warm=warm)
        return reason or await self._stay_ready()

    async def _become_ready(self, *, warm: bool) -> str:
        """Returns why it cannot; "" when it is."""
        # One that was adopted with its leases keeps them.
        if self._registry.engine(self._engine_id).state not in HOLDING:
            self._registry.engine_state(self._engine_id, "starting")
        reason = await self._until_it_answers()
        if reason:
            return reason
        self._version = str(await self._told(self._prepared.version_at) or self._version)
        slots = await self._told(self._prepared.slots_at)
        if isinstance(slots, int) and slots > 0:
            self._slots = slots
        speeds = []
        if warm:
            self._registry.engine_state(self._engine_id, "warming")
            try:
                speeds = await warm_up(self._prepared.url, self._prepared.model_id, self._config.warmup)
            except NotWarm as error:
                return f"the warm-up failed: {error}"
        if self.flaw:
            return self.flaw
        self._say_ready()
        for speed in speeds:
            self._registry.measured(
                self._engine_id, tokens_per_s=speed.tokens_per_s, first_token_ms=speed.first_token_ms
            )
        self._is_ready()
        return ""

    async def _until_it_answers(self) -> str:
        until = self._house.clock() + self._config.ready_timeout_s
        pause_s = _FIRST_PAUSE_S
        while seen := await self._first_look():
            if self._house.clock() >= until:
                return f"it was not ready within {self._config.ready_timeout_s:g} s: {seen}"
            await self._house.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        return ""

    async def _stay_ready(self) -> str:
        """Ask, and say what is seen; returns why it has to be started again."""
        probe = self._config.probe
        failures, blind = 0, False
        while True:
            await self._house.sleep(probe.interval_s)
            try:
                seen = await self._look()
            except CannotLook as error:
                if not blind:
                    self._advise(str(error))
                blind = True
                continue
            blind = False
            if not seen:
                failures = 0
                self._registry.heartbeat(self._engine_id)
                if self._registry.engine(self._engine_id).state == "unready":
                    self._say_ready()
                continue
            failures += 1
            self._house.log.event(
                "probe_failed", pool_id=self._config.id, engine_id=self._engine_id, reason=seen, failures=failures
            )
            if failures >= probe.unready_after:
                leasable = self._house.fail_open and not self.flaw
                self._registry.engine_unready(self._engine_id, seen, leasable=leasable)
            if 0 < probe.restart_after <= failures and self.flaw:
                return f"its log names an error, and {failures} probes were waited for: {self.flaw}"
            if 0 < probe.restart_after <= failures:
                return f"its probe failed {failures} times in a row: {seen}"

    async def _first_look(self) -> str:
        try:
            return await self._look()
        except CannotLook as error:
            return str(error)

    async def _look(self) -> str:
        """What is wrong with it; "" where it is well.

        Raises:
            CannotLook: As it says.
        """
        url = self._prepared.url + (self._config.probe.path or self._prepared.health_path)
        seen = await look(url, self._config.probe.timeout_s)
        return self.flaw or seen  # what its log said meanwhile counts

    def _advise(self, reason: str) -> None:
        self._house.log.event("advisory", pool_id=self._config.id, engine_id=self._engine_id, reason=reason)

    def _say_ready(self) -> None:
        self._registry.engine_ready(
            self._engine_id,
            url=self._prepared.url,
            engine_version=self._version,
            model_id=self._prepared.model_id,
            slots=self._slots,
            supports=self._prepared.supports,
        )

    async def _told(self, where: Told | None) -> object:
        """What it says of itself; None where it does not."""
        if where is None:
            return None
        try:
            status, body = await http_get(self._prepared.url + where.path, deadline_s=self._config.probe.timeout_s)
            return where.of(msgspec.json.decode(body)) if status == HTTPStatus.OK else None
        except (NoAnswer, msgspec.DecodeError):
            return None
