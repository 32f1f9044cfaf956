"""Faults on what a job keeps: each kind of damage is one, and is found by who reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from ftharness.checkpoint import AsyncCheckpointWriter, validate_checkpoint_pt
from ftharness.faults.disk import corrupt_checkpoint, fill_disk
from ftharness.faults.strike import Strike
from ftharness.history import FaultLanded, FaultMissed, History
from ftharness.process import Living


class Job:
    """All that a strike asks of what it hits here."""

    name = "job-1"


Aim = Callable[..., Strike]


@pytest.fixture
def aimed(tmp_path: Path) -> Aim:
    """A fault on a job that has committed three checkpoints of five items."""
    history = History()
    with AsyncCheckpointWriter() as writer:
        for batch in range(3):
            ids = [str(number) for number in range(batch * 5, batch * 5 + 5)]
            path = tmp_path / "checkpoints" / "shard_0" / f"batch_{batch:05d}.pt"
            metadata = {"batch_idx": batch, "num_sequences": 5, "timestamp": ""}
            writer.write_checkpoint_async(path, torch.ones(5, 4), ids, metadata)
    return lambda **args: Strike("fault-1", cast("Living", Job()), history, args, "", data=tmp_path)


@pytest.mark.parametrize("how", ["flip", "truncate", "zero_tail", "remove_marker"])
async def test_what_is_damaged_does_not_count(aimed: Aim, tmp_path: Path, how: str) -> None:
    """The evidence says what was in it; the others are whole."""
    strike = aimed(checkpoint=1, how=how)
    await corrupt_checkpoint(strike)
    (landed,) = strike.history.select(FaultLanded)
    assert (landed.evidence["ids"], landed.evidence["how"]) == ("5-9", how)
    folder = tmp_path / "checkpoints" / "shard_0"
    valid = [validate_checkpoint_pt(path)[0] for path in sorted(folder.glob("*.pt"))]
    assert valid == [True, False, True]


@pytest.mark.parametrize("args", [{"checkpoint": 3}, {"rank": 1}])
async def test_what_is_not_there_is_missed(aimed: Aim, args: dict[str, Any]) -> None:
    """And says so."""
    strike = aimed(**args)
    await corrupt_checkpoint(strike)
    (missed,) = strike.history.select(FaultMissed)
    assert "there is no checkpoint" in missed.reason


async def test_a_disk_of_everybodys_is_not_filled(aimed: Aim, tmp_path: Path) -> None:
    """Whatever a scenario asks for."""
    strike = aimed()
    before = sorted(path.name for path in tmp_path.iterdir())
    await fill_disk(strike)
    (missed,) = strike.history.select(FaultMissed)
    assert "it is on a disk with everything else" in missed.reason
    assert sorted(path.name for path in tmp_path.iterdir()) == before
