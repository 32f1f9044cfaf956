"""The manifest's file: one writer at a time, whole at any moment, certain when a change has returned.

A lock; what is new, into a slot, and one sync (:mod:`ftharness.checkpoint.manifest_slots`); then the file itself, a new one
under its name. That one is not synced: after a loss of power it may be old, or torn, and what the slots have is taken
instead. While one process waits for the disk the others wait for the lock. So whoever waits writes down what it wants to
change, in a file beside the manifest; whoever gets the lock makes these changes with its own, and one sync serves them all.
The others then find theirs made.

That file is a hint and no more: what is lost of it, its owner makes itself when its turn comes. The lock file is never
unlinked: one that waits would get the lock of a file that nobody finds any more, while the next takes that of a new one.
"""

import json
import logging
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ftharness.checkpoint.commit import make_folder, remove_orphans, sync_folder, temporary
from ftharness.checkpoint.errors import ManifestCorruptedError, ManifestWriteError
from ftharness.checkpoint.manifest_changes import CHANGES, Manifest, migrated, of_another_run
from ftharness.checkpoint.manifest_slots import ManifestSlots
from ftharness.checkpoint.storage import Storage, write_all

_log = logging.getLogger("ftharness.checkpoint")

_REMEMBERED = 256  # changes that others made: far more than ever wait at once


class _Ticket(NamedTuple):
    """A change that is wanted, of the manifest of one run."""

    name: str
    run: str
    kind: str
    arguments: dict[str, Any]


class ManifestFile:
    """The file of a manifest, and those beside it.

    Args:
        path: Of the manifest. ``.lock``, ``.pending``, ``.slot0`` and ``.slot1`` lie beside it.
        storage: The disk.
    """

    def __init__(self, path: Path, storage: Storage) -> None:
        self._path = path
        self._storage = storage
        self._lock_path = path.with_suffix(".lock")
        self._pending = path.with_suffix(".pending")
        self._slots = ManifestSlots(path, storage)
        self._tidy = False

    def read(self) -> Manifest:
        """The manifest as it is now.

        Raises:
            FileNotFoundError: There is none.
            ManifestCorruptedError: Neither it nor a slot can be read.
        """
        copies, wrong = self._certain(), ""
        try:
            copies.append(_parsed(self._storage.read(self._path)))
        except FileNotFoundError:
            raise
        except (ValueError, OSError) as error:
            wrong = f"{self._path} cannot be read: {error}"
        if not copies:
            raise ManifestCorruptedError(f"{wrong}; and no slot beside it is whole", self._path)
        if wrong:
            _log.error("%s; what is certain is taken from beside it", wrong)
        return max(reversed(copies), key=_serial)

    def begin(self, manifest: Manifest, *, anew: bool) -> Manifest:
        """Write a new manifest where there is none of the same run, or anyway; the one that there is then.

        What others still want of one that is replaced is dropped.
        """
        try:
            make_folder(self._storage, self._path.parent)
            with self._locked(None):
                kept = None if anew else self._kept(manifest)
                if kept is None:
                    self._asked()
                    manifest["changes"] = max(map(_serial, self._certain()), default=0) + 1
                    self._write(manifest)
                # Of one that is kept as well: who made it may have been killed before it came to this.
                fd = self._storage.open(self._path)
                try:
                    self._storage.fsync(fd)  # once: from here on there is a manifest
                finally:
                    self._storage.close(fd)
                sync_folder(self._storage, self._path.parent)
                return manifest if kept is None else kept
        except OSError as error:
            raise self._failed(error) from error

    def _kept(self, new: Manifest) -> Manifest | None:
        """What is there, if it is of the same run; under the lock."""
        try:
            there = self.read()
        except FileNotFoundError:
            return None
        except ManifestCorruptedError as error:
            wrong = f"it was lost: {error}"
        else:
            if not (other := of_another_run(there, new)):
                return there
            wrong = f"what it held is of another run: {other}"
        _log.warning("%s is begun anew; %s", self._path, wrong)
        return None

    def change(self, kind: str, **arguments: Any) -> None:
        """Make a change; it is on the disk when this returns.

        Args:
            kind: A name of :data:`~ftharness.checkpoint.manifest_changes.CHANGES`.
            arguments: Its own, as JSON has them.

        Raises:
            FileNotFoundError: There is no manifest.
            ValueError: It cannot be changed so.
            ManifestWriteError: The disk does not take it; what was committed before is as it was.
            ManifestCorruptedError: Neither it nor a slot can be read.
        """
        if not self._storage.exists(self._path):
            raise FileNotFoundError(f"there is no manifest {self._path}; initialize() makes one")
        try:
            ticket = secrets.token_hex(6)
            with self._locked((ticket, kind, arguments)):
                manifest = self.read()
                if ticket in manifest.get("made_for_others", ()):
                    return
                for other in self._asked():
                    if other.run == manifest["created_at"] and other.name != ticket:
                        _make_for(other, manifest)
                CHANGES[kind](manifest, **arguments)
                manifest["changes"] = _serial(manifest) + 1
                self._write(manifest)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._failed(error) from error

    @contextmanager
    def _locked(self, wanted: tuple[str, str, dict[str, Any]] | None) -> Iterator[None]:
        """With the lock; where another has it, what is wanted is written down before it is waited for."""
        fd = self._storage.open_to_append(self._lock_path)
        try:
            if wanted is None:
                self._storage.lock(fd)
            elif not self._storage.lock_at_once(fd):
                self._ask(*wanted)
                self._storage.lock(fd)
            if not self._tidy:  # who has the lock is the only one who writes: what others left is left for good
                self._tidy = True
                remove_orphans(self._storage, self._path.parent)
            yield
        finally:
            self._storage.unlock(fd)  # a child that was forked meanwhile has the open file as well, and keeps it open
            self._storage.close(fd)

    def _ask(self, name: str, kind: str, arguments: dict[str, Any]) -> None:
        """Write down what is wanted, in one piece; where the disk does not take it, nothing is lost."""
        with suppress(OSError):
            text = json.dumps(_Ticket(name, self.read()["created_at"], kind, arguments)).encode()
            fd = self._storage.open_to_append(self._pending)
            try:
                write_all(self._storage, fd, b"%08x %s\n" % (zlib.crc32(text), text))
            finally:
                self._storage.close(fd)

    def _asked(self) -> list[_Ticket]:
        """What others have written down; it is taken out, under the lock."""
        try:
            text = self._storage.read(self._pending)
            if text:
                fd = self._storage.open_to_append(self._pending)
                try:
                    self._storage.truncate(fd)
                finally:
                    self._storage.close(fd)
        except OSError:
            return []
        return [ticket for line in text.split(b"\n") if (ticket := _parsed_ticket(line)) is not None]

    def _certain(self) -> list[Manifest]:
        """What the slots hold."""
        found = []
        for _, text in self._slots.whole():
            with suppress(ValueError):
                found.append(_parsed(text))
        return found

    def _write(self, manifest: Manifest) -> None:
        """Commit it. What fails before the slot is written changes nothing; after it, only who reads the file itself."""
        text = msgspec.json.encode(manifest)
        unnamed = temporary(self._path)
        fd = self._storage.create(unnamed)
        try:
            self._storage.lock(fd)
            write_all(self._storage, fd, msgspec.json.format(text, indent=2))
            self._slots.put(_serial(manifest), text)
            self._storage.rename(unnamed, self._path)
        except BaseException:
            with suppress(OSError):
                self._storage.unlink(unnamed)
            raise
        finally:
            self._storage.close(fd)

    def _failed(self, error: OSError) -> ManifestWriteError:
        said = f"{error.strerror or error} ({error.filename})" if error.filename else error.strerror or str(error)
        return ManifestWriteError(
            f"the change of {self._path} is not committed: {said}; what it said before, it still says"
        )


def _serial(manifest: Manifest) -> int:
    """How many changes it has seen, since there first was one under its name."""
    return int(manifest.get("changes", 0))


def _parsed(text: bytes) -> Manifest:
    found = msgspec.json.decode(text)
    if not isinstance(found, dict) or not isinstance(found.get("shards"), dict):
        raise ValueError("it is no manifest")  # noqa: TRY004 - of the text, as one that is no JSON
    return migrated(found)


def _make_for(ticket: _Ticket, manifest: Manifest) -> None:
    """Make somebody else's change, and remember that it is made; one that cannot be is left for its owner to hear of."""
    made: list[str] = manifest.setdefault("made_for_others", [])
    if ticket.name in made:
        return
    try:
        CHANGES[ticket.kind](manifest, **ticket.arguments)
    except (KeyError, TypeError, ValueError):  # before it changed anything: what it names is not there
        return
    made.append(ticket.name)
    del made[:-_REMEMBERED]


def _parsed_ticket(line: bytes) -> _Ticket | None:
    """A line of what is wanted; None where it is torn, or somebody else's."""
    checksum, _, text = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        return _Ticket(*json.loads(text))
    except (ValueError, TypeError):
        return None
