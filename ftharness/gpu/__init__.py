"""The GPUs of this machine: which there are, whose they are for the length of a run, and what a run leaves on them."""

from ftharness.gpu.inventory import Device, Inventory, Memory, inventory
from ftharness.gpu.nvml import NoGpus, NoNvml
from ftharness.gpu.of_stack import StackGpus
from ftharness.gpu.reservation import GpusBusy, NotEnoughGpus, Reservation, check, reserve
from ftharness.gpu.visible import visible
from ftharness.gpu.watch import TOLERANCE, Held, Kept, Watch

__all__ = [
    "TOLERANCE",
    "Device",
    "GpusBusy",
    "Held",
    "Inventory",
    "Kept",
    "Memory",
    "NoGpus",
    "NoNvml",
    "NotEnoughGpus",
    "Reservation",
    "StackGpus",
    "Watch",
    "check",
    "inventory",
    "reserve",
    "visible",
]
