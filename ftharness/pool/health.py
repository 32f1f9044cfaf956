"""What readers are told of a pool: whoever places work, and whoever looks after it."""

import msgspec

from ftharness.pool.devices import DeviceSnapshot
from ftharness.pool.engine_states import EngineState
from ftharness.pool.prepared import Supports


class PoolSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A pool for whoever places work.

    Attributes:
        engine: The profile's name.
        engine_version: As the engine said when it was last ready; None: it never was.
        model_id: The same.
        device_mask: Indices of GPUs, UUIDs of partitions, in the order that the engines see.
        devices: Those of the mask.
        slots_total: Leases that its engines carry together.
        slots_free: Leases that could be had now.
        perf_tokens_per_s: Of one stream; None: not measured yet.
        first_token_ms: The same.
    """

    engine: str
    engine_version: str | None
    model_id: str | None
    device_mask: list[int | str]
    devices: list[DeviceSnapshot]
    slots_total: int
    slots_free: int
    perf_tokens_per_s: float | None
    first_token_ms: float | None


class EngineHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One engine of a pool.

    Attributes:
        id: Its name.
        state: In which it is.
        ready: Whether it is ready.
        leasable: Whether it takes leases, the pool's draining aside: also one that is not ready, where probes may fail.
        url: Where it serves; "": nowhere.
        pid: Of its process; None: it has none.
        start_time: When that process was started, in clock ticks since the boot: with the pid, which process it is.
        reason: Why it is in that state, where there is more to say.
        restarts: How often it was lost since the manager started.
        backoff_ms: The wait before its next start, where it waits.
        active_leases: On it.
        slots_total: Leases that it carries.
        last_heartbeat_ms: Its last good answer, in milliseconds since the epoch; None: it gave none yet.
        device_mask: What it sees.
    """

    id: str
    state: EngineState
    ready: bool
    leasable: bool
    url: str
    pid: int | None
    start_time: int | None
    reason: str
    restarts: int
    backoff_ms: int
    active_leases: int
    slots_total: int
    last_heartbeat_ms: int | None
    device_mask: list[int | str]


class PoolHealth(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a pool.

    Attributes:
        id: Its name.
        engine: The profile's name.
        live: The manager is up, or nobody would answer.
        ready: An engine of it is ready. A pool that drains may be: it takes no leases all the same.
        draining: It takes no leases.
        last_error: What went wrong last; None: nothing yet.
        last_error_ms: When, in milliseconds since the epoch.
        last_heartbeat_ms: The last good answer of any engine's, the same.
        engine_version: As an engine said when it was last ready.
        model_id: The same.
        active_leases: On all of its engines.
        slots_total: Leases that its engines carry together.
        slots_free: Leases that could be had now.
        vram_total_bytes: Of the devices of the mask together; None: it has none.
        vram_free_bytes: The same.
        compute_capability: Of its devices; the lowest, where they differ: what all of them can.
        device_mask: Indices of GPUs, UUIDs of partitions, in the order that the engines see.
        perf_tokens_per_s: Of one stream; None: not measured yet.
        first_token_ms: The same.
        supports: What the engine can.
        restarts: How often engines were lost since the manager started.
        leases: How many were ever granted, and how they ended.
        engines: One by one.
    """

    id: str
    engine: str
    live: bool
    ready: bool
    draining: bool
    last_error: str | None
    last_error_ms: int | None
    last_heartbeat_ms: int | None
    engine_version: str | None
    model_id: str | None
    active_leases: int
    slots_total: int
    slots_free: int
    vram_total_bytes: int | None
    vram_free_bytes: int | None
    compute_capability: str | None
    device_mask: list[int | str]
    perf_tokens_per_s: float | None
    first_token_ms: float | None
    supports: Supports
    restarts: int
    leases: dict[str, int]
    engines: list[EngineHealth]
