"""A sweep's file: what is to be run, as data."""

from pathlib import Path
from typing import Any

import msgspec

from ftharness.logs import TomlError, read_toml
from ftharness.logs.toml_file import line_of


class Matrix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every combination of these is a cell.

    Attributes:
        scenarios: By name; ``family/*`` is all of one; a path that ends in ``.py`` is a file.
        stacks: By name, or the path of a TOML file.
        engines: ``all`` is all of the stack's; "" its first.
        seeds: Of tokens, ids and whatever else is random.
        bugs: Planted ones; "" is none.
        sut_pythons: Interpreters of the system under test; "" is the provisioned one.
        set: What ``--set KEY=VALUE`` sets: by key, its values.
    """

    scenarios: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ("sim",)
    engines: tuple[str, ...] = ("",)
    seeds: tuple[int, ...] = (0,)
    bugs: tuple[str, ...] = ("",)
    sut_pythons: tuple[str, ...] = ("",)
    set: dict[str, list[Any]] = {}


class Include(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """More cells, behind those of the matrix: one for each scenario of that name or pattern, and each engine."""

    scenario: str
    stack: str = "sim"
    engine: str = ""
    seed: int = 0
    bug: str = ""
    sut_python: str = ""
    set: dict[str, Any] = {}


class Exclude(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cells of the matrix that are not run: those that fit all that is said here.

    Texts are patterns, as of a shell's file names; ``set`` fits what has these values, among others.
    """

    scenario: str = "*"
    stack: str = "*"
    engine: str = "*"
    seed: int | None = None
    bug: str = "*"
    sut_python: str = "*"
    set: dict[str, Any] = {}


class SweepFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of it.

    Attributes:
        matrix: Every combination is a cell.
        include: More of them.
        exclude: Fewer.
        repeat: The whole, so many times over.
        jobs: So many cells at once.
        out: The sweep's folder; "": a new one under ``reports/``.
        name: Of that new one; "": the file's.
    """

    matrix: Matrix = Matrix()
    include: list[Include] = []
    exclude: list[Exclude] = []
    repeat: int = 1
    jobs: int = 1
    out: str = ""
    name: str = ""


def read_sweep(path: Path) -> SweepFile:
    """Read a sweep's file. Paths in it that are of files are from its own folder, ``out`` is from where one is.

    Raises:
        TomlError: It cannot be read, or means nothing; says where.
    """
    found = read_toml(path, SweepFile)
    for key in ("repeat", "jobs"):
        if getattr(found, key) < 1:
            raise wrong(path, f".{key}", f"{key} = {getattr(found, key)}: must be at least 1")
    for key in Matrix.__struct_fields__:
        values = getattr(found.matrix, key)
        if not values and key not in ("scenarios", "set"):
            raise wrong(path, f".matrix.{key}", f"{key} is empty: there would be no cell; leave it out for its default")
    for key, values in found.matrix.set.items():
        if not values:
            raise wrong(path, f".matrix.set.{key}", f"{key} has no values: there would be no cell")
    if not found.matrix.scenarios and not found.include:
        raise wrong(path, ".matrix", "there is nothing to run: no matrix.scenarios, and no [[include]]")
    return found


def wrong(path: Path, where: str, what: str) -> TomlError:
    """What is wrong with a place of the file, such as ``.exclude[1]``."""
    return TomlError(f"{path}:{line_of(path.read_text(encoding='utf-8'), where)}: {what}")
