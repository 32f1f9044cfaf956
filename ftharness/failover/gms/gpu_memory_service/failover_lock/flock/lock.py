"""What Dynamo calls ``gpu_memory_service.failover_lock.flock.lock``."""

import os
from typing import Any

from ftharness.failover import lock

_HEARTBEAT_S = os.environ.get("FAILOVER_HEARTBEAT_S")


class FlockFailoverLock(lock.FlockFailoverLock):
    """Ours. Dynamo's callers name the path and nothing else, so whether the holder beats is said by the environment."""

    def __init__(self, lock_path: str | os.PathLike[str], **options: Any) -> None:
        if _HEARTBEAT_S:
            options.setdefault("heartbeat_s", float(_HEARTBEAT_S))
        super().__init__(lock_path, **options)
