"""A lease that is kept: renewed in time for as long as somebody needs it, and its end noticed at once."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ftharness.pool.calls import Calls, NotDone, NotReached

#: Shorter than the shortest time to live needs, and long enough that a manager that is away is not asked all the time.
_AGAIN_S = 0.2
_LONGEST_WAIT_MS = 30_000


async def keep(calls: Calls, lease: dict[str, Any], say: Callable[[str], None] = lambda _: None) -> str:
    """Renew it in time, until it is over; returns how it ended.

    Args:
        calls: Of the manager.
        lease: As it was granted.
        say: Told when the manager is away.
    """
    ttl_ms = lease["expires_ms"] - lease["granted_ms"]
    until = time.monotonic() + ttl_ms / 1000
    # The answer is put off until the lease is over, or has to be renewed.
    wait_ms = max(1, min(ttl_ms // 3, _LONGEST_WAIT_MS))
    away = False
    while (left_s := until - time.monotonic()) > 0:
        try:
            async with asyncio.timeout(left_s):  # of a manager that hangs no answer says that the time is over
                now = await calls.call("GET", *path_of(lease), wait_ms=wait_ms)
                if now["state"] != "held":
                    return f"lease {lease['id']} was {now['state']}: {now['reason']}"
                asked = time.monotonic()
                await calls.call("PATCH", *path_of(lease), body={"ttl_ms": ttl_ms})
            until, away = asked + ttl_ms / 1000, False
        except TimeoutError:
            break
        except (NotDone, NotReached) as error:
            if isinstance(error, NotDone) and error.code != "not_kept":  # a full disk may be emptied
                return str(error)
            if not away:
                say(f"{error}; trying again until the lease's time is over")
            away = True
            await asyncio.sleep(_AGAIN_S)
    return f"lease {lease['id']} could not be renewed in time"


def path_of(lease: dict[str, Any]) -> tuple[str, ...]:
    """Where the manager has it."""
    return "v1", "pools", lease["pool_id"], "leases", lease["id"]
