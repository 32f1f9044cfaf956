"""What in a folder is a run's of ours, where no plan of a sweep says so: to begin anew costs nobody else a file."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ftharness.report import RunError, read_run
from ftharness.scenario.record import CELL_FILE
from ftharness.scenario.runner import Cell

# As sessions and sweeps name the folders of several scenarios.
_OF_A_CELL = re.compile(r"\d+-[A-Za-z0-9._-]+")


def cells_of(root: Path) -> list[Path]:
    """The folders of its scenarios, right below ``root``: so named, and in the report or with a scenario of ours in them."""
    try:
        reported = {record.path for record in read_run(root).scenarios}
    except RunError:
        reported = set()
    return [path for path in _so_named(root) if path.name in reported or _holds_cell(path)]


def has_report(root: Path) -> bool:
    """Whether its ``run.json`` is one of ours, of scenarios that each have a folder right below."""
    try:
        return all(_OF_A_CELL.fullmatch(record.path) for record in read_run(root).scenarios)
    except RunError:
        return False


def _so_named(root: Path) -> Iterator[Path]:
    if root.is_dir():
        for path in sorted(root.iterdir()):
            if _OF_A_CELL.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                yield path


def _holds_cell(path: Path) -> bool:
    try:
        msgspec.json.decode((path / CELL_FILE).read_bytes(), type=Cell)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True
