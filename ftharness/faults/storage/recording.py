"""What was asked of a disk, in order: enough to say what may be on it after a crash at any moment."""

import threading
from pathlib import Path
from typing import Literal, NamedTuple

from ftharness.checkpoint.storage import Storage

Kind = Literal["create", "write", "write_at", "truncate", "sync", "sync_folder", "rename", "unlink", "mkdir", "note"]


class Operation(NamedTuple):
    """One that changes what is on the disk, or makes it certain; or a note of what was acknowledged until then.

    Attributes:
        kind: What it was.
        path: What it was done to; of ``write``, ``truncate`` and ``sync`` the name under which the file was opened.
        file: Which file, however it is called: its number, from 1; 0 where none is meant.
        to: The new name, of ``rename``.
        data: What was written: of ``write`` at the file's end.
        offset: Where, of ``write_at``.
        note: What was acknowledged.
    """

    kind: Kind
    path: Path = Path()
    file: int = 0
    to: Path = Path()
    data: bytes = b""
    note: str = ""
    offset: int = 0

    def __str__(self) -> str:
        if self.kind == "note":
            return f"acknowledged: {self.note}"
        more = f" to {self.to.name}" if self.kind == "rename" else f" {len(self.data)} bytes" if self.data else ""
        return f"{self.kind} {self.path.name}{more}"


class Log:
    """Operations, from any thread."""

    def __init__(self) -> None:
        self._operations: list[Operation] = []
        self._busy = threading.Lock()

    def __call__(self, operation: Operation) -> None:
        with self._busy:
            self._operations.append(operation)

    @property
    def operations(self) -> list[Operation]:
        """Until now."""
        with self._busy:
            return list(self._operations)

    def note(self, what: str) -> None:
        """Something was acknowledged: from here on no crash may lose it."""
        self(Operation("note", note=what))


class RecordingDisk(Storage):
    """This machine's files, and a log of what is done to them.

    An operation is in the log when it was done. What failed is not, and changed nothing that a crash could show.
    What was there before it is on the disk.

    Attributes:
        log: The log.
    """

    def __init__(self) -> None:
        self.log = Log()
        self._files: dict[tuple[int, int], int] = {}  # by device and inode, for as long as it has a name
        self._names: dict[Path, int] = {}
        self._open: dict[int, tuple[Path, int]] = {}  # file 0: a folder
        self._last = 0

    def create(self, path: Path) -> int:
        fd = super().create(path)
        self._made(path, fd)
        return fd

    def open_to_append(self, path: Path) -> int:
        new = not self.exists(path)
        fd = super().open_to_append(path)
        if new or path not in self._names:
            self._made(path, fd)
        else:
            self._open[fd] = path, self._names[path]
        return fd

    def open_to_update(self, path: Path) -> int:
        fd = super().open_to_update(path)
        self._open[fd] = path, self._names.get(path, 0)
        return fd

    def open(self, path: Path) -> int:
        fd = super().open(path)
        self._open[fd] = path, self._names.get(path, 0)
        return fd

    def open_folder(self, path: Path) -> int:
        fd = super().open_folder(path)
        self._open[fd] = path, 0
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        written = super().write(fd, data)
        path, file = self._open[fd]
        self.log(Operation("write", path, file, data=bytes(data[:written])))
        return written

    def write_at(self, fd: int, data: memoryview, offset: int) -> int:
        written = super().write_at(fd, data, offset)
        path, file = self._open[fd]
        self.log(Operation("write_at", path, file, data=bytes(data[:written]), offset=offset))
        return written

    def truncate(self, fd: int) -> None:
        super().truncate(fd)
        self.log(Operation("truncate", *self._open[fd]))

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        path, file = self._open[fd]
        self.log(Operation("sync", path, file) if file else Operation("sync_folder", path))

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self.log(Operation("sync", *self._open[fd]))

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)
        super().close(fd)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._names[target] = self._names.pop(source)
        self.log(Operation("rename", source, self._names[target], target))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.log(Operation("unlink", path, self._names.pop(path, 0)))

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self.log(Operation("mkdir", path))

    def _made(self, path: Path, fd: int) -> None:
        self._last += 1
        self._names[path] = self._last
        self._open[fd] = path, self._last
        self.log(Operation("create", path, self._last))
