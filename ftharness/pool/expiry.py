"""Leases end when their time is over, also where nobody asks: there is a timer for the next one that will."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from types import TracebackType
from typing import Self

from ftharness.pool.changes import Change
from ftharness.pool.registry import Registry


class Expiry:
    """Ends the leases of a registry that nobody renews, as a context.

    Args:
        registry: Whose.
        clock: The registry's.
    """

    def __init__(self, registry: Registry, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._clock = clock
        self._next: tuple[float, asyncio.TimerHandle] | None = None

    def __enter__(self) -> Self:
        """Begin, also with the leases that there are."""
        self._forget = self._registry.subscribe(self._changed)
        self._wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End none any more."""
        self._forget()
        if self._next is not None:
            self._next[1].cancel()

    def _changed(self, change: Change) -> None:
        """A lease was granted: it may be the next one to end by itself."""
        if change.what == "lease" and change.after == "held":
            self._wait()

    def _wait(self) -> None:
        at = self._registry.next_expiry()
        if self._next is not None:
            if at is not None and self._next[0] <= at:
                return  # it is looked again then
            self._next[1].cancel()
            self._next = None
        if at is not None:
            # A context of its own: that it ends is not the doing of the call that had it granted.
            after = max(0.0, at - self._clock())
            self._next = at, asyncio.get_running_loop().call_later(after, self._end_due, context=Context())

    def _end_due(self) -> None:
        self._next = None
        self._registry.expire()
        self._wait()
