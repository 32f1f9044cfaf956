"""What Dynamo calls ``gpu_memory_service.failover_lock``."""

from ftharness.failover.lock import FailoverLock, FailoverLockContended, FailoverLockError

__all__ = ["FailoverLock", "FailoverLockContended", "FailoverLockError"]
