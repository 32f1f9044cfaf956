"""A stack with GPUs: our simulated processes, which touch none, over a stand-in for NVML, which says that they do."""

import asyncio
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftharness.client import completion
from ftharness.faults import kill, serving
from ftharness.gpu import StackGpus, reserve
from ftharness.history import Leak, ProcessStarted, RunFinished
from ftharness.scenario import Scenario, no_leaks, on_token, succeeds
from ftharness.scenario.runner import Cell, run_cell
from ftharness.stack import aggregated
from ftharness.stack.gpus import default_device, gpus_for
from ftharness.stack.plan import NotAvailable, Plan, Settings
from ftharness.stack.profiles import shipped_profiles
from ftharness.stack.sim import SimStack
from ftharness.stack.topology import Topology
from ftharness.stored_runs import read_events

MIB = 1 << 20
SCENARIO = Scenario(
    name="gpus",
    topology=aggregated(workers=2, speed=20),
    workload=[completion(max_tokens=4)],
    faults=[],
    expect=[succeeds(), no_leaks()],
)


class OnGpus(SimStack):
    """The simulated stack, with a GPU for each worker."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None, deadline_s: float = 0.0) -> None:
        self._meanwhile = meanwhile
        self._deadline_s = deadline_s

    def plan(self, topology: Topology, settings: Settings) -> Plan:
        plan = super().plan(topology, settings)
        shares = {name: 1 for name, _ in topology.members}
        devices = StackGpus(shares, settings.folder, deadline_s=self._deadline_s, settle_s=0.3)

        def close() -> None:  # called once the processes run
            plan.close()
            self._meanwhile()

        return dataclasses.replace(plan, devices=devices, close=close)


@pytest.fixture
def two(stand_in: Any) -> Any:
    """A machine with two GPUs."""
    stand_in.has(stand_in.gpu(0), stand_in.gpu(1))
    return stand_in


async def test_gpu_memory_that_stays_fails_no_leaks(two: Any, tmp_path: Path) -> None:
    """The run says which GPU and how much, and the GPUs are free again."""
    kind = OnGpus(lambda: two.has(two.gpu(0), two.gpu(1, 3010 * MIB)))
    record = await run_cell(Cell(scenario=SCENARIO, stack="sim"), kind, tmp_path)
    failed = [oracle.name for oracle in record.oracles if oracle.verdict != "pass"]
    assert (record.verdict, failed) == ("fail", ["no_leaks()"])
    (leak,) = [event for event in read_events(tmp_path) if isinstance(event, Leak)]
    assert (leak.what, leak.source) == ("gpu_memory", "harness")
    assert leak.detail.startswith("3000 MiB more than before of GPU 1 (GPU-00000001) are still in use 0.3 s after")
    kept = (tmp_path / "nvidia-smi.txt").read_text()
    assert kept.index("# before the launch; reserved: GPU 0") < kept.index("# after the stack's end")
    (await reserve(2, run=tmp_path, deadline_s=0)).close()


async def test_each_process_sees_its_own_gpu_and_nothing_leaks(two: Any, tmp_path: Path) -> None:
    """The frontend sees none."""
    seen: dict[str, str] = {}

    def look() -> None:
        for event in read_events(tmp_path) if not seen else ():
            if isinstance(event, ProcessStarted):
                environ = Path(f"/proc/{event.pid}/environ").read_bytes().split(b"\0")
                seen[event.source] = os.fsdecode(next(one for one in environ if one.startswith(b"CUDA_VISIBLE_")))

    record = await run_cell(Cell(scenario=SCENARIO, stack="sim"), OnGpus(look), tmp_path)
    assert record.verdict == "pass"
    assert {name: value.partition("=")[2] for name, value in seen.items()} == {
        "frontend": "",
        "worker-1": "0",
        "worker-2": "1",
    }


async def test_an_orphan_says_what_it_holds(two: Any, tmp_path: Path) -> None:
    """It is the one leak: with its end its memory came back."""

    def say() -> None:  # of each engine child, while the processes start
        workers = [event.pid for event in read_events(tmp_path) if isinstance(event, ProcessStarted)]
        children = " ".join(Path(f"/proc/{pid}/task/{pid}/children").read_text() for pid in workers if lives(pid))
        two.has(two.gpu(0), two.gpu(1), *(f"process {pid} {1000 * MIB}" for pid in children.split()))

    def lives(pid: int) -> bool:
        return Path(f"/proc/{pid}").exists()

    killed = Scenario(
        name="orphan",
        topology=aggregated(workers=2, speed=1000),
        workload=[completion(max_tokens=40)],
        faults=[on_token(10).inject(kill(serving))],
        expect=[no_leaks()],
    )
    await run_cell(Cell(scenario=killed, stack="sim", bug="orphan-engine"), OnGpus(say), tmp_path)
    (leak,) = [event for event in read_events(tmp_path) if isinstance(event, Leak)]
    assert leak.what == "process"
    assert leak.detail.endswith(", holding 1000 MiB of GPU 1 (GPU-00000001)")


async def test_gpus_that_others_have_are_no_verdict(two: Any, tmp_path: Path) -> None:
    """The stack does not start, and says who has them; a stack that fails later lets its own go."""
    with await reserve(1, run=Path("/reports/others")):
        record = await run_cell(Cell(scenario=SCENARIO, stack="sim"), OnGpus(), tmp_path / "busy")
    assert record.verdict == "unknown"
    assert f"GPU 0: held by process {os.getpid()} for /reports/others" in record.reason
    broken = Scenario(
        name="broken",
        topology=aggregated(workers=2, worker_args=["--no-such-option"]),
        workload=[completion(max_tokens=4)],
        expect=[succeeds()],
    )
    record = await run_cell(Cell(scenario=broken, stack="sim"), OnGpus(), tmp_path / "broken")
    assert record.verdict == "unknown"
    (await reserve(2, run=tmp_path, deadline_s=0)).close()


async def test_a_run_that_waits_for_gpus_can_be_interrupted(two: Any, tmp_path: Path) -> None:
    """It ends at once, as any other, and keeps none."""
    launching = asyncio.Event()
    with await reserve(1, run=Path("/reports/others")):
        cell = Cell(scenario=SCENARIO, stack="sim")
        run = asyncio.create_task(
            run_cell(cell, OnGpus(deadline_s=60), tmp_path, say=lambda phase: phase == "launch" and launching.set())
        )
        await launching.wait()
        await asyncio.sleep(0.2)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    *_, last = read_events(tmp_path)
    assert isinstance(last, RunFinished)
    assert last.outcome == "interrupted"
    (await reserve(2, run=tmp_path, deadline_s=0)).close()


@pytest.mark.parametrize("masked, device", [(None, "gpu"), ("", "cpu")])
def test_engines_run_on_gpus_where_there_are(
    two: Any, monkeypatch: pytest.MonkeyPatch, masked: str | None, device: str
) -> None:
    """Unless a scenario says it; GPUs that a mask hides are none."""
    if masked is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", masked)
    default_device.cache_clear()
    try:
        assert default_device() == device
    finally:
        default_device.cache_clear()


def test_a_profile_says_how_many_gpus_each_engine_has(two: Any, tmp_path: Path) -> None:
    """Shadow engines share their worker's; more than there are is refused before anything starts."""
    profile = shipped_profiles()["vllm-gpu"]
    assert profile.resources.gpus == 1
    assert isinstance(gpus_for(profile, aggregated(workers=2, standbys=1), tmp_path), StackGpus)
    with pytest.raises(NotAvailable, match=r"^3 of vllm serve, on a GPU: 3 GPUs asked for, there are 2: GPU 0: "):
        gpus_for(profile, aggregated(workers=3), tmp_path)
    assert gpus_for(shipped_profiles()["vllm-cpu"], aggregated(workers=3), tmp_path) is None
