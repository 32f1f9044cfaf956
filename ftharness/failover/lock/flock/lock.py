"""A failover lock for the engines of one machine: a flock, and what a flock alone does not give."""

import asyncio
import contextlib
import fcntl
import logging
import os
import stat
import threading
import weakref
from functools import partial
from pathlib import Path

from ftharness.failover.identity import Identity, myself
from ftharness.failover.lock.filesystem import network_filesystem
from ftharness.failover.lock.flock.heartbeat import beats, start_beating
from ftharness.failover.lock.flock.record import beside, newest, take
from ftharness.failover.lock.flock.waiting import try_lock, until_locked
from ftharness.failover.lock.interface import (
    FailoverLock,
    FailoverLockContended,
    FailoverLockError,
    FailoverLockFenced,
    Holder,
)
from ftharness.failover.slots import Slots

_log = logging.getLogger("ftharness.failover.lock")
_LONGEST_ID = 253  # bytes: as long as Kubernetes lets a name be

# The open files that hold a lock, or wait for one. A child that is forked (not one that is executed: they are opened
# O_CLOEXEC) shares each with us, and would keep the lock when we die. It closes its hand: to unlock would unlock ours.
_OPEN: set[int] = set()
_LOCKS: "weakref.WeakSet[FlockFailoverLock]" = weakref.WeakSet()
_FORKING = threading.RLock()  # no fork between an open and its entry


def _let_go_in_child() -> None:
    while _OPEN:
        with contextlib.suppress(OSError):
            os.close(_OPEN.pop())
    for lock in _LOCKS:
        lock._forked()  # noqa: SLF001
    _FORKING.release()


os.register_at_fork(before=_FORKING.acquire, after_in_parent=_FORKING.release, after_in_child=_let_go_in_child)


class FlockFailoverLock(FailoverLock):
    """A lock on a file, among the processes of one kernel, in whatever containers they are.

    - The file holds the engine id of whoever took the lock last, and nothing else. The kernel's lock decides, never the
      text. The file is never unlinked: whoever waits for the old one and whoever finds a new one would both have it.
    - Beside it, in ``<lock file>.holder``: the process that took it, and the fencing token.
    - A takeover is told by the kernel (a small process blocks in flock for this one), not found by asking.
    - It is let go by :meth:`release`, :meth:`release_nowait` or the end of the process. Not by a forked child, nor by the
      garbage collector.

    A holder that is frozen keeps it. Where that must end as well, have it beat (``heartbeat_s``) and run a
    :class:`~ftharness.failover.fence.Fencer`.

    Args:
        lock_path: The lock file; its folder has to be there.
        heartbeat_s: Seconds between two beats while the lock is held; None: no heartbeat.
        allow_network: Take a file on a network filesystem as well, where a flock may be lost, or be kept for a machine that
            is gone.

    Raises:
        ValueError: The heartbeat is not above 0.
    """

    def __init__(
        self, lock_path: str | os.PathLike[str], *, heartbeat_s: float | None = None, allow_network: bool = False
    ) -> None:
        if heartbeat_s is not None and not heartbeat_s > 0:
            raise ValueError(f"heartbeat_s = {heartbeat_s:g}: must be more than 0 seconds, or None for no heartbeat")
        self._path = Path(os.path.abspath(lock_path))  # noqa: PTH100 - resolve() would follow what may be replaced
        self._heartbeat_s = heartbeat_s
        self._allow_network = allow_network
        self._busy = threading.Lock()  # of this object: one acquisition, or one hold
        self._held: list[int] = []  # the open file; its pop() is what makes a release happen once, whoever calls
        _LOCKS.add(self)

    def _forked(self) -> None:
        """In a forked child nothing is held, whatever the parent has."""
        self._busy = threading.Lock()
        self._held = []

    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:  # noqa: ASYNC109
        """Take the lock, as soon as it is free.

        Args:
            engine_id: Who takes it: what :meth:`owner` then tells.
            poll_interval: Seconds. A takeover does not wait for it: it bounds how long a lock file that was replaced, or a
                waiting process that was killed, goes unnoticed.
            timeout: Seconds to wait at most; 0: only where it is free at once; None: without end.

        Returns:
            The fencing token: greater than that of every acquisition before.

        Raises:
            ValueError: The engine id is empty or too long, or the interval is not above 0.
            FailoverLockContended: Another held it for all of that time.
            FailoverLockError: It cannot be taken at all (no such folder, a network filesystem, a full disk), or this object
                has it already, or is about to.
        """
        _check(engine_id, poll_interval)
        if not self._busy.acquire(blocking=False):
            raise FailoverLockError(
                f"{self._path}: this object {'holds the lock' if self._held else 'is acquiring it'} already; "
                "release it first, or make a FlockFailoverLock of your own for each engine"
            )
        try:
            identity = myself()  # before the wait: what is known by then costs the takeover nothing
            fd = await self._locked_file(poll_interval, timeout)
            try:
                self.token = self._write(fd, engine_id, identity)
            except BaseException:
                _close(fd)
                raise
        except BaseException:
            self._busy.release()
            raise
        self._held.append(fd)
        _log.info("Failover lock acquired: %s", engine_id)
        return self.token

    def release_nowait(self) -> None:
        """Let it go; nothing happens where it is not held. To be called from anywhere: a signal handler, another thread."""
        try:
            fd = self._held.pop()
        except IndexError:
            return
        # Not the close alone: a child that was forked by foreign code may have the open file as well.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
        _close(fd)
        self._busy.release()

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return bool(self._held)

    async def owner(self) -> str | None:
        """The engine id of whoever took it last, even where that one is gone; None where nobody ever did."""
        try:
            return self._path.read_text(errors="replace") or None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FailoverLockError(f"cannot read the failover lock {self._path}: {error}") from error

    async def holder(self) -> Holder | None:
        """What is known of whoever took it last, and whether it really holds it; None where nobody ever did."""
        record = newest(self._path)
        return None if record is None else record.holder(self._path)

    def guard(self, token: int) -> None:
        """Refuse a holder that has lost the lock: for a resource that is asked by one who shows its token.

        Raises:
            FailoverLockFenced: ``token`` is not that of the last acquisition.
        """
        record = newest(self._path)
        last = record.token if record is not None else 0
        if token != last or last == 0:
            by = f" by {record.engine_id}" if record is not None else ""
            last_one = f"which is {last}{by}" if record is not None else "for nobody is known to have had it"
            raise FailoverLockFenced(f"{self._path}: token {token} is not the last, {last_one}")

    async def _locked_file(self, poll_interval: float, timeout: float | None) -> int:  # noqa: ASYNC109
        """The open lock file, locked; the path names it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = None if timeout is None else began + timeout
        self.was_contended = False
        while True:
            fd = self._opened()
            try:
                locked = self._try_lock(fd)
                if not locked:
                    self.was_contended = True
                    if deadline is None or loop.time() < deadline:
                        replaced = partial(self._replaced, fd)
                        locked = await until_locked(
                            fd, poll_interval=poll_interval, deadline=deadline, replaced=replaced
                        )
                # Whoever unlinks or replaces the file leaves us with a lock that the next one never sees.
                again = self._replaced(fd)
                if locked and not again:
                    return fd
            except BaseException:
                _close(fd)
                raise
            _close(fd)
            if not again:
                raise FailoverLockContended(await self._contention(loop.time() - began))

    def _check_file(self, fd: int) -> None:
        """What a holder writes to has to be there, and writable: one that waits is to find that out before its turn."""
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FailoverLockError(f"the failover lock {self._path} is not a file")
        for place in (beside(self._path), *([beats(self._path)] if self._heartbeat_s is not None else [])):
            try:
                Slots(place).make()
            except OSError as error:
                raise FailoverLockError(
                    f"cannot write {place}, where the holder of the failover lock is told: {error.strerror}; "
                    "it has to be writable for every engine, and so has its folder where it is yet to be made"
                ) from error

    def _opened(self) -> int:
        kind = "" if self._allow_network else network_filesystem(self._path.parent)
        if kind:
            raise FailoverLockError(
                f"{self._path} lies on {kind}, a network filesystem: a flock there may be lost while its holder runs, or be kept "
                "for a machine that is gone. Put it on a local one (in Kubernetes an emptyDir), or say allow_network=True"
            )
        try:
            with _FORKING:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
                _OPEN.add(fd)
        except OSError as error:
            raise FailoverLockError(
                f"cannot open the failover lock {self._path}: {error.strerror}; its folder has to be there, and it has to be "
                "writable, as the folder where it is yet to be made"
            ) from error
        try:
            self._check_file(fd)
        except BaseException:
            _close(fd)
            raise
        return fd

    def _try_lock(self, fd: int) -> bool:
        try:
            return try_lock(fd)
        except OSError as error:
            raise FailoverLockError(f"the filesystem of {self._path} has no locks: {error.strerror}") from error

    def _replaced(self, fd: int) -> bool:
        """Whether the path names another file than the open one by now, or none."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(fd))  # noqa: PTH116
        except OSError:
            return True

    def _write(self, fd: int, engine_id: str, identity: Identity) -> int:
        """The new holder's token and name, under the lock. The token first: a guard must know before anyone serves."""
        text = engine_id.encode()
        try:
            size = os.fstat(fd).st_size
            record = take(self._path, engine_id, identity, self._heartbeat_s, had_owner=size > 0)
            os.pwrite(fd, text, 0)
            if size != len(text):
                os.ftruncate(
                    fd, len(text)
                )  # afterwards: a disk that is full by now takes the text in the old one's place
            token = record.token
            start_beating(self._path, record, still=lambda: self.held and self.token == token)
        except OSError as error:
            raise FailoverLockError(
                f"the failover lock {self._path} was free, and is not taken: writing who has it failed: {error.strerror or error}"
            ) from error
        return record.token

    async def _contention(self, waited_s: float) -> str:
        owner, holder = await self.owner(), await self.holder()
        who = f"engine {owner}" if owner else "a process that has not said who it is"
        if holder is not None and holder.holds:
            who += f" (process {holder.identity.pid})"
        return f"{self._path}: not free within {waited_s:.3f} s; held by {who}"


def _close(fd: int) -> None:
    _OPEN.discard(fd)
    with contextlib.suppress(OSError):
        os.close(fd)


def _check(engine_id: str, poll_interval: float) -> None:
    if not engine_id or len(engine_id.encode()) > _LONGEST_ID:
        raise ValueError(f"engine_id = {engine_id!r}: must have 1 to {_LONGEST_ID} bytes")
    if not poll_interval > 0:
        raise ValueError(f"poll_interval = {poll_interval:g}: must be more than 0 seconds")
