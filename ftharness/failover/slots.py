"""A small file of two slots that its readers never see torn, and that needs no room on the disk once it is there.

A writer replaces the older of two values in place, with its checksum; a reader takes the newest that is whole. So a writer
that is killed at any instant costs at most the value that was being written; nothing is ever unlinked or renamed, and a disk
that is full later does not matter. It is not synced: after a crash of the machine itself an older value may be there.
"""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SLOT = 1024  # bytes; both lie in one page
_BLANK = b" " * (_SLOT - 1) + b"\n"


class SlotError(OSError):
    """The value is too long for a slot."""


class Slots:
    """A file of two slots.

    Args:
        path: Where it lies, or will, when it is first written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self) -> None:
        """Make the file, if it is not there, and see that it can be written.

        Raises:
            OSError: It cannot.
        """
        os.close(self._open())

    def read(self) -> dict[str, Any] | None:
        """The newest value; None where there is none that is whole.

        Raises:
            OSError: There is a file, and it cannot be read.
        """
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return _newest(fd)[1]
        finally:
            os.close(fd)

    def write(self, value: dict[str, Any]) -> None:
        """Put a value in the place of the older one. There may be one writer at a time.

        Raises:
            OSError: The disk does not take it.
        """
        self.replace(lambda _, __: value)

    def replace(self, new: "New") -> dict[str, Any]:
        """The same, of a value that is made from the newest. Returns it."""
        fd = self._open()
        try:
            serial, last, whole = _newest(fd)
            value = new(last, whole)
            body = json.dumps([serial + 1, value], separators=(",", ":"))
            line = f"{zlib.crc32(body.encode()):08x} {body}".encode()
            if len(line) >= _SLOT:
                raise SlotError(f"{self._path}: {len(line)} bytes are more than a slot of {_SLOT} takes")
            if os.fstat(fd).st_size < 2 * _SLOT:
                _put(fd, _BLANK * 2, 0)
            _put(fd, line.ljust(_SLOT - 1) + b"\n", (serial + 1) % 2 * _SLOT)
        finally:
            os.close(fd)
        return value

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


#: Of the newest value, and whether all that there is is whole, the next.
New = Callable[[dict[str, Any] | None, bool], dict[str, Any]]


def _newest(fd: int) -> tuple[int, dict[str, Any] | None, bool]:
    """The serial number and value of the newest slot that is whole, and whether none is not."""
    text = os.pread(fd, 2 * _SLOT, 0)
    slots = text[:_SLOT], text[_SLOT:]
    found = [_parsed(slot) for slot in slots]
    serial, value = max(found, key=lambda entry: entry[0])
    whole = all(value is not None or not slot.strip() for slot, (_, value) in zip(slots, found, strict=True))
    return serial, value, whole


def _put(fd: int, data: bytes, offset: int) -> None:
    done = os.pwrite(fd, data, offset)
    if done != len(data):  # a full disk may take a part; it says so of the rest
        os.pwrite(fd, data[done:], offset + done)


def _parsed(slot: bytes) -> tuple[int, dict[str, Any] | None]:
    checksum, _, body = slot.rstrip().partition(b" ")
    try:
        if int(checksum, 16) == zlib.crc32(body):
            serial, value = json.loads(body)
            if isinstance(serial, int) and isinstance(value, dict):
                return serial, value
    except (ValueError, TypeError):
        pass
    return 0, None
