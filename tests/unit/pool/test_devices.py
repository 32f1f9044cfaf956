"""Which devices there are, and which of them a mask names."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from ftharness.pool import Devices, DeviceSnapshot, MaskError, discover
from ftharness.pool.masks import mask

_spec = importlib.util.spec_from_file_location("stand_in_gpus", Path(__file__).parents[1] / "gpu" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_gpus = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_gpus)
#: NVIDIA's own binding over a stand-in for the driver's library, which is compiled for the tests of ftharness.gpu.
library, stand_in = _gpus.library, _gpus.stand_in

MIB, GIB = 1 << 20, 1 << 30
DIVIDED = (
    f"gpu GPU-aaaa0000 Tesla-T4 7 5 {16 * GIB} {12 * MIB}",
    f"gpu GPU-aaab1111 A100 8 0 {40 * GIB} 0",
    f"part MIG-a {10 * GIB} {7 * MIB}",
    f"part MIG-b {20 * GIB} 0",
)


def test_devices_are_told_with_their_memory_and_partitions(stand_in: Any) -> None:
    """By NVIDIA's binding: index, UUID, capability, bytes; a divided GPU is used by its partitions."""
    stand_in.has(*DIVIDED)
    there = discover()
    assert there.gpus[0] == DeviceSnapshot(
        id=0,
        compute_capability="7.5",
        vram_total_bytes=16 * GIB,
        vram_free_bytes=16 * GIB - 12 * MIB,
        uuid="GPU-aaaa0000",
        name="Tesla-T4",
    )
    assert there.gpus[1].divided
    assert [(one.id, one.uuid, one.partition) for one in there.usable] == [
        (0, "GPU-aaaa0000", None),
        (1, "MIG-a", 0),
        (1, "MIG-b", 1),
    ]
    assert there.reason == ""


def test_a_machine_without_gpus_has_none(stand_in: Any) -> None:
    """No error: pools on the CPU run there; and a mask says why nothing can be in it."""
    stand_in.has("fail 9")
    there = discover()
    assert there.usable == ()
    assert "driver is not loaded" in there.reason
    assert mask([], there).environ == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ""}
    with pytest.raises(
        MaskError, match=r"device_mask \[0\]: no device 0; there is none: the NVIDIA driver is not loaded"
    ):
        mask([0], there)


@pytest.mark.parametrize(
    "words, uuids, visible",
    [
        ([], [], ""),
        ([0], ["GPU-aaaa0000"], "0"),
        (["GPU-aaaa"], ["GPU-aaaa0000"], "0"),
        (["GPU-aaaa0000"], ["GPU-aaaa0000"], "0"),
        (["MIG-b", 0], ["MIG-b", "GPU-aaaa0000"], "MIG-b,0"),
        ([0, "MIG-a"], ["GPU-aaaa0000", "MIG-a"], "0,MIG-a"),
    ],
)
def test_a_mask_is_the_same_however_it_is_written(
    stand_in: Any, words: list[int | str], uuids: list[str], visible: str
) -> None:
    """It is known by UUIDs, in its order; CUDA is told indices of GPUs, which engines look up, and UUIDs of partitions."""
    stand_in.has(*DIVIDED)
    its = mask(words, discover())
    assert list(its.uuids) == uuids
    assert its.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.parametrize(
    "words, why",
    [
        ([3], r"no device 3; there are 0 \(GPU-aaaa0000\), MIG-a, MIG-b"),
        ([-1], "no device -1"),
        (["0"], "no device '0'"),
        (["GPU-"], "no device 'GPU-'"),
        (["GPU-b"], "no device 'GPU-b'"),
        (["GPU-aaa"], "'GPU-aaa' is the beginning of 2 UUIDs: GPU-aaaa0000, GPU-aaab1111"),
        ([1], r"GPU 1 \(GPU-aaab1111\) is divided \(MIG\), and not to be had as a whole; its partitions: MIG-a, MIG-b"),
        ([0, "GPU-aaaa"], r"'GPU-aaaa' names GPU 0 \(GPU-aaaa0000\), which is in it already"),
        (["MIG-a", "MIG-a"], "'MIG-a' names partition MIG-a of GPU 1, which is in it already"),
    ],
)
def test_a_mask_of_what_there_is_not_says_what_there_is(stand_in: Any, words: list[int | str], why: str) -> None:
    """Also one that CUDA would cut short in silence."""
    stand_in.has(*DIVIDED)
    with pytest.raises(MaskError, match=why):
        mask(words, discover())


def test_a_mask_stays_when_the_numbers_change(stand_in: Any) -> None:
    """A UUID names the same device after the machine's next start, whatever its place is then."""
    stand_in.has(stand_in.gpu(0), stand_in.gpu(1))
    before = mask(["GPU-00000001"], discover())
    stand_in.has(stand_in.gpu(1), stand_in.gpu(0))
    after = mask(["GPU-00000001"], discover())
    assert (before.words, after.words) == ([1], [0])
    assert before.uuids == after.uuids


def test_a_whole_uuid_is_not_the_beginning_of_another(stand_in: Any) -> None:
    """Where one GPU's is how another's begins, the whole one is meant."""
    stand_in.has(f"gpu GPU-aa T4 7 5 {GIB} 0", f"gpu GPU-aab T4 7 5 {GIB} 0")
    assert mask(["GPU-aa"], discover()).uuids == ("GPU-aa",)


def test_a_divided_gpu_without_partitions_is_none() -> None:
    """There is nothing that an engine could be given."""
    empty = DeviceSnapshot(
        id=0, compute_capability="8.0", vram_total_bytes=1, vram_free_bytes=1, uuid="GPU-x1", name="A100", divided=True
    )
    with pytest.raises(MaskError, match=r"divided \(MIG\), and not to be had as a whole; its partitions: none yet"):
        mask([0], Devices(gpus=(empty,)))
