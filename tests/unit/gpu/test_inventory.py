"""Which GPUs there are, and why there are none."""

import builtins
import subprocess
import sys
from typing import Any

import pytest

from ftharness.gpu import Inventory, inventory, visible
from ftharness.gpu.visible import mask_of

MIB, GIB = 1 << 20, 1 << 30
DIVIDED = (
    f"gpu GPU-00000000 Tesla-T4 7 5 {16 * GIB} 0",
    f"gpu GPU-00000001 A100 8 0 {40 * GIB} 0",
    f"part MIG-a {10 * GIB} {7 * MIB}",
    f"part MIG-b {20 * GIB} 0",
)


def test_each_gpu_is_told_with_its_memory(stand_in: Any) -> None:
    """By index, UUID, model, compute capability, and bytes of memory."""
    stand_in.has(stand_in.gpu(0, 12 * MIB), stand_in.gpu(1))
    there = inventory()
    assert there.reason == ""
    first = there.gpus[0]
    assert (first.index, first.uuid, first.name, first.capability) == (0, "GPU-00000000", "Tesla-T4", (7, 5))
    assert (first.memory.total, first.memory.used, first.memory.free) == (16 * GIB, 12 * MIB, 16 * GIB - 12 * MIB)
    assert [one.uuid for one in there.devices] == ["GPU-00000000", "GPU-00000001"]
    assert str(first) == "GPU 0: Tesla-T4, compute capability 7.5, 12 of 16384 MiB in use, GPU-00000000"


def test_a_divided_gpu_is_used_by_its_partitions(stand_in: Any) -> None:
    """It stands in the inventory, and its partitions are what can be given to a process."""
    stand_in.has(*DIVIDED)
    there = inventory()
    assert [one.uuid for one in there.gpus] == ["GPU-00000000", "GPU-00000001"]
    assert [(one.uuid, one.label) for one in there.devices[1:]] == [
        ("MIG-a", "GPU 1, partition 0"),
        ("MIG-b", "GPU 1, partition 1"),
    ]
    assert (there.devices[1].memory.used, there.devices[1].capability) == (7 * MIB, (8, 0))
    assert mask_of(there.devices) == "0,MIG-a,MIG-b"


@pytest.mark.parametrize(
    "mask, seen",
    [
        (None, ["GPU-00000000", "MIG-a", "MIG-b"]),
        ("", []),
        ("-1", []),
        ("1,0", ["MIG-a", "GPU-00000000"]),
        ("0, MIG-b", ["GPU-00000000", "MIG-b"]),
        ("GPU-0000", ["GPU-00000000"]),
        ("MIG-", []),
        ("MIG-b,9,0", ["MIG-b"]),
        ("0,0", ["GPU-00000000"]),
    ],
)
def test_a_mask_is_read_as_cuda_reads_it(stand_in: Any, mask: str | None, seen: list[str]) -> None:
    """Indices and unambiguous beginnings of UUIDs, in its order, up to the first word that means nothing."""
    stand_in.has(*DIVIDED)
    assert [one.uuid for one in visible(inventory().devices, mask)] == seen


@pytest.mark.parametrize(
    "lines, reason",
    [
        ([], "the NVIDIA driver is there, and no GPU that this user or container may see"),
        (
            ["fail 18"],
            "NVML and the loaded NVIDIA driver are of two versions (the driver was updated): restart the machine",
        ),
        (["fail 4"], "this user may not open the GPUs (NVML: Insufficient Permissions): see /dev/nvidia*"),
        (["fail 999"], "NVML cannot be initialised: Unknown Error"),
    ],
)
def test_no_gpu_is_an_answer_that_says_why(stand_in: Any, lines: list[str], reason: str) -> None:
    """Whatever keeps NVML from telling of one."""
    stand_in.has(*lines)
    assert inventory() == Inventory(reason=reason)


def test_a_driver_that_is_not_loaded_says_so(stand_in: Any) -> None:
    """The library alone is installed."""
    assert not stand_in.state.exists()
    assert inventory().reason.startswith("the NVIDIA driver is not loaded (NVML: Driver Not Loaded)")


def test_a_missing_binding_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra of the project's."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pynvml":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert inventory().reason == "NVML's binding is not installed: pip install 'ftharness[gpu]'"


def test_the_library_is_found_by_its_name(stand_in: Any) -> None:
    """A process of its own loads it as it loads the driver's; without one it says that there is no driver."""
    stand_in.has(stand_in.gpu(0))
    ask = "from ftharness.gpu import inventory; there = inventory(); print(len(there.gpus), there.reason)"
    there = subprocess.run(
        [sys.executable, "-c", ask], env=stand_in.environ, capture_output=True, text=True, check=True
    )
    assert there.stdout == "1 \n"
    environ = {**stand_in.environ, "LD_LIBRARY_PATH": "/nonexistent"}
    none = subprocess.run([sys.executable, "-c", ask], env=environ, capture_output=True, text=True, check=True)
    if none.stdout.startswith("0"):  # otherwise this machine has a driver of its own
        assert none.stdout.startswith("0 there is no libnvidia-ml.so.1: no NVIDIA driver on this machine")
