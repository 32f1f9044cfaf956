"""What makes a manifest certain: two slots, of which the older one is overwritten in place with the whole of it.

A file that keeps its blocks and its length needs one sync of its bytes, and none of its name: half of what a new file under the
same name costs. One that is torn by a crash fails its checksum, and the other slot has what was certain before.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path

from ftharness.checkpoint.commit import commit
from ftharness.checkpoint.storage import Storage, write_all_at

_BLOCK = 4096  # bytes; a slot grows by so many at a time, as its length is one more thing to sync


class ManifestSlots:
    """The two files.

    Args:
        path: Of the manifest; ``.slot0`` and ``.slot1`` lie beside it.
        storage: The disk.
    """

    def __init__(self, path: Path, storage: Storage) -> None:
        self._paths = path.with_suffix(".slot0"), path.with_suffix(".slot1")
        self._storage = storage

    def whole(self) -> Iterator[tuple[int, bytes]]:
        """The serial numbers and texts of those that are there, and whole."""
        for path in self._paths:
            try:
                data = self._storage.read(path)
            except OSError:
                continue
            if (found := _parsed(data)) is not None:
                yield found

    def put(self, serial: int, text: bytes) -> None:
        """Put a text in the place of the older one; it is on the disk when this returns.

        Raises:
            OSError: It is not, or may not be. The newer one is as it was.
        """
        body = b"%d %d\n" % (serial, len(text)) + text
        data = b"%08x " % zlib.crc32(body) + body
        data = data.ljust(-(-len(data) // _BLOCK) * _BLOCK)
        place = self._paths[serial % 2]
        try:
            fd = self._storage.open_to_update(place)
        except FileNotFoundError:
            commit(self._storage, place, lambda stream: stream.write(data))
            return
        try:
            write_all_at(self._storage, fd, data, 0)
            self._storage.fdatasync(fd)
        finally:
            self._storage.close(fd)


def _parsed(data: bytes) -> tuple[int, bytes] | None:
    head, _, rest = data.partition(b"\n")
    try:
        checksum, serial, length = head.split(b" ")
        text = rest[: int(length)]
        if zlib.crc32(head[len(checksum) + 1 :] + b"\n" + text) == int(checksum, 16) and len(text) == int(length):
            return int(serial), text
    except ValueError:
        pass
    return None
