"""The process of a check: makes one lock, and does with it what each line of its input says. Answers by lines of JSON."""

import asyncio
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from ftharness.failover.lock import FailoverLock, FailoverLockError

#: linux/capability.h: what lets root write where permissions forbid it.
_CAP_DAC_OVERRIDE = 1
_CAPABILITIES_3 = 0x20080522


def _lock_of(subject: str, path: str) -> FailoverLock:
    where, _, name = subject.rpartition(":")
    if not where or not name:
        raise LookupError(f"{subject!r} names no class: say package.module:Class, or path/file.py:Class")
    if where.endswith(".py"):
        spec = importlib.util.spec_from_file_location("lock_under_check", where)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(where)
    lock: FailoverLock = getattr(module, name)(path)
    return lock


def _hinder(hindrance: str) -> None:
    if hindrance == "no-room":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # each write is EFBIG: Python ignores SIGXFSZ
    elif hindrance == "no-rights" and os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
        sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
        libc.capget(header, sets)
        sets[0] &= ~(1 << _CAP_DAC_OVERRIDE)
        if libc.capset(header, sets) != 0:
            raise OSError(ctypes.get_errno(), "capset")
    elif hindrance == "stop-before-lock":
        stopped: list[str] = []

        def stop(event: str, _: object) -> None:
            if event in ("fcntl.flock", "fcntl.lockf") and not stopped:
                stopped.append(event)
                os.kill(os.getpid(), signal.SIGSTOP)

        sys.addaudithook(stop)


class _Engine:
    """Obeys."""

    def __init__(self, lock: FailoverLock, name: str) -> None:
        self._lock: FailoverLock | None = lock
        self._name = name
        self._left: list[subprocess.Popen[bytes]] = []

    async def obey(self, order: dict[str, Any]) -> Any:
        op = order.pop("op")
        return await getattr(self, f"do_{op}")(**order)

    async def do_acquire(self, timeout: float | None) -> dict[str, str]:  # noqa: ASYNC109
        return await self._outcome(self._mine.acquire(engine_id=self._name, timeout=timeout))

    async def do_acquire_twice(self) -> list[str]:
        """What comes of a second acquisition while the first waits, and of the first."""
        first = asyncio.ensure_future(self._outcome(self._mine.acquire(engine_id=self._name, timeout=1)))
        await asyncio.sleep(0.05)
        second = await self._outcome(self._mine.acquire(engine_id=self._name, timeout=0))
        return [second["outcome"], (await first)["outcome"]]

    async def do_release(self) -> str:
        await self._mine.release()
        return "released"

    async def do_release_in(self, where: str) -> str:
        """Releases in a signal handler, or in another thread."""
        if where == "thread":
            thread = threading.Thread(target=self._mine.release_nowait)
            thread.start()
            thread.join()
        else:
            signal.signal(signal.SIGUSR1, lambda *_: self._mine.release_nowait())
            os.kill(os.getpid(), signal.SIGUSR1)
        return "released"

    async def do_owner(self) -> str | None:
        return await self._mine.owner()

    async def do_state(self) -> dict[str, Any]:
        return {"contended": self._mine.was_contended, "token": self._mine.token}

    async def do_guard(self, token: int) -> str:
        try:
            self._mine.guard(token)
        except FailoverLockError as error:
            return type(error).__name__
        return "passed"

    async def do_drop(self) -> str:
        """Forgets the lock object."""
        self._lock = None
        gc.collect()
        return "dropped"

    async def do_leave_children(self) -> list[int]:
        """Forks a child, and executes one that inherits all that may be inherited; both live until the checks end."""
        forked = os.fork()
        if forked == 0:
            os.read(0, 1)
            os._exit(0)
        argv = [sys.executable, "-I", "-S", "-c", "import os; os.read(0, 1)"]
        self._left.append(subprocess.Popen(argv, close_fds=False))  # noqa: ASYNC220 - nothing else is to happen meanwhile
        return [forked, self._left[0].pid]

    async def do_files(self) -> list[int]:
        """How many files are open, and how many children there are, once all that was ended is gone."""
        await asyncio.sleep(0.1)
        gc.collect()
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return [len(os.listdir("/proc/self/fd")), len(children)]  # noqa: PTH208

    async def do_cancel_everywhere(self, steps: int, pauses_ms: list[int]) -> int:
        """Cancels an acquisition after each number of steps and of milliseconds; how many had acquired by then."""
        acquired = 0
        for step in range(steps + len(pauses_ms)):
            task = asyncio.ensure_future(self._mine.acquire(engine_id=self._name))
            for _ in range(min(step, steps)):
                await asyncio.sleep(0)
            if step >= steps:
                await asyncio.sleep(pauses_ms[step - steps] / 1e3)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                continue
            acquired += 1
            await self._mine.release()
        return acquired

    @property
    def _mine(self) -> FailoverLock:
        assert self._lock is not None
        return self._lock

    async def _outcome(self, acquisition: Any) -> dict[str, str]:
        try:
            await acquisition
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is reported
            return {"outcome": type(error).__name__, "reason": str(error)}
        return {"outcome": "acquired"}


async def _serve(subject: str, path: str, name: str, hindrance: str) -> None:
    loop = asyncio.get_running_loop()
    orders: asyncio.Queue[bytes] = asyncio.Queue()
    partial = b""

    def read() -> None:
        nonlocal partial
        data = os.read(0, 65_536)
        if not data:
            os._exit(0)
        *lines, partial = (partial + data).split(b"\n")
        for line in lines:
            orders.put_nowait(line)

    def answer(value: object) -> None:
        os.write(1, json.dumps(value).encode() + b"\n")

    loop.add_reader(0, read)
    try:
        engine = _Engine(_lock_of(subject, path), name)
    except Exception as error:  # noqa: BLE001 - the lock is not ours
        answer(f"{type(error).__name__}: {error}")
        return
    _hinder(hindrance)
    answer("ready")
    while True:
        answer(await engine.obey(json.loads(await orders.get())))


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
