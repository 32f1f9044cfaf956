"""How a run is carried out, as against what it computes: none of this is part of a model's identity, nor kept in a checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, Self

_POSITIVE = ("checkpoint_seq_threshold", "checkpoint_time_threshold", "spot_retry_poll_interval")
_COUNTS = ("max_retries_transient", "max_retries_poison")


@dataclass(frozen=True)
class RuntimeConfig:
    """What a coordinator and its workers are told of a run.

    Attributes:
        enable_checkpointing: Workers write checkpoints.
        checkpoint_dir: Where; None: the coordinator's ``output_dir/checkpoints``.
        force_restart: What is there already is not used. The first attempt at a shard is told so; a later one is not, or it
            would throw away what the first has done.
        checkpoint_seq_threshold: Sequences after which a checkpoint is due.
        checkpoint_time_threshold: Seconds after which it is.
        timeout_per_attempt: Seconds that one attempt at a shard may take; None: any.
        max_retries_transient: How often a shard is tried again after failures that pass, out-of-memory among them.
        max_retries_poison: With so many strikes on one batch the batch is given up.
        spot_retry_poll_interval: Seconds until a preempted worker is tried again, for ever.
        enable_elastic_redistribution: What is left of a shard that failed for good is done by another worker.

    Raises:
        ValueError: A number that cannot be meant.
    """

    enable_checkpointing: bool = True
    checkpoint_dir: Path | None = None
    force_restart: bool = False
    checkpoint_seq_threshold: int = 10000
    checkpoint_time_threshold: float = 300.0
    timeout_per_attempt: float | None = 3600.0
    max_retries_transient: int = 3
    max_retries_poison: int = 2
    spot_retry_poll_interval: float = 60.0
    enable_elastic_redistribution: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.checkpoint_dir, str):  # as a command line or a JSON file gives it
            object.__setattr__(self, "checkpoint_dir", Path(self.checkpoint_dir))
        for name in _POSITIVE:
            if not (isfinite(value := getattr(self, name)) and value > 0):
                raise ValueError(f"{name} must be positive, and is {value!r}")
        for name in _COUNTS:
            if not (isinstance(value := getattr(self, name), int) and value >= 0):
                raise ValueError(f"{name} must be non-negative, a whole number, and is {value!r}")
        limit = self.timeout_per_attempt
        if limit is not None and not (isfinite(limit) and limit > 0):
            raise ValueError(f"timeout_per_attempt must be positive or None, and is {limit!r}")

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON and for other processes; the path as text."""
        plain = asdict(self)
        plain["checkpoint_dir"] = None if self.checkpoint_dir is None else str(self.checkpoint_dir)
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` gave. What is missing has its default; what a later release added is passed over.

        Raises:
            ValueError: As the constructor.
        """
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in plain.items() if name in known})
