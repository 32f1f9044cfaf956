"""The failover lock: of several engines that share one set of weights, one holds it, and serves."""

from ftharness.failover.lock.flock import FlockFailoverLock
from ftharness.failover.lock.interface import (
    FailoverLock,
    FailoverLockContended,
    FailoverLockError,
    FailoverLockFenced,
    Holder,
)

__all__ = [
    "FailoverLock",
    "FailoverLockContended",
    "FailoverLockError",
    "FailoverLockFenced",
    "FlockFailoverLock",
    "Holder",
]
