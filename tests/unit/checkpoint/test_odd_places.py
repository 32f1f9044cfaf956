"""Where a file is, and a folder should be, or the other way round: it is said, and never taken for a fresh start."""

import re
from pathlib import Path

import pytest

from ftharness.checkpoint import resume_from_checkpoints
from ftharness.coordinator import validate_checkpoint_dir


@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/shard_0"])
def test_a_file_is_no_folder_of_checkpoints(tmp_path: Path, place: str) -> None:
    """Neither that of all shards nor that of one; both who resume and who start a worker name the file."""
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("somebody's")
    for force_restart in (False, True):
        with pytest.raises(NotADirectoryError, match=rf"Not a directory.*'{re.escape(str(path))}'"):
            resume_from_checkpoints(tmp_path / "checkpoints", 0, force_restart)
    check = validate_checkpoint_dir(tmp_path / "checkpoints", 0)
    assert not check.usable
    assert f"Not a directory, so checkpoints cannot be in it: '{path}'" in check.reason
    assert path.read_text() == "somebody's"


@pytest.mark.parametrize("name", ["batch_00000.pt", "batch_00000.pt.done"])
@pytest.mark.parametrize("force_restart", [False, True])
def test_a_folder_is_no_checkpoint(tmp_path: Path, name: str, *, force_restart: bool) -> None:
    """What has the name of a checkpoint or its marker, and is a folder, is nothing of ours to remove."""
    folder = tmp_path / "shard_0" / name
    folder.mkdir(parents=True)
    if not force_restart and not name.endswith(".done"):
        assert resume_from_checkpoints(tmp_path, 0).corrupted_ids == ["batch_0_LOST"]
        return
    with pytest.raises(IsADirectoryError, match=rf"a folder has .*; move it away.*'{re.escape(str(folder))}'"):
        resume_from_checkpoints(tmp_path, 0, force_restart)
    assert folder.is_dir()
