"""What a stack consists of, and how fast it is, as data."""

from typing import Any, Literal, get_args

import msgspec

from ftharness.pool.config import PoolConfig
from ftharness.stack.pool_setup import PoolSetup, pool_setup
from ftharness.suggest import nearest

#: More than a machine is likely to carry: a slip of the finger must not take it down.
MOST_WORKERS = 64

#: In which order the frontend and the workers of a disaggregated stack come to a request.
StrategyName = Literal["decode_first", "prefill_first", "frontend_routed"]


class Topology(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frontend and its workers: either some that do both phases, or some that prefill and some that decode.

    What a stack cannot set, such as a real engine's speed, it ignores; its documentation says so.

    Attributes:
        workers: Workers that do prefill and decode; 0 where these are apart.
        standbys: Shadow engines for each worker, which share its weights and its failover lock. All of such a group run for the
            lock from their start; one of them serves, the others sleep until it is gone. 0: no lock at all.
        prefill: Workers that do the prefill only.
        decode: Workers that do the decode only.
        strategy: Where prefill and decode are apart, who asks whom. ``decode_first``: the frontend asks a decode worker, which
            asks a prefill worker. ``prefill_first``: it asks a prefill worker, which asks a decode worker and passes the
            answer on. ``frontend_routed``: it asks the one, then the other. None where they are not apart.
        migration_limit: How often a request may move to another worker; 0: never.
        migration_max_seq_len: Prompt and answer so far, in tokens, beyond which a request may not move; None: no bound.
        speed: Tokens a second, a stream.
        prefill_tokens_per_s: How fast a prompt is read: with a long one there is a prefill to strike at.
        kv_tokens_per_s: How fast the KV of a context comes from a prefill worker to a decode worker.
        slots: Requests that one worker runs at once; the rest waits.
        wake_s: Seconds that it takes to wake a shadow engine.
        heartbeat_s: Seconds between two heartbeats of whoever holds the failover lock; None: it does not beat.
        fence_s: Seconds without a heartbeat after which those that wait kill the holder; None: they wait for its end.
        frontend: Whether there is one. Without, clients ask the only worker itself, which has to speak HTTP: real engines do;
            or there is none either, and only jobs run.
        model: The folder of the model that real engines load; "": a tiny one that is made here.
        profile: How a real engine is launched: ``cpu``, ``gpu``, or a ``.toml`` file; "": on a GPU where there is one.
        drain_s: Seconds that a worker gives its requests after SIGTERM: the worker's own limit, not the fault's grace.
        frontend_args: More arguments for the frontend.
        worker_args: More arguments for each worker.
        pool: A manager of engine pools, which serves no requests but leases engines to jobs; None: there is none.
    """

    workers: int = 2
    standbys: int = 0
    prefill: int = 0
    decode: int = 0
    strategy: StrategyName | None = None
    migration_limit: int = 3
    migration_max_seq_len: int | None = None
    speed: float = 200.0
    prefill_tokens_per_s: float = 100_000.0
    kv_tokens_per_s: float = 400_000.0
    slots: int = 256
    wake_s: float = 0.05
    heartbeat_s: float | None = None
    fence_s: float | None = None
    frontend: bool = True
    model: str = ""
    profile: str = ""
    drain_s: float = 60.0
    frontend_args: list[str] = []
    worker_args: list[str] = []
    pool: PoolSetup | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be launched.

        Raises:
            ValueError: Says which field, and what it may be.
        """
        self._check_strategy()
        needed = ("prefill", "decode") if self.strategy else ("workers",)
        for name in needed if self.serves else ():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in ("workers",) if self.strategy else ("prefill", "decode"):
            if getattr(self, name) != 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be 0 {self._why_not(name)}")
        for name, low in (("migration_limit", 0), ("slots", 1), ("standbys", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least {low}")
        if self.migration_max_seq_len is not None and self.migration_max_seq_len < 1:
            raise ValueError(
                f"migration_max_seq_len = {self.migration_max_seq_len}: must be at least 1, or none at all"
            )
        self._check_standbys()
        if len(self.members) > MOST_WORKERS:
            counts = " + ".join(
                f"{name} = {getattr(self, name)}" for name in ("workers", "prefill", "decode") if getattr(self, name)
            )
            if self.standbys:
                counts += f" with standbys = {self.standbys} each"
            raise ValueError(f"{counts}: at most {MOST_WORKERS} in all; each is two processes or more")
        for name in ("speed", "prefill_tokens_per_s", "kv_tokens_per_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name):g}: must be more than 0")
        for name in ("drain_s", "wake_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name):g}: must not be less than 0")

    def _check_strategy(self) -> None:
        if self.strategy is not None and self.strategy not in (known := get_args(StrategyName)):
            raise ValueError(
                f"strategy = {self.strategy!r}: must be one of {', '.join(known)}; {nearest(self.strategy, known)}"
            )

    def _check_standbys(self) -> None:
        if not self.frontend and (self.strategy or self.workers > 1 or self.standbys):
            raise ValueError("frontend = false: only one worker, without standbys, can be asked directly: alone()")
        if self.standbys and self.strategy:
            raise ValueError(
                f"standbys = {self.standbys}: must be 0 with strategy = {self.strategy}; shadow engines do both phases"
            )
        for name in ("heartbeat_s", "fence_s"):
            value = getattr(self, name)
            if value is not None and not self.standbys:
                raise ValueError(f"{name} = {value:g}: must be none without standbys, who would need it")
            if value is not None and not value > 0:
                raise ValueError(f"{name} = {value:g}: must be more than 0, or none at all")
        if self.fence_s is not None and (self.heartbeat_s is None or self.fence_s <= self.heartbeat_s):
            beats = "none" if self.heartbeat_s is None else f"{self.heartbeat_s:g}"
            raise ValueError(
                f"fence_s = {self.fence_s:g}: must be more than heartbeat_s, which is {beats}; a few times as much, since a "
                "holder on a busy machine is late at times"
            )

    def _why_not(self, name: str) -> str:
        if name == "workers":
            return f"with strategy = {self.strategy}, whose workers are counted by prefill and decode"
        return "without a strategy: disaggregated(prefill=…, decode=…, strategy=…) has prefill and decode workers"

    @property
    def serves(self) -> bool:
        """Whether there is anybody to serve a request; else there are only jobs."""
        return self.frontend or self.workers > 0

    @property
    def members(self) -> list[tuple[str, str]]:
        """Each worker's name and role, in the order in which they are launched: ``("prefill-1", "prefill")``."""
        kinds = (
            ("worker", "aggregated", self.workers),
            ("standby", "aggregated", self.workers * self.standbys),
            ("prefill", "prefill", self.prefill),
            ("decode", "decode", self.decode),
        )
        return [(f"{name}-{place + 1}", role) for name, role, count in kinds for place in range(count)]

    @property
    def serving(self) -> int:
        """How many workers the frontend knows when all is well: of each group one."""
        return self.workers + self.prefill + self.decode


def aggregated(*, workers: int = 2, **fields: Any) -> Topology:
    """``workers`` workers that do prefill and decode each; ``fields`` are those of :class:`Topology`."""
    return Topology(workers=workers, **fields)


def alone(**fields: Any) -> Topology:
    """One engine that clients ask directly, with no frontend before it; ``fields`` are those of :class:`Topology`."""
    return Topology(workers=1, frontend=False, **fields)


def jobs_only() -> Topology:
    """Nobody who serves requests: what runs are the scenario's jobs."""
    return Topology(workers=0, frontend=False)


def pooled(*pools: PoolConfig, models: dict[str, dict[str, Any]] | None = None, **manager: Any) -> Topology:
    """A manager of engine pools, of which jobs lease engines.

    Args:
        pools: The pools, as in the manager's file.
        models: Folders of models that are made for them, by path, and how their engines misbehave; see :class:`PoolSetup`.
        manager: More fields of :class:`ftharness.pool.ManagerConfig`, such as ``engines_survive``.
    """
    return Topology(workers=0, frontend=False, pool=pool_setup(*pools, models=models, **manager))


def disaggregated(
    *, prefill: int = 1, decode: int = 1, strategy: StrategyName = "decode_first", **fields: Any
) -> Topology:
    """Workers that prefill and workers that decode, any number of each; ``fields`` are those of :class:`Topology`."""
    return Topology(workers=0, prefill=prefill, decode=decode, strategy=strategy, **fields)
