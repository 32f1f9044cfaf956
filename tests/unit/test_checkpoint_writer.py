"""When a checkpoint is due, how it gets to the disk, whether it is whole, and where to go on: on real files and tensors."""

import errno
import importlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftharness.checkpoint import (
    AsyncCheckpointWriter,
    CheckpointTrigger,
    resume_from_checkpoints,
    validate_checkpoint_metadata,
    validate_checkpoint_pt,
)
from ftharness.checkpoint import marker as marker_text
from ftharness.checkpoint.seal import seal_of
from ftharness.checkpoint.storage import Storage


@pytest.fixture(scope="session")
def torch() -> Any:
    return importlib.import_module("torch")  # takes seconds, which only those who run these tests should wait for


@pytest.fixture(scope="session")
def np() -> Any:
    return importlib.import_module("numpy")


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Gate(Storage):
    """A disk on which no file is begun before the gate is open."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.waiting = threading.Event()

    def create(self, path: Path) -> int:
        self.waiting.set()
        assert self.opened.wait(30)
        return super().create(path)


class FullFrom(Storage):
    """A disk that takes no file of that name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create(self, path: Path) -> int:
        if path.name.startswith(self._name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return super().create(path)


def names(count: int, first: int = 0) -> list[str]:
    return [f"seq_{number}" for number in range(first, first + count)]


def metadata(batch: int = 0, count: int = 5) -> dict[str, Any]:
    return {"batch_idx": batch, "num_sequences": count, "timestamp": "2026-02-06T00:00:00"}


def save(folder: Path, batch: int, rows: Any, ids: list[str]) -> Path:
    """One committed checkpoint."""
    path = folder / f"batch_{batch:05d}.pt"
    with AsyncCheckpointWriter() as writer:
        writer.write_checkpoint_async(path, rows, ids, metadata(batch, len(ids)))
    return path


def marked(path: Path) -> Path:
    """A file with the marker that fits it, whatever is in it."""
    with marker_text.marker_of(path).open("wb") as stream:
        marker_text.write([seal_of(path.read_bytes())], stream)
    return path


class TestCheckpointTrigger:
    def test_trigger_sequence_threshold_fires(self) -> None:
        """At the sequence that reaches the threshold, not one before."""
        trigger = CheckpointTrigger(seq_threshold=100)
        assert trigger.should_checkpoint(batch_size=99) == (False, None)
        assert trigger.should_checkpoint(batch_size=1) == (True, "sequence_threshold")

    def test_trigger_time_threshold_fires(self) -> None:
        """At that second, not before; and again until it is reset."""
        clock = Clock()
        trigger = CheckpointTrigger(time_threshold_sec=300.0, clock=clock)
        clock.now += 299.9
        assert trigger.should_checkpoint(1) == (False, None)
        clock.now += 0.1
        assert trigger.should_checkpoint(1) == (True, "time_threshold")
        assert trigger.should_checkpoint(1) == (True, "time_threshold")

    def test_trigger_emergency_override(self) -> None:
        """It outweighs the other two, which hold as well."""
        clock = Clock()
        trigger = CheckpointTrigger(seq_threshold=10, clock=clock)
        clock.now += 600.0
        assert trigger.should_checkpoint(20) == (True, "emergency_time_override")

    def test_trigger_reset_clears_counters(self) -> None:
        """The count and the time both begin anew."""
        clock = Clock()
        trigger = CheckpointTrigger(seq_threshold=100, clock=clock)
        clock.now += 299.0
        assert trigger.should_checkpoint(100)[0]
        trigger.reset()
        clock.now += 2.0
        assert trigger.should_checkpoint(99) == (False, None)
        assert trigger.sequences_since_checkpoint == 99

    def test_trigger_viral_mode_overrides_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each threshold where it has its default value, and only there."""
        monkeypatch.setenv("VIRNUCPRO_VIRAL_CHECKPOINT_MODE", "true")
        both = CheckpointTrigger()
        assert (both.seq_threshold, both.time_threshold_sec, both.emergency_override_sec) == (5000, 180.0, 600.0)
        assert CheckpointTrigger(seq_threshold=999).seq_threshold == 999
        assert CheckpointTrigger(seq_threshold=999).time_threshold_sec == 180.0
        assert CheckpointTrigger(time_threshold_sec=200.0).time_threshold_sec == 200.0

    def test_trigger_viral_mode_disabled_uses_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the variable, and with any other value of it; and what makes no sense is refused."""
        for value in (None, "false", "0", ""):
            monkeypatch.delenv("VIRNUCPRO_VIRAL_CHECKPOINT_MODE", raising=False)
            if value is not None:
                monkeypatch.setenv("VIRNUCPRO_VIRAL_CHECKPOINT_MODE", value)
            trigger = CheckpointTrigger()
            assert (trigger.seq_threshold, trigger.time_threshold_sec) == (10_000, 300.0)
        for wrong in (
            {"seq_threshold": 0},
            {"time_threshold_sec": 0.0},
            {"time_threshold_sec": float("nan")},
            {"emergency_override_sec": -1.0},
            {"emergency_override_sec": 300.0},
        ):
            with pytest.raises(ValueError, match="has to be"):
                CheckpointTrigger(**wrong)  # type: ignore[arg-type]


class TestAsyncCheckpointWriter:
    def test_writer_creates_pt_with_done_marker(self, tmp_path: Path, np: Any) -> None:
        """The marker holds the size and the checksum of the file beside it; folders are made."""
        path = save(tmp_path / "run" / "shard_0", 0, np.zeros((10, 128)), names(10))
        assert marker_text.parse(path.with_suffix(".pt.done").read_bytes()) == [seal_of(path.read_bytes())]

    def test_writer_pt_contains_correct_data(self, tmp_path: Path, torch: Any, np: Any) -> None:
        """Plain torch reads it, without executing anything: all three keys, exactly."""
        rows = np.random.default_rng(1).standard_normal((10, 128))
        path = save(tmp_path, 0, rows, names(10))
        found = torch.load(path, weights_only=True)
        assert set(found) == {"embeddings", "sequence_ids", "metadata"}
        assert np.array_equal(found["embeddings"].numpy(), rows)
        assert found["sequence_ids"] == names(10)
        assert found["metadata"] == metadata(0, 10)

    def test_writer_atomic_write_no_temp_file_remains(self, tmp_path: Path, np: Any) -> None:
        """Neither after a write nor after one that failed."""
        save(tmp_path, 0, np.zeros((5, 64)), names(5))
        with AsyncCheckpointWriter(storage=FullFrom("batch_00001.pt.done")) as writer:
            failed = writer.write_checkpoint_async(tmp_path / "batch_00001.pt", np.zeros((5, 64)), names(5), {})
            with pytest.raises(RuntimeError, match="No space left on device"):
                writer.wait_all()
        assert failed.exception() is not None
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "batch_00000.pt",
            "batch_00000.pt.done",
            "batch_00001.pt",
        ]

    @pytest.mark.parametrize("kind", ["array", "tensor", "grad"])
    def test_writer_copies_numpy_data_safely(self, tmp_path: Path, torch: Any, np: Any, kind: str) -> None:
        """Whatever the caller does to rows, ids and metadata after the call does not reach the disk."""
        gate = Gate()
        rows = np.array([[1.0, 2.0], [3.0, 4.0]]) if kind == "array" else torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        given = rows.clone().requires_grad_() if kind == "grad" else rows
        ids, extra = names(2), {"batch_idx": 0, "nested": {"list": [1]}}
        with AsyncCheckpointWriter(storage=gate) as writer:
            writer.write_checkpoint_async(tmp_path / "batch_00000.pt", given, ids, extra)
            (given.data if kind == "grad" else given)[0, 0] = 999.0
            ids[0] = "changed"
            extra["nested"]["list"].append(2)  # type: ignore[index]
            gate.opened.set()
        found = torch.load(tmp_path / "batch_00000.pt", weights_only=True)
        assert found["embeddings"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
        assert found["sequence_ids"] == names(2)
        assert found["metadata"]["nested"] == {"list": [1]}

    def test_writer_gpu_to_cpu_transfer(self, tmp_path: Path, torch: Any) -> None:
        """``.to("cpu")`` comes before ``.numpy()``, in the caller's thread."""
        calls: list[tuple[str, str]] = []

        class Told(torch.Tensor):  # type: ignore[misc,name-defined] # the class is known when the fixture is
            def to(self, *where: object) -> Any:
                calls.append((f"to {where}", threading.current_thread().name))
                return super().to(*where)

            def numpy(self) -> Any:
                calls.append(("numpy", threading.current_thread().name))
                return super().numpy()

        with AsyncCheckpointWriter() as writer:
            rows = torch.ones(5, 64).as_subclass(Told)
            writer.write_checkpoint_async(tmp_path / "batch_00000.pt", rows, names(5), metadata())
        here = threading.current_thread().name
        assert calls == [("to ('cpu',)", here), ("numpy", here)]

    def test_writer_shutdown_waits_for_pending(self, tmp_path: Path, np: Any) -> None:
        """All that was asked for is committed when it returns; nothing more is taken then."""
        gate = Gate()
        writer = AsyncCheckpointWriter(storage=gate)
        futures = [
            writer.write_checkpoint_async(tmp_path / f"batch_{n:05d}.pt", np.zeros((5, 32)), names(5), metadata(n))
            for n in range(2)
        ]
        assert not any(future.done() for future in futures)
        threading.Timer(0.0, gate.opened.set).start()
        writer.shutdown()
        assert [validate_checkpoint_pt(tmp_path / f"batch_{n:05d}.pt") for n in range(2)] == [(True, "")] * 2
        with pytest.raises(RuntimeError, match="shutdown"):
            writer.write_checkpoint_async(tmp_path / "batch_00002.pt", np.zeros((5, 32)), names(5), metadata(2))
        writer.shutdown()

    def test_writer_async_failure_propagates(self, tmp_path: Path, np: Any) -> None:
        """All failures in one error, told once; the write between them is committed."""
        writer = AsyncCheckpointWriter(storage=FullFrom("batch_00001"))
        for number in (1, 0, 1):
            path = tmp_path / f"batch_{number:05d}.pt"
            writer.write_checkpoint_async(path, np.zeros((3, 16)), names(3), metadata(number, 3))
        with pytest.raises(RuntimeError) as raised:
            writer.wait_all()
        assert str(raised.value).startswith("2 checkpoint write(s) failed:")
        assert str(raised.value).count("batch_00001.pt is not committed: No space left on device") == 2
        writer.wait_all()
        assert validate_checkpoint_pt(tmp_path / "batch_00000.pt") == (True, "")
        writer.shutdown()

    def test_writer_has_pending_returns_true_before_completion(self, tmp_path: Path, np: Any) -> None:
        """And what ``wait_all`` did not live to see is still pending, and waited for by the next."""
        gate = Gate()
        writer = AsyncCheckpointWriter(storage=gate)
        assert not writer.has_pending()
        writer.write_checkpoint_async(tmp_path / "batch_00000.pt", np.zeros((5, 32)), names(5), metadata())
        assert writer.has_pending()
        with pytest.raises(RuntimeError, match=r"batch_00000\.pt: still being written after 0\.01 s"):
            writer.wait_all(timeout=0.01)
        assert writer.has_pending()
        gate.opened.set()
        writer.wait_all()
        assert not writer.has_pending()
        writer.shutdown()


class TestValidateCheckpointPt:
    def test_validate_empty_file_fails(self, tmp_path: Path) -> None:
        """And one that is not there."""
        path = tmp_path / "batch_00000.pt"
        assert validate_checkpoint_pt(path) == (False, f"Checkpoint file does not exist: {path}")
        path.touch()
        assert validate_checkpoint_pt(path) == (False, f"Checkpoint file is empty (0 bytes): {path}")

    def test_validate_no_done_marker_fails(self, tmp_path: Path, np: Any) -> None:
        """However good the file is; and so does a marker that is empty, or that of another file."""
        path = save(tmp_path, 0, np.zeros((5, 32)), names(5))
        place = path.with_suffix(".pt.done")
        right = place.read_bytes()
        place.unlink()
        assert validate_checkpoint_pt(path) == (False, f"Missing .done marker: {place}")
        for wrong in (b"", right.replace(b'"size": ', b'"size": 1'), right.replace(b'"crc32": "', b'"crc32": "f')):
            place.write_bytes(wrong)
            ok, reason = validate_checkpoint_pt(path)
            assert not ok
            assert reason.startswith("Marker and file disagree: ")

    def test_validate_corrupt_torch_file_fails(self, tmp_path: Path, torch: Any) -> None:
        """What is in it is never executed, with a marker that fits it or without."""
        path = tmp_path / "batch_00000.pt"
        path.write_bytes(b"this is not a valid pickle file")
        path.with_suffix(".pt.done").touch()
        ok, reason = validate_checkpoint_pt(path)
        assert not ok
        assert "Failed to load checkpoint" in reason
        torch.save(Executes(tmp_path / "executed"), path)
        ok, reason = validate_checkpoint_pt(marked(path))
        assert not ok
        assert reason.startswith("Failed to load checkpoint")
        assert not (tmp_path / "executed").exists()

    def test_validate_missing_keys_fails(self, tmp_path: Path, torch: Any) -> None:
        """They are named; and what is no dictionary has none."""
        path = tmp_path / "batch_00000.pt"
        torch.save({"embeddings": torch.zeros(5, 32)}, path)
        assert validate_checkpoint_pt(marked(path)) == (
            False,
            "Checkpoint is missing the keys 'sequence_ids', 'metadata'",
        )
        torch.save([1, 2], path)
        assert validate_checkpoint_pt(marked(path)) == (False, "Checkpoint is a list, not a dictionary")

    def test_validate_shape_mismatch_fails(self, tmp_path: Path, torch: Any) -> None:
        """More rows than ids, or rows that are none; the writer refuses both at once, and so does it what is sparse."""
        path = tmp_path / "batch_00000.pt"
        sparse = torch.eye(5).to_sparse()
        torch.save({"embeddings": sparse, "sequence_ids": names(5), "metadata": {}}, path)
        assert validate_checkpoint_pt(marked(path)) == (False, "Embeddings are torch.sparse_coo, and must be dense")
        with AsyncCheckpointWriter() as writer, pytest.raises(TypeError, match=r"torch\.sparse_coo.*to_dense\(\)"):
            writer.write_checkpoint_async(path, sparse, names(5), {})
        for rows, reason in (
            (torch.zeros(10, 64), "Shape mismatch: 10 embeddings and 5 sequence_ids"),
            (torch.zeros(5), "Embeddings must be 2-D, and have the shape (5,)"),
        ):
            torch.save({"embeddings": rows, "sequence_ids": names(5), "metadata": {}}, path)
            assert validate_checkpoint_pt(marked(path)) == (False, reason)
            with AsyncCheckpointWriter() as writer, pytest.raises(ValueError, match=reason.split(",")[0][:20]):
                writer.write_checkpoint_async(path, rows, names(5), {})

    def test_validate_valid_checkpoint_passes(self, tmp_path: Path, np: Any) -> None:
        """And one flipped bit anywhere fails it; metadata of another run is told."""
        path = save(tmp_path, 0, np.ones((8, 128)), names(8))
        assert validate_checkpoint_pt(path) == (True, "")
        good = path.read_bytes()
        for place in range(0, len(good), len(good) // 20):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            assert not validate_checkpoint_pt(path)[0]
        said = metadata() | {"model_config_hash": "abc", "packing_enabled": True}
        assert validate_checkpoint_metadata(said, "abc", current_packing_enabled=True) == (True, [])
        ok, warnings = validate_checkpoint_metadata(said, "xyz", current_packing_enabled=False)
        assert (ok, len(warnings)) == (False, 2)
        assert validate_checkpoint_metadata({}) == (
            False,
            [f"Missing metadata key: {key}" for key in ("batch_idx", "num_sequences", "timestamp")],
        )


class TestResumeFromCheckpoints:
    def test_resume_no_checkpoints_returns_empty_4tuple(self, tmp_path: Path) -> None:
        """Neither without the folder, nor with an empty one, nor with files of other names."""
        assert resume_from_checkpoints(tmp_path / "none", rank=0) == ([], None, 0, [])
        (tmp_path / "shard_0").mkdir()
        assert resume_from_checkpoints(tmp_path, rank=0) == ([], None, 0, [])
        (tmp_path / "shard_0" / "batch_x.pt").touch()
        assert resume_from_checkpoints(tmp_path, rank=0) == ([], None, 0, [])

    def test_resume_force_restart_ignores_checkpoints(self, tmp_path: Path, np: Any) -> None:
        """For good: what the new run writes never meets what the old one wrote."""
        for batch in range(2):
            save(tmp_path / "shard_0", batch, np.zeros((5, 32)), names(5, 5 * batch))
        assert resume_from_checkpoints(tmp_path, rank=0, force_restart=True) == ([], None, 0, [])
        save(tmp_path / "shard_0", 0, np.ones((2, 32)), names(2))
        found = resume_from_checkpoints(tmp_path, rank=0)
        assert (found.ids, found.resume_batch_idx, found.corrupted_ids) == (names(2), 1, [])

    def test_resume_loads_valid_pt_checkpoints_in_order(self, tmp_path: Path, np: Any) -> None:
        """By the number, also where it has more than five digits."""
        for batch, value in ((1, 5.0), (0, 1.0)):
            save(tmp_path / "shard_0", batch, np.full((2, 2), value), names(2, 2 * batch))
        ids, rows, batch_idx, corrupted = resume_from_checkpoints(tmp_path, rank=0)
        assert (ids, batch_idx, corrupted) == (names(4), 2, [])
        assert rows is not None
        assert rows[:, 0].tolist() == [1.0, 1.0, 5.0, 5.0]

    @pytest.mark.parametrize("damage", ["marker", "bit", "cut", "file"])
    def test_resume_stops_at_corrupted_checkpoint_and_returns_corrupted_ids(
        self, tmp_path: Path, np: Any, damage: str
    ) -> None:
        """Its ids and those of the later ones; the same the second time; and all is there once it is written anew."""
        paths = [save(tmp_path / "shard_0", n, np.full((3, 16), float(n)), names(3, 3 * n)) for n in range(3)]
        DAMAGE[damage](paths[1])
        for _ in range(2):
            found = resume_from_checkpoints(tmp_path, rank=0)
            assert (found.ids, found.resume_batch_idx) == (names(3), 1)
            lost = ["batch_1_LOST"] if damage in ("cut", "file") else names(3, 3)
            assert found.corrupted_ids == [*lost, *names(3, 6)]
            assert not paths[1].with_suffix(".pt.done").exists()
        save(tmp_path / "shard_0", 1, np.full((4, 16), 1.0), names(4, 3))  # one more than before: the next has it, too
        found = resume_from_checkpoints(tmp_path, rank=0)
        assert (found.ids, found.resume_batch_idx, found.corrupted_ids) == (names(9), 3, [])
        assert found.embeddings is not None
        assert found.embeddings[:, 0].tolist() == [0] * 3 + [1] * 4 + [2] * 2

    def test_resume_data_integrity_shapes_align(self, tmp_path: Path, np: Any) -> None:
        """Rows of another width are no continuation."""
        save(tmp_path / "shard_0", 0, np.zeros((5, 128)), names(5))
        save(tmp_path / "shard_0", 1, np.zeros((3, 128)), names(3, 5))
        found = resume_from_checkpoints(tmp_path, rank=0)
        assert found.embeddings is not None
        assert (found.embeddings.shape, len(found.ids), found.corrupted_ids) == ((8, 128), 8, [])
        save(tmp_path / "shard_0", 2, np.zeros((3, 64)), names(3, 8))
        found = resume_from_checkpoints(tmp_path, rank=0)
        assert (len(found.ids), found.resume_batch_idx, found.corrupted_ids) == (8, 2, names(3, 8))

    @pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
    def test_resume_data_integrity_no_corruption(self, tmp_path: Path, torch: Any, np: Any) -> None:
        """Every value and type exactly; those that numpy has not, as a tensor."""
        for dtype in ("float16", "float32", "float64", "int64"):
            rows = np.arange(30).reshape(10, 3).astype(dtype)
            save(tmp_path / dtype / "shard_0", 0, rows, names(10))
            found = resume_from_checkpoints(tmp_path / dtype, rank=0)
            np.testing.assert_array_equal(found.embeddings, rows, strict=True)
            assert (found.ids, found.resume_batch_idx) == (names(10), 1)
        large = np.arange(1_000_000.0).reshape(1000, 1000)  # 8 MB, in pieces
        save(tmp_path / "large" / "shard_0", 0, large, names(1000))
        np.testing.assert_array_equal(resume_from_checkpoints(tmp_path / "large", rank=0).embeddings, large)
        for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "complex32"):
            rows = torch.arange(12.0).reshape(4, 3).to(getattr(torch, name))
            save(tmp_path / name / "shard_0", 0, rows[:2], names(2))
            save(tmp_path / name / "shard_0", 1, rows[1:], names(3, 1))  # the first of them is in both
            found = resume_from_checkpoints(tmp_path / name, rank=0)
            assert (found.ids, found.embeddings.dtype) == (names(4), rows.dtype)
            assert torch.equal(found.embeddings.view(torch.uint8), rows.view(torch.uint8))


class Executes:
    """What a pickle runs when it is loaded by somebody careless."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._place,)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.rindex(b"\xf0\x3f")] ^= 1  # of a 1.0, as it lies there
    path.write_bytes(data)


#: What happens to a checkpoint: its marker is lost, a bit of a number is, its end is, all of it is.
DAMAGE: dict[str, Callable[[Path], object]] = {
    "marker": lambda path: path.with_suffix(".pt.done").unlink(),
    "bit": _flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "file": lambda path: path.unlink(),
}
