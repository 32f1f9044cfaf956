"""Where scenarios are found: those that ship with ftharness, and files of the user's."""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

import ftharness
from ftharness.scenario.scenario import Scenario
from ftharness.suggest import nearest


class ScenarioFileError(Exception):
    """A scenario file cannot be used; the message names the file, the line and what is wrong."""


def scenarios_folder() -> Path:
    """The folder of the scenarios that ship: in the wheel inside the package, in a checkout beside it."""
    package = Path(ftharness.__file__).parent
    inside = package / "scenarios"
    return inside if inside.is_dir() else package.parent / "scenarios"


def load_file(path: Path) -> list[Scenario]:
    """The scenarios of a Python file: every :class:`Scenario` at its top level, or in a list there.

    Raises:
        ScenarioFileError: It cannot be imported, or holds none.
    """
    name = f"ftharness_scenarios_{path.stem}_{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ScenarioFileError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ScenarioFileError(f"{_place(path, error)}: {type(error).__name__}: {error}") from error
    found: dict[str, Scenario] = {}
    for value in vars(module).values():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Scenario) and found.setdefault(item.name, item) != item:
                raise ScenarioFileError(f"{path}: two scenarios have the name {item.name!r}: only one would be run")
    if not found:
        raise ScenarioFileError(f"{path}: no Scenario at its top level")
    return list(found.values())


def _place(path: Path, error: BaseException) -> str:
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path.absolute():
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path}:{line}" if line else str(path)


def shipped() -> dict[str, Scenario]:
    """All scenarios that ship with ftharness, by name.

    Raises:
        ScenarioFileError: One of their files is broken.
    """
    files = sorted(scenarios_folder().glob("*.py"))
    return {scenario.name: scenario for file in files for scenario in load_file(file)}


def find(names: Iterable[str]) -> list[Scenario]:
    """The scenarios of these names; a name that ends in ``.py`` is a file, ``family/*`` is a whole family.

    Raises:
        LookupError: There is none of that name; names the nearest.
        ScenarioFileError: A file is broken.
    """
    known = shipped()
    found: list[Scenario] = []
    for name in names:
        if name.endswith(".py"):
            path = Path(name)
            if not path.is_file():
                raise LookupError(f"no scenario file {name}")
            found += load_file(path)
        elif name.endswith("/*"):
            family = [scenario for key, scenario in known.items() if key.startswith(name[:-1])]
            if not family:
                families = {f"{key.partition('/')[0]}/*" for key in known}
                raise LookupError(f"no scenarios {name!r}; {nearest(name, families)}")
            found += family
        elif name in known:
            found.append(known[name])
        else:
            raise LookupError(f"no scenario {name!r}; {nearest(name, known)}")
    return found
