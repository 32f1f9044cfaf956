"""SystemExit, as a handler of SIGTERM raises it, between any two lines of a write: nothing is lost track of."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from ftharness.checkpoint import AsyncCheckpointWriter, validate_checkpoint_pt

_WORKERS = 1


def write(writer: AsyncCheckpointWriter, path: Path, at_line: int) -> bool:
    """Write, and be ended before the so-many-th line of it; whether it was."""
    left = at_line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code is not AsyncCheckpointWriter.write_checkpoint_async.__code__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise SystemExit(143)
        return trace

    metadata = {"batch_idx": 0, "num_sequences": 2, "timestamp": ""}
    sys.settrace(trace)
    try:
        writer.write_checkpoint_async(path, np.zeros((2, 4), np.float32), ["a", "b"], metadata)
    except SystemExit:
        return True
    finally:
        sys.settrace(None)
    return False


def test_an_exit_between_any_two_lines(tmp_path: Path) -> None:
    """It is written and waited for, or never written; and there is room for the next as before."""
    line, ended = 0, True
    outcomes = set()
    while ended:
        line += 1
        path = tmp_path / f"shard_{line}" / "batch_00000.pt"
        writer = AsyncCheckpointWriter(max_workers=_WORKERS)
        ended = write(writer, path, line)
        writer.shutdown()  # by whoever is on the way out: it waits for what is being written
        assert not writer.has_pending()
        outcomes.add((ended, path.exists()))
        if path.exists():
            assert validate_checkpoint_pt(path) == (True, "")
        if not ended or path.exists():
            assert writer._room._value == 2 * _WORKERS
    assert line > 6
    assert (True, False) in outcomes
    assert (False, True) in outcomes
