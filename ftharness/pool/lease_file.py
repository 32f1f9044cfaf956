"""The file of leases: what a manager granted, for the manager after it.

    STATE/leases    a line for each grant, renewal and end

A line is written before whoever asked is answered, by one write(2) to the end of the file: so a holder has no lease that the file
does not tell of, whenever the manager is killed. It has to outlive a process and not a power cut, which no engine outlives
either; so nothing is flushed to the disk. Times to live go on by CLOCK_BOOTTIME, which counts while nobody manages, and which
nobody sets.

A line that is half written (the manager was killed in the midst, the disk was full) costs that line alone: it is no JSON, and the
next one begins with a line's end. When the file has grown it is written anew, beside itself, and put in its own place.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from ftharness.failover.identity import boot_id
from ftharness.pool.leases import NO_PROCESS, Holding, Lease, NotKept, Process, State

#: In the state folder.
LEASES = "leases"
#: The file is not written anew below so many bytes, nor before it is so many times what it was then.
_SMALL = 1 << 20
_GROWN = 4
_MS, _NS_OF_MS = 1000, 1_000_000


class _Boot(msgspec.Struct, frozen=True, array_like=True, tag="boot"):
    """What follows is of that boot: its processes, and its CLOCK_BOOTTIME."""

    boot_id: str


class _Granted(msgspec.Struct, frozen=True, array_like=True, tag="+"):
    """``until_ms`` is by CLOCK_BOOTTIME, ``process`` the engine's."""

    lease: Lease
    until_ms: int
    process: Process


class _Renewed(msgspec.Struct, frozen=True, array_like=True, tag="="):
    lease_id: str
    expires_ms: int
    until_ms: int


class _Ended(msgspec.Struct, frozen=True, array_like=True, tag="-"):
    lease_id: str
    state: State
    reason: str


_line = msgspec.json.Decoder(_Boot | _Granted | _Renewed | _Ended).decode
_encode = msgspec.json.Encoder().encode


class Found(NamedTuple):
    """What the file tells.

    Attributes:
        held: Leases that nobody had ended, the oldest first; the time that is left may be below 0.
        over: Leases that had ended.
        unreadable: Lines that are none.
    """

    held: list[Holding]
    over: list[Lease]
    unreadable: int


def read(path: Path, *, boottime_ns: Callable[[], int] | None = None) -> Found:
    """What an earlier manager wrote; nothing where there is no file.

    Args:
        path: The file.
        boottime_ns: CLOCK_BOOTTIME.

    Raises:
        OSError: It is there, and cannot be read.
    """
    now_ms = (boottime_ns or _boottime_ns)() // _NS_OF_MS
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Found([], [], 0)
    here, boot, unreadable = boot_id(), "", 0
    held: dict[str, Holding] = {}
    over: dict[str, Lease] = {}
    for line in filter(None, data.split(b"\n")):
        try:
            said = _line(line)
        except msgspec.DecodeError:
            unreadable += 1
            continue
        match said:
            case _Boot():
                boot = said.boot_id
            case _Granted() if boot and boot == here:
                held[said.lease.id] = Holding(said.lease, (said.until_ms - now_ms) / _MS, said.process)
            case _Granted():  # its engine is gone with that boot, and so is the clock: the wall's says whether its time was over
                held[said.lease.id] = Holding(said.lease, said.lease.expires_ms / _MS - time.time(), NO_PROCESS)
            case _Renewed() if said.lease_id in held:
                lease, _, process = held[said.lease_id]
                lease = msgspec.structs.replace(lease, expires_ms=said.expires_ms)
                left_s = (said.until_ms - now_ms) / _MS if boot == here else said.expires_ms / _MS - time.time()
                held[said.lease_id] = Holding(lease, left_s, process)
            case _Ended() if said.lease_id in held:
                lease = held.pop(said.lease_id).lease
                over[lease.id] = msgspec.structs.replace(lease, state=said.state, reason=said.reason)
    return Found([*held.values()], [*over.values()], unreadable)


class LeaseFile:
    """The file, being written.

    Args:
        path: Where it lies.
        say: Told, once a time, that ends of leases cannot be written; that grants and renewals cannot, their callers are told.
        boottime_ns: CLOCK_BOOTTIME.
    """

    def __init__(
        self, path: Path, say: Callable[[str], None] = lambda _: None, *, boottime_ns: Callable[[], int] | None = None
    ) -> None:
        self._path = path
        self._say = say
        self._boottime_ns = boottime_ns or _boottime_ns
        self._boot = _encode(_Boot(boot_id())) + b"\n"
        self._fd = -1
        self._size = 0
        self._limit = _SMALL
        self._before = b""  # what the next line is put behind
        self._said = False

    @property
    def grown(self) -> bool:
        """Whether it is time to write it anew."""
        return self._size > self._limit

    def granted(self, lease: Lease, ttl_s: float, process: Process) -> None:
        """A lease is granted, for ``ttl_s`` seconds, on an engine that is that process.

        Raises:
            NotKept: It cannot be written.
        """
        self._append(_encode(_Granted(lease, self._until_ms(ttl_s), process)))

    def renewed(self, lease: Lease, ttl_s: float) -> None:
        """A lease has ``ttl_s`` seconds from now on.

        Raises:
            NotKept: It cannot be written.
        """
        self._append(_encode(_Renewed(lease.id, lease.expires_ms, self._until_ms(ttl_s))))

    def ended(self, lease: Lease) -> None:
        """A lease is over, whether that can be written or not: the next manager would keep its slot until its time is over."""
        try:
            self._append(_encode(_Ended(lease.id, lease.state, lease.reason)))
        except NotKept as error:
            if not self._said:
                self._said = True
                self._say(
                    f"{error}: leases that end now would be held by a manager after this one until their time is over"
                )

    def write_anew(self, held: Iterable[Holding], over: Iterable[Lease]) -> None:
        """Write what is the case, in the place of all that was. Where that cannot be, the file goes on growing.

        Raises:
            NotKept: It cannot be written.
        """
        lines = [self._boot[:-1]]
        lines += [_encode(_Granted(one.lease, self._until_ms(one.left_s), one.process)) for one in held]
        for lease in over:
            lines.append(_encode(_Granted(lease, 0, NO_PROCESS)))
            lines.append(_encode(_Ended(lease.id, lease.state, lease.reason)))
        data = b"\n".join([*lines, b""])
        self._limit = max(_SMALL, _GROWN * max(len(data), self._size))  # not with each line, should it fail
        fresh = self._path.with_name(f"{self._path.name}.new")
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                _write_all(fd, data)
                fresh.replace(self._path)
            except BaseException:
                os.close(fd)
                with contextlib.suppress(OSError):
                    fresh.unlink()
                raise
        except OSError as error:
            raise NotKept(f"{fresh}: {error.strerror or error}") from error
        self.close()
        self._fd, self._size, self._before = fd, len(data), b""
        self._limit = max(_SMALL, _GROWN * self._size)

    def close(self) -> None:
        """Write no more; a line that comes all the same opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, line: bytes) -> None:
        try:
            if self._fd < 0:
                self._open()
            data = self._before + line + b"\n"
            written = os.write(self._fd, data)
        except OSError as error:
            raise NotKept(f"{self._path}: {error.strerror or error}") from error
        self._size += written
        if written < len(data):
            # What is there of it is no line. The boot may be in it, and is no harm twice.
            self._before = b"\n" + self._boot
            raise NotKept(f"{self._path}: it takes {written} of {len(data)} bytes; the disk is full")
        self._before, self._said = b"", False

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size
        self._before = b"\n" + self._boot  # the last line that is there may be half of one, and of another boot

    def _until_ms(self, ttl_s: float) -> int:
        return self._boottime_ns() // _NS_OF_MS + int(ttl_s * _MS)


def _boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
