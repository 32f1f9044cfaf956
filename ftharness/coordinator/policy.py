"""Whether a shard is tried again, and when."""

from collections import Counter
from typing import NamedTuple

from ftharness.coordinator.config import RuntimeConfig
from ftharness.coordinator.errors import Diagnosis, ErrorClass

_LONGEST_S = 60.0  # of the waits that grow
_POISON_S = 1.0  # the batch decides, not the time: a second try tells whether it was the batch


class Decision(NamedTuple):
    """What to do about a failure.

    Attributes:
        retry: Whether to try again.
        reason: Why; a sentence for people.
        delay_s: Seconds to wait first.
        poisoned: The batch that is given up.
    """

    retry: bool
    reason: str
    delay_s: float = 0.0
    poisoned: int | None = None


class RetryPolicy:
    """Decides of one shard on one device.

    - spot: for ever, at the poll interval.
    - poison: until a batch has its last strike. Batches are counted apart; strikes without a batch are one more.
    - oom and transient: up to their common limit, after 1, 2, 4, … seconds, 60 at most. Preemptions do not count.

    Args:
        config: The limits.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        self._config = config
        self._strikes: Counter[int | None] = Counter()
        self._passing = 0
        self._preempted = 0

    def decide(self, diagnosis: Diagnosis) -> Decision:
        """What to do about a failure; it is counted.

        Args:
            diagnosis: What it was.
        """
        match diagnosis.kind:
            case ErrorClass.SPOT:
                return self._spot()
            case ErrorClass.POISON:
                return self._poison(diagnosis.batch_idx)
            case ErrorClass.OOM | ErrorClass.TRANSIENT:
                return self._passes(diagnosis.kind)

    def _spot(self) -> Decision:
        self._preempted += 1
        delay_s = self._config.spot_retry_poll_interval
        return Decision(retry=True, reason=f"preemption {self._preempted}: capacity comes back", delay_s=delay_s)

    def _poison(self, batch: int | None) -> Decision:
        self._strikes[batch] += 1
        strikes, limit = self._strikes[batch], max(1, self._config.max_retries_poison)
        at = "an unknown batch" if batch is None else f"batch {batch}"
        if strikes >= limit:
            return Decision(retry=False, reason=f"{at} is poison: strike {strikes} of {limit}", poisoned=batch)
        return Decision(retry=True, reason=f"strike {strikes} of {limit} on {at}", delay_s=_POISON_S)

    def _passes(self, kind: ErrorClass) -> Decision:
        limit, before = self._config.max_retries_transient, self._passing
        if before >= limit:
            return Decision(retry=False, reason=f"{kind}: all {limit} retries are used up")
        self._passing += 1
        delay_s = min(2.0**before, _LONGEST_S)
        return Decision(retry=True, reason=f"{kind}: retry {self._passing} of {limit}", delay_s=delay_s)
