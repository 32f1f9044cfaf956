"""Engine pools: engines of a model that are kept ready, leased slot by slot, supervised, drained and reloaded.

A library in its own right: it knows nothing of scenarios. One event loop in one manager process holds it all.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ftharness.pool.changes import Change
from ftharness.pool.config import ManagerConfig, PoolConfig
from ftharness.pool.config_file import load_config
from ftharness.pool.devices import Devices, DeviceSnapshot, discover
from ftharness.pool.health import PoolHealth, PoolSummary
from ftharness.pool.leases import Lease, LeaseEnded, UnknownLease
from ftharness.pool.masks import Mask, MaskError
from ftharness.pool.prepared import PreparedEngine
from ftharness.pool.registry import Refused, Registry, UnknownEngine, UnknownPool

if TYPE_CHECKING:
    from ftharness.pool.api import Api
    from ftharness.pool.calls import NotDone, NotReached
    from ftharness.pool.lease_client import EngineGone, LeasedEngine, leased
    from ftharness.pool.manager import Manager
    from ftharness.pool.operations import Busy, Operation, UnknownOperation

__all__ = [
    "Api",
    "Busy",
    "Change",
    "DeviceSnapshot",
    "Devices",
    "EngineGone",
    "Lease",
    "LeaseEnded",
    "LeasedEngine",
    "Manager",
    "ManagerConfig",
    "Mask",
    "MaskError",
    "NotDone",
    "NotReached",
    "Operation",
    "PoolConfig",
    "PoolHealth",
    "PoolSummary",
    "PreparedEngine",
    "Refused",
    "Registry",
    "UnknownEngine",
    "UnknownLease",
    "UnknownOperation",
    "UnknownPool",
    "discover",
    "leased",
    "load_config",
]


#: What is imported when it is asked for: who reads a registry's data needs neither processes nor a web server.
_LATER = {
    "Api": "api",
    "Busy": "operations",
    "EngineGone": "lease_client",
    "LeasedEngine": "lease_client",
    "Manager": "manager",
    "NotDone": "calls",
    "NotReached": "calls",
    "Operation": "operations",
    "UnknownOperation": "operations",
    "leased": "lease_client",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
