"""How a file comes to be on the disk whole, or not at all.

Temporary name, fsync, rename, fsync of the folder. A crash at any moment leaves the old file or the new one, and the new one
is certain when :func:`commit` has returned. The fsync before the rename is what keeps an empty file from getting the name;
the one after it keeps the name from being lost with the folder's last changes.
"""

import contextlib
import io
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ftharness.checkpoint.seal import Seal, Sealing, seal_of
from ftharness.checkpoint.storage import Storage

#: How the names of files end that are not committed yet. One that no process is writing any more is an orphan.
TEMPORARY = ".tmp"

_BUFFER = 1 << 16  # bytes; what is larger is written as it is, without a copy

#: Writes what a file is to hold.
Content = Callable[[BinaryIO], object]


def temporary(path: Path) -> Path:
    """A name beside a file that nobody else takes: two who write the same file must not write into each other's."""
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}")


def commit(storage: Storage, path: Path, content: Content) -> Seal:
    """Write a file under its name; it is on the disk, name and all, when this returns.

    Args:
        storage: The disk.
        path: Its name.
        content: Writes what it is to hold.

    Raises:
        OSError: It is not certain to be there. Under that name is what was there before, or all of the new.
    """
    with prepared(storage, path, content) as (unnamed, seal):
        storage.rename(unnamed, path)
    sync_folder(storage, path.parent)
    return seal


@contextlib.contextmanager
def prepared(storage: Storage, path: Path, content: Content) -> Iterator[tuple[Path, Seal]]:
    """A file that is written, and on the disk, under a temporary name; the body gives it its own.

    It is locked for as long as its writer lives, which tells it from an orphan. Where the body fails it is removed, if the
    disk lets it be.
    """
    unnamed = temporary(path)
    fd = storage.create(unnamed)
    try:
        storage.lock(fd)  # it is nobody else's
        raw = Sealing(storage, fd)
        with io.BufferedWriter(cast("io.RawIOBase", raw), _BUFFER) as stream:
            content(stream)
        storage.fsync(fd)
        yield unnamed, raw.seal or seal_of(storage.read(unnamed))
    except BaseException:
        with contextlib.suppress(OSError):  # what it failed of is what counts
            storage.unlink(unnamed)
        raise
    finally:
        storage.close(fd)


def remove_orphans(storage: Storage, folder: Path) -> list[str]:
    """Remove the temporary files in a folder whose writers are gone, as the kernel knows by their locks.

    Returns:
        The names of those removed.
    """
    removed = []
    for name in sorted(storage.names(folder)):
        if not name.endswith(TEMPORARY):
            continue
        with contextlib.suppress(FileNotFoundError):  # its writer was about to rename it
            fd = storage.open(folder / name)
            try:
                if storage.lock_at_once(fd):
                    storage.unlink(folder / name)
                    removed.append(name)
            finally:
                storage.close(fd)
    return removed


def sync_folder(storage: Storage, folder: Path) -> None:
    """Write a folder's entries to the disk."""
    fd = storage.open_folder(folder)
    try:
        storage.fsync(fd)
    finally:
        storage.close(fd)


def make_folder(storage: Storage, folder: Path) -> None:
    """Make a folder and those above it that are missing; it is on the disk when this returns, whoever made it."""
    if not storage.exists(folder):
        make_folder(storage, folder.parent)
        with contextlib.suppress(FileExistsError):  # another worker was faster, and may not have synced it yet
            storage.mkdir(folder)
    sync_folder(storage, folder.parent)
