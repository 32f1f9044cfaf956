"""Who took the lock, and the fencing token: what lies beside the lock file."""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from ftharness.failover.identity import Identity, identity_of, is_stopped
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
        FailoverLockError: It cannot be read, or says what we do not understand.
    """
    path = beside(lock_path)
    try:
        value = Slots(path).read()
    except OSError as error:
        raise FailoverLockError(f"cannot read who holds {lock_path} from {path}: {error.strerror}") from error
    if value is None:
        return None
    try:  # a later version may have more to say
        known = {name: value[name] for name in Record._fields}
        return Record(**{**known, "identity": Identity(*known["identity"])})
    except (KeyError, TypeError) as error:
        raise FailoverLockError(f"{path} says who holds {lock_path} as no version of ours does: {value}") from error


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

    def following(last: dict[str, Any] | None, whole: bool) -> dict[str, Any]:  # noqa: FBT001
        counted = last is not None and isinstance(last.get("token"), int)
        token = last["token"] + 1 if last is not None and counted else 1
        # What counted may be gone, or some of it: deleted, damaged, or not yet on the disk when the machine went down. Of
        # microseconds more have passed than there were acquisitions.
        if not counted and (had_owner or last is not None):
            token = time.time_ns() // 1_000
        elif not whole or (last is not None and not _of_this_boot(last, identity)):
            token = max(token, time.time_ns() // 1_000)
        return Record(engine_id, identity, token, heartbeat_s, time.monotonic_ns())._asdict()

    return Record(**Slots(beside(lock_path)).replace(following))


def stopped_holders(lock_path: Path) -> set[Identity]:
    """The processes that are stopped and have the flock of a file, of those that we may see: each hand on one open file."""
    stopped = (identity_of(int(name)) for name in os.listdir("/proc") if name.isdecimal() and is_stopped(int(name)))  # noqa: PTH208
    return {identity for identity in stopped if holds(identity, lock_path)}


def restore(lock_path: Path, record: Record) -> None:
    """Write an acquisition once more, by its holder, where what was written has been taken away.

    Raises:
        OSError: The disk does not take it.
    """
    Slots(beside(lock_path)).write(record._asdict())


def beside(lock_path: Path) -> Path:
    """Where it lies."""
    return lock_path.with_name(lock_path.name + ".holder")


def _of_this_boot(last: dict[str, Any], identity: Identity) -> bool:
    who = last.get("identity")
    return isinstance(who, list) and Identity(*who[: len(Identity._fields)]).boot_id == identity.boot_id


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
