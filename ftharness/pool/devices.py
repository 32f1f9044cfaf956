"""The GPUs of this machine as a pool's readers are told of them; a machine without any has none, which is no error."""

import msgspec

from ftharness.gpu import Device, Inventory, inventory


class DeviceSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU, or a partition of one (MIG), at one moment.

    Attributes:
        id: The GPU's index, in the order of the PCI bus.
        compute_capability: Major and minor: ``9.0``.
        vram_total_bytes: Memory.
        vram_free_bytes: Of it, what nobody uses.
        uuid: The same on every start of the machine: ``GPU-…`` or ``MIG-…``.
        name: Of the model.
        partition: Of a partition, its place on its GPU; None for a GPU.
        partitions: What a GPU is divided into.
        divided: Whether MIG is on: it cannot be used as a whole.
    """

    id: int
    compute_capability: str | None
    vram_total_bytes: int
    vram_free_bytes: int
    uuid: str
    name: str
    partition: int | None = None
    partitions: tuple["DeviceSnapshot", ...] = ()
    divided: bool = False

    @property
    def label(self) -> str:
        """For people: ``0`` or, of a partition, its UUID."""
        return str(self.id) if self.partition is None else self.uuid


class Devices(msgspec.Struct, frozen=True, kw_only=True):
    """What there is.

    Attributes:
        gpus: In the order of the PCI bus.
        reason: Why there are none; "" where there are some.
    """

    gpus: tuple[DeviceSnapshot, ...] = ()
    reason: str = ""

    @property
    def usable(self) -> tuple[DeviceSnapshot, ...]:
        """What an engine can be given: each GPU, or in its place the partitions that it is divided into."""
        return tuple(one for gpu in self.gpus for one in (gpu.partitions if gpu.divided else (gpu,)))


#: A machine that was not asked.
NO_DEVICES = Devices(reason="no GPU was looked for")


def discover() -> Devices:
    """Ask NVML what there is now. It may take seconds: the first question wakes the driver."""
    return devices_of(inventory())


def devices_of(there: Inventory) -> Devices:
    """An inventory as snapshots."""
    return Devices(gpus=tuple(_snapshot(one) for one in there.gpus), reason=there.reason)


def _snapshot(device: Device) -> DeviceSnapshot:
    major, minor = device.capability
    return DeviceSnapshot(
        id=device.index,
        compute_capability=f"{major}.{minor}",
        vram_total_bytes=device.memory.total,
        vram_free_bytes=device.memory.free,
        uuid=device.uuid,
        name=device.name,
        partition=device.partition,
        partitions=tuple(_snapshot(part) for part in device.partitions),
        divided=device.divided,
    )
