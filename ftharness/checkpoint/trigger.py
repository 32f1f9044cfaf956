"""When to write a checkpoint: after so many sequences or so much time, whichever comes first."""

import logging
import math
import os
import time
from collections.abc import Callable

_log = logging.getLogger("ftharness.checkpoint")

_SEQUENCES = 10_000
_SECONDS = 300.0
_VIRAL = "VIRNUCPRO_VIRAL_CHECKPOINT_MODE"
_VIRAL_SEQUENCES = 5_000
_VIRAL_SECONDS = 180.0


class CheckpointTrigger:
    """Counts what was done since the last checkpoint.

    It is asked at the boundaries of batches. ``VIRNUCPRO_VIRAL_CHECKPOINT_MODE=true`` in the environment, for long viral
    sequences, makes the thresholds 5,000 sequences and 180 s; each only where it has its default value.

    Args:
        seq_threshold: Sequences.
        time_threshold_sec: Seconds.
        emergency_override_sec: Seconds after which the answer is urgent: more than ``time_threshold_sec``.
        clock: Seconds that never go back.

    Attributes:
        seq_threshold: As it is in force.
        time_threshold_sec: The same.
        emergency_override_sec: The same.
        sequences_since_checkpoint: Counted since the last :meth:`reset`.

    Raises:
        ValueError: One of them is not positive, or emergency comes no later than time.
    """

    def __init__(
        self,
        seq_threshold: int = _SEQUENCES,
        time_threshold_sec: float = _SECONDS,
        emergency_override_sec: float = 600.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in {
            "seq_threshold": seq_threshold,
            "time_threshold_sec": time_threshold_sec,
            "emergency_override_sec": emergency_override_sec,
        }.items():
            if math.isnan(value) or value <= 0:
                raise ValueError(f"{name} is {value}; it has to be positive")
        if os.environ.get(_VIRAL, "").strip().lower() == "true":
            if seq_threshold == _SEQUENCES:
                seq_threshold = _VIRAL_SEQUENCES
            if time_threshold_sec == _SECONDS:
                time_threshold_sec = _VIRAL_SECONDS
        if emergency_override_sec <= time_threshold_sec:
            raise ValueError(
                f"emergency_override_sec is {emergency_override_sec}; it has to be more than "
                f"time_threshold_sec, which is {time_threshold_sec}"
            )
        self.seq_threshold = seq_threshold
        self.time_threshold_sec = time_threshold_sec
        self.emergency_override_sec = emergency_override_sec
        self._clock = clock
        self.reset()

    def should_checkpoint(self, batch_size: int) -> tuple[bool, str | None]:
        """Whether a checkpoint is due after a batch of so many sequences, and why.

        Returns:
            ``(True, reason)`` with ``emergency_time_override``, ``sequence_threshold`` or ``time_threshold``, the first of
            them that holds; and again at each call until :meth:`reset`. ``(False, None)`` otherwise.
        """
        self.sequences_since_checkpoint += batch_size
        elapsed = self._clock() - self._last
        if elapsed >= self.emergency_override_sec:
            _log.warning("no checkpoint for %.1f s, %d sequences", elapsed, self.sequences_since_checkpoint)
            return True, "emergency_time_override"
        if self.sequences_since_checkpoint >= self.seq_threshold:
            return True, "sequence_threshold"
        if elapsed >= self.time_threshold_sec:
            return True, "time_threshold"
        return False, None

    def reset(self) -> None:
        """A checkpoint was written: count anew."""
        self.sequences_since_checkpoint = 0
        self._last = self._clock()
