"""What a manager finds in its state folder: whether another one is at work, and the engines that an earlier one had.

STATE/manager.lock     held by the manager for as long as it lives, and who that is
      owner            the folder's own mark, by which its engines' processes are known, and which folder of which boot that is
      leases           what it granted, for the next one (ftharness.pool.lease_file)
      engines/         a folder for each slot (ftharness.pool.slot)
"""

import asyncio
import fcntl
import json
import os
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from ftharness.failover.identity import boot_id
from ftharness.pool.engine_process import EngineProcess, OnLine
from ftharness.pool.engine_start import connect
from ftharness.pool.slot import Record, Slot
from ftharness.process.process import Ended

_ENDS_S = 3.0  # for a shim to end what it has, once its manager is gone


class StateError(Exception):
    """The state folder cannot be used; the message says why, and what to do."""


class AnotherManager(StateError):  # noqa: N818 - says what is the case
    """Another manager has the state folder; the message says which."""


class StateFolder:
    """The state folder, held: one manager at a time, for each engine is one manager's alone.

    Args:
        path: Where it lies; made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = -1
        self._owner = ""

    def __enter__(self) -> Self:
        """Take it.

        Raises:
            AnotherManager: It is another's.
            StateError: It cannot be made, read or written.
        """
        try:
            self.path.mkdir(
                mode=0o711, parents=True, exist_ok=True
            )  # engines of other users pass it on the way to theirs
            self._lock = os.open(self.path / "manager.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AnotherManager(
                    f"{self.path} is in use: {self._who()}; stop it, or set another state_dir"
                ) from None
            self.announce("")
            self._owner = self._own_mark()
        except OSError as error:
            self._let_go()
            raise StateError(
                f"{self.path}: {error.strerror or error}; state_dir has to be a folder that can be written"
            ) from error
        except StateError:
            self._let_go()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it go. The lock's file stays: who unlinked it would let two have it."""
        self._let_go()

    def announce(self, url: str) -> None:
        """Say where the manager serves, for whoever comes second.

        Raises:
            OSError: It cannot be written.
        """
        who = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "url": url}
        os.pwrite(self._lock, json.dumps(who).ljust(1023).encode() + b"\n", 0)

    def check(self) -> None:
        """Whether it is still the one that was taken: nothing may be started in one that another manager can take as well.

        Raises:
            OSError: It was removed meanwhile, or another is in its place.
        """
        lock = self.path / "manager.lock"
        if not (lock.exists() and os.path.samestat(lock.stat(), os.fstat(self._lock))):
            raise OSError(
                f"{self.path} was removed or replaced while its manager runs: it starts no engine any more; start it again"
            )

    def slot(self, engine_id: str) -> Slot:
        """The slot of an engine."""
        return Slot(self.path / "engines" / engine_id, engine_id, self._owner)

    def slots(self) -> list[Slot]:
        """All that there ever were, in use or not."""
        folder = self.path / "engines"
        return (
            [self.slot(entry.name) for entry in sorted(folder.iterdir()) if entry.is_dir()] if folder.is_dir() else []
        )

    def _own_mark(self) -> str:
        """A mark that no other folder has, nor a copy of this one: by it processes are found that are to be ended."""
        path = self.path / "owner"
        here = self.path.stat()
        place = f"{here.st_dev}:{here.st_ino}"
        try:
            mark, boot, of = path.read_text().split()
        except (FileNotFoundError, ValueError):
            mark = boot = of = ""
        if (boot, of) == (boot_id(), place):
            return mark
        if boot == boot_id():  # a copy: what its slots tell of is the other's
            for slot in self.slots():
                slot.forget()
        mark = uuid.uuid4().hex  # of an earlier boot no process is left that the last one could find
        fresh = path.with_name("owner.new")
        fresh.write_text(f"{mark} {boot_id()} {place}")
        fresh.replace(path)
        return mark

    def _who(self) -> str:
        try:
            who: dict[str, Any] = json.loads(os.pread(self._lock, 1024, 0))
        except (OSError, ValueError):
            return "by another manager"
        where = f" at {who['url']}" if who.get("url") else ""
        return f"by the manager with pid {who.get('pid')}, since {who.get('since')}{where}"

    def _let_go(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)  # not LOCK_UN: of a descriptor that a fork shares, that would free the fork's as well
            self._lock = -1


class Found(NamedTuple):
    """What was found in a slot.

    Attributes:
        engine: The engine that runs there; None: none does.
        pid: Of one that does not run any more, and whose end no manager has seen; 0: there was none.
        reason: How it ended, as far as that is known.
    """

    engine: EngineProcess | None = None
    pid: int = 0
    reason: str = ""


async def take_over(slot: Slot, on_line: OnLine = lambda _: None) -> Found:
    """The engine that an earlier manager left in a slot, or the certainty that nothing of it is left.

    Args:
        slot: The slot; its state folder is ours.
        on_line: Gets each line of the engine's output from now on, and the last ones before.

    Raises:
        SlotHeld: Something is left that cannot be ended.
        OSError: The slot's folder cannot be read, or too many files are open.
    """
    if slot.is_held():
        engine = await connect(slot, on_line)
        if engine is not None and not engine.has_ended:
            return Found(engine)
        if engine is not None:  # a moment ago, and its shim has more to do
            engine.kill()
            how = (await engine.gone()).how
            engine.close()
            return Found(None, engine.pid, _by(how))
        # Its shim ends it, for its manager is gone, or is frozen itself.
        if not await slot.wait_until_free(_ENDS_S):
            await slot.evict()
    before = slot.record()
    swept = await slot.sweep()
    if before is None or before.engine is None or (before.phase == "gone" and before.told):
        return Found(None, swept[0] if swept else 0, "what it had started was left" if swept else "")
    return Found(None, before.engine.pid, _how_it_ended(before))


def _how_it_ended(record: Record) -> str:
    if record.exit is not None:
        return _by(record.exit)
    if record.shim.boot_id != boot_id():
        return "the machine was started anew"
    return "its shim was killed, and it with it"


def _by(how: Ended) -> str:
    return f"it was ended by {how}" if how.signal else f"it ended with {how}"


async def clear(slot: Slot, grace_s: float) -> int:
    """End what is in a slot that nobody wants any more.

    Returns:
        The pid of the engine that ran there; 0: none did.

    Raises:
        SlotHeld: Something is left that cannot be ended.
        OSError: As :func:`take_over`.
    """
    found = await take_over(slot)
    if found.engine is None:
        return 0
    await found.engine.stop(grace_s)
    found.engine.close()
    await asyncio.sleep(0)
    return found.engine.pid
