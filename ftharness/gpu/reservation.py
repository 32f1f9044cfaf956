"""GPUs that are one process's for a while: cells that run side by side never share one by accident.

Each device has a lock of its own, held by the process that reserved it and let go by the kernel when that process ends,
however it ends. Who does not ask is not kept out: it is an agreement among the runs of one user on one machine.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ftharness.failover.lock import FailoverLockContended, FailoverLockError, FlockFailoverLock
from ftharness.gpu.inventory import Device, Inventory, inventory
from ftharness.gpu.nvml import NoGpus
from ftharness.gpu.visible import ORDER, VARIABLE, mask_of, visible

#: Whoever takes several waits for them alone: two that each have one and wait for the other's would wait for ever.
_TURN = "turn"
_LONGEST_NAME = 250  # bytes, of the lock's holder


class NotEnoughGpus(NoGpus):
    """More were asked for than there are; the message says how many there are, and why."""


class GpusBusy(NoGpus):
    """Others have them; the message says who."""


class Reservation:
    """Devices that are this process's until :meth:`close`, the end of the ``with`` block, or the end of the process.

    Attributes:
        devices: Those that were reserved, in the order of the PCI bus.
    """

    def __init__(self, devices: Sequence[Device], locks: Iterable[FlockFailoverLock]) -> None:
        self.devices = tuple(devices)
        self._locks = list(locks)

    @property
    def mask(self) -> str:
        """For ``CUDA_VISIBLE_DEVICES``, with ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` beside it."""
        return mask_of(self.devices)

    def split(self, shares: Mapping[str, int]) -> dict[str, dict[str, str]]:
        """Share the devices out: for each name the variables by which its process sees its own, and no other.

        Args:
            shares: How many each has.

        Raises:
            ValueError: Together they are more than were reserved.
        """
        if sum(shares.values()) > len(self.devices):
            raise ValueError(f"{dict(shares)} are {sum(shares.values())} GPUs; {len(self.devices)} were reserved")
        rest = list(self.devices)
        parts: dict[str, dict[str, str]] = {}
        for name, count in shares.items():
            its, rest = rest[:count], rest[count:]
            parts[name] = {**ORDER, VARIABLE: mask_of(its)}
        return parts

    def close(self) -> None:
        """Let them go; nothing happens the second time."""
        while self._locks:
            self._locks.pop().release_nowait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check(count: int, there: Inventory, environ: Mapping[str, str] = os.environ) -> list[Device]:
    """The devices from which ``count`` can be chosen, whoever has them now.

    Raises:
        NotEnoughGpus: There are fewer.
    """
    devices = there.devices
    seen = visible(devices, environ.get(VARIABLE))
    if len(seen) >= count:
        return seen
    asked = f"{count} GPU{'' if count == 1 else 's'} asked for, "
    if not devices:
        undivided = "the GPUs are divided (MIG is on), and no partition was made: nvidia-smi mig -cgi"
        raise NotEnoughGpus(f"{asked}there is none: {there.reason or undivided}")
    if len(seen) == len(devices):
        raise NotEnoughGpus(f"{asked}there are {len(seen)}: {'; '.join(str(one) for one in devices)}")
    mask = environ.get(VARIABLE)
    raise NotEnoughGpus(f"{asked}{len(seen)} of {len(devices)} may be used: {VARIABLE}={mask} hides the others")


def locks_folder() -> Path:
    """Where the locks lie: one place for each user, whatever the other caches of a run are.

    Two runs that each have a cache of their own (``$FTHARNESS_CACHE``) still share the machine's GPUs.
    """
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache").absolute() / "ftharness" / "gpus"


async def reserve(
    count: int,
    *,
    run: Path,
    deadline_s: float = 600.0,
    there: Inventory | None = None,
    environ: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Reservation:
    """Reserve devices, as soon as so many are free; the kernel tells when one is.

    Args:
        count: How many.
        run: For what: the run's folder, which is told to those who wait.
        deadline_s: Seconds to wait at most.
        there: What there is; None: ask NVML.
        environ: Where a ``CUDA_VISIBLE_DEVICES`` says which may be chosen from.
        folder: Where the locks lie; None: :func:`locks_folder`.

    Raises:
        NotEnoughGpus: There are fewer, whoever has them.
        GpusBusy: Others have had them for all of that time.
        NoGpus: The locks cannot be written.
    """
    devices = check(count, inventory() if there is None else there, environ)
    place = folder or locks_folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        collector = _Collector(devices, count, run, place)
        try:
            if not await collector.at_once():
                await collector.in_turn(deadline_s)
        except BaseException:
            collector.let_go()
            raise
    except (OSError, FailoverLockError) as error:
        raise NoGpus(f"GPUs cannot be reserved: {error}") from error
    return collector.reservation()


class _Collector:
    """Takes locks until there are enough."""

    def __init__(self, devices: Sequence[Device], count: int, run: Path, folder: Path) -> None:
        self._count = count
        self._who = os.fsdecode(os.fsencode(run.absolute())[-_LONGEST_NAME:])
        # On a network filesystem as well, as home folders are: there the machines exclude each other needlessly at worst.
        self._turn = FlockFailoverLock(folder / _TURN, allow_network=True)
        self._locks = {one: FlockFailoverLock(folder / one.uuid, allow_network=True) for one in devices}

    def _held(self) -> list[Device]:
        return [one for one, lock in self._locks.items() if lock.held]

    async def at_once(self) -> bool:
        """Take those that are free; whether they are enough. If not, none is kept."""
        for one in self._locks:
            if len(self._held()) == self._count:
                break
            await self._take(one, 0)
        if len(self._held()) == self._count:
            return True
        self.let_go()
        return False

    async def in_turn(self, deadline_s: float) -> None:
        """Wait for the turn, then for one device after the other.

        Raises:
            GpusBusy: Not within so many seconds.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        try:
            try:
                await self._turn.acquire(self._who, timeout=deadline_s)
            except FailoverLockContended:
                raise await self._busy(deadline_s) from None
            while len(self._held()) < self._count:
                if not await self._one_more(max(0.0, until - loop.time())):
                    raise await self._busy(deadline_s)
        finally:
            self._turn.release_nowait()

    async def _one_more(self, patience_s: float) -> bool:
        """Wait for whichever is free first; whether one came."""
        wanted = [one for one, lock in self._locks.items() if not lock.held]
        before = len(self._held())
        tasks = [asyncio.create_task(self._take(one, patience_s)) for one in wanted]
        try:
            waiting = set(tasks)
            while waiting and len(self._held()) == before:
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()  # what is no waiting in vain is said
        for one in self._held()[self._count :]:  # several came in the same turn of the loop
            self._locks[one].release_nowait()
        return len(self._held()) > before

    async def _take(self, one: Device, patience_s: float) -> None:
        with contextlib.suppress(FailoverLockContended):
            await self._locks[one].acquire(self._who, timeout=patience_s)

    async def _busy(self, deadline_s: float) -> GpusBusy:
        whose = [f"{one.label}: {await _holder(lock)}" for one, lock in self._locks.items() if not lock.held]
        asked = f"{self._count} GPU{'' if self._count == 1 else 's'}"
        return GpusBusy(f"{asked} not free within {deadline_s:g} s; {'; '.join(whose)}")

    def let_go(self) -> None:
        for lock in self._locks.values():
            lock.release_nowait()

    def reservation(self) -> Reservation:
        held = sorted(self._held(), key=lambda one: (one.index, one.partition or 0))
        return Reservation(held, [self._locks[one] for one in held])


async def _holder(lock: FlockFailoverLock) -> str:
    """Who has a device, as those are told who wait."""
    try:
        holder = await lock.holder()
    except FailoverLockError as error:
        return f"held; {error}"
    if holder is None or holder.holds is False:
        return "free just now"
    return f"held by process {holder.identity.pid} for {holder.engine_id}"
