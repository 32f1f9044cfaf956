"""What tells a file from one that is cut, torn or changed: how long it is, and a checksum.

CRC-32, as in the ZIP archive that torch writes: it costs 0.4 ms/MB where SHA-256 costs 1.2, and it is for accidents. Nothing
here protects from somebody who wants to deceive; reading is safe from them otherwise, as it never executes what is in a file.
"""

import io
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ftharness.checkpoint.storage import Storage, write_all

_MUCH = 1 << 20  # bytes; of less the checksum takes no longer than a thread to begin
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

    Args:
        storage: The disk.
        fd: The file; it is not closed.
    """

    def __init__(self, storage: Storage, fd: int) -> None:
        self._storage = storage
        self._fd = fd
        self._size = self._checksum = 0

    @property
    def seal(self) -> Seal:
        """Of all that was written until now."""
        return Seal(self._size, self._checksum)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: memoryview) -> int:  # type: ignore[override] # a buffer, which has no type before 3.12
        """Write all of it; of much the checksum is made meanwhile, by another thread."""
        view = memoryview(data).cast("B")
        if len(view) < _MUCH:
            write_all(self._storage, self._fd, view)
            self._checksum = zlib.crc32(view, self._checksum)
        else:
            with ThreadPoolExecutor(1) as other:
                checksum = other.submit(zlib.crc32, view, self._checksum)
                for begin in range(0, len(view), _PIECE):
                    piece = view[begin : begin + _PIECE]
                    write_all(self._storage, self._fd, piece)
                    self._storage.begin_writeback(self._fd, self._size + begin, len(piece))
                self._checksum = checksum.result()
        self._size += len(view)
        return len(view)
