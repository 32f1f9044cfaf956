"""The harness's event loop in a thread of its own, so that tests of every kind can use it.

``await ft.client.complete(…)`` works in whatever loop a test has, and a test that blocks its own loop does not stop the
harness from reading.
"""

import asyncio
import contextvars
import threading
from collections.abc import Coroutine, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

T = TypeVar("T")

_ASYNCIO_ONLY = (
    "what ft gives is awaited in asyncio (pytest-asyncio, anyio's asyncio backend, or ftharness's own plugin); "
    "no asyncio loop runs here: say .wait() instead of await, which works in every test"
)


class Portal:
    """The harness's event loop, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._begun: list[Pending[Any]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ftharness", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` there, and wait.

        A Ctrl-C meanwhile, or the end of the test's time, cancels it and all else, and waits until they have cleaned up.
        """
        future = self._start(work)
        try:
            return future.result()
        finally:
            if not future.done():
                self._cancel()

    def begin(self, what: str, work: Coroutine[Any, Any, T]) -> "Pending[T]":
        """Begin ``work`` there at once, whether or not somebody waits for it; ``what`` names it, should it fail."""
        pending = Pending(what, self._start(work))
        self._begun.append(pending)
        return pending

    def settle(self) -> list[str]:
        """Cancel what was begun and is not over; returns the failures, by name, that nobody has waited for."""
        self._cancel()
        begun, self._begun = self._begun, []
        return [failure for pending in begun if (failure := pending.untaken_failure())]

    def _start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        async def kept() -> T:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return await work

        return self._send(kept())

    def _send(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        # In a context of its own: that of a test under anyio may say that trio runs, and httpx would believe it here.
        return contextvars.Context().run(asyncio.run_coroutine_threadsafe, work, self._loop)

    def _cancel(self) -> None:
        """Cancel all that goes on, and wait for its end: cancelled from outside its loop, a future would not wait for that."""

        async def cancel() -> None:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

        self._send(cancel()).result()

    def close(self) -> None:
        """Cancel what is not over, and end the thread."""
        self.settle()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Pending(Generic[T]):
    """Something that happens in the harness's loop: ``await`` it in a test's own loop, or ``wait()`` in a plain test.

    It has begun already. A failure of one that nobody waits for fails the test at its end.
    """

    def __init__(self, what: str, future: "Future[T]") -> None:
        self._what = what
        self._future = future
        self._taken = False

    def __await__(self) -> Generator[Any, None, T]:
        """In any asyncio loop.

        Raises:
            RuntimeError: It is awaited in a loop of another kind, such as trio's.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(_ASYNCIO_ONLY) from None
        self._taken = True
        return asyncio.wrap_future(self._future, loop=loop).__await__()

    def wait(self, timeout_s: float | None = None) -> T:
        """The same, in a test that is not async, or in whatever loop; blocks for ``timeout_s`` seconds at most."""
        try:
            return self._future.result(timeout_s)
        finally:
            self._taken = self._future.done()  # not so after a wait that was too short

    def untaken_failure(self) -> str:
        """What it failed with, by name, if nobody has waited for that; else ""."""
        if self._taken or not self._future.done() or self._future.cancelled():
            return ""
        error = self._future.exception()
        return f"{self._what}: {type(error).__name__}: {error}" if error is not None else ""

    if not TYPE_CHECKING:  # a type checker sees the mistake by itself

        def __getattr__(self, name: str) -> NoReturn:
            """Say what is missing where the result is meant."""
            raise AttributeError(f"{self._what} has to be awaited before .{name}: await it, or in a plain test .wait()")


class Done:
    """What is there when the call returns: ``await`` and ``wait()`` give it at once.

    So a test may write one of them before everything that takes time, and need not know which calls are over already.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Self]:
        """In any loop."""
        yield from ()
        return self

    def wait(self, timeout_s: float | None = None) -> Self:
        """The same, in a test that is not async."""
        del timeout_s
        return self
