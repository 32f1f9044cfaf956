"""What tells a file from one that is cut, torn or changed: how long it is, and a checksum.

CRC-32, as in the ZIP archive that torch writes: it costs 0.4 ms/MB where SHA-256 costs 1.2, and it is for accidents. Nothing
here protects from somebody who wants to deceive; reading is safe from them otherwise, as it never executes what is in a file.
"""

import io
import struct
import zlib
from typing import NamedTuple

from ftharness.checkpoint.crc import combined
from ftharness.checkpoint.storage import Storage, write_all

_MUCH = 1 << 20  # bytes; less is summed here
_DESCRIPTOR = 8  # bytes of it that are looked at
_PIECE = 4 << 20  # bytes; the disk begins with one while the next is written


class Seal(NamedTuple):
    """Of the bytes of one file.

    Attributes:
        size: Bytes.
        checksum: CRC-32.
    """

    size: int
    checksum: int

    def __str__(self) -> str:
        return f"{self.size} bytes, crc32 {self.checksum:08x}"


def seal_of(data: bytes) -> Seal:
    """The seal of what was read."""
    return Seal(len(data), zlib.crc32(data))


class Sealing(io.RawIOBase):
    """Writes to a file, and makes the seal of it on the way.

    torch sums the bytes of large tensors itself, and writes the sum behind them (in the data descriptor of ZIP). They are not
    summed again: that would be a sixth of the time that a save takes. :func:`~ftharness.checkpoint.validation.examine` sums
    all of what it reads.

    Args:
        storage: The disk.
        fd: The file; it is not closed.
    """

    def __init__(self, storage: Storage, fd: int) -> None:
        self._storage = storage
        self._fd = fd
        self._size = self._checksum = 0
        self._unsummed = 0  # bytes at the end of what was written
        self._missed = False

    @property
    def seal(self) -> Seal | None:
        """Of all that was written until now; None where large pieces came without their sum: the file has to be read."""
        return None if self._missed or self._unsummed else Seal(self._size, self._checksum)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: memoryview) -> int:  # type: ignore[override] # a buffer, which has no type before 3.12
        """Write all of it; with much the disk begins at once."""
        view = memoryview(data).cast("B")
        if len(view) < _MUCH or self._unsummed:
            write_all(self._storage, self._fd, view)
            self._sum(view)
        else:
            for begin in range(0, len(view), _PIECE):
                piece = view[begin : begin + _PIECE]
                write_all(self._storage, self._fd, piece)
                self._storage.begin_writeback(self._fd, self._size + begin, len(piece))
            self._unsummed = len(view)
        self._size += len(view)
        return len(view)

    def _sum(self, view: memoryview) -> None:
        if self._unsummed:
            signature, checksum = struct.unpack_from("<4sI", view) if len(view) >= _DESCRIPTOR else (b"", 0)
            self._missed |= signature != b"PK\x07\x08"
            self._checksum = combined(self._checksum, checksum, self._unsummed)
            self._unsummed = 0
        self._checksum = zlib.crc32(view, self._checksum)
