"""What is in use on devices before a stack and after it: GPU memory that stays is a leak that no list of processes shows."""

import asyncio
import contextlib
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ftharness.gpu.inventory import Device, memory_of
from ftharness.gpu.nvml import NoNvml, nvml

_MIB = 1 << 20
#: Bytes that a device may have more in use afterwards: the driver's own pools grow by some MiB and shrink late. The context
#: of a single process takes 100 MiB and more, so one that stayed shows.
TOLERANCE = 64 * _MIB
#: Seconds for memory to come back: the driver frees what a killed process had after its end, a large cache in some seconds.
SETTLE_S = 10.0
_ASK_S = 0.1


class Held(NamedTuple):
    """Memory that a process has on a device."""

    device: Device
    pid: int
    memory: int

    def __str__(self) -> str:
        return f"{self.memory // _MIB} MiB of {self.device.label} ({self.device.uuid})"


class Kept(NamedTuple):
    """Memory that stayed in use on a device when the stack was gone, in bytes; or ``why`` NVML cannot tell any more."""

    device: Device
    before: int
    after: int
    settle_s: float
    why: str = ""

    def __str__(self) -> str:
        if self.why:
            return f"what is in use on {self.device.label} ({self.device.uuid}) after the stack's end cannot be told: {self.why}"
        more, before = (self.after - self.before) // _MIB, self.before // _MIB
        return (
            f"{more} MiB more than before of {self.device.label} ({self.device.uuid}) are still in use {self.settle_s:g} s after "
            f"the stack's end: {before} MiB before it, {self.after // _MIB} MiB after it"
        )


class Watch:
    """Looks at devices before a stack, while its last processes live, and afterwards.

    NVML can be asked and does not notify, so it is asked again and again where there is something to wait for.

    Args:
        devices: At which.

    Raises:
        NoNvml: NVML cannot be asked.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self._closing = contextlib.ExitStack()
        self._nvml = self._closing.enter_context(nvml())  # open for as long as we look: the driver stays awake
        self._ours: set[int] = set()
        try:
            self._handles = {one: self._nvml.nvmlDeviceGetHandleByUUID(one.uuid) for one in devices}
            self._before = {one: self._in_use(one) for one in devices}
        except self._nvml.NVMLError as error:
            self._closing.close()
            raise NoNvml(f"NVML does not tell what is in use: {error}") from None

    def held(self, pids: Collection[int]) -> list[Held]:
        """What these processes have on the devices, by NVML; they count as the stack's from now on.

        NVML numbers processes as the machine does. In a container that has numbers of its own, none is found here, and what
        they have shows when they are gone.
        """
        self._ours |= set(pids)
        return [one for device in self._handles for one in self._processes(device) if one.pid in pids]

    async def kept(self, *, settle_s: float = SETTLE_S) -> list[Kept]:
        """Wait until no device has more in use than before; those that still have after ``settle_s`` seconds.

        What another process has by now, one that lives and was never the stack's, is not counted.
        """
        until = time.monotonic() + settle_s
        while True:
            more = [kept for device in self._handles if (kept := self._more(device, settle_s)) is not None]
            if not more or time.monotonic() >= until:
                return more
            await asyncio.sleep(_ASK_S)

    def close(self) -> None:
        """Leave NVML."""
        self._closing.close()

    def _more(self, device: Device, settle_s: float) -> Kept | None:
        before = self._before[device]
        try:
            used = self._in_use(device)
        except self._nvml.NVMLError as error:  # "GPU is lost" is one of them
            return Kept(device, before, before, settle_s, str(error))
        return Kept(device, before, used, settle_s) if used > before + TOLERANCE else None

    def _in_use(self, device: Device) -> int:
        others = (one.memory for one in self._processes(device) if one.pid not in self._ours and _lives(one.pid))
        return memory_of(self._nvml, self._handles[device]).used - sum(others)

    def _processes(self, device: Device) -> list[Held]:
        handle = self._handles[device]
        told: dict[int, int] = {}
        for ask in (self._nvml.nvmlDeviceGetComputeRunningProcesses, self._nvml.nvmlDeviceGetGraphicsRunningProcesses):
            for one in self._asked(ask, handle):
                told[one.pid] = max(told.get(one.pid, 0), one.usedGpuMemory or 0)  # a process may be of both kinds
        return [Held(device, pid, memory) for pid, memory in told.items()]

    def _asked(self, ask: Any, handle: Any) -> list[Any]:
        try:
            return list(ask(handle))
        except self._nvml.NVMLError:  # not for this model, or not for this user
            return []


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
