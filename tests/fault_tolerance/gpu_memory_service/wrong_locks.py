"""Failover locks that are wrong, each in one way that real ones are: what the conformance checks are there to tell."""

# ruff: noqa: ASYNC109, ARG002, FBT003 - the interface is Dynamo's, and wrong is what they are to be

import asyncio
import contextlib
import fcntl
import os
import signal
from pathlib import Path

from ftharness.failover.identity import Identity
from ftharness.failover.lock import FailoverLockContended, FlockFailoverLock
from ftharness.failover.lock.flock import lock as flock_lock


class Unlinks(FlockFailoverLock):
    """Tidies up after itself."""

    def release_nowait(self) -> None:
        if self.held:
            self._path.unlink()
        super().release_nowait()


class Inherited(FlockFailoverLock):
    """Its open file goes to all children."""

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:
        token = await super().acquire(engine_id, poll_interval, timeout)
        os.set_inheritable(self._held[0], True)
        flock_lock._OPEN.clear()
        return token


class Finalized(FlockFailoverLock):
    """Lets go when it is collected."""

    def __del__(self) -> None:
        self.release_nowait()


class Unaware(FlockFailoverLock):
    """Does not look whether the path still names what it locked."""

    def _replaced(self, fd: int) -> bool:
        return False


class Leaks(FlockFailoverLock):
    """Forgets to close what it opened when it is called off."""

    def _opened(self) -> int:
        fd = super()._opened()
        self._spare = os.dup(fd)
        return fd

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:
        token = await super().acquire(engine_id, poll_interval, timeout)
        os.close(self._spare)
        return token


class Trusting(FlockFailoverLock):
    """Takes the name in the file for the lock."""

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:
        waited = 0.0
        while (await self.owner() or engine_id) != engine_id:
            await asyncio.sleep(0.05)
            waited += 0.05
            if timeout is not None and waited >= timeout:
                raise FailoverLockContended("the name of another is in the file")
        self._path.write_text(engine_id)
        return 1

    def release_nowait(self) -> None:
        self._path.write_text("")


class Patient(FlockFailoverLock):
    """Has no use for a timeout."""

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:
        return await super().acquire(engine_id, poll_interval, None)


class Swallows(FlockFailoverLock):
    """Goes on when who has it cannot be written."""

    def _write(self, fd: int, engine_id: str, identity: Identity) -> int:
        with contextlib.suppress(Exception):
            return super()._write(fd, engine_id, identity)
        return 0


class Reentrant(FlockFailoverLock):
    """Is acquired once more by whoever holds it."""

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:
        return self.token if self.held else await super().acquire(engine_id, poll_interval, timeout)


class Restarts(FlockFailoverLock):
    """Counts its acquisitions in its own memory."""

    _own = 0

    def _write(self, fd: int, engine_id: str, identity: Identity) -> int:
        super()._write(fd, engine_id, identity)
        self._own += 1
        return self._own


class Forgets(FlockFailoverLock):
    """Wipes its name when it lets go."""

    def release_nowait(self) -> None:
        if self.held:
            os.truncate(self._path, 0)
        super().release_nowait()


class Steals(FlockFailoverLock):
    """Takes from a holder that is stopped."""

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:
        holder = await self.holder()
        if holder is not None and holder.holds:
            state = Path(f"/proc/{holder.identity.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "T":
                self._path.unlink()
        return await super().acquire(engine_id, poll_interval, timeout)


class Outlived(FlockFailoverLock):
    """Has a process wait for it that does not notice when the one that it waits for is gone, or frozen."""

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:
        if timeout is not None:
            return await super().acquire(engine_id, poll_interval, timeout)
        fd, (told, tells) = os.open(self._path, os.O_RDWR | os.O_CREAT), os.pipe()
        if (waiter := os.fork()) == 0:  # there at once, however busy the machine is
            fcntl.flock(fd, fcntl.LOCK_EX)
            with contextlib.suppress(OSError):
                os.write(tells, b".")
            os.read(0, 1)  # until the checks end
            os._exit(0)
        os.close(tells)
        await asyncio.to_thread(os.read, told, 1)
        os.kill(waiter, signal.SIGKILL)
        return 1


class PerProcess(FlockFailoverLock):
    """Locks by fcntl, which the close of any descriptor of the file undoes, and which a process has once."""

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT)
        left = 1e9 if timeout is None else timeout
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if left <= 0:
                    raise FailoverLockContended("held") from None
            await asyncio.sleep(0.01)
            left -= 0.01
        self._path.write_text(engine_id)  # opens and closes it: the lock is gone
        return 1

    def release_nowait(self) -> None:
        os.close(self._fd)


class Eager(FlockFailoverLock):
    """Is with the lock before it has it."""

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:
        try:
            return await super().acquire(engine_id, poll_interval, 0.01)
        except FailoverLockContended:
            return 0


class Brusque(FlockFailoverLock):
    """Lets errors of the system through as they are."""

    def _opened(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)


class AsyncOnly(FlockFailoverLock):
    """Lets go on the event loop, which is not there in another thread."""

    def release_nowait(self) -> None:
        asyncio.get_running_loop().call_soon(super().release_nowait)


class Nothing:
    """Does nothing at all: is held by everybody, and has no file."""

    was_contended = False
    token = 0

    def __init__(self, lock_path: str) -> None:
        pass

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:
        return 1

    async def release(self) -> None:
        pass

    def release_nowait(self) -> None:
        pass

    async def owner(self) -> str | None:
        return None

    def guard(self, token: int) -> None:
        pass
