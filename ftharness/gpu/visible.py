"""Which devices ``CUDA_VISIBLE_DEVICES`` lets a program see, and how to say it to one."""

from collections.abc import Sequence

from ftharness.gpu.inventory import Device

VARIABLE = "CUDA_VISIBLE_DEVICES"
#: CUDA counts the fastest GPU first unless it is told to count as NVML does.
ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def visible(devices: Sequence[Device], mask: str | None) -> list[Device]:
    """Of ``devices``, those that a program with this mask may use, in the mask's order.

    As CUDA reads it (CUDA C++ Programming Guide, "CUDA Environment Variables"): a word is an index or the beginning of a UUID;
    the first that means none ends the list, so ``-1`` hides all that follow; of a divided GPU, the index means the first
    partition. Indices are taken in the order of the PCI bus; where a machine has GPUs of several models, name them by UUID.

    Args:
        devices: What there is.
        mask: The variable's value; None where it is not set: all.
    """
    if mask is None:
        return list(devices)
    found: list[Device] = []
    for word in mask.split(","):
        one = _named(devices, word.strip())
        if one is None:
            break
        if one not in found:
            found.append(one)
    return found


def _named(devices: Sequence[Device], word: str) -> Device | None:
    if word.isdecimal():
        return next((one for one in devices if one.index == int(word)), None)
    if not word.startswith(("GPU-", "MIG-")):
        return None
    its = [one for one in devices if one.uuid.startswith(word)]
    return its[0] if len(its) == 1 else None


def mask_of(devices: Sequence[Device]) -> str:
    """The mask by which a program sees these, and no other.

    By index where it can be: engines look their devices up in NVML by the number that stands there, and not all of them take a
    UUID. Together with :data:`ORDER` it means the same. A partition has no index.
    """
    return ",".join(str(one.index) if one.partition is None else one.uuid for one in devices)
