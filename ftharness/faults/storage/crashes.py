"""What may be on a disk after the power failed at any moment.

Of what was done any prefix, and of what was not yet certain every outcome that a filesystem is allowed.
Certain is what an fsync came after: of a file its bytes, of a folder its entries; each for itself, as POSIX has it and no more
(many filesystems promise more). What was not certain may be there or not, in any order:

- of the changes of a folder's entries any may be lost, and others that came later not: each of them is whole, no entry is half
  changed;
- of the bytes that were written after a file's last fsync none, a part, or all may be there, cut at any sector; where only its
  length got there, they read as zeros, at the end or in the middle.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

from ftharness.faults.storage.image import Image
from ftharness.faults.storage.recording import Operation

_ALL_SUBSETS = 5  # changes of a folder of which each subset is tried; of more each prefix, each alone, each left out


class Crash(NamedTuple):
    """One of them.

    Attributes:
        done: After how many operations it was.
        image: What was on the disk.
        what: What became of what was not certain, for people.
        notes: What had been acknowledged.
    """

    done: int
    image: Image
    what: str
    notes: tuple[str, ...]


class _Entry(NamedTuple):
    """A change of one folder's entries: names that go, and one that comes, for a file or (0) for a folder."""

    gone: str
    comes: str
    file: int


class _Model:
    """What is certain, and what is not yet."""

    def __init__(self, root: Path, start: Image, numbers: dict[Path, int]) -> None:
        self.root = root
        self.certain: dict[Path, dict[str, int]] = {path: {} for path in (root, *start.folders)}
        self.changes: dict[Path, list[_Entry]] = {path: [] for path in self.certain}
        self.bytes: dict[int, tuple[bytes, bytes]] = {}  # certain, and now
        for folder in start.folders:
            self.certain[folder.parent][folder.name] = 0
        for path, data in start.files.items():
            self.certain[path.parent][path.name] = numbers[path]
            self.bytes[numbers[path]] = data, data

    def do(self, operation: Operation) -> None:
        path, file = operation.path, operation.file
        match operation.kind:
            case "create":
                self.bytes[file] = b"", b""
                self._change(path.parent, _Entry("", path.name, file))
            case "write":
                self.bytes[file] = self.bytes[file][0], self.bytes[file][1] + operation.data
            case "write_at":
                certain, now = self.bytes[file]
                begin, end = operation.offset, operation.offset + len(operation.data)
                self.bytes[file] = certain, now[:begin] + operation.data + now[end:]
            case "truncate":
                self.bytes[file] = self.bytes[file][0], b""
            case "sync":
                self.bytes[file] = self.bytes[file][1], self.bytes[file][1]
            case "sync_folder":
                if path in self.changes:  # one above all of it is not ours to follow
                    self.certain[path] = _applied(self.certain[path], self.changes[path])
                    self.changes[path] = []
            case "rename":
                self._change(path.parent, _Entry(path.name, operation.to.name, file))
            case "unlink":
                self._change(path.parent, _Entry(path.name, "", file))
            case "mkdir":
                self.certain[path], self.changes[path] = {}, []
                self._change(path.parent, _Entry("", path.name, 0))
            case "note":
                pass

    def _change(self, folder: Path, entry: _Entry) -> None:
        self.changes[folder].append(entry)

    def outcomes(self, sector: int, cuts: int) -> Iterator[tuple[Image, str]]:
        """Every image that a crash now may leave."""
        uncertain = [folder for folder, changes in self.changes.items() if changes]
        for kept in product(*(_subsets(len(self.changes[folder])) for folder in uncertain)):
            entries = dict(self.certain)
            lost = 0
            for folder, places in zip(uncertain, kept, strict=True):
                entries[folder] = _applied(self.certain[folder], [self.changes[folder][place] for place in places])
                lost += len(self.changes[folder]) - len(places)
            names = f"{lost} changed names lost" if lost else "all names there"
            yield from self._contents(entries, names, sector, cuts)

    def _contents(
        self, entries: dict[Path, dict[str, int]], names: str, sector: int, cuts: int
    ) -> Iterator[tuple[Image, str]]:
        folders, found = self._below(entries)
        now = {path: self.bytes[file][1] for path, file in found.items()}
        yield Image(folders, now), f"{names}, all bytes"
        unsynced = {file for file in found.values() if self.bytes[file][0] != self.bytes[file][1]}
        for file in unsynced:
            for data, what in _torn(*self.bytes[file], sector, cuts):
                yield (
                    Image(folders, {path: data if other == file else now[path] for path, other in found.items()}),
                    f"{names}, {what}",
                )
        if len(unsynced) > 1:
            yield (
                Image(folders, {path: self.bytes[file][0] for path, file in found.items()}),
                f"{names}, no bytes that were not synced",
            )

    def _below(self, entries: dict[Path, dict[str, int]]) -> tuple[frozenset[Path], dict[Path, int]]:
        folders: set[Path] = set()
        files: dict[Path, int] = {}
        inside = [self.root]
        while inside:
            folder = inside.pop()
            for name, file in entries[folder].items():
                if file:
                    files[folder / name] = file
                else:
                    folders.add(folder / name)
                    inside.append(folder / name)
        return frozenset(folders), files


def crashes(
    root: Path,
    start: Image,
    operations: Sequence[Operation],
    *,
    numbers: dict[Path, int] | None = None,
    sector: int = 512,
    cuts: int = 12,
) -> Iterator[Crash]:
    """Each different thing that a crash may leave, at every moment of what was done.

    Args:
        root: The folder that all is below.
        start: What was certainly there at the start.
        operations: What was done.
        numbers: Of the files that were there at the start, as the operations have them.
        sector: Bytes that are written at once.
        cuts: Places at most where one write is torn.
    """
    model = _Model(root, start, numbers or {})
    notes: tuple[str, ...] = ()
    seen: set[int] = set()
    for done in range(len(operations) + 1):
        for image, what in model.outcomes(sector, cuts):
            # The same after more was acknowledged is another one: less may be missing from it.
            key = hash((notes, image.folders, frozenset(image.files.items())))
            if key not in seen:
                seen.add(key)
                yield Crash(done, image, what, notes)
        if done < len(operations):
            model.do(operations[done])
            if operations[done].kind == "note":
                notes = (*notes, operations[done].note)


def _applied(entries: dict[str, int], changes: Sequence[_Entry]) -> dict[str, int]:
    after = dict(entries)
    for change in changes:
        after.pop(change.gone, None)
        if change.comes:
            after[change.comes] = change.file
    return after


def _subsets(count: int) -> Iterator[tuple[int, ...]]:
    places = range(count)
    if count <= _ALL_SUBSETS:
        for size in range(count + 1):
            yield from combinations(places, size)
        return
    chosen = {tuple(range(end)) for end in range(count + 1)}
    chosen |= {(place,) for place in places}
    chosen |= {tuple(place for place in places if place != out) for out in places}
    yield from sorted(chosen)


def _torn(certain: bytes, now: bytes, sector: int, cuts: int) -> Iterator[tuple[bytes, str]]:
    """What may be there of a file whose last bytes are not certain."""
    yield certain, "no new bytes"
    if len(now) < len(certain):  # it was cut in between
        yield b"", "nothing"
        return
    if not now.startswith(certain):
        before = certain.ljust(len(now), b"\0")
        for cut in _cuts(0, len(now), sector, cuts):
            yield now[:cut] + before[cut:], f"overwritten up to byte {cut}"
            yield before[:cut] + now[cut:], f"overwritten from byte {cut}"
        return
    begin = len(certain)
    for cut in _cuts(begin, len(now), sector, cuts):
        if cut > begin:
            yield now[:cut], f"torn at byte {cut}"
        yield now[:cut] + bytes(len(now) - cut), f"zeros from byte {cut}"
        end = min(cut + sector, len(now))
        if end < len(now):
            yield now[:cut] + bytes(end - cut) + now[end:], f"zeros from byte {cut} to {end}"


def _cuts(begin: int, end: int, sector: int, cuts: int) -> Sequence[int]:
    """Where bytes are torn: at each sector, or where there are many at some, the first and the last among them."""
    all_of_them = range(begin, end, sector)
    step = len(all_of_them) / cuts
    return (
        all_of_them
        if step <= 1
        else sorted({all_of_them[int(place * step)] for place in range(cuts)} | {all_of_them[-1]})
    )
