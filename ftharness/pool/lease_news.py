"""Waiting for the end of a lease: its holder is told at once, and need not ask again and again."""

import asyncio

from ftharness.pool.changes import Change
from ftharness.pool.leases import Lease
from ftharness.pool.registry import Registry


class LeaseNews:
    """Those who wait for leases to end.

    Args:
        registry: Whose leases.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._closed = False
        registry.subscribe(self._changed)

    async def until_over(self, lease_id: str, deadline_s: float) -> Lease:
        """The lease when it is over, or as it is after so many seconds.

        Raises:
            UnknownLease: There is none.
        """
        lease = self._registry.lease(lease_id)
        if lease.state != "held" or self._closed or not deadline_s:
            return lease
        over = asyncio.Event()
        self._waiting.setdefault(lease_id, set()).add(over)
        try:
            async with asyncio.timeout(deadline_s):
                await over.wait()
        except TimeoutError:
            pass
        finally:
            waiting = self._waiting.get(lease_id, set())
            waiting.discard(over)
            if not waiting:
                self._waiting.pop(lease_id, None)
        return self._registry.lease(lease_id)

    def close(self) -> None:
        """The manager ends: whoever waits is answered with what there is."""
        self._closed = True
        for waiting in self._waiting.values():
            for over in waiting:
                over.set()

    def _changed(self, change: Change) -> None:
        if change.what == "lease" and change.after != "held":
            for over in self._waiting.get(change.lease_id, ()):
                over.set()
