"""Waiting for a flock without a thread that cannot be called off, and without asking again and again."""

import asyncio
import atexit
import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ftharness.failover.lock.flock.waiter import HEARD_S

_WAITER = Path(__file__).with_name("waiter.py")
#: Seconds in which a process that was killed is gone.
_DEAD_S = 0.01
#: Those that were killed and not yet waited for: a loop that ends meanwhile leaves them to the next reaping, or to our exit.
_DYING: list[subprocess.Popen[bytes]] = []
_log = logging.getLogger("ftharness.failover.lock")


def try_lock(fd: int) -> bool:
    """Take the lock of an open file, if nobody else has it.

    Raises:
        OSError: The filesystem has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def until_locked(fd: int, *, poll_interval: float, deadline: float | None, replaced: Callable[[], bool]) -> bool:
    """Wait until an open file's lock is ours; whether it is.

    A process that blocks in flock on the same open file tells the moment. It may be killed, or not be startable; so every
    ``poll_interval`` seconds the lock is tried for as well, and the process started again.

    Args:
        fd: The open file.
        poll_interval: Seconds.
        deadline: On the loop's clock; None: without end.
        replaced: Whether there is no use in waiting for this file any more.
    """
    loop = asyncio.get_running_loop()
    while True:
        blocked = _Blocked(fd)
        try:
            while not blocked.gone:
                patience = poll_interval if deadline is None else min(poll_interval, deadline - loop.time())
                if await blocked.granted(max(0.0, patience)):
                    # Its hand is off: it was ended before it could have given the lock back. Otherwise it may have.
                    if blocked.let_go() or _ended_and_locked(blocked, fd):
                        return True
                    break
                if try_lock(fd):  # it may have been given the same, and will give it back
                    if _ended_and_locked(blocked, fd):
                        return True
                    break
                if replaced() or (deadline is not None and loop.time() >= deadline):
                    return False
        finally:
            blocked.end()


def _ended_and_locked(blocked: "_Blocked", fd: int) -> bool:
    blocked.end()
    return try_lock(fd)


class _Blocked:
    """The process that blocks."""

    def __init__(self, fd: int) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._granted_ns = 0
        _reap()
        argv = [sys.executable or "", "-I", "-S", str(_WAITER), str(fd), str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(fd,),
                bufsize=0,
            )
        except OSError as error:
            _log.warning(
                "cannot start %s, which tells when the lock is free (%s): asking from time to time", argv, error
            )

    @property
    def gone(self) -> bool:
        """Whether it has ended by itself. One that could not be started has not: asking again costs as much."""
        return self._process is not None and self._process.poll() is not None

    async def granted(self, patience_s: float) -> bool:
        """Whether the lock came, within so many seconds; False also when the process ends without."""
        if self._process is None or self._process.stdout is None:
            await asyncio.sleep(patience_s)
            return False
        loop, pipe = asyncio.get_running_loop(), self._process.stdout.fileno()
        told: asyncio.Future[bytes] = loop.create_future()

        def read() -> None:
            loop.remove_reader(pipe)
            if not told.done():
                told.set_result(os.read(pipe, 20))

        until = loop.time() + patience_s
        loop.add_reader(pipe, read)
        timer = loop.call_later(patience_s, lambda: None if told.done() else told.set_result(b""))
        try:
            line = await told
        finally:
            timer.cancel()
            loop.remove_reader(pipe)
        if not line:  # whatever ended it may end the next one as soon
            await asyncio.sleep(max(0.0, until - loop.time()))
            return False
        self._granted_ns = int(line)
        return True

    def let_go(self) -> bool:
        """End it without waiting for that; whether it verifiably had not given the lock back, and cannot any more.

        It sleeps for as long as the parent may take to hear of the lock. A kill that is on its way by then is what it wakes to.
        """
        process = self._process
        assert process is not None, "what was not started was not granted anything"
        process.kill()
        if time.monotonic_ns() - self._granted_ns > HEARD_S * 1e9 / 2:
            return False
        self._process = None
        _close_pipes(process)
        _DYING.append(process)
        asyncio.get_running_loop().call_later(_DEAD_S, _reap)  # not now: the takeover does not wait for it
        return True

    def end(self) -> None:
        """End it, and wait until it has: before that, its hand is on the lock as well."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        _close_pipes(process)


def _reap() -> None:
    while _DYING:
        _DYING.pop().wait()


atexit.register(_reap)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
