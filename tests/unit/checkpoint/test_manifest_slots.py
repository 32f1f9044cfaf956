"""The two slots of a manifest: whatever befalls the one that is written, what was certain is there."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.checkpoint.manifest_slots import ManifestSlots
from ftharness.checkpoint.storage import DISK


def test_the_last_two_are_there(tmp_path: Path) -> None:
    """Of any length, one after the other, in two files that keep their length where they can."""
    slots = ManifestSlots(tmp_path / "manifest.json", DISK)
    assert list(slots.whole()) == []
    for serial, length in enumerate((100, 5000, 30, 9000, 0)):
        slots.put(serial, b"x" * length)
        assert (serial, b"x" * length) in list(slots.whole())
    assert sorted(slots.whole()) == [(3, b"x" * 9000), (4, b"")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.slot0", "manifest.slot1"]


@given(cut=st.integers(0, 4096), first=st.booleans())
def test_a_torn_slot_is_none(tmp_path_factory: pytest.TempPathFactory, cut: int, *, first: bool) -> None:
    """However much of it was overwritten, from the begin or from the end: the other is there, and no mixture of any two."""
    folder = tmp_path_factory.mktemp("torn")
    slots = ManifestSlots(folder / "manifest.json", DISK)
    texts = {serial: b"%d" % serial * 3000 for serial in range(1, 4)}
    for serial in (1, 2):
        slots.put(serial, texts[serial])
    place = folder / "manifest.slot1"
    before = place.read_bytes()
    slots.put(3, texts[3])
    after = place.read_bytes()
    place.write_bytes(after[:cut] + before[cut:] if first else before[:cut] + after[cut:])
    found = dict(slots.whole())
    assert found[2] == texts[2]
    assert all(texts[serial] == text for serial, text in found.items())


def test_garbage_is_no_slot(tmp_path: Path) -> None:
    """And is written over."""
    slots = ManifestSlots(tmp_path / "manifest.json", DISK)
    for garbage in (b"", b"\0" * 5000, b"{}", b"zzzzzzzz 1 2\nxx", b"00000000 1 -1\nxx"):
        (tmp_path / "manifest.slot0").write_bytes(garbage)
        assert list(slots.whole()) == []
    slots.put(2, b"text")
    assert list(slots.whole()) == [(2, b"text")]
