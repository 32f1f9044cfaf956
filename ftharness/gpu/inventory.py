"""Which GPUs there are, as NVML tells it; where none can be told, why."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ftharness.gpu.nvml import NoNvml, nvml

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A device's memory, in bytes. ``used`` counts what the driver keeps for itself, as NVML does."""

    total: int
    used: int
    free: int


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU, or a partition of one (MIG).

    Attributes:
        index: Of the GPU, in the order of the PCI bus, which is NVML's.
        uuid: The same on every start of the machine: ``GPU-…`` or ``MIG-…``.
        name: Of the model.
        capability: Its compute capability, major and minor.
        memory: When it was asked.
        partition: Of a partition, its place on its GPU; None for a GPU.
        partitions: What a GPU is divided into. One that is divided cannot be used as a whole.
        divided: Whether MIG is on, also where no partition was made yet.
    """

    index: int
    uuid: str
    name: str
    capability: tuple[int, int]
    memory: Memory
    partition: int | None = None
    partitions: tuple["Device", ...] = ()
    divided: bool = False

    @property
    def label(self) -> str:
        """For people: ``GPU 0``, or ``GPU 0, partition 1``."""
        return f"GPU {self.index}" if self.partition is None else f"GPU {self.index}, partition {self.partition}"

    def __str__(self) -> str:
        major, minor = self.capability
        used, total = self.memory.used // _MIB, self.memory.total // _MIB
        return (
            f"{self.label}: {self.name}, compute capability {major}.{minor}, {used} of {total} MiB in use, {self.uuid}"
        )


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What there is.

    Attributes:
        gpus: In the order of the PCI bus.
        reason: Why there are none; "" where there are some.
    """

    gpus: tuple[Device, ...] = ()
    reason: str = ""

    @property
    def devices(self) -> list[Device]:
        """What a process can be given: each GPU, or in its place the partitions that it is divided into."""
        return [one for gpu in self.gpus for one in (gpu.partitions if gpu.divided else (gpu,))]


def inventory() -> Inventory:
    """Ask NVML. That there is none, or no GPU, is an answer and not an error."""
    try:
        with nvml() as binding:
            try:
                gpus = tuple(_gpu(binding, index) for index in range(binding.nvmlDeviceGetCount()))
            except binding.NVMLError as error:
                return Inventory(reason=f"NVML does not tell which GPUs there are: {error}")
    except NoNvml as error:
        return Inventory(reason=str(error))
    if not gpus:
        return Inventory(reason="the NVIDIA driver is there, and no GPU that this user or container may see")
    return Inventory(gpus=gpus)


def memory_of(binding: Any, handle: Any) -> Memory:
    """The memory of a device, now."""
    told = binding.nvmlDeviceGetMemoryInfo(handle)
    return Memory(total=int(told.total), used=int(told.used), free=int(told.free))


def _gpu(binding: Any, index: int) -> Device:
    handle = binding.nvmlDeviceGetHandleByIndex(index)
    capability = tuple(binding.nvmlDeviceGetCudaComputeCapability(handle))
    divided = _divided(binding, handle)
    parts = tuple(_partitions(binding, handle, index, capability)) if divided else ()
    return Device(
        index=index,
        uuid=binding.nvmlDeviceGetUUID(handle),
        name=binding.nvmlDeviceGetName(handle),
        capability=capability,
        memory=memory_of(binding, handle),
        partitions=parts,
        divided=divided,
    )


def _divided(binding: Any, handle: Any) -> bool:
    try:
        current, _ = binding.nvmlDeviceGetMigMode(handle)
    except binding.NVMLError:  # most models cannot be divided, and say "Not Supported"
        return False
    return bool(current)


def _partitions(binding: Any, handle: Any, index: int, capability: tuple[int, int]) -> Iterator[Device]:
    for place in range(binding.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            part = binding.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except binding.NVMLError_NotFound:  # fewer were made than there could be
            continue
        yield Device(
            index=index,
            uuid=binding.nvmlDeviceGetUUID(part),
            name=binding.nvmlDeviceGetName(part),
            capability=capability,
            memory=memory_of(binding, part),
            partition=place,
        )
