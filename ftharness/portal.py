"""The harness's event loop in a thread of its own, so that tests of every kind can use it.

``await ft.client.complete(…)`` works in whatever loop a test has, and a test that blocks its own loop does not stop the
harness from reading.
"""

import asyncio
import threading
from collections.abc import Coroutine, Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Portal:
    """The harness's event loop, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ftharness", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begin ``work`` there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` there, and wait. A Ctrl-C meanwhile cancels it."""
        future = self.start(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Pending(Generic[T]):
    """Something that happens in the harness's loop: ``await`` it in a test's own loop, or ``wait()`` in a plain test."""

    def __init__(self, future: "Future[T]") -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, T]:
        """In any asyncio loop."""
        return asyncio.wrap_future(self._future).__await__()

    def wait(self, timeout_s: float | None = None) -> T:
        """The same, in a test that is not async."""
        return self._future.result(timeout_s)
