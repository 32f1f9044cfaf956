"""The seam: every file operation of checkpoints and manifest is a method here, one call to the kernel each.

What is tried against crashes and full disks goes through a subclass that records, or fails, what it is told to
(:mod:`ftharness.faults.storage`). So nothing else in this package touches a file.
"""

import errno
import fcntl
import os
from pathlib import Path

_WRITE = os.O_WRONLY | os.O_CLOEXEC


class Storage:
    """This machine's files. All methods raise :class:`OSError`, as the kernel says."""

    def create(self, path: Path) -> int:
        """A new, empty file, for writing; one that is there is an error. Returns its descriptor."""
        return os.open(path, _WRITE | os.O_CREAT | os.O_EXCL, 0o666)

    def open_to_append(self, path: Path) -> int:
        """A file whose end is written to, whoever else does; made where there is none."""
        return os.open(path, _WRITE | os.O_CREAT | os.O_APPEND, 0o666)

    def open_to_update(self, path: Path) -> int:
        """A file that is there, to be overwritten in place."""
        return os.open(path, _WRITE)

    def open(self, path: Path) -> int:
        """A file that is there, to be locked."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def open_folder(self, path: Path) -> int:
        """A folder, to be locked and to have its entries written to the disk."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def write(self, fd: int, data: memoryview) -> int:
        """Write some of ``data``; returns how many bytes of it, as a disk that fills up may take fewer."""
        return os.write(fd, data)

    def write_at(self, fd: int, data: memoryview, offset: int) -> int:
        """Overwrite some of what is there from an offset on; returns how many bytes."""
        return os.pwrite(fd, data, offset)

    def begin_writeback(self, fd: int, offset: int, length: int) -> None:
        """Let the disk begin with what was just written, instead of with the fsync; nobody waits, and nothing is certain.

        The kernel starts to write what it is advised to drop, as it cannot drop it otherwise.
        """
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)

    def truncate(self, fd: int) -> None:
        """Cut a file to nothing."""
        os.ftruncate(fd, 0)

    def fsync(self, fd: int) -> None:
        """Of a file its bytes, of a folder its entries: they are on the disk when this returns."""
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        """The bytes of a file, and its length, without its times: less to write where the length is as before."""
        os.fdatasync(fd)

    def close(self, fd: int) -> None:
        """Close it; a lock on it is gone with it."""
        os.close(fd)

    def lock(self, fd: int) -> None:
        """Take the flock of what is open, as soon as it is free.

        A flock ends with its holder, however that ended. What it is on must never be unlinked: one that waits would get
        the lock of a file that nobody finds any more, while the next takes that of a new one.
        """
        fcntl.flock(fd, fcntl.LOCK_EX)

    def lock_at_once(self, fd: int) -> bool:
        """The same, if it is free now; returns whether it was."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            return False
        return True

    def unlock(self, fd: int) -> None:
        """Let it go, for all who have the same open file: a child that was forked must not, it has to close."""
        fcntl.flock(fd, fcntl.LOCK_UN)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in the same folder, at once and in place of what has that name."""
        os.replace(source, target)  # noqa: PTH105 - one call, as it is recorded

    def unlink(self, path: Path) -> None:
        """Take a name away."""
        os.unlink(path)  # noqa: PTH108 - the same

    def mkdir(self, path: Path) -> None:
        """Make a folder; one that is there is an error."""
        os.mkdir(path)  # noqa: PTH102 - the same

    def read(self, path: Path) -> bytes:
        """All of a file."""
        return path.read_bytes()

    def names(self, folder: Path) -> list[str]:
        """What is in a folder, in no order."""
        return os.listdir(folder)  # noqa: PTH208 - the same

    def exists(self, path: Path) -> bool:
        """Whether a name is taken."""
        return os.path.lexists(path)


#: What everybody uses who is not told otherwise.
DISK = Storage()


def write_all(storage: Storage, fd: int, data: bytes | memoryview) -> None:
    """Write all of it, in as many calls as it takes."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[storage.write(fd, rest) :]


def write_all_at(storage: Storage, fd: int, data: bytes, offset: int) -> None:
    """The same, in place of what is there from an offset on."""
    rest = memoryview(data)
    while rest:
        written = storage.write_at(fd, rest, offset)
        rest, offset = rest[written:], offset + written
