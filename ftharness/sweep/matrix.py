"""From a sweep's file to its cells: each with a name that stays, in an order that stays."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from ftharness.logs import ContractError, TomlError
from ftharness.process import Redactor
from ftharness.scenario import Scenario
from ftharness.scenario.library import find
from ftharness.scenario.runner import Cell
from ftharness.session import cell_of, safe_name
from ftharness.stack import find_stack
from ftharness.suggest import nearest
from ftharness.sweep.file import Exclude, SweepFile, wrong
from ftharness.sweep.idle import MATRIX, Candidate, without_idle


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A cell of a sweep.

    Attributes:
        place: In the matrix's order, from 0.
        name: Unlike all others' of the sweep, and the same whenever the file is read; without secrets.
        folder: Of its files, in the sweep's.
        content: Tells what it runs from what it ran when its file, or its scenario, was another.
        cell: What is run.
    """

    place: int
    name: str
    folder: str
    content: str
    cell: Cell


class _Point(msgspec.Struct, frozen=True):
    """One combination, as the file has it, and where it has it."""

    scenario: Scenario
    stack: str
    engine: str
    seed: int
    bug: str
    sut_python: str
    set: dict[str, Any]
    where: str


def planned(path: Path, file: SweepFile) -> tuple[list[Planned], list[str]]:
    """All cells of a sweep, and what is to be said of those that are left out.

    Whatever can be wrong with one is found here, before anything starts.

    Args:
        path: Where the file is.
        file: What it says.

    Raises:
        TomlError: It means something that there is not; says where.
        ContractError: A stack's contract is wrong.
        ScenarioFileError: A scenario's file is broken.
        NotAvailable: Even to know what a stack could run, something has to be installed.
    """
    points = list(_matrix(path, file))
    for place, exclude in enumerate(file.exclude):
        kept = [point for point in points if not _fits(point, exclude)]
        if len(kept) == len(points):
            raise wrong(path, f".exclude[{place}]", "this [[exclude]] fits no cell of the matrix")
        points = kept
    points += _included(path, file)
    if not points:
        raise wrong(path, ".exclude[0]", "every cell is excluded: nothing is left to run")
    cells = [_cell(path, point) for point in points]
    names = _without_secrets([_name(point) for point in points], cells)
    _refuse_twins(path, names)
    asked = {MATRIX: file.matrix.scenarios} | {_of(place): [one.scenario] for place, one in enumerate(file.include)}
    candidates, left_out = without_idle(
        path,
        [
            Candidate(name, point.where, asked[point.where], cell)
            for name, point, cell in zip(names, points, cells, strict=True)
        ],
    )
    content = [_content(one.cell) for one in candidates]
    again = [f" #{n}" for n in range(1, file.repeat + 1)] if file.repeat > 1 else [""]
    rounds = [(f"{one.name}{which}", one.cell) for which in again for one in candidates]
    wide = len(str(len(rounds)))
    found = [
        Planned(
            place=place,
            name=name,
            folder=f"{place + 1:0{wide}d}-{safe_name(cell.scenario.name)}",
            content=content[place % len(candidates)],
            cell=cell,
        )
        for place, (name, cell) in enumerate(rounds)
    ]
    return found, left_out


def chosen(cells: Sequence[Planned], patterns: Iterable[str]) -> list[Planned]:
    """Those whose names fit one of the patterns, whole or from their beginning; without patterns all.

    Raises:
        LookupError: A pattern fits none; names the nearest.
    """
    wanted = list(patterns)
    for pattern in wanted:
        if not any(_named(cell, pattern) for cell in cells):
            raise LookupError(f"--only {pattern!r} fits no cell; {nearest(pattern, _some(cells))}")
    return [cell for cell in cells if not wanted or any(_named(cell, pattern) for pattern in wanted)]


def _some(cells: Sequence[Planned]) -> list[str]:
    return list(dict.fromkeys(cell.name.partition(" ")[0] for cell in cells))


def _named(cell: Planned, pattern: str) -> bool:
    return fnmatchcase(cell.name, pattern) or fnmatchcase(cell.name, f"{pattern} *")


def _matrix(path: Path, file: SweepFile) -> Iterator[_Point]:
    matrix = file.matrix
    scenarios = _found(path, ".matrix.scenarios", matrix.scenarios)
    sets = [
        dict(zip(matrix.set, values, strict=True))
        for values in itertools.product(*(matrix.set[key] for key in matrix.set))
    ]
    stacks = [(stack, _engines(path, ".matrix.stacks", stack, matrix.engines)) for stack in matrix.stacks]
    pythons, bugs, seeds = matrix.sut_pythons, matrix.bugs, matrix.seeds
    for scenario in scenarios:
        for stack, engines in stacks:
            for rest in itertools.product(engines, pythons, bugs, sets, seeds):
                engine, python, bug, values, seed = rest
                yield _Point(scenario, stack, engine, seed, bug, python, values, where=MATRIX)


def _included(path: Path, file: SweepFile) -> Iterator[_Point]:
    for place, one in enumerate(file.include):
        where = _of(place)
        for scenario in _found(path, f"{where}.scenario", [one.scenario]):
            for engine in _engines(path, f"{where}.stack", one.stack, [one.engine]):
                yield _Point(scenario, one.stack, engine, one.seed, one.bug, one.sut_python, one.set, where)


def _of(include: int) -> str:
    return f".include[{include}]"


def _found(path: Path, where: str, names: Sequence[str]) -> list[Scenario]:
    """The scenarios, none twice: a family and one of it may both be named."""
    try:
        found = find([_beside(path, name) if name.endswith(".py") else name for name in names])
    except LookupError as error:
        raise wrong(path, where, str(error.args[0])) from error
    return list({one.name: one for one in found}.values())


def _engines(path: Path, where: str, stack: str, engines: Sequence[str]) -> list[str]:
    """Each by its name: so a cell keeps its name when a stack gets another first engine."""
    try:
        kind = find_stack(_stack(path, stack))
    except LookupError as error:
        raise wrong(path, where, str(error.args[0])) from error
    names = [one for name in engines for one in (kind.engines if name == "all" else [name or kind.engines[0]])]
    return list(dict.fromkeys(names))


def _cell(path: Path, point: _Point) -> Cell:
    try:
        return cell_of(
            point.scenario,
            _stack(path, point.stack),
            engine=point.engine,
            sut_python=_beside(path, point.sut_python) if point.sut_python else "",
            seed=point.seed,
            bug=point.bug,
            params=point.set,
        )
    except (LookupError, ValueError) as error:
        raise wrong(path, point.where, f"{_name(point)}: {error.args[0] if error.args else error}") from error
    except (TomlError, ContractError) as error:
        raise type(error)(f"{path}: {_name(point)}: {error}") from error


def _fits(point: _Point, exclude: Exclude) -> bool:
    texts = (
        (point.scenario.name, exclude.scenario),
        (point.stack, exclude.stack),
        (point.engine, exclude.engine),
        (point.bug, exclude.bug),
        (point.sut_python, exclude.sut_python),
    )
    return (
        all(fnmatchcase(text, pattern) for text, pattern in texts)
        and exclude.seed in (None, point.seed)
        and exclude.set.items() <= point.set.items()
    )


def _name(point: _Point) -> str:
    """Its scenario, stack and engine; of the rest what is not the default."""
    named = {"python": point.sut_python, "bug": point.bug, "seed": point.seed, **point.set}
    said = [f"{key}={_text(value)}" for key, value in named.items() if key in point.set or value]
    return " ".join([point.scenario.name, point.stack, point.engine, *said])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _without_secrets(names: list[str], cells: Sequence[Cell]) -> list[str]:
    redactor = Redactor()
    for cell in cells:
        redactor.learn_arguments([*cell.scenario.topology.frontend_args, *cell.scenario.topology.worker_args])
    return [redactor.text(name) for name in names]


def _content(cell: Cell) -> str:
    """A hash: what is to be run may hold secrets, and is only ever compared."""
    found = hashlib.sha256(msgspec.json.encode(cell, order="deterministic"))
    if cell.stack.endswith(".toml"):
        found.update(Path(cell.stack).read_bytes())
    return found.hexdigest()[:16]


def _refuse_twins(path: Path, names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        if name in names[:place]:
            raise wrong(path, MATRIX, f"{name!r} is there twice; repeat = 2 runs each cell twice")


def _stack(path: Path, stack: str) -> str:
    return _beside(path, stack) if stack.endswith(".toml") or "/" in stack else stack


def _beside(path: Path, name: str) -> str:
    """A path in the file is from the file's folder, wherever one is; ``~`` is one's home."""
    return str(path.parent / Path(name).expanduser())
