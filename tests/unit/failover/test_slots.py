"""A file of two slots: whatever befalls its writer, a reader has a whole value."""

import os
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.failover.slots import SlotError, Slots


def test_the_newest_value_is_read(tmp_path: Path) -> None:
    """Nothing at first; then what was written last, however often."""
    slots = Slots(tmp_path / "file")
    assert slots.read() is None
    for number in range(5):
        slots.write({"n": number})
        assert slots.read() == {"n": number}
    assert (tmp_path / "file").stat().st_size == 2048


@given(written=st.integers(0, 1024))
def test_a_torn_write_costs_the_new_value_only(tmp_path_factory: pytest.TempPathFactory, written: int) -> None:
    """However much of a slot reached the disk, the value before is there, or the new one if it did whole."""
    path = tmp_path_factory.mktemp("torn") / "file"
    slots = Slots(path)
    for number in range(3):
        slots.write({"n": number, "text": "x" * 900})
    before = path.read_bytes()
    slots.write({"n": 3, "text": "y" * 900})
    after = path.read_bytes()
    changed = next(place for place in (0, 1024) if after[place : place + 1024] != before[place : place + 1024])
    path.write_bytes(before[:changed] + after[changed : changed + written] + before[changed + written :])
    seen = slots.read()
    assert seen is not None
    assert seen["n"] in (
        (2,) if written < 1000 and before[changed:][written:1000] != after[changed:][written:1000] else (2, 3)
    )
    slots.write({"n": 4})
    assert slots.read() == {"n": 4}


def test_garbage_is_no_value(tmp_path: Path) -> None:
    """A file that something else wrote is as good as none, and is written over."""
    path = tmp_path / "file"
    for garbage in (b"", b"\0" * 2048, b"engine-0", b"zzzzzzzz []" + b" " * 3000):
        path.write_bytes(garbage)
        assert Slots(path).read() is None
        Slots(path).write({"n": 1})
        assert Slots(path).read() == {"n": 1}


def test_what_is_too_long_is_refused(tmp_path: Path) -> None:
    """And nothing is written."""
    slots = Slots(tmp_path / "file")
    slots.write({"n": 1})
    with pytest.raises(SlotError, match="more than a slot of 1024 takes"):
        slots.write({"n": "x" * 1024})
    assert slots.read() == {"n": 1}


def test_a_file_that_is_there_needs_no_room(tmp_path: Path) -> None:
    """Once it is made it is written where no file may grow: the limit is its own size."""
    path = tmp_path / "file"
    Slots(path).write({"n": 1})
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
        Slots(path).write({"n": 2})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert Slots(path).read() == {"n": 2}
