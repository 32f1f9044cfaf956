"""Engine pools: engines of a model that are kept ready, leased slot by slot, supervised, drained and reloaded.

A library in its own right: it knows nothing of scenarios. One event loop in one manager process holds it all.
"""

from ftharness.pool.changes import Change
from ftharness.pool.config import ManagerConfig, PoolConfig, load_config
from ftharness.pool.devices import Devices, DeviceSnapshot, discover
from ftharness.pool.health import PoolHealth, PoolSummary
from ftharness.pool.leases import Lease, LeaseEnded, UnknownLease
from ftharness.pool.masks import Mask, MaskError
from ftharness.pool.prepared import PreparedEngine
from ftharness.pool.registry import Refused, Registry, UnknownEngine, UnknownPool

__all__ = [
    "Change",
    "DeviceSnapshot",
    "Devices",
    "Lease",
    "LeaseEnded",
    "ManagerConfig",
    "Mask",
    "MaskError",
    "PoolConfig",
    "PoolHealth",
    "PoolSummary",
    "PreparedEngine",
    "Refused",
    "Registry",
    "UnknownEngine",
    "UnknownLease",
    "UnknownPool",
    "discover",
    "load_config",
]
