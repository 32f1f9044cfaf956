"""A run that writes checkpoints, stopped by a loss of power at any moment, by a disk that fails, or met by another one."""

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ftharness.checkpoint import (
    CheckpointError,
    CheckpointManifest,
    resume_from_checkpoints,
    shard,
    validate_checkpoint_pt,
)
from ftharness.checkpoint import commit as commits
from ftharness.checkpoint import contents as checkpoint_contents
from ftharness.checkpoint import writer as writers
from ftharness.checkpoint.contents import Contents
from ftharness.checkpoint.manifest_file import ManifestFile
from ftharness.checkpoint.storage import DISK, Storage
from ftharness.faults.storage import (
    Deadlock,
    FailingDisk,
    ImageDisk,
    Lost,
    RecordingDisk,
    crashes,
    explore,
    image_of,
    in_turns,
    schedules,
)
from ftharness.faults.storage.explore import NOTHING, ids, recover, rows, write_batches

BATCHES = 3


def test_every_crash_is_recovered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand crashes of a run of three batches, and those of each recovery; how many is printed."""
    count = explore(tmp_path, BATCHES, cuts=1)
    with capsys.disabled():
        print(f"\n{dict(count)}")  # noqa: T201 - how much was tried is a part of the result
    assert count["crash_states"] >= 1000


def test_every_crash_of_a_run_without_a_manifest(tmp_path: Path) -> None:
    """Then nothing else syncs the folder that the shard's is in."""
    assert explore(tmp_path, 1, manifest=False)["crash_states"] > 25


def test_every_crash_of_a_restart(tmp_path: Path) -> None:
    """Once it is acknowledged that all begins anew, nothing of what was before comes back; until then a beginning of it may."""
    write_batches(tmp_path, DISK, range(BATCHES), str)
    start = image_of(tmp_path)
    disk = ImageDisk(tmp_path, start)
    numbers = disk.numbers
    resume_from_checkpoints(tmp_path, 0, force_restart=True, storage=disk)
    disk.log.note("restarted")
    write_batches(tmp_path, disk, range(1), disk.log.note, more=100)
    tried = 0
    for crash in crashes(tmp_path, start, disk.log.operations, numbers=numbers):
        found = resume_from_checkpoints(tmp_path, 0, storage=ImageDisk(tmp_path, crash.image))
        assert found.ids == [name for batch in range(found.resume_batch_idx) for name in ids(batch)]
        if "restarted" in crash.notes:
            assert found.resume_batch_idx <= 1
            assert found.embeddings is None or (found.embeddings == rows(0) + 100).all()
        tried += 1
    assert tried > 40


def test_the_model_is_as_the_disk(tmp_path: Path) -> None:
    """After all of it, and with nothing lost, the model has each byte that the real folder has."""
    disk = RecordingDisk()
    write_batches(tmp_path, disk, range(BATCHES), disk.log.note)
    assert image_of(tmp_path) in [crash.image for crash in crashes(tmp_path, NOTHING, disk.log.operations)]


class NoSync(RecordingDisk):
    """It forgets to sync files."""

    def fsync(self, fd: int) -> None:
        if not self._open[fd][1]:
            super().fsync(fd)


class NoDataSync(RecordingDisk):
    """It forgets to sync what is overwritten in place."""

    def fdatasync(self, fd: int) -> None:
        pass


class NoFolderSync(RecordingDisk):
    """It forgets to sync folders."""

    def fsync(self, fd: int) -> None:
        if self._open[fd][1]:
            super().fsync(fd)


def marker_first(storage: Storage, path: Path, what: Contents) -> None:
    """A commit that writes the marker before the file."""
    stream = io.BytesIO()
    checkpoint_contents.write(what, stream)
    shard._mark(storage, path, [shard.seal_of(stream.getvalue())])
    commits.commit(storage, path, lambda out: out.write(stream.getvalue()))


@pytest.mark.parametrize("wrong", [NoSync, NoDataSync, NoFolderSync])
def test_a_forgotten_sync_is_found(tmp_path: Path, wrong: type[RecordingDisk]) -> None:
    """Something that was acknowledged is gone after some crash, or cannot be read."""
    with pytest.raises(Lost, match="a crash after operation"):
        explore(tmp_path, BATCHES, wrong())


def test_a_marker_before_its_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a checkpoint is written again, the one that was committed is lost: its marker is that of the new one."""
    rewrite(tmp_path / "right")
    monkeypatch.setattr(writers, "commit_checkpoint", marker_first)
    with pytest.raises(AssertionError, match="neither the old one nor the new one"):
        rewrite(tmp_path / "wrong")


def rewrite(folder: Path) -> None:
    """Write a batch again, with other rows, and recover each crash: the old one or the new one is there, always."""
    folder.mkdir()
    write_batches(folder, DISK, range(1), str)
    start = image_of(folder)
    disk = ImageDisk(folder, start)
    numbers = disk.numbers
    write_batches(folder, disk, range(1), disk.log.note, more=100)
    for crash in crashes(folder, start, disk.log.operations, numbers=numbers):
        found = resume_from_checkpoints(folder, 0, storage=ImageDisk(folder, crash.image)).embeddings
        assert found is not None, f"neither the old one nor the new one; after {crash.done}, {crash.what}"
        old, new = (found == rows(0)).all(), (found == rows(0) + 100).all()
        assert new or (old and "batch 0" not in crash.notes)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("manner", [{}, {"for_good": True}, {"partly": True}], ids=["once", "for good", "partly"])
def test_a_disk_that_fails_at_any_operation(
    tmp_path: Path,
    error: int,
    manner: dict[str, bool],
) -> None:
    """A clear error, and nothing is lost that was acknowledged; when the disk is well again, the run goes on to its end."""
    at = 0
    told: list[str] = []
    while True:
        disk = ImageDisk(tmp_path, NOTHING)
        failing = FailingDisk(disk, at, error, **manner)
        notes: list[str] = []
        before = len(told)
        with suppress_told(told):
            write_batches(tmp_path, failing, range(BATCHES), notes.append)
        if failing.asked[at:][:1] and failing.asked[at] in ("create", "write", "fsync", "rename", "mkdir"):
            assert len(told) > before, f"nothing was said of operation {at}, {failing.asked[at]}"
        if len(failing.asked) <= at:
            break
        after, reached = recover(tmp_path, disk.image, tuple(notes))
        write_batches(tmp_path, after, range(reached, BATCHES), notes.append)
        recover(tmp_path, after.image, tuple(notes), BATCHES)
        at += 1
    assert at > 50
    for said in told:
        assert os.strerror(error) in said
        assert str(tmp_path) in said


@contextmanager
def suppress_told(told: list[str]) -> Iterator[None]:
    """What a caller is told of a failing disk, kept."""
    try:
        yield
    except CheckpointError as error:
        told.append(str(error))


def together(folder: Path) -> Iterator[tuple[int, ...]]:
    """Two who write the same batch at the same time, in many orders: the file and its marker fit."""
    folder.mkdir()
    path = folder / "batch_00000.pt"

    def writer(value: int) -> Callable[[Storage], None]:
        what = checkpoint_contents.taken(rows(value), ids(value), {})
        return lambda storage: shard.commit_checkpoint(storage, path, what)

    turns = in_turns([writer(0), writer(1)], (), Quick())
    for switches in schedules(turns, 3, 40):
        with reset(folder):
            in_turns([writer(0), writer(1)], switches, Quick())
            assert validate_checkpoint_pt(path) == (True, "")
        yield switches


class Quick(Storage):
    """The power does not fail here: what is not synced is as good."""

    def fsync(self, fd: int) -> None:
        pass


@contextmanager
def reset(folder: Path) -> Iterator[None]:
    for path in folder.iterdir():
        path.unlink()
    yield


def counts(folder: Path) -> Iterator[tuple[int, ...]]:
    """Two who change one manifest at the same time, in many orders: both changes are there, once."""
    folder.mkdir()
    path = folder / "manifest.json"

    def failer(rank: int) -> Callable[[Storage], None]:
        return lambda storage: CheckpointManifest(path, storage=storage).mark_shard_failed(rank, "error")

    for switches in schedules(30, 3, 40):
        with reset(folder):
            CheckpointManifest(path, storage=Quick()).initialize(2)
            in_turns([failer(0), failer(1)], switches, Quick())
            shards = CheckpointManifest(path).get_shard_status(0), CheckpointManifest(path).get_shard_status(1)
            assert [state and state["retry_count"] for state in shards] == [1, 1], f"a change is lost: {switches}"
        yield switches


def test_two_who_write_one_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order; and with one temporary name for both, one of them fails, or the file is a mixture."""
    assert len(list(together(tmp_path / "right"))) > 60
    monkeypatch.setattr(commits, "temporary", lambda path: path.with_name(path.name + ".tmp"))
    with pytest.raises((AssertionError, OSError)):
        list(together(tmp_path / "wrong"))


def test_two_who_change_one_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order; and with a lock file that is unlinked when it is let go, a change is lost."""
    assert len(list(counts(tmp_path / "right"))) > 60
    right = ManifestFile._locked

    @contextmanager
    def unlinked(self: ManifestFile, wanted: Any) -> Iterator[None]:
        with right(self, wanted):
            yield
        self._storage.unlink(self._lock_path)

    monkeypatch.setattr(ManifestFile, "_locked", unlinked)
    with pytest.raises((AssertionError, OSError)):
        list(counts(tmp_path / "wrong"))


def test_two_who_wait_for_each_other(tmp_path: Path) -> None:
    """Locks in opposite orders end in a deadlock that is told, in the orders that make one."""
    for name in ("one", "two"):
        (tmp_path / name).touch()

    def both(first: str, second: str) -> Callable[[Storage], None]:
        def work(disk: Storage) -> None:
            held = [disk.open(tmp_path / name) for name in (first, second)]
            for fd in held:
                disk.lock(fd)
            for fd in held:
                disk.close(fd)

        return work

    in_turns([both("one", "two"), both("two", "one")], ())
    with pytest.raises(Deadlock, match="each that has not ended waits"):
        in_turns([both("one", "two"), both("two", "one")], (4,))  # it begins, opens two, locks one
