"""When an engine is not started again: too many restarts in a short time mean that the next helps no more than the last."""

from collections import deque
from typing import Literal

from ftharness.pool.config import BreakerConfig

BreakerState = Literal["closed", "open", "half_open"]


class Breaker:
    """The breaker of one engine. It reads no clock: whoever calls it says when.

    Closed, a restart is let through unless there were ``restarts`` of them within ``window_s`` already: then it opens. Open, none
    is. After ``half_open_s`` one try is let through (half open): if it holds, the breaker closes; if not, it is open again.

    It is asked when an engine has ended, before the wait: by the default waits, 1, 2, 4, 8 and 16 s, the sixth end within a
    minute opens it.

    Args:
        config: How many in which time, and when one try is let through.

    Attributes:
        state: In which it is.
    """

    def __init__(self, config: BreakerConfig) -> None:
        self._config = config
        self._restarts: deque[float] = deque(maxlen=config.restarts)
        self._opened = 0.0
        self.state: BreakerState = "closed"

    def restart(self, now: float) -> bool:
        """Whether it may be restarted, at ``now`` seconds; one that may is counted."""
        match self.state:
            case "closed":
                if self._is_storm(now):
                    self._open(now)
                    return False
                self._restarts.append(now)
                return True
            case "open":
                at = self.half_open_at
                if at is None or now < at:
                    return False
                self.state = "half_open"
                return True
            case "half_open":  # the one try came to nothing
                self._open(now)
                return False

    def held(self) -> bool:
        """The engine is up and well; whether that has closed the breaker, which it does after the one try."""
        if self.state != "half_open":
            return False
        self.reset()
        return True

    def reset(self) -> None:
        """Close it, and forget: somebody has seen to it."""
        self._restarts.clear()
        self.state = "closed"

    @property
    def half_open_at(self) -> float | None:
        """When one try is let through, by the caller's clock; None: not before it is reset, or it is not open."""
        if self.state != "open" or not self._config.half_open_s:
            return None
        return self._opened + self._config.half_open_s

    def _is_storm(self, now: float) -> bool:
        """Whether the last ``restarts`` of them were all within the window: this one would be one more."""
        full = len(self._restarts) == self._config.restarts
        return full and now - self._restarts[0] < self._config.window_s

    def _open(self, now: float) -> None:
        self.state = "open"
        self._opened = now
