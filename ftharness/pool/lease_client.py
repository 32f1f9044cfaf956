"""An engine of a pool in a test: leased, used, hurt if that is the point, and given back.

    async with leased("warm") as engine:
        answer = await client.post(f"{engine.url}/v1/completions", …)
        await engine.kill()
        assert "SIGKILL" in await engine.lost()

The pool starts the next engine while the test goes on, or the next test: no test pays for the start of one that it killed.
"""

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ftharness.pool.auth import checked_token, read_token
from ftharness.pool.calls import Calls, NotDone, NotReached
from ftharness.pool.lease_keeping import keep, path_of
from ftharness.pool_address import DEFAULT_URL, TOKEN_FILE, URL
from ftharness.process.process_table import Entry, read_entry, send_signal

#: Nothing tells who waits for a slot that there is one.
_AGAIN_S = 0.1
#: A lease's shortest time: the API counts it in ms.
_SHORTEST_S = 0.001
#: What time may mend: the others are refused at once.
_PASSING = ("full", "not_ready", "draining")


class EngineGone(Exception):  # noqa: N818 - says what is the case
    """The engine cannot be hurt: it is gone already, or is not on this machine; the message says which."""


class LeasedEngine:
    """An engine that is ours for as long as the lease is held. Made by :func:`leased`.

    Attributes:
        lease: As it was granted: ``id``, ``pool_id``, ``engine_id`` and when it ends unless it is renewed.
        url: Where it serves.
        model_id: What requests call its model.
    """

    def __init__(
        self, calls: Calls, lease: dict[str, Any], process: tuple[int, int] | None, keeping: asyncio.Future[str]
    ) -> None:
        self.lease = lease
        self.url: str = lease["url"]
        self.model_id: str = lease["model_id"]
        self._calls = calls
        self._process = process
        self._keeping = keeping
        self._stopped: Entry | None = None

    async def health(self) -> dict[str, Any]:
        """What the manager knows of it: ``state``, ``pid``, ``start_time``, ``restarts`` and so on."""
        return await _health_of(self._calls, self.lease)

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal the process that was leased, by pidfd, its start time compared: not one that has its slot by now.

        Where an engine has more slots than one, those who lease the others lose it as well.

        Returns:
            Its pid.

        Raises:
            EngineGone: There is no such process here, or the lease is over: it is not ours to hurt.
            NotReached: No manager answers.
        """
        if self._keeping.done():
            raise EngineGone(f"{number.name} was not sent: {self._how_it_ended()}")
        now = await self._calls.call("GET", *path_of(self.lease))
        if now["state"] != "held":
            raise EngineGone(f"{number.name} was not sent: lease {now['id']} was {now['state']}: {now['reason']}")
        pid, start_time = self._process or (0, 0)
        entry = read_entry(pid) if pid else None
        if entry is None or entry.start_time != start_time or not send_signal(entry, number):
            what = f"{self.lease['engine_id']}, pid {pid}, started at tick {start_time}"
            raise EngineGone(f"{number.name} was not sent: {what}, is not a process of this machine, or not any more")
        if number == signal.SIGSTOP:
            self._stopped = entry
        return pid

    async def thaw(self) -> None:
        """Have it go on, where :meth:`kill` has stopped it; also done when the block ends."""
        if self._stopped is not None:
            send_signal(self._stopped, signal.SIGCONT)
            self._stopped = None

    async def lost(self, within_s: float = 10.0) -> str:
        """Wait until the lease is over, though nobody gave it back.

        Returns:
            How it ended: ``lease … was revoked: …``.

        Raises:
            TimeoutError: It is still held after so many seconds.
            EngineGone: It was given back: its block is over.
        """
        if not self._keeping.cancelled():
            try:
                async with asyncio.timeout(within_s):
                    return await asyncio.shield(self._keeping)
            except TimeoutError:
                raise TimeoutError(f"lease {self.lease['id']} was not lost within {within_s:g} s: it is held") from None
        raise EngineGone(self._how_it_ended())

    def _how_it_ended(self) -> str:
        if self._keeping.cancelled():
            return f"lease {self.lease['id']} was given back"
        return self._keeping.result()


@asynccontextmanager
async def leased(
    pool_id: str,
    *,
    url: str = "",
    token: str = "",
    ttl_s: float | None = None,
    holder: str = "",
    within_s: float = 60.0,
) -> AsyncIterator[LeasedEngine]:
    """Lease an engine of a pool, keep the lease for as long as the block runs, and give it back.

    Args:
        pool_id: Of which pool.
        url: The manager's; "": ``FTHARNESS_POOL_URL``, else port 8650 of this machine.
        token: Its bearer token; "": the first line of the file that ``FTHARNESS_POOL_TOKEN_FILE`` names; none where it does not.
        ttl_s: Seconds that the lease outlives us, where we die, from 1 ms on; None: as configured.
        holder: A name for people who read logs; "": the test's, where pytest runs one, and our pid.
        within_s: How long a pool that is full, draining or not ready is waited for.

    Raises:
        NotReached: No manager answers.
        NotDone: There is no lease to be had, or not within that time.
        TokenError: There is no token in that file, or this is none.
        ValueError: There is no such ``ttl_s``.
    """
    if ttl_s is not None and not (_SHORTEST_S <= ttl_s < math.inf):
        raise ValueError(f"ttl_s = {ttl_s}: it is the seconds that a lease lasts, {_SHORTEST_S} or more")
    token = checked_token(token, "token") if token else read_token(os.environ.get(TOKEN_FILE, ""))
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    body: dict[str, Any] = {"holder": (holder or f"{test} ({os.getpid()})".strip())[-256:]}
    if ttl_s is not None:
        body["ttl_ms"] = round(ttl_s * 1000)
    async with Calls(url or os.environ.get(URL, "") or DEFAULT_URL, token) as calls:
        lease = await _acquire(calls, pool_id, body, within_s)
        keeping = asyncio.ensure_future(keep(calls, lease))
        engine = None
        try:
            engine = LeasedEngine(calls, lease, await _process_of(calls, lease), keeping)
            yield engine
        finally:
            if engine is not None:
                await engine.thaw()
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
            with contextlib.suppress(NotReached, NotDone):
                await calls.call("DELETE", *path_of(lease))


async def _process_of(calls: Calls, lease: dict[str, Any]) -> tuple[int, int] | None:
    """The process that a lease is on, which a lease that is over does not say; None: it is not known."""
    engine = await _health_of(calls, lease)
    still = await calls.call("GET", *path_of(lease))
    return (engine["pid"], engine["start_time"]) if engine["pid"] and still["state"] == "held" else None


async def _health_of(calls: Calls, lease: dict[str, Any]) -> dict[str, Any]:
    pool = await calls.call("GET", "v1", "pools", lease["pool_id"], "health")
    return next(dict(engine) for engine in pool["engines"] if engine["id"] == lease["engine_id"])


async def _acquire(calls: Calls, pool_id: str, body: dict[str, Any], within_s: float) -> dict[str, Any]:
    until = time.monotonic() + within_s
    while True:
        try:
            return await calls.call("POST", "v1", "pools", pool_id, "leases", body=body)
        except NotDone as error:
            if error.code not in _PASSING or not time.monotonic() < until:
                raise
        await asyncio.sleep(_AGAIN_S)
