"""What a writer takes: what can be read back safely, a copy of it, and no more than the disk can follow."""

import importlib
import threading
from pathlib import Path
from typing import Any

import pytest

from ftharness.checkpoint import AsyncCheckpointWriter, CheckpointManifest, resume_from_checkpoints
from ftharness.checkpoint.contents import Contents
from ftharness.checkpoint.shard import commit_checkpoint
from ftharness.checkpoint.storage import DISK, Storage


@pytest.fixture
def np() -> Any:
    return importlib.import_module("numpy")


class Slow(Storage):
    """A disk on which no file is begun before it is told to."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()

    def create(self, path: Path) -> int:
        assert self.goes_on.wait(30)
        return super().create(path)


@pytest.mark.timeout(60)
def test_a_slow_disk_slows_the_caller(tmp_path: Path, np: Any) -> None:
    """One that is written, one that waits: the third caller waits as well, and its rows are not copied before it goes on."""
    disk = Slow()
    rows = [np.zeros((2, 4)) for _ in range(3)]
    with AsyncCheckpointWriter(storage=disk) as writer:

        def write(number: int) -> None:
            writer.write_checkpoint_async(tmp_path / f"batch_{number:05d}.pt", rows[number], ["a", "b"], {})

        write(0)
        write(1)
        third = threading.Thread(target=write, args=(2,))
        third.start()
        third.join(0.2)
        assert third.is_alive()
        rows[2][:] = 7.0  # not taken yet
        disk.goes_on.set()
        third.join(30)
        assert not third.is_alive()
    (tmp_path / "shard_0").mkdir()
    for path in tmp_path.glob("batch_*"):
        path.rename(tmp_path / "shard_0" / path.name)
    found = resume_from_checkpoints(tmp_path, 0)
    assert (found.resume_batch_idx, found.ids) == (3, ["a", "b"])  # the same ids each time: they count once


@pytest.mark.parametrize(
    "wrong",
    [
        {"embeddings": [[1.0, 2.0], [3.0, 4.0]]},
        {"embeddings": None},
        {"ids": "ab"},
        {"ids": ["a", 1]},
        {"ids": ["a", None]},
        {"metadata": {"path": Path("/")}},
        {"metadata": {"nested": [{"function": print}]}},
        {"metadata": {("a", "b"): 1, "inner": {(1, 2): 3}}},
        {"metadata": None},
    ],
    ids=str,
)
def test_what_cannot_be_read_back_is_refused(tmp_path: Path, np: Any, wrong: dict[str, Any]) -> None:
    """At once, and nothing is written, and the writer goes on."""
    given = {"embeddings": np.zeros((2, 2)), "ids": ["a", "b"], "metadata": {}} | wrong
    with AsyncCheckpointWriter() as writer:
        for _ in range(3):  # more often than there is room
            with pytest.raises(TypeError):
                writer.write_checkpoint_async(
                    tmp_path / "batch_00000.pt", given["embeddings"], given["ids"], given["metadata"]
                )
        assert not list(tmp_path.iterdir())
        writer.write_checkpoint_async(tmp_path / "batch_00000.pt", np.zeros((1, 2)), ["a"], {"loss": np.float64(0.5)})
    assert (tmp_path / "batch_00000.pt.done").exists()


def test_objects_of_numbers_are_no_embeddings(tmp_path: Path, np: Any) -> None:
    """An array of objects could not be read back without executing what is in it."""
    with AsyncCheckpointWriter() as writer, pytest.raises(TypeError):
        writer.write_checkpoint_async(tmp_path / "batch_00000.pt", np.array([[object()]]), ["a"], {})


def test_an_id_is_of_one_row(tmp_path: Path, np: Any) -> None:
    """Two rows of one id are refused; in a file of a writer that took them, the first of the two counts."""
    with AsyncCheckpointWriter() as writer, pytest.raises(ValueError, match="sequence_ids hold 'b' more than once"):
        writer.write_checkpoint_async(tmp_path / "batch_00000.pt", np.zeros((4, 2)), ["a", "b", "c", "b"], {})
    assert not list(tmp_path.iterdir())
    torch = importlib.import_module("torch")
    (tmp_path / "shard_0").mkdir()
    rows = torch.arange(8.0).reshape(4, 2)
    twice = Contents(rows, ["a", "b", "c", "b"], {})
    commit_checkpoint(DISK, tmp_path / "shard_0" / "batch_00000.pt", twice)
    found = resume_from_checkpoints(tmp_path, 0)
    assert found.ids == ["a", "b", "c"]
    assert np.array_equal(found.embeddings, rows[:3].numpy())


@pytest.mark.parametrize(
    "name, batch, said",
    [
        ("shard_0/foo.pt", None, r"batch_<batch_idx>\.pt, with five digits"),
        ("shard_0/batch_00001", 1, r"batch_<batch_idx>\.pt"),
        ("shard_0/batch_00003.pt", 5, r"batch_idx is 5; .*batch_00005\.pt"),
        ("shard_0/batch_00003.pt", "3", r"batch_idx is '3'"),
        ("shard_1/batch_00000.pt", 0, "shard_0"),
        ("batch_00000.pt", 0, "shard_0"),
    ],
)
def test_what_resuming_would_not_find_is_refused(
    tmp_path: Path, np: Any, name: str, batch: int | str | None, said: str
) -> None:
    """A name, a number or a folder by which nobody would look for it: nothing is written, and what it has to be is said."""
    manifest = CheckpointManifest(tmp_path / "manifest.json")
    with AsyncCheckpointWriter(manifest=manifest, rank=0) as writer:
        for _ in range(3):  # more often than there is room
            with pytest.raises(ValueError, match=said):
                writer.write_checkpoint_async(
                    tmp_path / name, np.zeros((1, 2)), ["a"], {} if batch is None else {"batch_idx": batch}
                )
    assert not list(tmp_path.iterdir())
