"""What a stack consists of, and how fast it is, as data."""

from typing import Any

import msgspec

#: More than a machine is likely to carry: a slip of the finger must not take it down.
MOST_WORKERS = 64


class Topology(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frontend and its workers.

    What a stack cannot set, such as a real engine's speed, it ignores; its documentation says so.

    Attributes:
        workers: Workers that do prefill and decode.
        migration_limit: How often a request may move to another worker; 0: never.
        migration_max_seq_len: Prompt and answer so far, in tokens, beyond which a request may not move; None: no bound.
        speed: Tokens a second, a stream.
        slots: Requests that one worker runs at once; the rest waits.
        drain_s: Seconds that a worker gives its requests after SIGTERM: the worker's own limit, not the fault's grace.
        frontend_args: More arguments for the frontend.
        worker_args: More arguments for each worker.
    """

    workers: int = 2
    migration_limit: int = 3
    migration_max_seq_len: int | None = None
    speed: float = 200.0
    slots: int = 256
    drain_s: float = 60.0
    frontend_args: list[str] = []
    worker_args: list[str] = []

    def __post_init__(self) -> None:
        """Refuse what cannot be launched.

        Raises:
            ValueError: Says which field, and what it may be.
        """
        for name, low in (("workers", 1), ("migration_limit", 0), ("slots", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least {low}")
        if self.workers > MOST_WORKERS:
            raise ValueError(f"workers = {self.workers}: at most {MOST_WORKERS}; each is two processes or more")
        if self.speed <= 0 or self.drain_s < 0:
            raise ValueError("speed must be more than 0, and drain_s not less than 0")


def aggregated(*, workers: int = 2, **fields: Any) -> Topology:
    """``workers`` workers that do prefill and decode each; ``fields`` are those of :class:`Topology`."""
    return Topology(workers=workers, **fields)
