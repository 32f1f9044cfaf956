"""A signal that asks for the end, and what must not be interrupted by it."""

import itertools
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

EXIT_STATUS = 128 + signal.SIGTERM


class SignalGate:
    """Holds a signal back while something is half done: a process that was started and is in no list yet would not be told.

    What is not to be interrupted is a ``with`` block of it; what waits for long should be none. Blocks nest, and those of
    several threads exclude each other.

    Args:
        act: What a signal does, given how many came before it. It runs in the main thread, at the latest where its block ends, or
            soon after another thread's has ended.
    """

    def __init__(self, act: Callable[[int], None]) -> None:
        self._act = act
        self._turn = threading.RLock()
        self._depth = 0
        self._came = 0
        self._held_back = False
        self._again: dict[
            int, int
        ] = {}  # signals that came while another thread was in a block: they are to come again
        self._tickets = itertools.count()
        self._before: dict[signal.Signals, Any] = {}

    def install(self, *numbers: signal.Signals) -> None:
        """Handle these from now on.

        Raises:
            ValueError: This is not the main thread, the only one that may.
        """
        for number in numbers:
            self._before.setdefault(number, signal.signal(number, self._arrived))

    def uninstall(self) -> None:
        """Let those handle them that did before; not from another thread than the main one."""
        if threading.current_thread() is threading.main_thread():
            while self._before:
                signal.signal(*self._before.popitem())

    def _arrived(self, number: int, _: FrameType | None) -> None:
        # Left before the try, for a block of another thread that ends meanwhile: whoever takes it sees to the signal, once.
        ticket = next(self._tickets)
        self._again[ticket] = number
        if not self._turn.acquire(blocking=False):
            return  # not waited for: that thread may wait for a lock of ours, such as logging's
        try:
            if self._again.pop(ticket, None) is None:
                return  # it comes again
            if self._depth and not self._came:
                self._held_back = True
                return
            self._came += 1
            self._act(self._came - 1)
        finally:
            self._turn.release()

    def __enter__(self) -> None:
        self._turn.acquire()
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        try:
            if self._held_back and not self._depth:
                self._held_back = False
                self._came += 1
                self._act(self._came - 1)
        finally:
            self._turn.release()
            for ticket in list(self._again):
                number, main = self._again.pop(ticket, None), threading.main_thread().ident
                if number is not None and main is not None:
                    signal.pthread_kill(main, number)
