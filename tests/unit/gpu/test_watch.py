"""GPU memory that a stack leaves is seen, and what others have is not taken for it."""

import asyncio
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftharness.gpu import TOLERANCE, GpusBusy, NoNvml, NotEnoughGpus, StackGpus, Watch, inventory, reserve
from ftharness.gpu.nvidia_smi import keep

MIB = 1 << 20


@pytest.fixture
def pid() -> Iterator[int]:
    """A process that lives."""
    process = subprocess.Popen(["/bin/sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


async def test_memory_that_stays_in_use_is_kept(stand_in: Any) -> None:
    """More than the tolerance, on the device where it is, with what there was before."""
    stand_in.has(stand_in.gpu(0, 10 * MIB), stand_in.gpu(1, 10 * MIB))
    watch = Watch(inventory().devices)
    stand_in.has(stand_in.gpu(0, 10 * MIB + TOLERANCE), stand_in.gpu(1, 2010 * MIB))
    (kept,) = await watch.kept(settle_s=0.2)
    watch.close()
    assert str(kept) == (
        "2000 MiB more than before of GPU 1 (GPU-00000001) are still in use 0.2 s after the stack's end: "
        "10 MiB before it, 2010 MiB after it"
    )


async def test_memory_that_comes_back_is_waited_for(stand_in: Any) -> None:
    """The driver frees it some time after the process's end."""
    stand_in.has(stand_in.gpu(0, 10 * MIB))
    watch = Watch(inventory().devices)
    stand_in.has(stand_in.gpu(0, 4000 * MIB))
    asking = asyncio.create_task(watch.kept(settle_s=30))
    await asyncio.sleep(0.15)
    assert not asking.done()
    stand_in.has(stand_in.gpu(0, 30 * MIB))
    assert await asking == []
    watch.close()


async def test_what_survivors_have_is_told_by_pid(stand_in: Any, pid: int) -> None:
    """While they live; and it stays the stack's when they should be gone, and are not."""
    stand_in.has(stand_in.gpu(0))
    watch = Watch(inventory().devices)
    stand_in.has(stand_in.gpu(0, 3010 * MIB), f"process {pid} {3000 * MIB}")
    assert [(one.pid, str(one)) for one in watch.held({pid, 1})] == [(pid, "3000 MiB of GPU 0 (GPU-00000000)")]
    assert len(await watch.kept(settle_s=0)) == 1
    watch.close()


async def test_what_others_have_is_not_the_stacks(stand_in: Any, pid: int) -> None:
    """Another's process that lives, whenever it came; what is said of one that is gone counts."""
    stand_in.has(stand_in.gpu(0, 510 * MIB), f"process {pid} {500 * MIB}")
    watch = Watch(inventory().devices)
    stand_in.has(stand_in.gpu(0, 2010 * MIB), f"process {pid} {2000 * MIB}")
    assert await watch.kept(settle_s=0) == []
    stand_in.has(stand_in.gpu(0, 2010 * MIB), f"process {2**22 - 1} {2000 * MIB}")
    assert [(one.before, one.after) for one in await watch.kept(settle_s=0)] == [(10 * MIB, 2010 * MIB)]
    watch.close()


async def test_a_gpu_that_is_lost_is_told(stand_in: Any) -> None:
    """What is in use on it is not known, and that is no pass; it cannot be reserved for a stack either."""
    stand_in.has(stand_in.gpu(0), stand_in.gpu(1))
    there = inventory().devices
    watch = Watch(there)
    stand_in.has(stand_in.gpu(0))
    assert [str(one) for one in await watch.kept(settle_s=0)] == [
        "what is in use on GPU 1 (GPU-00000001) after the stack's end cannot be told: Invalid Argument"
    ]
    watch.close()
    with pytest.raises(NoNvml, match=r"^NVML does not tell what is in use: Not Found$"):
        Watch(there)


def smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


async def test_nvidia_smi_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time under its heading; and where there is none, or it fails, that."""
    monkeypatch.setenv("PATH", "/nonexistent")
    await keep(tmp_path, "before")
    smi(tmp_path, 'echo "| T4 |"; echo "| 0 MiB |" >&2', monkeypatch)
    await keep(tmp_path, "between")
    smi(tmp_path, "echo No devices were found; exit 6", monkeypatch)
    await keep(tmp_path, "after")
    assert (tmp_path / "nvidia-smi.txt").read_text() == (
        "# before\nnvidia-smi is not on PATH\n\n"
        "# between\n| T4 |\n| 0 MiB |\n\n"
        f"# after\nNo devices were found\n{tmp_path}/nvidia-smi ended with 6\n\n"
    )


async def test_a_stack_has_its_gpus_from_before_to_close(stand_in: Any, tmp_path: Path) -> None:
    """Nothing is reserved when it is planned; each process sees its own, shadows their worker's, others none."""
    stand_in.has(stand_in.gpu(0), stand_in.gpu(1))
    with pytest.raises(NotEnoughGpus):
        StackGpus({"worker-1": 2, "worker-2": 1}, tmp_path)
    gpus = StackGpus({"worker-1": 1, "worker-2": 1}, tmp_path, settle_s=0)
    (await reserve(2, run=tmp_path, deadline_s=0)).close()
    await gpus.before()
    with pytest.raises(GpusBusy):
        await reserve(1, run=tmp_path, deadline_s=0)
    seen = {name: gpus.variables(name, group)["CUDA_VISIBLE_DEVICES"] for name, group in NAMES}
    assert seen == {"frontend": "", "worker-1": "0", "standby-1": "0", "worker-2": "1"}
    assert await gpus.after() == []
    gpus.close()
    gpus.close()
    (await reserve(2, run=tmp_path, deadline_s=0)).close()
    assert (tmp_path / "nvidia-smi.txt").read_text().startswith("# before the launch; reserved: GPU 0: Tesla-T4, ")


NAMES = (("frontend", ""), ("worker-1", "worker-1"), ("standby-1", "worker-1"), ("worker-2", "worker-2"))
