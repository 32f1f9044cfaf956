"""A small file of two slots that its readers never see torn, and that needs no room on the disk once it is there.

A writer replaces the older of two values in place, with its checksum; a reader takes the newest that is whole. So a writer
that is killed, or a machine that is, at any instant, costs at most the value that was being written; nothing is ever
unlinked or renamed, and a disk that is full later does not matter.
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
        self.replace(lambda _: value)

    def replace(self, new: Callable[[dict[str, Any] | None], dict[str, Any]]) -> dict[str, Any]:
        """The same, of a value that is made from the newest. Returns it."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            serial, last = _newest(fd)
            value = new(last)
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


def _newest(fd: int) -> tuple[int, dict[str, Any] | None]:
    text = os.pread(fd, 2 * _SLOT, 0)
    return max((_parsed(text[:_SLOT]), _parsed(text[_SLOT:])), key=lambda entry: entry[0])


def _put(fd: int, data: bytes, offset: int) -> None:
    done = os.pwrite(fd, data, offset)
    if done != len(data):  # a full disk may take a part; it says so of the rest
        os.pwrite(fd, data[done:], offset + done)


def _parsed(slot: bytes) -> tuple[int, dict[str, Any] | None]:
    checksum, _, body = slot.rstrip().partition(b" ")
    try:
        if int(checksum, 16) == zlib.crc32(body):
            serial, value = json.loads(body)
            return serial, value
    except ValueError:
        pass
    return 0, None
