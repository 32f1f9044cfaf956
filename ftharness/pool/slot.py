"""A slot's folder: who has it, what is known of the engine that was last started in it, and what may be left of that.

    STATE/engines/<engine id>/lock         held by the shim, for as long as it lives
                              shim         who the shim and its engine are, and how that ended
                              shim.sock    where the shim waits for a manager
                              shim.err     nothing, or a mistake of the shim's own
                              tmp          a link to where the engine has its temporary files
                              engine.log   the output, and engine.log.1 before it

There is one engine to a slot because there is one shim, which holds the lock; and because nothing is started where something
is left of the one before.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
from pathlib import Path
from typing import NamedTuple

from ftharness.failover.identity import Identity
from ftharness.failover.slots import Slots
from ftharness.pool.scratch import LINK, remove_scratch
from ftharness.pool.shim import LOCK, LOG, RECORD
from ftharness.pool.shim_link import SOCKET
from ftharness.process.process import Ended
from ftharness.process.process_table import Entry, read_entry, read_table, send_signal, tagged

#: In the environment of each engine and of all that it starts: whose it is, should everything else be lost.
TAG = "FTHARNESS_POOL_ENGINE"
_GONE_S = 10.0  # after SIGKILL; longer takes only a process that the kernel itself holds, in a driver


class Record(NamedTuple):
    """What a shim wrote down.

    Attributes:
        phase: ``starting``, ``running``, ``exited`` (something that the engine started is left), ``gone``.
        shim: The shim's process.
        engine: The engine's; None: it was not started yet.
        exit: How the engine ended, as far as that is known.
        told: A manager knows of the end.
    """

    phase: str
    shim: Identity
    engine: Identity | None
    exit: Ended | None
    told: bool


class SlotHeld(Exception):  # noqa: N818 - says what is the case
    """Somebody has the slot, and cannot be made to let it go; the message says who."""


class Slot:
    """One slot's folder.

    Args:
        folder: Where it lies.
        engine_id: Whose.
        owner: Of the state folder: its own mark, which no other has.
    """

    def __init__(self, folder: Path, engine_id: str, owner: str) -> None:
        self.folder = folder
        self.engine_id = engine_id
        self._owner = owner

    @property
    def tag(self) -> str:
        """The variable, with its value, that this slot's processes have. It ends as no engine's name can."""
        return f"{TAG}={self._owner}/{self.engine_id}/"

    @property
    def log_path(self) -> Path:
        """Where the output is kept."""
        return self.folder / LOG

    @property
    def complaints_path(self) -> Path:
        """Where a mistake of the shim's own is written."""
        return self.folder / "shim.err"

    def make(self) -> None:
        """Make the folder, for nobody else to look into.

        Raises:
            OSError: It cannot be made.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def forget(self) -> None:
        """Know nothing of what was started, which is another folder's.

        Raises:
            OSError: The folder cannot be written.
        """
        for name in (RECORD, LINK, SOCKET):
            (self.folder / name).unlink(missing_ok=True)

    def record(self) -> Record | None:
        """What the last shim wrote; None where there was none, or what it wrote cannot be read."""
        try:
            said = Slots(self.folder / RECORD).read()
            if said is None:
                return None
            engine, status = said["engine"], said["status"]
            return Record(
                said["phase"],
                Identity(*said["shim"]),
                Identity(*engine) if engine else None,
                None if status is None else Ended.of(status),
                bool(said["told"]),
            )
        except (OSError, KeyError, TypeError, ValueError):
            return None

    def is_held(self) -> bool:
        """Whether a shim has it.

        Raises:
            OSError: It cannot be told.
        """
        try:
            fd = os.open(self.folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            # Shared: two that ask at once do not take each other for a shim.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    async def wait_until_free(self, deadline_s: float) -> bool:
        """Whether its shim lets go of it within so many seconds; the kernel tells when the shim ends."""
        try:
            async with asyncio.timeout(deadline_s):
                while self.is_held():
                    record = self.record()
                    if record is None or not record.shim.here or not await _ended(record.shim):
                        await asyncio.sleep(0.01)  # who has it is not written down yet: nothing tells of it
        except TimeoutError:
            return not self.is_held()
        return True

    async def evict(self) -> None:
        """Kill the shim that has the slot and does not answer; its engine goes with it.

        It is killed by pidfd, and only if it is verifiably the one that wrote the record: the same boot, pid namespace and
        start time.

        Raises:
            SlotHeld: It cannot be told who has it, or it does not end.
        """
        record = self.record()
        shim = read_entry(record.shim.pid) if record is not None and record.shim.here and record.shim.lives else None
        if shim is None or record is None or shim.start_time != record.shim.started:
            raise SlotHeld(
                f"{self.folder / LOCK} is locked, and not by the shim that {RECORD} there tells of: "
                f"end who has it, which `fuser {self.folder / LOCK}` names, and its engine goes with it"
            )
        send_signal(shim, signal.SIGKILL)
        if not await self.wait_until_free(_GONE_S):
            raise SlotHeld(f"{self.folder / LOCK} is still locked {_GONE_S:g} s after its shim was killed")

    async def sweep(self) -> list[int]:
        """Kill what is left of an engine whose shim is gone, found by the tag in its environment, and see it end.

        Its temporary files go, too, and the shim's socket.

        Returns:
            The pids.

        Raises:
            SlotHeld: Something is left all the same.
        """
        killed: list[int] = []
        try:
            async with asyncio.timeout(_GONE_S):
                while found := await asyncio.to_thread(self._left):
                    killed += [entry.pid for entry in found if send_signal(entry, signal.SIGKILL)]
                    for entry in found:
                        await _ended(Identity(entry.pid, entry.start_time, "", 0))
        except TimeoutError:
            pass
        else:
            await asyncio.to_thread(remove_scratch, str(self.folder))
            with contextlib.suppress(OSError):
                (self.folder / SOCKET).unlink()
            return killed
        left = ", ".join(f"{entry.name} (pid {entry.pid}, state {entry.state})" for entry in self._left())
        raise SlotHeld(f"of the last engine in {self.folder} this is left, {_GONE_S:g} s after it was killed: {left}")

    def _left(self) -> list[Entry]:
        return [entry for entry in tagged(self.tag, read_table()) if entry.state not in "ZX"]


async def _ended(identity: Identity) -> bool:
    """Wait until that process has ended, as the kernel tells; False: it was gone already."""
    try:
        fd = os.pidfd_open(identity.pid)
    except (ProcessLookupError, ValueError):
        return False
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    try:
        if not identity.lives:
            return False
        loop.add_reader(fd, _resolve, ended)
        await ended
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
