"""What Dynamo calls ``gpu_memory_service.failover_lock.flock``."""

from .lock import FlockFailoverLock

__all__ = ["FlockFailoverLock"]
