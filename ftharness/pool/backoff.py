"""How long an engine that has ended is left alone: longer each time, and from the beginning again after a stable run."""

from random import Random

from ftharness.pool.config import BackoffConfig


class Backoff:
    """The waits of one engine. It reads no clock: whoever calls it says when.

    Args:
        config: First wait, factor, cap, jitter, and how long a stable run is.
        random: For the jitter.

    Attributes:
        failures: Ends in a row without a stable run between.
    """

    def __init__(self, config: BackoffConfig, random: Random) -> None:
        self._config = config
        self._random = random
        self._started: float | None = None
        self.failures = 0

    def started(self, now: float) -> None:
        """It is up, at ``now`` seconds; a start that nothing came of is none."""
        self._started = now

    def failed(self, now: float) -> float:
        """It has ended, at ``now`` seconds.

        Returns:
            Seconds until the next start: ``initial · factor^n``, at most ``max_s``, give or take the jitter.
        """
        if self._started is not None and now - self._started >= self._config.stable_s:
            self.failures = 0
        self._started = None
        self.failures += 1
        jitter = self._config.jitter
        return self.planned(self.failures) * (1.0 + self._random.uniform(-jitter, jitter))

    def planned(self, failures: int) -> float:
        """The wait after so many ends in a row, from 1, in seconds, before jitter."""
        config = self._config
        wait_s = config.initial_s
        for _ in range(failures - 1):
            wait_s *= config.factor
            if wait_s >= config.max_s or config.factor == 1.0:
                break  # a power of a large number of failures is beyond a float
        return min(wait_s, config.max_s)

    def reset(self) -> None:
        """As if it had never failed: somebody has seen to it."""
        self.failures = 0
