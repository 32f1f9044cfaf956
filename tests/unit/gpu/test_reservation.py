"""GPUs are one process's at a time, whoever contends for them and however a holder ends."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftharness.gpu import GpusBusy, Inventory, NotEnoughGpus, inventory, reserve

RUN = Path("/reports/a-run")

# Takes two GPUs, says so, and keeps them until it is killed. Its two children live on: one is forked, one executed.
_HOLDER = """
import asyncio, os, subprocess, sys, time
from pathlib import Path
from ftharness.gpu import reserve
async def main():
    with await reserve(2, run=Path("/reports/theirs"), deadline_s=30) as reserved:
        executed = subprocess.Popen(["/bin/sleep", "60"], close_fds=False)
        forked = os.fork()
        if forked:
            print(reserved.mask, executed.pid, forked, flush=True)
        time.sleep(60)
asyncio.run(main())
"""

# Takes one or two GPUs again and again. For each there is a file that only its holder may have open: O_EXCL says who errs.
_CONTENDER = """
import asyncio, os, sys
from pathlib import Path
from ftharness.gpu import reserve
async def main():
    for turn in range(4):
        with await reserve(1 + turn % 2, run=Path("/reports") / sys.argv[1], deadline_s=60) as reserved:
            for one in reserved.devices:
                os.close(os.open(f"{sys.argv[2]}/{one.uuid}", os.O_CREAT | os.O_EXCL))
            await asyncio.sleep(0.01)
            for one in reserved.devices:
                os.unlink(f"{sys.argv[2]}/{one.uuid}")
            print(reserved.mask)
asyncio.run(main())
"""


def started(program: str, *arguments: str, environ: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def two(stand_in: Any) -> Any:
    """A machine with two GPUs."""
    stand_in.has(stand_in.gpu(0), stand_in.gpu(1))
    return stand_in


async def test_eight_processes_never_share_one_of_two_gpus(two: Any, tmp_path: Path) -> None:
    """Those that take one, and those that take both: each gets its turn, and nobody finds another's file."""
    taken = tmp_path / "taken"
    taken.mkdir()
    processes = [started(_CONTENDER, str(n), str(taken), environ=two.environ) for n in range(8)]
    for process in processes:
        output, errors = await asyncio.to_thread(process.communicate, timeout=100)
        assert (process.returncode, errors) == (0, "")
        masks = output.split()
        assert len(masks) == 4
        assert masks[1::2] == ["0,1", "0,1"]
        assert set(masks[::2]) <= {"0", "1"}
    assert not list(taken.iterdir())


async def test_a_killed_holder_lets_go_and_the_waiting_one_is_told(two: Any) -> None:
    """By the kernel, whatever children of the holder live on; until then it is told who has them."""
    holder = started(_HOLDER, environ=two.environ)
    assert holder.stdout is not None
    mask, *children = holder.stdout.readline().split()
    try:
        assert mask == "0,1"
        with pytest.raises(GpusBusy) as busy:
            await reserve(1, run=RUN, deadline_s=0.2)
        who = f"held by process {holder.pid} for /reports/theirs"
        assert str(busy.value) == f"1 GPU not free within 0.2 s; GPU 0: {who}; GPU 1: {who}"
        waiting = asyncio.create_task(reserve(2, run=RUN, deadline_s=30))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        holder.send_signal(signal.SIGKILL)
        with await waiting as reserved:
            assert reserved.mask == "0,1"
        assert all(Path(f"/proc/{child}").exists() for child in children)
    finally:
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        holder.kill()
        holder.communicate()


async def test_what_is_let_go_can_be_taken_again(two: Any) -> None:
    """By the same process, too; and a second close lets go of nobody else's."""
    first = await reserve(2, run=RUN, deadline_s=0)
    with pytest.raises(GpusBusy, match=f"held by process {os.getpid()} for /reports/a-run"):
        await reserve(1, run=RUN, deadline_s=0)
    first.close()
    with await reserve(2, run=RUN, deadline_s=0) as second:
        first.close()
        assert second.mask == "0,1"
        with pytest.raises(GpusBusy):
            await reserve(1, run=RUN, deadline_s=0)


async def test_one_that_gives_up_waiting_keeps_nothing(two: Any) -> None:
    """Of two that it wanted it had one already."""
    with await reserve(1, run=RUN):
        waiting = asyncio.create_task(reserve(2, run=RUN, deadline_s=30))
        while True:  # until it has the second GPU
            try:
                (await reserve(1, run=RUN, deadline_s=0)).close()
            except GpusBusy:
                break
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with await reserve(1, run=RUN, deadline_s=0) as other:
            assert other.mask == "1"


async def test_a_mask_says_which_may_be_chosen_from(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An own CUDA_VISIBLE_DEVICES is respected: a job of a batch system has its GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-00000001")
    with await reserve(1, run=RUN) as reserved:
        assert reserved.mask == "1"
    with pytest.raises(NotEnoughGpus) as few:
        await reserve(2, run=RUN)
    assert str(few.value) == (
        "2 GPUs asked for, 1 of 2 may be used: CUDA_VISIBLE_DEVICES=GPU-00000001 hides the others"
    )


async def test_more_than_there_are_is_refused_at_once(two: Any) -> None:
    """With what there is; and where there is none, with the reason."""
    with pytest.raises(NotEnoughGpus, match=r"^3 GPUs asked for, there are 2: GPU 0: Tesla-T4, .*; GPU 1: "):
        await reserve(3, run=RUN)
    with pytest.raises(NotEnoughGpus, match=r"^1 GPU asked for, there is none: no driver$"):
        await reserve(1, run=RUN, there=Inventory(reason="no driver"))


async def test_the_devices_are_shared_out(two: Any) -> None:
    """Each process sees its own and no other."""
    with await reserve(2, run=RUN) as reserved:
        parts = reserved.split({"worker-1": 1, "worker-2": 1})
        assert [part["CUDA_VISIBLE_DEVICES"] for part in parts.values()] == ["0", "1"]
        assert {part["CUDA_DEVICE_ORDER"] for part in parts.values()} == {"PCI_BUS_ID"}
        assert reserved.split({"worker-1": 2})["worker-1"]["CUDA_VISIBLE_DEVICES"] == "0,1"
        with pytest.raises(ValueError, match="are 3 GPUs; 2 were reserved"):
            reserved.split({"worker-1": 2, "worker-2": 1})
    assert inventory().reason == ""
