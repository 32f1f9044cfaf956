"""The seal of a file is made while it is written, and is that of what can be read."""

import importlib
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.checkpoint import contents
from ftharness.checkpoint.commit import commit
from ftharness.checkpoint.crc import combined
from ftharness.checkpoint.seal import seal_of
from ftharness.checkpoint.storage import Storage


@given(first=st.binary(max_size=300), second=st.binary(max_size=5000))
def test_the_sum_of_two_parts(first: bytes, second: bytes) -> None:
    """Is made of those of each, whatever they are, also where one is empty."""
    assert combined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


class Reads(Storage):
    """A disk that counts what is read of it."""

    def __init__(self) -> None:
        self.read_files = 0

    def read(self, path: Path) -> bytes:
        self.read_files += 1
        return super().read(path)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 255, 256, 257, 3000])
def test_a_file_of_torch_is_summed_once(tmp_path: Path, dtype: str, rows: int) -> None:
    """Small ones, those at the limit of what is large, and large ones: without being read again."""
    torch: Any = importlib.import_module("torch")
    what = contents.taken(torch.ones(rows, 512).to(getattr(torch, dtype)), [str(row) for row in range(rows)], {"a": 1})
    disk = Reads()
    sealed = commit(disk, tmp_path / "file", lambda stream: contents.write(what, stream))
    assert sealed == seal_of((tmp_path / "file").read_bytes())
    assert disk.read_files == 0


def test_sums_that_torch_was_told_to_leave_out(tmp_path: Path) -> None:
    """What it writes in their place is not taken for them."""
    torch: Any = importlib.import_module("torch")
    what = contents.taken(torch.ones(3000, 512), [str(row) for row in range(3000)], {})
    torch.serialization.set_crc32_options(False)
    try:
        sealed = commit(Storage(), tmp_path / "file", lambda stream: contents.write(what, stream))
    finally:
        torch.serialization.set_crc32_options(True)
    assert sealed == seal_of((tmp_path / "file").read_bytes())


def test_a_large_file_without_sums_is_read_again(tmp_path: Path) -> None:
    """As one of a later torch may be, which writes in another format."""
    disk = Reads()
    for pieces in (
        [bytes(2 << 20)],
        [b"a" * (2 << 20), b"b"],
        [b"a" * (1 << 20), b"b" * (1 << 20), b"PK\7\10" + bytes(12)],
    ):
        sealed = commit(
            disk, tmp_path / "file", lambda stream, pieces=pieces: [stream.write(piece) for piece in pieces]
        )
        assert sealed == seal_of((tmp_path / "file").read_bytes())
    assert disk.read_files == 3
