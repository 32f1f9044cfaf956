"""What all supervisors of one manager have in common."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ftharness.pool.log_events import Log
from ftharness.pool.registry import Registry

#: Why an engine is stopped, or a lease taken back, where it is nobody's fault.
ENDS = "the manager ends"
#: Waits so many seconds.
Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, kw_only=True)
class House:
    """What all supervisors of one manager have in common.

    Attributes:
        registry: Where the states of engines are kept.
        log: Who is told.
        clock: Seconds, monotonic.
        sleep: By the same clock.
        random: For the jitter of waits.
        state_dir: Where engines have their folders, unless configured.
        check_state: Raises OSError where that is not the manager's any more.
        survive: Whether engines outlive the manager.
        fail_open: Whether an engine whose probe fails can be leased.
    """

    registry: Registry
    log: Log
    clock: Callable[[], float]
    sleep: Sleep
    random: Random
    state_dir: Path
    check_state: Callable[[], None]
    survive: bool
    fail_open: bool
