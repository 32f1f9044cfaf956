"""The failover lock as a flock on a file: the kernel lets it go when its holder dies, however it dies."""

from ftharness.failover.lock.flock.lock import FlockFailoverLock

__all__ = ["FlockFailoverLock"]
