"""A disk in memory: what a crash left is looked at, and recovered, there."""

import errno
import os
from pathlib import Path
from typing import NamedTuple

from ftharness.checkpoint.storage import Storage
from ftharness.faults.storage.recording import Log, Operation


class Image(NamedTuple):
    """What is on a disk, below a folder.

    Attributes:
        folders: Those below it, by their path.
        files: What is in each, by its path.
    """

    folders: frozenset[Path]
    files: dict[Path, bytes]


def image_of(folder: Path) -> Image:
    """Of what is there now."""
    below = sorted(folder.rglob("*"))
    return Image(
        frozenset(path for path in below if path.is_dir()),
        {path: path.read_bytes() for path in below if path.is_file()},
    )


class ImageDisk(Storage):
    """A disk that begins with an image, for one process; its files are in memory, and its log is as that of a real one.

    Real crashes of the power cannot be had, so what they leave cannot be recovered anywhere else; what a recorded run writes
    and the last of its images are compared byte by byte.

    Args:
        root: The folder that is there at the start.
        image: What is below it.

    Attributes:
        log: What was done since.
    """

    def __init__(self, root: Path, image: Image) -> None:
        self.log = Log()
        self._root = root
        self._folders = {root, *image.folders}
        self._names: dict[Path, int] = {}
        self._bytes: dict[int, bytearray] = {}
        self._open: dict[int, tuple[Path, int]] = {}
        self._last = 0
        self._last_fd = 0
        for path, data in image.files.items():
            self._new(path)
            self._bytes[self._last][:] = data

    @property
    def image(self) -> Image:
        """What is on it now."""
        files = {path: bytes(self._bytes[file]) for path, file in self._names.items()}
        return Image(frozenset(self._folders - {self._root}), files)

    @property
    def numbers(self) -> dict[Path, int]:
        """The number of each file in the log, by its name."""
        return dict(self._names)

    def create(self, path: Path) -> int:
        if self.exists(path):
            raise _error(errno.EEXIST, path)
        self._in_folder(path)
        self.log(Operation("create", path, self._new(path)))
        return self._opened(path, self._last)

    def open_to_append(self, path: Path) -> int:
        return self._opened(path, self._names[path]) if path in self._names else self.create(path)

    def open_to_update(self, path: Path) -> int:
        return self.open(path)

    def open(self, path: Path) -> int:
        if path not in self._names:
            raise _error(errno.ENOENT, path)
        return self._opened(path, self._names[path])

    def open_folder(self, path: Path) -> int:
        if path not in self._folders and path != self._root.parent:
            raise _error(errno.ENOENT, path)
        return self._opened(path, 0)

    def write(self, fd: int, data: memoryview) -> int:
        path, file = self._open[fd]
        self._bytes[file] += data
        self.log(Operation("write", path, file, data=bytes(data)))
        return len(data)

    def write_at(self, fd: int, data: memoryview, offset: int) -> int:
        path, file = self._open[fd]
        self._bytes[file][offset : offset + len(data)] = data
        self.log(Operation("write_at", path, file, data=bytes(data), offset=offset))
        return len(data)

    def begin_writeback(self, fd: int, offset: int, length: int) -> None:
        pass

    def truncate(self, fd: int) -> None:
        self._bytes[self._open[fd][1]].clear()
        self.log(Operation("truncate", *self._open[fd]))

    def fsync(self, fd: int) -> None:
        path, file = self._open[fd]
        self.log(Operation("sync", path, file) if file else Operation("sync_folder", path))

    def fdatasync(self, fd: int) -> None:
        self.log(Operation("sync", *self._open[fd]))

    def close(self, fd: int) -> None:
        del self._open[fd]

    def lock(self, fd: int) -> None:
        assert fd in self._open

    def lock_at_once(self, fd: int) -> bool:
        return fd in self._open  # whoever had it is gone with the power

    def unlock(self, fd: int) -> None:
        assert fd in self._open

    def rename(self, source: Path, target: Path) -> None:
        self._in_folder(target)
        self._names[target] = self._taken(source)
        self.log(Operation("rename", source, self._names[target], target))

    def unlink(self, path: Path) -> None:
        self.log(Operation("unlink", path, self._taken(path)))

    def mkdir(self, path: Path) -> None:
        if self.exists(path):
            raise _error(errno.EEXIST, path)
        self._in_folder(path)
        self._folders.add(path)
        self.log(Operation("mkdir", path))

    def read(self, path: Path) -> bytes:
        if path not in self._names:
            raise _error(errno.ENOENT, path)
        return bytes(self._bytes[self._names[path]])

    def names(self, folder: Path) -> list[str]:
        if folder not in self._folders:
            raise _error(errno.ENOENT, folder)
        return [path.name for path in (*self._names, *self._folders) if path.parent == folder]

    def exists(self, path: Path) -> bool:
        return path in self._names or path in self._folders

    def _new(self, path: Path) -> int:
        self._last += 1
        self._names[path] = self._last
        self._bytes[self._last] = bytearray()
        return self._last

    def _opened(self, path: Path, file: int) -> int:
        self._last_fd += 1
        self._open[self._last_fd] = path, file
        return self._last_fd

    def _taken(self, path: Path) -> int:
        if path not in self._names:
            raise _error(errno.ENOENT, path)
        return self._names.pop(path)

    def _in_folder(self, path: Path) -> None:
        if path.parent not in self._folders:
            raise _error(errno.ENOENT, path)


def _error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
