"""The program ``leases``: holders that lease engines of a pool, use them, and give them back, each step told in the log.

What a holder says is what the manager's word is compared with: which leases it got, what became of each, and whether the engine
that it was given answered.
"""

import asyncio
import signal
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from ftharness.client.exchange import exchange
from ftharness.engine.job_log import say

DONE, FAILED = 0, 1
#: Calls of the manager at once; whoever else wants one waits for a turn.
_CALLS = 50


@dataclass(frozen=True, kw_only=True)
class LeasesSettings:
    """What is leased, and how.

    Attributes:
        name: Of the process; holders are called after it.
        data: Its folder; nothing is kept there.
        url: The manager's.
        pool: Of which pool.
        count: Leases after which it ends.
        concurrency: Holders at once, each with one lease at a time.
        hold_ms: How long a lease is held, in milliseconds, beside the use of its engine.
        tokens: Tokens that are asked of the engine with each lease; 0: it is not asked.
        ttl_ms: How long a lease may last, in milliseconds.
        renew_ms: How long a holder waits, in milliseconds, before it renews what it holds, again and again; 0: it does not.
        retry_ms: How long a holder who was refused waits, in milliseconds, before it asks again.
        patience_s: Seconds without an answer of the manager after which it is given up.
        gather: Whether no lease is given back before all holders have had one.
        until_told: Whether it goes on after its count, until SIGTERM.
        control: Whether nobody will tell it, so that it ends with its count all the same.
    """

    name: str
    data: Path
    url: str
    pool: str = "main"
    count: int = 40
    concurrency: int = 4
    hold_ms: float = 50.0
    tokens: int = 0
    ttl_ms: float = 10_000.0
    renew_ms: float = 0.0
    retry_ms: float = 50.0
    patience_s: float = 20.0
    gather: bool = False
    until_told: bool = False
    control: bool = False


class ManagerLost(Exception):  # noqa: N818 - says what is the case
    """The manager has not answered for too long, or what it answered is none of its answers."""


def leases(settings: LeasesSettings) -> int:
    """All leases; the exit status."""
    try:
        return asyncio.run(_Leases(settings).all())
    except* Exception as group:  # noqa: BLE001 - whatever it was, whoever started it is told
        error = group.exceptions[0]
        say("job_failed", error=f"{type(error).__name__}: {error}")
    return FAILED


class _Leases:
    """All holders of one job."""

    def __init__(self, settings: LeasesSettings) -> None:
        self._settings = settings
        self._asked = self._got = self._returned = self._lost = self._held = self._most = 0
        self._told = asyncio.Event()
        self._all_have = asyncio.Event()
        self._turns = asyncio.Semaphore(_CALLS)
        self._leases = f"/v1/pools/{settings.pool}/leases"
        self._out = False

    async def all(self) -> int:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._told.set)
        settings = self._settings
        say("job_started", program="leases", pool=settings.pool, count=settings.count, holders=settings.concurrency)
        async with asyncio.TaskGroup() as holders:
            for place in range(settings.concurrency):
                holders.create_task(self._holder(f"{settings.name}/{place + 1}"))
        say("job_finished", leases=self._got, returned=self._returned, lost=self._lost, most=self._most)
        return DONE

    async def _holder(self, name: str) -> None:
        """Leases, one after the other."""
        while self._goes_on():
            self._asked += 1
            lease = await self._acquire(name)
            if lease is None:
                return
            if self._settings.tokens:
                await self._use(lease)
            if self._settings.gather:
                await self._all_have.wait()
            await self._hold(lease)
            await self._give_back(lease)

    def _goes_on(self) -> bool:
        if self._told.is_set():
            return False
        endless = self._settings.until_told and not self._settings.control
        return endless or self._asked < self._settings.count

    async def _acquire(self, holder: str) -> dict[str, Any] | None:
        """A lease; None: it was told to end before there was one."""
        body = {"holder": holder, "ttl_ms": self._settings.ttl_ms}
        while not self._told.is_set():
            status, told = await self._ask("POST", self._leases, body)
            if status == HTTPStatus.CREATED:
                lease: dict[str, Any] = told
                self._got, self._held = self._got + 1, self._held + 1
                self._most = max(self._most, self._held)
                about = {"engine": lease["engine_id"], "holder": holder, "model": lease["model_id"]}
                say("lease_got", lease=lease["id"], **about)
                if self._got >= min(self._settings.concurrency, self._settings.count):
                    self._all_have.set()
                return lease
            if status != HTTPStatus.CONFLICT:
                raise ManagerLost(f"a lease was asked for, and the answer is {status}: {told}")
            say("lease_refused", holder=holder, why=told["error"]["code"])
            await asyncio.sleep(self._settings.retry_ms / 1000)  # nothing tells when there is one
        return None

    async def _use(self, lease: dict[str, Any]) -> None:
        """Ask the engine for an answer; what it says of itself is its status, or that there was none."""
        ask = {"prompt": lease["id"], "max_tokens": self._settings.tokens}
        try:
            answer = await exchange(lease["url"], "POST", "/v1/completions", ask, within_s=self._settings.patience_s)
            status = str(answer[0])
        except OSError as error:
            status = type(error).__name__
        say("lease_used", lease=lease["id"], engine=lease["engine_id"], status=status)

    async def _hold(self, lease: dict[str, Any]) -> None:
        """What it is leased for; it is renewed meanwhile, until that is refused."""
        settings, loop = self._settings, asyncio.get_running_loop()
        over = loop.time() + settings.hold_ms / 1000
        while (left_s := over - loop.time()) > 0:
            pause_s = settings.renew_ms / 1000
            if not pause_s or pause_s >= left_s:
                await asyncio.sleep(left_s)
                return
            await asyncio.sleep(pause_s)
            body = {"ttl_ms": settings.ttl_ms}
            status, told = await self._ask("PATCH", f"{self._leases}/{lease['id']}", body)
            if status != HTTPStatus.OK:
                return  # it is over: how, is told to who gives it back
            say("lease_renewed", lease=lease["id"], engine=lease["engine_id"], expires_ms=told["expires_ms"])

    async def _give_back(self, lease: dict[str, Any]) -> None:
        """Return it, and say whether it was still ours."""
        status, told = await self._ask("DELETE", f"{self._leases}/{lease['id']}")
        self._held -= 1
        if status == HTTPStatus.NOT_FOUND:  # another manager's than the one that answers now
            state, why = "unknown", told["error"]["message"]
        elif status == HTTPStatus.OK:
            state, why = told["state"], told["reason"]
        else:
            raise ManagerLost(f"a lease was given back, and the answer is {status}: {told}")
        if state == "released":
            self._returned += 1
            say("lease_returned", lease=lease["id"], engine=lease["engine_id"])
        else:
            self._lost += 1
            say("lease_lost", lease=lease["id"], engine=lease["engine_id"], state=state, why=why)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """The manager's answer; while there is none it is asked again, until our patience is at its end.

        Raises:
            ManagerLost: It is.
        """
        loop, settings = asyncio.get_running_loop(), self._settings
        until = loop.time() + settings.patience_s
        while True:
            try:
                async with self._turns:
                    answer = await exchange(settings.url, method, path, body, within_s=settings.patience_s)
            except OSError as error:
                self._is_out(f"{type(error).__name__} {error}")
                if loop.time() > until:
                    raise ManagerLost(f"no answer within {settings.patience_s:g} s: {error}") from error
                await asyncio.sleep(settings.retry_ms / 1000)
            else:
                self._is_out("")
                return answer

    def _is_out(self, why: str) -> None:
        """Whether the manager answers; said once each time that this changes."""
        if bool(why) == self._out:
            return
        self._out = bool(why)
        if why:
            say("manager_lost", why=why)
        else:
            say("manager_back")
