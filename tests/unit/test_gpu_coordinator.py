"""The coordinator of workers, on real processes, real signals and real files; only its clock is held."""

import contextlib
import importlib
import logging
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ftharness.checkpoint import AsyncCheckpointWriter, resume_from_checkpoints, validate_checkpoint_pt
from ftharness.coordinator import (
    Diagnosis,
    ErrorClass,
    Finished,
    GPUProcessCoordinator,
    HeldClock,
    RetryPolicy,
    RuntimeConfig,
    Told,
    validate_checkpoint_dir,
)
from ftharness.coordinator.oom_kills import oom_kills

_HERE = Path(__file__).parent
_LONG_S = 1e6  # of a held clock: what takes that long is not waited for by it


@pytest.fixture(autouse=True)
def work(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The functions that workers run; and no import of pytest itself in each of them, which is what started this process."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.syspath_prepend(str(_HERE))
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setattr(main, "__file__", None, raising=False)
    return importlib.import_module("gpu_workers")


@pytest.fixture
def temp_output_dir(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def clock() -> Iterator[HeldClock]:
    held = HeldClock()
    yield held
    held.close()


Make = Callable[..., GPUProcessCoordinator]


@pytest.fixture
def make(tmp_path: Path, clock: HeldClock) -> Iterator[Make]:
    """Makes coordinators on the held clock; whatever runs at the end of the test is killed, before a failure is told."""
    with contextlib.ExitStack() as made:

        def one(world_size: int, **more: Any) -> GPUProcessCoordinator:
            return made.enter_context(
                _killed_at_the_end(GPUProcessCoordinator(world_size, tmp_path, clock=clock, **more))
            )

        yield one


@contextlib.contextmanager
def _killed_at_the_end(coordinator: GPUProcessCoordinator) -> Iterator[GPUProcessCoordinator]:
    with coordinator:
        yield coordinator
        coordinator.crew.tell(signal.SIGKILL)


def watch(coordinator: GPUProcessCoordinator, manifest: Any = None, **config: Any) -> dict[int, bool]:
    """Monitor to the end; the interval of looks is longer than any test, so that nothing works by polling."""
    return coordinator.monitor_workers_async(RuntimeConfig(**config), manifest, check_interval=_LONG_S)


def of_shard(coordinator: GPUProcessCoordinator, rank: int) -> list[Finished]:
    return [one for one in coordinator.finished if one.attempt.shard == rank]


def kinds(coordinator: GPUProcessCoordinator) -> dict[int, str]:
    """How the first attempt at each shard failed."""
    return {
        one.attempt.shard: str(one.diagnosis and one.diagnosis.kind)
        for one in coordinator.finished
        if one.attempt.number == 1
    }


class TestGPUProcessCoordinator:
    def test_initialization(self, temp_output_dir: Path) -> None:
        """It spawns, has started nothing yet, and says what cannot be meant."""
        coordinator = GPUProcessCoordinator(world_size=2, output_dir=temp_output_dir)
        assert (coordinator.world_size, coordinator.output_dir) == (2, temp_output_dir)
        assert coordinator.ctx.get_start_method() == "spawn"
        assert coordinator.workers == {}
        assert coordinator.collect_results() == []
        assert not coordinator.shutdown_requested
        with pytest.raises(ValueError, match="world_size = 0"):
            GPUProcessCoordinator(0, temp_output_dir)
        with pytest.raises(ValueError, match="grace_s = -1"):
            GPUProcessCoordinator(1, temp_output_dir, grace_s=-1)
        with pytest.raises(RuntimeError, match="spawn_workers first"):
            coordinator.monitor_workers_async(RuntimeConfig())

    def test_spawn_workers_creates_processes(self, temp_output_dir: Path, work: ModuleType) -> None:
        """One process a rank, all at once; and a second set of them is refused."""
        with GPUProcessCoordinator(2, temp_output_dir) as coordinator:
            coordinator.spawn_workers(work.never_ends, ())
            assert sorted(coordinator.workers) == [0, 1]
            assert all(process.is_alive() for process in coordinator.workers.values())
            assert len({process.pid for process in coordinator.workers.values()} | {os.getpid()}) == 3
            with pytest.raises(RuntimeError, match="spawned already"):
                coordinator.spawn_workers(work.never_ends, ())
            coordinator.crew.tell(signal.SIGKILL)

    def test_cuda_visible_devices_set(self, temp_output_dir: Path, work: ModuleType) -> None:
        """Each worker has its rank's device, and had it when its process began: before anything was imported."""
        with GPUProcessCoordinator(3, temp_output_dir) as coordinator:
            coordinator.spawn_workers(work.reports_device, ())
            coordinator.wait_for_completion(timeout=30)
            results = sorted(coordinator.collect_results(), key=lambda report: report["rank"])
        assert [(one["now"], one["at_exec"]) for one in results] == [("0", "0"), ("1", "1"), ("2", "2")]
        assert "CUDA_VISIBLE_DEVICES" not in os.environ

    def test_wait_for_completion_all_success(self, temp_output_dir: Path, work: ModuleType) -> None:
        """All that exit with 0 have succeeded."""
        with GPUProcessCoordinator(2, temp_output_dir) as coordinator:
            coordinator.spawn_workers(work.succeeds, ())
            assert coordinator.wait_for_completion(timeout=30) == {0: True, 1: True}

    def test_wait_for_completion_partial_failure(self, temp_output_dir: Path, work: ModuleType) -> None:
        """One that exits with 1 has not."""
        with GPUProcessCoordinator(2, temp_output_dir) as coordinator:
            coordinator.spawn_workers(work.fails_at, (1,))
            assert coordinator.wait_for_completion(timeout=30) == {0: True, 1: False}

    def test_wait_for_completion_timeout(self, clock: HeldClock, make: Make, work: ModuleType) -> None:
        """The timeout is for all together, and what still runs then runs on."""
        coordinator = make(2)
        coordinator.spawn_workers(work.never_ends, ())
        with _passing(clock, 5):
            assert coordinator.wait_for_completion(timeout=10) == {0: False, 1: False}
        assert clock.now() >= 10
        assert all(process.is_alive() for process in coordinator.workers.values())

    def test_results_queue_receives_reports(self, temp_output_dir: Path, work: ModuleType) -> None:
        """What workers say is collected once, each report whole."""
        with GPUProcessCoordinator(2, temp_output_dir) as coordinator:
            coordinator.spawn_workers(work.succeeds, ())
            coordinator.wait_for_completion(timeout=30)
            results = sorted(coordinator.collect_results(), key=lambda report: report["rank"])
            assert results == [{"rank": 0, "status": "complete"}, {"rank": 1, "status": "complete"}]
            assert coordinator.collect_results() == []

    def test_terminate_all(
        self, make: Make, work: ModuleType, clock: HeldClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """All get SIGTERM; whoever ignores it is killed when the grace is over."""
        coordinator = make(2)
        coordinator.spawn_workers(work.will_not_end, (str(tmp_path),))
        _heard(coordinator, 2)
        with _passing(clock, 5, until=lambda: "and killed" in caplog.text):  # their end takes its own time
            coordinator.terminate_all()
        assert [process.exitcode for process in coordinator.workers.values()] == [-signal.SIGKILL] * 2


class TestWorkerIsolation:
    def test_workers_independent(self, temp_output_dir: Path, work: ModuleType) -> None:
        """The failure of one takes no other with it."""
        with GPUProcessCoordinator(3, temp_output_dir) as coordinator:
            coordinator.spawn_workers(work.fails_at, (1,))
            assert coordinator.wait_for_completion(timeout=30) == {0: True, 1: False, 2: True}

    def test_spawn_context_is_spawn(self, temp_output_dir: Path, work: ModuleType) -> None:
        """A worker is a fresh interpreter, no copy of this one."""
        with GPUProcessCoordinator(1, temp_output_dir) as coordinator:
            coordinator.spawn_workers(work.never_ends, ())
            _heard(coordinator, 1)
            assert "multiprocessing.spawn" in Path(f"/proc/{coordinator.workers[0].pid}/cmdline").read_text()
            coordinator.crew.tell(signal.SIGKILL)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
    def test_half_a_report_blocks_nobody(self, make: Make, work: ModuleType, number: int) -> None:
        """A worker that is killed or frozen in the midst of a report keeps no other from a megabyte of its own."""
        coordinator = make(2)
        coordinator.spawn_workers(work.dies_while_talking, (number,))
        while coordinator.workers[1].is_alive():
            coordinator.crew.wait(None)
            coordinator.crew.listen()
        assert [one["n"] for one in coordinator.collect_results()] == list(range(200))
        assert coordinator.workers[1].exitcode == 0

    def test_an_end_is_seen_though_a_child_lives(self, make: Make, work: ModuleType) -> None:
        """A process that a worker started, and that outlives it with all its descriptors, hides neither end nor reports."""
        coordinator = make(1)
        coordinator.spawn_workers(work.leaves_a_child, ())
        try:
            assert watch(coordinator) == {0: True}
        finally:
            (report,) = coordinator.collect_results()
            os.kill(report["child"], signal.SIGKILL)

    def test_what_cannot_be_read_is_told(self, make: Make, work: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
        """A report of a class that only the worker has costs that report alone."""
        coordinator = make(1)
        coordinator.spawn_workers(work.says_something_odd, ())
        assert watch(coordinator) == {0: True}
        odd, last = coordinator.collect_results()
        assert "only_here" in odd["error_message"]
        assert last["status"] == "complete"
        assert "cannot be read" in caplog.text


class TestWorkerArguments:
    def test_worker_args_passed_correctly(self, temp_output_dir: Path, work: ModuleType) -> None:
        """Beside its rank, a worker gets what it was given."""
        with GPUProcessCoordinator(2, temp_output_dir) as coordinator:
            coordinator.spawn_workers(work.reports_args, ("text", 42))
            coordinator.wait_for_completion(timeout=30)
            results = coordinator.collect_results()
        assert sorted(one["rank"] for one in results) == [0, 1]
        assert [one["args"] for one in results] == [("text", 42)] * 2

    def test_world_size_passed_correctly(self, temp_output_dir: Path, work: ModuleType) -> None:
        """And knows how many there are."""
        with GPUProcessCoordinator(4, temp_output_dir) as coordinator:
            coordinator.spawn_workers(work.reports_args)
            coordinator.wait_for_completion(timeout=30)
            assert [one["world_size"] for one in coordinator.collect_results()] == [4] * 4

    def test_a_mask_is_shared_out(
        self, temp_output_dir: Path, work: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the devices that this process may see, each worker gets its own; too few are refused; hidden ones stay hidden."""
        for mask, seen in (("4,6", {0: "4", 1: "6"}), ("", {0: "", 1: ""}), ("-1", {0: "-1", 1: "-1"})):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
            with GPUProcessCoordinator(2, temp_output_dir) as coordinator:
                coordinator.spawn_workers(work.reports_device)
                coordinator.wait_for_completion(timeout=30)
                assert {one["rank"]: one["at_exec"] for one in coordinator.collect_results()} == seen
            assert os.environ["CUDA_VISIBLE_DEVICES"] == mask
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
        with pytest.raises(ValueError, match="2 workers, and CUDA_VISIBLE_DEVICES=4 has 1"):
            GPUProcessCoordinator(2, temp_output_dir).spawn_workers(work.reports_device)

    def test_what_cannot_be_sent_is_refused(self, make: Make) -> None:
        """A function that no other process can find is told of at once, and nothing is left running."""
        coordinator = make(2)
        with pytest.raises((AttributeError, pickle.PicklingError), match="local object"):
            coordinator.spawn_workers(lambda *_: None)
        assert coordinator.crew.running == []


class TestGPUCoordinatorFaultTolerance:
    def test_classify_error_spot_preemption_exitcode(self, make: Make, work: ModuleType) -> None:
        """143, and a death by SIGTERM, which multiprocessing calls -15, are preemptions."""
        coordinator = make(2)
        coordinator.spawn_workers(work.fails_as, ({0: "143", 1: "SIGTERM"}, 1))
        assert watch(coordinator) == {0: True, 1: True}
        assert kinds(coordinator) == {0: "spot", 1: "spot"}
        assert {one.attempt.shard: one.exitcode for one in coordinator.finished if one.diagnosis} == {0: 143, 1: -15}

    def test_classify_error_spot_preemption_message(self, make: Make, work: ModuleType) -> None:
        """So is a worker's own word that it got SIGTERM, whatever it exits with."""
        coordinator = make(1)
        coordinator.spawn_workers(work.fails_as, ({0: "says SIGTERM"}, 1))
        watch(coordinator)
        assert kinds(coordinator) == {0: "spot"}

    def test_classify_error_oom(self, make: Make, work: ModuleType) -> None:
        """Out of memory: by an exception, by a report, by a report before SIGKILL."""
        coordinator = make(3)
        coordinator.spawn_workers(work.fails_as, ({0: "raises oom", 1: "says oom", 2: "says oom, SIGKILL"}, 1))
        assert watch(coordinator) == {0: True, 1: True, 2: True}
        assert kinds(coordinator) == {0: "oom", 1: "oom", 2: "oom"}

    def test_classify_error_oom_by_the_kernel(
        self, make: Make, work: ModuleType, memory_group: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that the kernel kills for want of memory: SIGKILL, and the kernel's count is the evidence.

        The kill and the count are real. That the group is the coordinator's own, too, is only said: these tests go on in it.
        """
        (tmp_path / "self").mkdir()
        (tmp_path / "self/cgroup").write_text(_group_line(memory_group))
        monkeypatch.setattr("ftharness.coordinator.worker.oom_kills", partial(oom_kills, tmp_path))
        coordinator = make(1)
        coordinator.spawn_workers(work.eats_memory, (str(memory_group),))
        assert watch(coordinator) == {0: True}
        (killed, _) = coordinator.finished
        assert killed.exitcode == -signal.SIGKILL
        assert killed.diagnosis is not None
        assert killed.diagnosis.kind is ErrorClass.OOM
        assert "for want of memory" in killed.diagnosis.evidence

    def test_classify_error_poison_input(self, make: Make, work: ModuleType) -> None:
        """An error of the CUDA runtime, a circuit breaker, and a crash at a known batch point at the input."""
        coordinator = make(3)
        ways = {0: "raises CUDA error", 1: "says circuit breaker", 2: "SIGSEGV at a batch"}
        coordinator.spawn_workers(work.fails_as, (ways, 1))
        assert watch(coordinator) == {0: True, 1: True, 2: True}
        assert kinds(coordinator) == {0: "poison", 1: "poison", 2: "poison"}
        assert [one.diagnosis.batch_idx for one in coordinator.finished if one.diagnosis] == [3, 3, 3]

    def test_classify_error_transient_fallback(self, make: Make, work: ModuleType) -> None:
        """Anything else may pass: SIGKILL and 137 without evidence of memory, a crash at nothing known, any exception."""
        coordinator = make(5)
        ways = {0: "SIGKILL", 1: "137", 2: "SIGSEGV", 3: "raises", 4: "says failed, exits 0"}
        coordinator.spawn_workers(work.fails_as, (ways, 1))
        assert all(watch(coordinator).values())
        assert set(kinds(coordinator).values()) == {"transient"}
        evidence = {one.attempt.shard: one.diagnosis.evidence for one in coordinator.finished if one.diagnosis}
        assert evidence[0] == "killed by SIGKILL; nothing says that memory was short"
        assert "ValueError: a network that is down, say" in evidence[3]

    def test_should_retry_spot_preemption_infinite(self, make: Make, work: ModuleType) -> None:
        """A preempted worker is tried again for ever, and that costs it no other retry."""
        coordinator = make(1)
        coordinator.spawn_workers(work.fails_as, ({0: ["143"] * 5 + ["raises"]},))
        assert watch(coordinator, max_retries_transient=1) == {0: True}
        assert [one.diagnosis and one.diagnosis.kind for one in coordinator.finished] == ["spot"] * 5 + [
            "transient",
            None,
        ]

    def test_should_retry_poison_input_circuit_breaker(self, make: Make, work: ModuleType, tmp_path: Path) -> None:
        """The second strike on a batch is the last, strikes on two batches are no two on one."""
        coordinator = make(1)
        coordinator.spawn_workers(work.has_poison, ({0: [7]}, str(tmp_path)))
        assert watch(coordinator) == {0: False}
        assert coordinator.failed_batches == {(0, 7)}
        assert [one.decision and one.decision.retry for one in coordinator.finished] == [True, False]
        assert "batch 7 is poison: strike 2 of 2; killed by SIGSEGV, at batch 7" in coordinator.failures[0]

    def test_should_retry_oom_exponential_backoff(self, make: Make, work: ModuleType) -> None:
        """Three retries, after 1, 2 and 4 s; then it is over."""
        coordinator = make(1)
        coordinator.spawn_workers(work.fails_as, ({0: "raises oom"}, 9))
        assert watch(coordinator) == {0: False}
        assert [one.at for one in coordinator.finished] == [0, 1, 3, 7]
        assert "oom: all 3 retries are used up" in coordinator.failures[0]
        told = [one["attempt"].failed_as for one in coordinator.collect_results() if "attempt" in one]
        assert told == ["", "oom", "oom", "oom"], (
            "a worker knows that its memory was short, and can take smaller batches"
        )

    def test_should_retry_transient_max_retries(self, make: Make, work: ModuleType) -> None:
        """As many retries as were asked for; none means none."""
        for limit in (0, 2):
            coordinator = make(1)
            coordinator.spawn_workers(work.fails_as, ({0: "raises"}, 9))
            assert watch(coordinator, max_retries_transient=limit) == {0: False}
            assert len(coordinator.finished) == limit + 1

    def test_validate_checkpoint_dir_removes_orphaned_tmp_files(self, tmp_path: Path) -> None:
        """What a killed writer left half done goes, what was committed stays."""
        shard = _shard(tmp_path, "batch_00001.pt.4711-0a.tmp", "batch_00001.pt.done.tmp", checkpoints=1)
        check = validate_checkpoint_dir(tmp_path, 0)
        assert check.usable
        assert check.removed == ("batch_00001.pt.4711-0a.tmp", "batch_00001.pt.done.tmp")
        assert check.reason == "1 checkpoints"
        assert sorted(path.name for path in shard.iterdir()) == ["batch_00000.pt", "batch_00000.pt.done"]
        assert validate_checkpoint_pt(shard / "batch_00000.pt") == (True, "")

    def test_validate_checkpoint_dir_done_marker_mismatch_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A pair that is none, or does not fit, is put aside with a warning, overwrites nothing, and is computed again."""
        shard = _shard(tmp_path, checkpoints=4)
        (shard / "batch_00001.pt.done").unlink()
        (shard / "batch_00002.pt").unlink()
        os.truncate(shard / "batch_00003.pt", 100)
        check = validate_checkpoint_dir(tmp_path, 0)
        assert (check.usable, check.reason) == (True, "1 checkpoints")
        odd = ["batch_00001.pt", "batch_00002.pt.done", "batch_00003.pt", "batch_00003.pt.done"]
        assert sorted(check.quarantined) == odd
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
        assert resume_from_checkpoints(tmp_path, 0)[0::2] == (["batch0_0", "batch0_1"], 1)
        _shard(tmp_path, "batch_00001.pt")
        validate_checkpoint_dir(tmp_path, 0)
        assert sorted(path.name for path in (shard / "quarantine").iterdir()) == sorted([*odd, "batch_00001.pt.1"])
        assert sorted(path.name for path in shard.glob("batch*")) == ["batch_00000.pt", "batch_00000.pt.done"]

    def test_validate_checkpoint_dir_fresh_start(self, tmp_path: Path) -> None:
        """No folder yet, and an empty one, are a fresh start."""
        assert validate_checkpoint_dir(tmp_path, 0).usable
        _shard(tmp_path)
        check = validate_checkpoint_dir(tmp_path, 0)
        assert (check.usable, check.reason) == (True, "no checkpoint: a fresh start")

    def test_retry_worker_spot_preemption_delay(self, make: Make, work: ModuleType, clock: HeldClock) -> None:
        """A minute between two attempts, or what was asked for."""
        coordinator = make(1)
        coordinator.spawn_workers(work.fails_as, ({0: "143"}, 2))
        watch(coordinator)
        assert [one.at for one in coordinator.finished] == [0, 60, 120]
        assert clock.waits == [60, 60]
        another = make(1)
        another.spawn_workers(work.fails_as, ({0: "143"}, 1))
        watch(another, spot_retry_poll_interval=5.0)
        assert clock.now() == 125

    def test_retry_worker_oom_exponential_backoff(self, make: Make, work: ModuleType, clock: HeldClock) -> None:
        """1, 2, 4, 8, 16, 32 s, and never more than a minute."""
        coordinator = make(1)
        coordinator.spawn_workers(work.fails_as, ({0: "raises oom"}, 8))
        assert watch(coordinator, max_retries_transient=8) == {0: True}
        assert clock.waits == [1, 2, 4, 8, 16, 32, 60, 60]

    def test_retry_worker_validates_checkpoint_before_respawn(
        self, make: Make, work: ModuleType, tmp_path: Path
    ) -> None:
        """A worker is not started again on a folder that cannot be used, and one that can is tidied first."""
        coordinator = make(2)
        tidied = _shard(tmp_path / "checkpoints", "batch_00000.pt.tmp", rank=1)
        (tmp_path / "checkpoints/shard_0").write_text("a file where a folder should be")
        coordinator.spawn_workers(work.fails_as, ({0: "raises", 1: "raises"}, 1))
        assert watch(coordinator) == {0: False, 1: True}
        assert len(of_shard(coordinator, 0)) == 1
        assert "shard_0 cannot be used: [Errno 20] Not a directory" in coordinator.failures[0]
        assert list(tidied.iterdir()) == []

    @pytest.mark.parametrize("thread", ["main", "thread"])
    def test_sigterm_handler_sets_shutdown_flag(self, tmp_path: Path, thread: str) -> None:
        """SIGTERM to a coordinator: the flag is set, all workers are told at once, and it exits with 143."""
        with _coordinating(tmp_path, "ends_when_told", 2, 1.5, thread=thread) as process:
            process.terminate()
            output, _ = process.communicate(timeout=30)
        assert process.returncode == 143
        assert output.splitlines()[-1] == "shutdown_requested=True alive=0"
        told = [float((tmp_path / f"told_{rank}").read_text()) for rank in range(2)]
        assert max(told) - min(told) < 1.2, "one was told when the other had ended"

    @pytest.mark.parametrize("thread", ["main", "thread"])
    def test_a_worker_is_told_once_and_heard_by_one(self, tmp_path: Path, thread: str) -> None:
        """Also where another thread watches, and sees one end before the others: what writes must not be told to begin anew."""
        with _coordinating(tmp_path, "says_much_when_told", 2, 0.5, thread=thread, grace_s=10) as process:
            process.terminate()
            output, _ = process.communicate(timeout=30)
        assert [(tmp_path / f"told_{rank}").read_text() for rank in range(2)] == ["T", "T"]
        assert output.splitlines()[-2:] == ["of rank 0, in order: 2001", "shutdown_requested=True alive=0"]
        assert process.returncode == 143

    def test_sigterm_handler_waits_for_checkpoints(self, tmp_path: Path) -> None:
        """Workers have the grace to write what they have, however long they take of it; the exit does not wait for the rest."""
        began = time.monotonic()
        with _coordinating(tmp_path, "ends_when_told", 1, 1.0, grace_s=60) as process:
            process.terminate()
            assert process.wait(30) == 143
        assert (tmp_path / "told_0").exists(), "it was waited for"
        assert time.monotonic() - began < 30

    def test_whoever_is_late_is_killed(self, tmp_path: Path) -> None:
        """When the grace is over, or a second SIGTERM comes, whoever is left is killed."""
        for grace_s, signals in ((0.3, 1), (3600, 2)):
            with _coordinating(tmp_path, "will_not_end", 2, grace_s=grace_s) as process:
                for _ in range(signals):
                    process.terminate()
                    _until_said(process, "SIGTERM: 2 workers are told")
                assert process.wait(30) == 143
            for rank in range(2):
                assert _gone(int((tmp_path / f"pid_{rank}").read_text()))

    def test_ctrl_c_is_the_coordinators(self, tmp_path: Path) -> None:
        """It comes to all of them. The coordinator ends the run in order, and workers write what they have."""
        with _coordinating(tmp_path, "ends_when_told", 2, 0.0) as process:
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(30) == -signal.SIGINT
            assert all((tmp_path / f"told_{rank}").exists() for rank in range(2))

    def test_ctrl_c_at_a_workers_start_is_not_lost_on_it(self, make: Make, work: ModuleType) -> None:
        """An interpreter that still starts ends by it, with a traceback on the terminal; a worker's hears of it too late."""
        coordinator = make(2)
        coordinator.spawn_workers(work.succeeds)
        for process in coordinator.workers.values():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGINT)
        assert coordinator.wait_for_completion() == {0: True, 1: True}

    def test_no_worker_outlives_its_coordinator(self, tmp_path: Path) -> None:
        """When the coordinator is killed by SIGKILL, workers get SIGTERM, and write their checkpoints."""
        with _coordinating(tmp_path, "ends_when_told", 2, 0.0) as process:
            process.kill()
            for rank in range(2):
                assert _gone(int((tmp_path / f"pid_{rank}").read_text()))
                assert (tmp_path / f"told_{rank}").exists()


class TestRedistribution:
    def test_another_worker_does_the_rest(self, make: Make, work: ModuleType, tmp_path: Path) -> None:
        """A shard whose device breaks is finished on another device, from where it was, and nothing is done twice."""
        coordinator = make(2)
        coordinator.spawn_workers(work.breaks_on_device, (["0"], str(tmp_path)))
        assert watch(coordinator) == {0: True, 1: True}
        assert coordinator.redistributed_work == {0: 1}
        done = [(tmp_path / f"shard_0_batch_{batch}").read_text() for batch in range(10)]
        assert done == ["0"] * 4 + ["1"] * 6
        assert coordinator.failures == {}

    def test_the_manifest_is_told(self, make: Make, work: ModuleType, tmp_path: Path) -> None:
        """What was given up, handed over and completed, in that order, by the coordinator alone."""
        coordinator, manifest = make(2), _Told()
        coordinator.spawn_workers(work.breaks_on_device, (["0"], str(tmp_path)))
        watch(coordinator, manifest, max_retries_transient=0)
        of_0 = [entry for entry in manifest.told if entry[1] == 0]
        assert [entry[:2] for entry in of_0] == [("failed", 0), ("reassigned", 0), ("complete", 0)]
        assert of_0[0][2].endswith("exit status 1; reported exception: OSError: the device does not answer")
        assert of_0[1][2] == 1
        assert ("complete", 1) in manifest.told

    def test_nobody_is_left(self, make: Make, work: ModuleType, tmp_path: Path) -> None:
        """Where all devices break, each shard is failed, and the run ends; so it does where redistribution is off."""
        coordinator = make(2)
        coordinator.spawn_workers(work.breaks_on_device, (["0", "1"], str(tmp_path)))
        assert watch(coordinator, max_retries_transient=0) == {0: False, 1: False}
        assert "no other worker" in coordinator.failures[0] + coordinator.failures[1]
        alone = make(2)
        alone.spawn_workers(work.breaks_on_device, (["0"], str(tmp_path)))
        assert watch(alone, max_retries_transient=0, enable_elastic_redistribution=False) == {0: False, 1: True}
        assert alone.redistributed_work == {}

    def test_it_moves_once(self, make: Make, work: ModuleType) -> None:
        """What fails on two devices is not the devices' fault: a third is not tried."""
        coordinator = make(3)
        coordinator.spawn_workers(work.fails_as, ({0: "raises"}, 99))
        assert watch(coordinator, max_retries_transient=1) == {0: False, 1: True, 2: True}
        assert [one.attempt.worker for one in of_shard(coordinator, 0)] == [0, 0, 1, 1]

    def test_poison_is_left_out_elsewhere(self, make: Make, work: ModuleType, tmp_path: Path) -> None:
        """Another worker does all but the poisoned batches, each of which had its two strikes; the shard is not complete so."""
        coordinator, manifest = make(2), _Told()
        coordinator.spawn_workers(work.has_poison, ({0: [2, 5]}, str(tmp_path)))
        assert watch(coordinator, manifest) == {0: False, 1: True}
        assert coordinator.failed_batches == {(0, 2), (0, 5)}
        done = {path.name.removeprefix("shard_0_batch_") for path in tmp_path.glob("shard_0_*")}
        assert done == set("01346789")
        assert len(of_shard(coordinator, 0)) == 5, "two strikes on each batch, and the attempt that leaves both out"
        assert coordinator.failures[0] == "batches [2, 5] were left out as poison; all others are done"
        assert manifest.told[-1] == ("failed", 0, coordinator.failures[0])


class TestForWhoKnowsMore:
    """What a caller can say of its own work."""

    def test_poison_alone_is_left_out(self, make: Make, work: ModuleType, tmp_path: Path) -> None:
        """The only worker goes on without the batches that were given up, each after its two strikes."""
        coordinator = make(1, leave_out_poison=True)
        coordinator.spawn_workers(work.has_poison, ({0: [2, 5]}, str(tmp_path)))
        assert watch(coordinator) == {0: False}
        assert coordinator.failed_batches == {(0, 2), (0, 5)}
        done = {path.name.removeprefix("shard_0_batch_") for path in tmp_path.glob("shard_0_*")}
        assert done == set("01346789")
        assert coordinator.failures[0] == "batches [2, 5] were left out as poison; all others are done"

    def test_workers_that_choose_their_devices(
        self, make: Make, work: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They see what the coordinator sees, however many they are."""
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
        coordinator = make(2, masked=False)
        coordinator.spawn_workers(work.reports_device)
        assert watch(coordinator) == {0: True, 1: True}
        assert {one["at_exec"] for one in coordinator.collect_results()} == {"7"}

    def test_a_diagnosis_of_its_own(self, make: Make, work: ModuleType) -> None:
        """It decides what is done, and each attempt is told as it ends, after what was said in it."""
        told: list[str] = []

        class Heard(Told):
            def report(self, report: dict[str, Any]) -> None:
                told.append(f"report {report['rank']}")

            def finished(self, finished: Finished) -> None:
                told.append(f"{finished.attempt.number} {finished.diagnosis and finished.diagnosis.evidence}")

        coordinator = make(1, told=Heard(), diagnose=lambda _: Diagnosis(ErrorClass.POISON, "as I know", 4))
        coordinator.spawn_workers(work.fails_as, ({0: "SIGKILL"}, 1))
        assert watch(coordinator) == {0: True}
        assert told == ["report 0", "1 as I know", "report 0", "report 0", "2 None"]
        assert [one.at for one in coordinator.finished] == [0, 1], "a second after the first strike"

    def test_other_signals_than_sigterm(self, make: Make, work: ModuleType, tmp_path: Path) -> None:
        """Ctrl-C, say: who is told hears of it before workers do, who end as on SIGTERM."""
        told: list[tuple[int, bool]] = []

        class Heard(Told):
            def report(self, report: dict[str, Any]) -> None:  # noqa: ARG002 - as it is called
                os.kill(os.getpid(), signal.SIGINT)

            def signalled(self, came_before: int) -> None:
                told.append((came_before, (tmp_path / "told_0").exists()))

        coordinator = make(1, told=Heard())
        coordinator.setup_signal_handlers(signal.SIGINT)
        coordinator.spawn_workers(work.ends_when_told, (str(tmp_path), 0.0))
        with pytest.raises(SystemExit, match="143"):
            watch(coordinator)
        assert told == [(0, False)]
        assert (tmp_path / "told_0").exists()


class TestMonitoring:
    def test_a_process_that_cannot_be_had(self, tmp_path: Path, work: ModuleType) -> None:
        """No descriptors for its pipes, say: a failure that may pass, and does."""
        clock = _Starving()
        with GPUProcessCoordinator(1, tmp_path, clock=clock) as coordinator:
            coordinator.spawn_workers(work.fails_as, ({0: "raises"}, 1))
            try:
                assert watch(coordinator, enable_checkpointing=False) == {0: True}
            finally:
                clock.eats()
        assert [(one.attempt.number, one.exitcode) for one in coordinator.finished] == [(1, 1), (2, None), (3, 0)]
        refused = coordinator.finished[1].diagnosis
        assert refused is not None
        assert refused.evidence == "could not be started: [Errno 24] Too many open files"

    @pytest.mark.parametrize("on_term", ["dies", "exits 0", "ignores SIGTERM"])
    def test_an_attempt_that_takes_too_long(self, make: Make, work: ModuleType, clock: HeldClock, on_term: str) -> None:
        """It is ended, and that is a failure that may pass: no preemption, though it died of SIGTERM, and no success."""
        coordinator = make(1)
        coordinator.spawn_workers(work.hangs_once, (on_term,))
        _heard(coordinator, 1)
        (hanging,) = coordinator.crew.running
        # Whoever ends by itself when told may take its time; whoever does not is killed when the grace is over as well.
        done = lambda: bool(coordinator.finished if on_term == "ignores SIGTERM" else hanging.ended_by)  # noqa: E731
        with _passing(clock, 1000, until=done):
            assert watch(coordinator) == {0: True}
        (late, _) = coordinator.finished
        assert late.exitcode == {"dies": -15, "exits 0": 0, "ignores SIGTERM": -9}[on_term]
        assert late.diagnosis is not None
        assert late.diagnosis.kind is ErrorClass.TRANSIENT
        assert late.diagnosis.evidence == "took longer than 3600 s, and was ended"

    def test_force_restart_is_of_the_first_attempt(self, make: Make, work: ModuleType) -> None:
        """A later one would throw away what the first has done."""
        coordinator = make(1)
        coordinator.spawn_workers(work.reports_config, (RuntimeConfig(force_restart=True),))
        watch(coordinator)
        assert [one["force_restart"] for one in coordinator.collect_results()] == [True, False, False]

    def test_a_manifest_that_fails_ends_all(self, make: Make, work: ModuleType) -> None:
        """Nothing runs on unwatched."""
        coordinator = make(2)
        coordinator.spawn_workers(work.fails_as, ({}, 0))
        with pytest.raises(OSError, match="No space"):
            watch(coordinator, _Full())
        assert coordinator.crew.running == []

    def test_what_ended_before_is_seen_to(self, make: Make, work: ModuleType) -> None:
        """Workers that failed while nobody watched are tried again by whoever does."""
        coordinator = make(2)
        coordinator.spawn_workers(work.fails_as, ({1: "raises"}, 1))
        assert coordinator.wait_for_completion() == {0: True, 1: False}
        assert watch(coordinator) == {0: True, 1: True}

    def test_the_flag_ends_it_too(self, make: Make, work: ModuleType, tmp_path: Path) -> None:
        """Set by hand, it is seen at the next look; workers write their checkpoints, and their shards stay open."""
        coordinator = make(1)
        coordinator.spawn_workers(work.ends_when_told, (str(tmp_path), 0.0))
        _heard(coordinator, 1)
        coordinator.shutdown_requested = True
        assert watch(coordinator) == {}
        assert (tmp_path / "told_0").exists()

    def test_signals_are_of_the_main_thread(self, make: Make) -> None:
        """Elsewhere they cannot be handled, and that is told; the handlers of before come back."""
        before = signal.getsignal(signal.SIGTERM)
        coordinator = make(1)
        refused: list[BaseException] = []

        def elsewhere() -> None:
            try:
                coordinator.setup_signal_handlers()
            except ValueError as error:
                refused.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(refused) == 1
        with coordinator:
            coordinator.setup_signal_handlers()
            assert signal.getsignal(signal.SIGTERM) != before
        assert signal.getsignal(signal.SIGTERM) == before


class _Told:
    """A manifest that only listens."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def mark_shard_complete(self, rank: int) -> None:
        self.told.append(("complete", rank))

    def mark_shard_failed(self, rank: int, error: str) -> None:
        self.told.append(("failed", rank, error))

    def reassign_shard(self, shard_rank: int, new_assigned_rank: int) -> None:
        self.told.append(("reassigned", shard_rank, new_assigned_rank))


class _Full(_Told):
    def mark_shard_complete(self, rank: int) -> None:  # noqa: ARG002 - as a manifest
        raise OSError("No space left on device")


class _Starving(HeldClock):
    """While the first wait lasts all descriptors are taken; after the second there are some again."""

    def __init__(self) -> None:
        super().__init__()
        self._before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def eats(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._before)

    def wait(self, fds: Sequence[int], timeout: float | None) -> list[int]:
        ready = super().wait(fds, timeout)
        if self.waits == [1.0]:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, self._before[1]))
        else:
            self.eats()
        return ready


def test_out_of_memory_kills_are_counted(tmp_path: Path) -> None:
    """In this control group, of either version, otherwise on the machine; files as those kernels write them stand for it."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    for folder in (proc / "self", cgroup / "job", cgroup / "memory/job"):
        folder.mkdir(parents=True)
    assert oom_kills(proc, cgroup) == 0
    (proc / "vmstat").write_text("nr_free_pages 3\noom_kill 5\n")
    (proc / "self/cgroup").write_text("4:cpu,memory:/job\n0::/\n")
    assert oom_kills(proc, cgroup) == 5
    (cgroup / "memory/job/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert oom_kills(proc, cgroup) == 3
    (proc / "self/cgroup").write_text("0::/job\n")
    (cgroup / "job/memory.events").write_text("low 0\nmax 7\noom 4\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills(proc, cgroup) == 2
    (cgroup / "job/memory.events").write_text("oom_kill 0\n")
    assert oom_kills(proc, cgroup) == 0, "others' are not ours"


def test_strikes_are_counted_by_batch() -> None:
    """Strikes on two batches are not two on one; those on an unknown one count, too."""
    policy = RetryPolicy(RuntimeConfig())
    decisions = [policy.decide(Diagnosis(ErrorClass.POISON, "", batch)) for batch in (1, 2, None, 2, None)]
    assert [(one.retry, one.poisoned) for one in decisions] == [
        (True, None),
        (True, None),
        (True, None),
        (False, 2),
        (False, None),
    ]
    assert not RetryPolicy(RuntimeConfig(max_retries_poison=0)).decide(Diagnosis(ErrorClass.POISON, "", 1)).retry


@pytest.fixture
def memory_group(tmp_path: Path) -> Iterator[Path]:
    """A control group with 64 MB, below this process's own."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        root, limit = Path("/sys/fs/cgroup"), "memory.max"
        if names == "memory":
            root, limit = root / "memory", "memory.limit_in_bytes"
        elif names or not (root / "cgroup.controllers").exists():
            continue
        group = root / path.lstrip("/") / f"ftharness-{tmp_path.name}"
        try:
            group.mkdir()
        except OSError:
            break
        try:
            if (group / limit).exists():
                (group / limit).write_text(str(64 << 20))
                yield group
                return
        finally:
            group.rmdir()
    pytest.skip("a real out-of-memory kill needs a memory control group that may be divided: root, and cgroups mounted")


def _group_line(group: Path) -> str:
    """How /proc/self/cgroup says that a process is in a group."""
    path = group.relative_to("/sys/fs/cgroup")
    return f"4:memory:/{path.relative_to('memory')}" if path.parts[0] == "memory" else f"0::/{path}"


def _shard(folder: Path, *names: str, checkpoints: int = 0, rank: int = 0) -> Path:
    """A shard's folder with so many real checkpoints, and files of these names."""
    shard = folder / f"shard_{rank}"
    shard.mkdir(parents=True, exist_ok=True)
    with AsyncCheckpointWriter() as writer:
        for batch in range(checkpoints):
            rows = np.full((2, 3), batch, dtype=np.float32)
            ids = [f"batch{batch}_0", f"batch{batch}_1"]
            writer.write_checkpoint_async(shard / f"batch_{batch:05d}.pt", rows, ids, {"batch_idx": batch})
    for name in names:
        (shard / name).write_bytes(b"content")
    return shard


def _heard(coordinator: GPUProcessCoordinator, count: int) -> None:
    """Wait until so many reports have come: then workers do what they were started for."""
    while len(coordinator.crew.reports) < count:
        coordinator.crew.wait(None)
        coordinator.crew.listen()


@contextlib.contextmanager
def _passing(clock: HeldClock, seconds: float, until: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Time passes meanwhile, so many seconds at a step."""
    over = threading.Event()

    def pass_on() -> None:
        while not over.wait(0.01) and not until():
            clock.advance(seconds)

    passing = threading.Thread(target=pass_on)
    passing.start()
    try:
        yield
    finally:
        over.set()
        passing.join()


_COORDINATOR = """
import logging, sys, threading
logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
from ftharness.coordinator import GPUProcessCoordinator, RuntimeConfig
import gpu_workers
if __name__ == "__main__":
    name, folder, count, grace_s, thread, *more = sys.argv[1:]
    with GPUProcessCoordinator(int(count), folder, grace_s=float(grace_s)) as coordinator:
        coordinator.setup_signal_handlers()
        coordinator.spawn_workers(getattr(gpu_workers, name), (folder, *map(float, more)))
        while len(coordinator.crew.reports) < int(count):
            coordinator.crew.wait(None)
            coordinator.crew.listen()
        try:
            watching = threading.Thread(target=coordinator.monitor_workers_async, args=[RuntimeConfig()])
            if thread == "thread":
                watching.start()
            print("ready", flush=True)
            if thread == "thread":
                watching.join()
            coordinator.monitor_workers_async(RuntimeConfig())
        finally:
            alive = sum(process.is_alive() for process in coordinator.workers.values())
            heard = [report.get("number") for report in coordinator.crew.reports if report.get("rank") == 0]
            print(f"of rank 0, in order: {heard == list(range(len(heard))) and len(heard)}")
            print(f"shutdown_requested={coordinator.shutdown_requested} alive={alive}", flush=True)
"""


@contextlib.contextmanager
def _coordinating(
    folder: Path, name: str, count: int, *more: float, grace_s: float = 30, thread: str = "main"
) -> Iterator["subprocess.Popen[str]"]:
    """A coordinator in a process of its own, whose workers are at work; killed at the end, whatever else fails."""
    script = folder / "coordinating.py"
    script.write_text(_COORDINATOR)
    argv = [sys.executable, str(script), name, str(folder), str(count), str(grace_s), thread, *map(str, more)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_HERE), *sys.path])}
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(argv, env=env, start_new_session=True, **output) as process:
        try:
            _until_said(process, "ready")
            yield process
        finally:
            process.kill()


def _until_said(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return


def _gone(pid: int) -> bool:
    """Whether a process ends within 10 s."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with os.fdopen(fd):
        return bool(select.select([fd], [], [], 10)[0])
