"""A thousand takeovers: ``python takeovers.py LOCK SOCKET ROUNDS``. Prints what every engine said, as JSON, oldest first.

A program of its own, as its engines are forked from it: it has no thread, no lock, and little memory, of which each fork
copies the tables. A test's process has threads under xdist, and torch. Engines that nobody hears any more end by themselves.
"""

import asyncio
import contextlib
import json
import os
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ftharness.failover.lock import FlockFailoverLock

_ENGINES = 3
_SERVES_S = 0.0005  # between two signs that it serves
#: From an engine's first sign to its kill, in seconds at most; and so from its birth, for those that wait.
_LATEST_S = 0.02
_PATIENCE_S = 30.0


def _serve(path: Path, address: str, number: int) -> None:
    """An engine: acquires, and from then on says its number and token, again and again, until it is killed."""

    async def serve() -> None:
        lock = FlockFailoverLock(path)
        token = await lock.acquire(f"engine-{number}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as says:
            says.connect(address)
            while True:
                lock.guard(token)
                fds = len(os.listdir("/proc/self/fd"))
                says.send(f"{number} {token} {fds}".encode())
                await asyncio.sleep(_SERVES_S)

    asyncio.run(serve())


@contextlib.contextmanager
def _engines(path: Path, address: str) -> Iterator["_Engines"]:
    engines = _Engines(path, address)
    try:
        yield engines
    finally:
        for number in list(engines.pids):
            engines.kill(number)


class _Engines:
    """Those that run: forked from this process."""

    def __init__(self, path: Path, address: str) -> None:
        self._path = path
        self._address = address
        self._born = 0
        self.pids: dict[int, int] = {}

    def start(self) -> int:
        self._born += 1
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _serve(self._path, self._address, self._born)
            except BaseException as error:  # noqa: BLE001 - nothing else runs in this process
                sys.stderr.write(f"engine-{self._born}: {type(error).__name__}: {error}\n")
            finally:
                os._exit(status)
        self.pids[self._born] = pid
        return self._born

    def kill(self, number: int) -> None:
        pid = self.pids.pop(number)
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL, f"engine-{number} had ended by itself"


def takeovers(path: Path, address: str, rounds: int) -> list[tuple[int, int, int]]:
    """Kill whoever serves, so many times; the engine, its token and its open files, of each sign, in the order of the kernel."""
    moments = random.Random(20260131)  # noqa: S311 - the same ones each time
    served: list[tuple[int, int, int]] = []
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as witness,
        _engines(path, address) as engines,
    ):
        witness.bind(address)
        for _ in range(_ENGINES):
            engines.start()
        for number in range(rounds):
            holder = _first_sign(witness, served, engines)
            if number % 10 == 9:  # one that waits dies first, at whatever point of its own start it is
                other = moments.choice([one for one in engines.pids if one != holder])
                engines.kill(other)
                engines.start()
            _listen(witness, served, moments.uniform(0.0, _LATEST_S))
            engines.kill(holder)
            engines.start()
    return served


def _first_sign(witness: socket.socket, served: list[tuple[int, int, int]], engines: _Engines) -> int:
    """Who serves by now, of those that live."""
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        _listen(witness, served, 0.001)
        if served and served[-1][0] in engines.pids:
            return served[-1][0]
    raise AssertionError(f"nobody has served for {_PATIENCE_S:g} s, after {len(served)} signs")


def _listen(witness: socket.socket, served: list[tuple[int, int, int]], for_s: float) -> None:
    """Take what is said in that time. What is said meanwhile and not taken comes first the next time."""
    until = time.monotonic() + for_s
    while select.select([witness], [], [], max(0.0, until - time.monotonic()))[0]:
        number, token, files = witness.recv(64).split()
        served.append((int(number), int(token), int(files)))
        if time.monotonic() >= until:
            return


if __name__ == "__main__":
    json.dump(takeovers(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])), sys.stdout)
