"""The workers that run now: started, listened to, told to stop."""

import logging
import signal
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from ftharness.coordinator.clock import Clock
from ftharness.coordinator.worker import Worker

_log = logging.getLogger("ftharness.coordinator")
_GONE_S = 10.0  # after SIGKILL; longer takes only a process that the kernel itself holds, in a driver


class Crew:
    """Workers' processes.

    Args:
        clock: By which to wait.
        turn: Entered for each look at them: where two threads see them end, one of them would read from what the other closes.

    Attributes:
        reports: For what all of them say, oldest first, until it is collected.
    """

    def __init__(self, clock: Clock, turn: AbstractContextManager[object]) -> None:
        self._clock = clock
        self._turn = turn
        self._workers: list[Worker] = []
        self.reports: list[dict[str, Any]] = []

    @property
    def running(self) -> list[Worker]:
        """Those whose end has not been taken yet."""
        return list(self._workers)

    def join(self, worker: Worker) -> None:
        """One more runs."""
        self._workers.append(worker)

    def leave(self, worker: Worker) -> None:
        """One that has ended is let go."""
        self._workers.remove(worker)
        worker.close()

    def wait(self, until: float | None) -> None:
        """Wait for an exit, a report, or a moment of the clock."""
        with self._turn:
            fds = [fd for worker in self._workers for fd in worker.fds]
        self._clock.wait(fds, None if until is None else max(0.0, until - self._clock.now()))

    def listen(self) -> None:
        """Take in what was said."""
        for worker in self._workers:
            worker.listen()

    def tell(self, number: signal.Signals, workers: Iterable[Worker] | None = None) -> None:
        """Send all of them a signal, at once; SIGTERM to those that did not have it yet."""
        with self._turn:
            for worker in self._workers if workers is None else workers:
                worker.signal(number)

    def stop(self, grace_s: float) -> list[Worker]:
        """See all of them end: whoever has not within the grace is killed.

        They have been told. What they say meanwhile is listened to: a worker that cannot be heard cannot end.

        Args:
            grace_s: Seconds.

        Returns:
            Those that had to be killed.
        """
        late = self._until_ended(grace_s)
        if late:
            _log.error("%s not ended within %g s, and killed", ", ".join(one.process.name for one in late), grace_s)
            self.tell(signal.SIGKILL, late)
            self._until_ended(_GONE_S)
        return late

    def _until_ended(self, within_s: float) -> list[Worker]:
        until = self._clock.now() + within_s
        while True:
            with self._turn:
                self.listen()
                alive = [worker for worker in self._workers if worker.alive]
                fds = [fd for worker in alive for fd in worker.fds]
            if not alive or self._clock.now() >= until:
                return alive
            self._clock.wait(fds, until - self._clock.now())
