"""What a sweep's folder was begun with, and how it differs from what its file says now."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

import ftharness
from ftharness.report.units import amount
from ftharness.sweep.matrix import Planned

_NAMED = 3


class PlannedCell(msgspec.Struct, frozen=True):
    """A cell, as it is remembered: what it ran may hold secrets, so that is a hash."""

    name: str
    folder: str
    content: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """``sweep/plan.json``.

    Attributes:
        schema: The version of this format.
        ftharness: The version that began the sweep.
        file: The sweep's file, wherever one is.
        started_at: ISO 8601, with the offset.
        cells: In the matrix's order.
    """

    schema: int = 1
    ftharness: str
    file: str
    started_at: str
    cells: list[PlannedCell]

    @property
    def matrix(self) -> str:
        """A hash of which cells there are, in which order: the manifest's input."""
        return _hash([cell.name for cell in self.cells])

    @property
    def work(self) -> str:
        """A hash of what they run, and what runs them: the manifest's model."""
        return _hash([self.ftharness, *(cell.content for cell in self.cells)])


def plan_of(path: Path, cells: Sequence[Planned], started_at: str) -> Plan:
    """The plan to be remembered."""
    return Plan(
        ftharness=ftharness.__version__,
        file=str(path.absolute()),
        started_at=started_at,
        cells=[PlannedCell(cell.name, cell.folder, cell.content) for cell in cells],
    )


def differences(before: Plan, now: Plan) -> Iterator[str]:
    """What changed, a few words each; nothing where nothing did."""
    if before.ftharness != now.ftharness:
        yield f"it was begun by ftharness {before.ftharness}, and this is {now.ftharness}"
    then, today = ({cell.name: cell.content for cell in plan.cells} for plan in (before, now))
    yield from _named([name for name in today if name not in then], "is new", "are new")
    yield from _named([name for name in then if name not in today], "is gone", "are gone")
    changed = [name for name, content in today.items() if then.get(name, content) != content]
    yield from _named(changed, "would run something else", "would run something else")
    if then.keys() == today.keys() and list(then) != list(today):
        yield "the cells are in another order"


def _named(names: Sequence[str], one: str, several: str) -> Iterator[str]:
    if names:
        more = f" and {amount(len(names) - _NAMED, 'more cell')}" if len(names) > _NAMED else ""
        yield f"{', '.join(map(repr, names[:_NAMED]))}{more} {one if len(names) == 1 else several}"


def _hash(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
