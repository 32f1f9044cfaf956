"""Checkpoints, runner, manifest and coordinator together, on the CPU: a real model, real files, real workers."""

import contextlib
import importlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from ftharness.checkpoint import (
    AsyncCheckpointWriter,
    CheckpointError,
    CheckpointManifest,
    Resumed,
    resume_from_checkpoints,
    validate_checkpoint_pt,
)
from ftharness.coordinator import AsyncInferenceRunner, GPUProcessCoordinator, HeldClock, RuntimeConfig

#: How many of the kills at random moments; 50 take some minutes.
_SEEDS = int(os.environ.get("FTHARNESS_KILL_SEEDS", "2"))
_LONG_S = 1e6


@pytest.fixture(autouse=True)
def work(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The model and what workers run; and no import of pytest itself in each of them, which is what started this process."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setattr(main, "__file__", None, raising=False)
    return importlib.import_module("inference_workers")


@pytest.fixture
def plain_work(work: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What workers run that have nothing to compute, and import no torch."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "unit"))
    return importlib.import_module("gpu_workers")


@pytest.fixture
def runner(tmp_path: Path, work: ModuleType) -> Callable[..., AsyncInferenceRunner]:
    """Makes runners of shard 0."""

    def make(**more: Any) -> AsyncInferenceRunner:
        options: dict[str, Any] = {"checkpoint_dir": tmp_path, "checkpoint_seq_threshold": 20, **more}
        return AsyncInferenceRunner(options.pop("model", None) or work.Model(), "cpu", **options)

    return make


Make = Callable[..., AsyncInferenceRunner]


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Callable[[int], GPUProcessCoordinator]]:
    """Makes a coordinator on a held clock: its processes are real, its waits are over at once."""
    clock = HeldClock()
    made: list[GPUProcessCoordinator] = []

    def make(world_size: int) -> GPUProcessCoordinator:
        made.append(GPUProcessCoordinator(world_size, tmp_path, clock=clock))
        return made[-1]

    yield make
    for one in made:
        one.crew.tell(signal.SIGKILL)
        one.terminate_all()
    clock.close()


def test_runner_creates_checkpoints_during_inference(tmp_path: Path, runner: Make, work: ModuleType) -> None:
    """Five batches of ten and a threshold of twenty: 20, 20, and the last ten, each a valid checkpoint with its marker."""
    results = list(runner().run(work.Batches(5)))
    assert [result.batch_idx for result in results] == [0, 1, 2, 3, 4]
    files = sorted((tmp_path / "shard_0").glob("batch_*.pt"))
    assert [path.name for path in files] == ["batch_00000.pt", "batch_00001.pt", "batch_00002.pt"]
    assert all(validate_checkpoint_pt(path) == (True, "") for path in files)
    loaded = [torch.load(path, weights_only=True) for path in files]
    assert [len(one["sequence_ids"]) for one in loaded] == [20, 20, 10]
    assert [one["metadata"]["trigger_reason"] for one in loaded] == ["sequence_threshold"] * 2 + ["final"]
    assert torch.equal(loaded[1]["embeddings"][5], work.row_of("seq25"))


def test_runner_resume_skips_completed_work(runner: Make, work: ModuleType) -> None:
    """What was done comes first, as of batch -1, exact; it is not computed again, and what is new is."""
    first = list(runner().run(work.Batches(5)))
    counted = _Counted()
    recovered, *new = runner(model=counted).run(work.Batches(7))
    assert recovered.batch_idx == -1
    assert recovered.sequence_ids == [name for result in first for name in result.sequence_ids]
    assert torch.equal(recovered.embeddings, torch.cat([result.embeddings for result in first]))
    assert [result.batch_idx for result in new] == [5, 6]
    assert counted.calls == 2
    (all_of_it,) = runner().run(work.Batches(7))
    assert len(set(all_of_it.sequence_ids)) == len(all_of_it.sequence_ids) == 70
    assert torch.equal(all_of_it.embeddings[69], work.row_of("seq69"))


def test_runner_force_restart_ignores_checkpoints(tmp_path: Path, runner: Make, work: ModuleType) -> None:
    """All is computed again, and none of the old checkpoints is left to be taken for new ones."""
    list(runner().run(work.Batches(5)))
    results = list(runner().run(work.Batches(3), force_restart=True))
    assert [result.batch_idx for result in results] == [0, 1, 2]
    assert sum(len(result.sequence_ids) for result in results) == 30
    assert len(list((tmp_path / "shard_0").glob("batch_*.pt"))) == 2


def test_runner_final_checkpoint_captures_remaining(tmp_path: Path, runner: Make, work: ModuleType) -> None:
    """Where no threshold is met, all is in the final one."""
    list(runner(checkpoint_seq_threshold=100).run(work.Batches(3)))
    (path,) = (tmp_path / "shard_0").glob("batch_*.pt")
    loaded = torch.load(path, weights_only=True)
    assert loaded["metadata"]["trigger_reason"] == "final"
    assert loaded["sequence_ids"] == [f"seq{number}" for number in range(30)]


def test_runner_checkpoint_at_batch_boundary_only(tmp_path: Path, runner: Make, work: ModuleType) -> None:
    """A threshold in the midst of a batch waits for its end."""
    list(runner(checkpoint_seq_threshold=5).run(work.Batches(3, packed=False)))
    loaded = [torch.load(path, weights_only=True) for path in sorted((tmp_path / "shard_0").glob("batch_*.pt"))]
    assert [one["embeddings"].shape[0] for one in loaded] == [10, 10, 10]
    assert [len(one["sequence_ids"]) for one in loaded] == [10, 10, 10]


def test_resume_skips_corrupted_checkpoint(tmp_path: Path, runner: Make, work: ModuleType) -> None:
    """A damaged checkpoint and all after it are computed again, and nothing comes twice; who asks is told so first."""
    list(runner().run(work.Batches(6)))
    (tmp_path / "shard_0/batch_00001.pt").write_bytes(b"0" * 10)
    done = resume_from_checkpoints(tmp_path, 0)
    assert (len(done.ids), done.resume_batch_idx) == (20, 1)
    assert done.corrupted_ids == ["batch_1_LOST", *(f"seq{number}" for number in range(40, 60))]
    told: list[Resumed] = []
    run = runner().run(work.Batches(6), on_resumed=told.append)
    results = [next(run)]
    assert [(one.ids, one.corrupted_ids) for one in told] == [(done.ids, done.corrupted_ids)]
    results += run
    assert [result.batch_idx for result in results] == [-1, 2, 3, 4, 5]
    names = [name for result in results for name in result.sequence_ids]
    assert sorted(names) == sorted(f"seq{number}" for number in range(60))
    assert sorted(resume_from_checkpoints(tmp_path, 0).ids) == sorted(names)


def test_resume_removes_done_marker_on_corruption(tmp_path: Path, runner: Make, work: ModuleType) -> None:
    """What is damaged does not look committed any more."""
    list(runner(checkpoint_seq_threshold=100).run(work.Batches(1)))
    marker = tmp_path / "shard_0/batch_00000.pt.done"
    assert marker.exists()
    (tmp_path / "shard_0/batch_00000.pt").write_bytes(b"0" * 10)
    assert resume_from_checkpoints(tmp_path, 0).ids == []
    assert not marker.exists()


def test_coordinator_retries_failed_worker(
    coordinator: Callable[[int], GPUProcessCoordinator], plain_work: ModuleType
) -> None:
    """A worker that fails once is started again, and done."""
    two = coordinator(2)
    two.spawn_workers(plain_work.fails_as, ({1: "raises"}, 1))
    assert two.monitor_workers_async(RuntimeConfig(), check_interval=_LONG_S) == {0: True, 1: True}
    assert sorted((one.attempt.shard, one.attempt.number) for one in two.finished) == [(0, 1), (1, 1), (1, 2)]


def test_coordinator_gives_up_after_max_retries(
    coordinator: Callable[[int], GPUProcessCoordinator], plain_work: ModuleType
) -> None:
    """One that always fails is not tried for ever, and says why it was given up."""
    one = coordinator(1)
    one.spawn_workers(plain_work.fails_as, ({0: "raises"}, 99))
    assert one.monitor_workers_async(RuntimeConfig(max_retries_transient=2), check_interval=_LONG_S) == {0: False}
    assert len(one.finished) == 3
    assert "all 2 retries are used up" in one.failures[0]


def test_manifest_updated_on_completion(
    tmp_path: Path, coordinator: Callable[[int], GPUProcessCoordinator], work: ModuleType
) -> None:
    """A poisoned shard goes to another worker, which does all but the poison; the manifest says all of that."""
    manifest = _manifest(tmp_path, 2)
    two = coordinator(2)
    two.spawn_workers(work.infers, (str(tmp_path), 4, 20, 0, (0, 2)))
    config = RuntimeConfig(checkpoint_dir=tmp_path)
    assert two.monitor_workers_async(config, manifest, check_interval=_LONG_S) == {0: False, 1: True}
    reports = {one["rank"]: one for one in two.collect_results() if one.get("status") == "complete"}
    assert reports[0]["worker"] == 1
    assert sorted(reports[0]["names"]) == sorted(f"seq{number}" for number in (*range(20), *range(30, 40)))
    poisoned, done = manifest.get_shard_status(0), manifest.get_shard_status(1)
    assert poisoned is not None
    assert done is not None
    assert (poisoned["status"], poisoned["original_rank"], poisoned["assigned_rank"]) == ("failed", 0, 1)
    assert "[2] were left out as poison" in poisoned["error"]
    assert (poisoned["total_sequences"], done["status"], done["total_sequences"]) == (30, "complete", 40)


@pytest.mark.parametrize("seed", range(_SEEDS))
def test_a_kill_at_any_moment_costs_nothing(
    seed: int, tmp_path: Path, coordinator: Callable[[int], GPUProcessCoordinator], work: ModuleType
) -> None:
    """A worker over 2,000 sequences gets SIGKILL at a random moment, or twice; tried again, it has each once, exact."""
    luck = random.Random(seed)  # noqa: S311 - moments that can be had again
    manifest = _manifest(tmp_path, 1)
    one = coordinator(1)
    kills = 1 + seed % 2
    one.spawn_workers(work.infers, (str(tmp_path), 200, 100, kills))
    killer = _Killer(one, [(luck.randrange(0, 202), luck.uniform(0, 0.02)) for _ in range(kills)])
    killer.start()
    try:
        assert one.monitor_workers_async(RuntimeConfig(checkpoint_dir=tmp_path), manifest, check_interval=_LONG_S) == {
            0: True
        }
    finally:
        killer.join(10)
    assert [attempt.exitcode for attempt in one.finished] == [-signal.SIGKILL] * kills + [0]
    last = one.collect_results()[-1]
    assert len(last["names"]) == 2000
    assert set(last["names"]) == {f"seq{number}" for number in range(2000)}
    assert last["recovered"] >= last["recorded"], "what the manifest had acknowledged was lost"
    expected = torch.stack([work.row_of(name) for name in last["names"]]).numpy()
    assert np.array_equal(last["rows"], expected)
    done = resume_from_checkpoints(tmp_path, 0, manifest=manifest)
    assert (sorted(done.ids), done.corrupted_ids) == (sorted(last["names"]), [])
    status = manifest.get_shard_status(0)
    assert status is not None
    assert (status["status"], status["total_sequences"]) == ("complete", 2000)


def test_sigterm_costs_nothing_that_was_computed(
    tmp_path: Path, coordinator: Callable[[int], GPUProcessCoordinator], work: ModuleType
) -> None:
    """A preempted worker writes what it has before it goes, long before a checkpoint is due, however often it is told."""
    manifest = _manifest(tmp_path, 1)
    one = coordinator(1)
    one.spawn_workers(work.infers, (str(tmp_path), 400, 100_000, 1))
    killer = _Killer(one, [(40, 0)], signal.SIGTERM, times=5)
    killer.start()
    assert one.monitor_workers_async(RuntimeConfig(checkpoint_dir=tmp_path), manifest, check_interval=_LONG_S) == {
        0: True
    }
    killer.join(10)
    assert one.finished[0].exitcode == 143
    last = one.collect_results()[-1]
    assert last["recovered"] >= 390, "forty batches were begun when the signal came"
    assert len(set(last["names"])) == len(last["names"]) == 4000


def test_what_cannot_be_joined_is_refused(tmp_path: Path, runner: Make, work: ModuleType) -> None:
    """Checkpoints of another model or another input are not continued, and are not lost either."""
    list(runner(input_fingerprint="a").run(work.Batches(2)))
    with pytest.raises(CheckpointError, match="its model_config_hash is"):
        next(runner(model=work.Model(width=8)).run(work.Batches(2)))
    with pytest.raises(CheckpointError, match="its input_fingerprint is a, this run's is b"):
        next(runner(input_fingerprint="b").run(work.Batches(2)))
    with pytest.raises(ValueError, match="rank = -1"):
        runner(rank=-1)
    assert len(resume_from_checkpoints(tmp_path, 0).ids) == 20


def test_whatever_ends_it_keeps_what_was_computed(tmp_path: Path, runner: Make, work: ModuleType) -> None:
    """An exception, which names its batch, and a caller that wants no more."""
    runs = runner(checkpoint_seq_threshold=1000)
    with pytest.raises(RuntimeError, match="not finite: poison") as failed:
        list(runner(model=_Counted(breaks_at=3), checkpoint_seq_threshold=1000).run(work.Batches(5)))
    assert failed.value.batch_idx == 2
    with pytest.raises(OSError, match="a disk") as broken:
        list(runs.run(_broken_loader(work, 4)))
    assert broken.value.batch_idx == 4
    assert len(resume_from_checkpoints(tmp_path, 0).ids) == 40
    for result in runs.run(work.Batches(7)):
        if result.batch_idx == 5:
            break
    del result
    assert len(resume_from_checkpoints(tmp_path, 0).ids) == 60
    names = [name for result in runs.run(work.Batches(7), skip_batches={6}) for name in result.sequence_ids]
    assert len(names) == 60


def test_an_end_between_any_two_lines_loses_no_batch(tmp_path: Path, runner: Make, work: ModuleType) -> None:
    """SIGTERM may come anywhere, and so may SystemExit: what had been given is kept, whole, and nothing of it twice."""
    for moment in count(1):
        folder = tmp_path / str(moment)
        given: list[str] = []
        with _ended_at("kept_results.py", moment) as ended, contextlib.suppress(SystemExit):
            for result in runner(checkpoint_dir=folder).run(work.Batches(5)):
                given += result.sequence_ids
        for writing in threading.enumerate():  # as the process's end waits for it
            if writing.name.startswith("checkpoint"):
                writing.join()
        done = resume_from_checkpoints(folder, 0)
        assert len(set(done.ids)) == len(done.ids)
        assert set(done.ids) >= set(given), f"at line {moment}"
        if done.ids:
            assert np.array_equal(done.embeddings, torch.stack([work.row_of(name) for name in done.ids]).numpy())
        if not ended:
            break
    assert moment > 50, "there are more lines than that"


def test_what_is_done_to_a_result_stays_with_it(tmp_path: Path, runner: Make, work: ModuleType) -> None:
    """A caller may normalise its rows in place: those on the disk are the model's."""
    for result in runner(checkpoint_seq_threshold=30).run(work.Batches(5)):
        result.embeddings.zero_()
        result.sequence_ids.clear()
    done = resume_from_checkpoints(tmp_path, 0)
    assert np.array_equal(done.embeddings, torch.stack([work.row_of(name) for name in done.ids]).numpy())


def test_rows_are_means_of_a_sequence_s_own_tokens(work: ModuleType) -> None:
    """Packed, padded and masked batches give the same rows, and a batch that nobody could tell apart is refused."""
    expected = torch.stack([work.row_of(f"seq{number}") for number in range(20)])
    padded = [
        {
            "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 5), value=1),
            "attention_mask": torch.tensor([[1] * work.LENGTH + [0] * 5] * 10),
            "sequence_ids": batch["sequence_ids"],
        }
        for batch in work.Batches(2, packed=False)
    ]
    for batches in (work.Batches(2), work.Batches(2, packed=False), padded):
        results = list(AsyncInferenceRunner(work.Model()).run(batches))
        assert torch.allclose(torch.cat([result.embeddings for result in results]), expected)
    with pytest.raises(ValueError, match="batch 0 has no sequence_ids"):
        list(AsyncInferenceRunner(work.Model()).run([{"input_ids": torch.zeros(1, 3)}]))


def test_a_sequence_that_a_loader_gives_twice(tmp_path: Path, runner: Make, work: ModuleType) -> None:
    """In two batches, as samplers pad: it is kept once. In one batch, nobody could tell: refused, and what was done is kept."""
    first, second = work.Batches(2)
    twice = {**first, "sequence_ids": ["seq3", *first["sequence_ids"][1:]]}
    results = []
    with pytest.raises(ValueError, match="batch 3 has the sequence 'seq3' twice") as raised:
        results.extend(runner(checkpoint_seq_threshold=100).run([first, second, first, twice]))
    assert getattr(raised.value, "batch_idx", None) == 3
    done = resume_from_checkpoints(tmp_path, 0)
    assert done.ids == [f"seq{number}" for number in range(20)]
    assert np.array_equal(done.embeddings, torch.stack([work.row_of(name) for name in done.ids]).numpy())


def _manifest(folder: Path, world_size: int) -> CheckpointManifest:
    manifest = CheckpointManifest(folder / "manifest.json")
    manifest.initialize(world_size)
    return manifest


@contextlib.contextmanager
def _ended_at(file: str, moment: int) -> Iterator[list[int]]:
    """SystemExit before the line of a file that is the so-many-th to be executed; whether it came to that is in the list."""
    ended: list[int] = []
    lines = count(1)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.endswith(file):
            return None
        if event == "line" and next(lines) == moment:
            ended.append(moment)
            raise SystemExit(143)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield ended
    finally:
        sys.settrace(before)


def _broken_loader(work: ModuleType, breaks_at: int) -> Iterator[dict[str, Any]]:
    yield from work.Batches(breaks_at)
    raise OSError("a disk that does not answer")


class _Killer(threading.Thread):
    """Sends the worker of a coordinator's only shard a signal, each attempt's one, some time after it has said so much."""

    def __init__(
        self,
        coordinator: GPUProcessCoordinator,
        moments: Sequence[tuple[int, float]],
        number: signal.Signals = signal.SIGKILL,
        times: int = 1,
    ) -> None:
        super().__init__(daemon=True)  # where the attempt that it waits for never comes, it does not outlive the tests
        self._crew, self._moments, self._number, self._times = coordinator.crew, moments, number, times

    def run(self) -> None:
        tick, before = threading.Event(), None
        for reports, then_s in self._moments:
            while not (running := self._crew.running) or running[0] is before:
                tick.wait(0.001)
            before, heard = running[0], len(self._crew.reports)
            while len(self._crew.reports) - heard < reports:
                tick.wait(0.001)
            tick.wait(then_s)
            for _ in range(self._times):
                before.signal(self._number)
                tick.wait(0.001)


class _Counted:
    """The model, and how often it was called; at one call it makes what is no number."""

    def __init__(self, breaks_at: int = 0) -> None:
        self._model = importlib.import_module("inference_workers").Model()
        self.breaks_at, self.calls = breaks_at, 0
        self.parameters, self.eval = self._model.parameters, self._model.eval

    def forward_packed(self, **batch: Any) -> Any:
        self.calls += 1
        out = self._model.forward_packed(**batch)
        if self.calls == self.breaks_at:
            out["representations"][36][3] = float("nan")
        return out


def test_writer_and_runner_agree(tmp_path: Path, runner: Make, work: ModuleType) -> None:
    """Checkpoints that others wrote with the same writer are continued."""
    with AsyncCheckpointWriter() as writer:
        rows = torch.stack([work.row_of(f"seq{number}") for number in range(10)])
        names = [f"seq{number}" for number in range(10)]
        writer.write_checkpoint_async(tmp_path / "shard_0/batch_00000.pt", rows, names, {"batch_idx": 0})
    results = list(runner().run(work.Batches(2)))
    assert [result.batch_idx for result in results] == [-1, 1]


def test_the_example_of_the_docs_runs(tmp_path: Path) -> None:
    """As it stands; and where a shard fails, its status says so."""
    page = (Path(__file__).parents[2] / "docs/coordinator.md").read_text()
    (tmp_path / "embed.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    done = subprocess.run([sys.executable, "embed.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("{0: True, 1: True} 32\n", "", 0)
    (tmp_path / "out").rename(tmp_path / "done")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/checkpoints").touch()
    (tmp_path / "embed.py").write_text((tmp_path / "embed.py").read_text().replace("world_size=2", "world_size=1"))
    failed = subprocess.run([sys.executable, "embed.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (failed.stdout, failed.returncode) == ("{0: False} 0\n", 1)
    assert "Not a directory, so checkpoints cannot be in it: 'out/checkpoints'" in failed.stderr


def test_the_example_of_checkpoints_runs(tmp_path: Path) -> None:
    """With a checkpoint a batch and what it leaves open filled in, twice: each row is computed once, and in one of them."""
    page = (Path(__file__).parents[2] / "docs/checkpoints.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    code = code.replace("CheckpointTrigger()", "CheckpointTrigger(seq_threshold=2)")

    class Batch(NamedTuple):
        ids: list[str]
        is_last: bool

    computed: list[str] = []

    def batches(leave_out: set[str]) -> Iterator[Batch]:
        left = [[f"{batch}-a", f"{batch}-b"] for batch in range(4) if f"{batch}-a" not in leave_out]
        return (Batch(ids, ids is left[-1]) for ids in left)

    def model(batch: Batch) -> torch.Tensor:
        computed.extend(batch.ids)
        return torch.tensor([[float(name[0])] for name in batch.ids])

    given = {
        "folder": tmp_path,
        "rank": 0,
        "of_input": "i",
        "of_model": "m",
        "now": "",
        "batches": batches,
        "model": model,
    }
    for _ in range(2):
        exec(code, dict(given))  # noqa: S102 - our own page
    assert len(computed) == 8
    files = sorted((tmp_path / "shard_0").glob("*.pt"))
    assert [torch.load(path, weights_only=True)["sequence_ids"] for path in files] == [
        [f"{batch}-a", f"{batch}-b"] for batch in range(4)
    ]
    assert resume_from_checkpoints(tmp_path, 0).ids == computed
    assert CheckpointManifest(tmp_path / "manifest.json").get_completed_shards() == [0]
