"""Which devices are a pool's: what its file says, compared with what there is, and made the same however it was written."""

from collections.abc import Sequence

import msgspec

from ftharness.gpu.visible import ORDER, VARIABLE
from ftharness.pool.devices import Devices, DeviceSnapshot


class MaskError(ValueError):
    """A mask names what there is not; the message says what there is."""


class Mask(msgspec.Struct, frozen=True):
    """Devices, in the order in which an engine is to see them.

    Attributes:
        devices: As they were when the mask was made.
    """

    devices: tuple[DeviceSnapshot, ...] = ()

    @property
    def uuids(self) -> tuple[str, ...]:
        """What it is known by: the same after each start of the machine, however the mask was written."""
        return tuple(one.uuid for one in self.devices)

    @property
    def words(self) -> list[int | str]:
        """For people, and for CUDA: a GPU by its index, a partition, which has none, by its UUID.

        Engines look their devices up in NVML by the number that stands in CUDA_VISIBLE_DEVICES, and not all take a UUID there.
        """
        return [one.id if one.partition is None else one.uuid for one in self.devices]

    @property
    def environ(self) -> dict[str, str]:
        """By which a process sees these, in this order, and no other; with an empty mask it sees none."""
        return {**ORDER, VARIABLE: ",".join(str(word) for word in self.words)}

    def share(self, place: int, per_engine: int) -> "Mask":
        """What the engine at ``place``, from 0, has of it: ``per_engine`` devices, or with 0 all."""
        return self if per_engine == 0 else Mask(self.devices[place * per_engine : (place + 1) * per_engine])


def mask(words: Sequence[int | str], there: Devices) -> Mask:
    """The devices that ``words`` name.

    Args:
        words: Indices, or UUIDs, of which the beginning is enough; in the order that the engine is to see.
        there: What there is.

    Raises:
        MaskError: A word names none, or several, or one that was named already, or a GPU that is divided.
    """
    chosen: list[DeviceSnapshot] = []
    for word in words:
        one = _named(word, words, there)
        if one in chosen:
            raise MaskError(f"device_mask {list(words)}: {word!r} names {_told(one)}, which is in it already")
        chosen.append(one)
    return Mask(tuple(chosen))


def _named(word: int | str, words: Sequence[int | str], there: Devices) -> DeviceSnapshot:
    if isinstance(word, int):
        found = [gpu for gpu in there.gpus if gpu.id == word]
    else:
        everything = [*there.gpus, *there.usable]
        exact = [one for one in everything if one.uuid == word]
        found = exact or [one for one in everything if _begins(one.uuid, word)]
    distinct = list(dict.fromkeys(found))
    if not distinct:
        raise MaskError(f"device_mask {list(words)}: no device {word!r}; {_all(there)}")
    if len(distinct) > 1:
        raise MaskError(
            f"device_mask {list(words)}: {word!r} is the beginning of {len(distinct)} UUIDs: "
            f"{', '.join(one.uuid for one in distinct)}"
        )
    one = distinct[0]
    if one.divided:
        parts = ", ".join(part.uuid for part in one.partitions) or "none yet"
        raise MaskError(
            f"device_mask {list(words)}: {_told(one)} is divided (MIG), and not to be had as a whole; its partitions: {parts}"
        )
    return one


def _begins(uuid: str, word: str) -> bool:
    return word.startswith(("GPU-", "MIG-")) and len(word) > len("GPU-") and uuid.startswith(word)


def _all(there: Devices) -> str:
    if not there.usable:
        return f"there is none: {there.reason or 'each GPU is divided (MIG), and into nothing yet'}"
    return f"there are {', '.join(f'{one.label} ({one.uuid})' if one.partition is None else one.uuid for one in there.usable)}"


def _told(one: DeviceSnapshot) -> str:
    return f"GPU {one.id} ({one.uuid})" if one.partition is None else f"partition {one.uuid} of GPU {one.id}"
