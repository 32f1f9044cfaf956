"""Who took the lock, and the fencing token: what lies beside the lock file."""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from ftharness.failover.identity import Identity
from ftharness.failover.lock.interface import FailoverLockError, Holder
from ftharness.failover.slots import Slots


class Record(NamedTuple):
    """One acquisition. The fields are those of :class:`Holder`."""

    engine_id: str
    identity: Identity
    token: int
    heartbeat_s: float | None
    taken_ns: int

    def holder(self, lock_path: Path) -> Holder:
        """The same, with whether it holds the lock at this moment."""
        return Holder(*self, holds=holds(self.identity, lock_path))


def newest(lock_path: Path) -> Record | None:
    """The last acquisition; None where there was none.

    Raises:
        FailoverLockError: It cannot be read.
    """
    beside = _beside(lock_path)
    try:
        value = Slots(beside).read()
    except OSError as error:
        raise FailoverLockError(f"cannot read who holds {lock_path} from {beside}: {error.strerror}") from error
    return None if value is None else Record(**{**value, "identity": Identity(*value["identity"])})


def take(lock_path: Path, engine_id: str, identity: Identity, heartbeat_s: float | None, *, had_owner: bool) -> Record:
    """Write a new acquisition. To be called under the lock.

    Args:
        lock_path: The lock file.
        engine_id: Who acquires.
        identity: The process that does.
        heartbeat_s: As promised.
        had_owner: Whether the lock file names an owner.

    Raises:
        OSError: The disk does not take it.
    """
    # What counted may be gone: time has grown meanwhile, more than any count of acquisitions.
    # What counted may be gone: of microseconds more have passed than there were acquisitions.
    first = time.time_ns() // 1_000 if had_owner else 1

    def following(last: dict[str, Any] | None) -> dict[str, Any]:
        token = last["token"] + 1 if last is not None else first
        return Record(engine_id, identity, token, heartbeat_s, time.monotonic_ns())._asdict()

    return Record(**Slots(_beside(lock_path)).replace(following))


def holds(identity: Identity, lock_path: Path) -> bool | None:
    """Whether a process has the flock of a file; None where that cannot be seen.

    /proc/PID/fdinfo lists the locks of each open file (proc(5)); to try the lock would take it from whoever comes then.
    """
    if not identity.here:
        return None
    if not identity.lives:
        return False
    folder = f"/proc/{identity.pid}"
    try:
        wanted = lock_path.stat()
        for fd in os.listdir(f"{folder}/fd"):  # noqa: PTH208
            try:
                if not os.path.samestat(os.stat(f"{folder}/fd/{fd}"), wanted):  # noqa: PTH116 - magic links
                    continue
                info = Path(f"{folder}/fdinfo/{fd}").read_text()
            except FileNotFoundError:
                continue  # it was closed meanwhile
            if any(line.startswith("lock:") and "FLOCK" in line and "WRITE" in line for line in info.splitlines()):
                return True
    except PermissionError:
        return None
    except OSError:
        return False
    return False


def _beside(lock_path: Path) -> Path:
    return lock_path.with_name(lock_path.name + ".holder")
