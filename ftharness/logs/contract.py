"""A contract: the events of one backend in a range of versions, and the log lines and metrics that tell of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import re2
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from ftharness.logs.toml_file import TomlError, line_of, read_toml

SHIPPED = Path(__file__).parent / "contracts"


class ContractError(Exception):
    """A contract cannot be used; the message begins with ``FILE:LINE:``."""


class Pattern(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One form that a line can have.

    Attributes:
        literal: Bytes that stand in every such line, as the program writes them: this is what the log is searched for.
            Plain ASCII without quotes and backslashes, so that it stands in a JSON line just the same.
        regex: What the line must match, somewhere, once escapes are stripped and JSON is unwrapped (RE2's syntax). Its named
            groups are the event's captures. Empty: the literal is enough.
    """

    literal: str
    regex: str = ""


class EventSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event, and the lines that mean it."""

    name: str
    meaning: str
    pattern: list[Pattern]


class MetricSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A metric, by the name that the backend gives it; ``event`` is what it counts or shows."""

    event: str
    name: str
    meaning: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    backend: str
    versions: str = ""
    include: list[str] = []
    event: list[EventSpec] = []
    metric: list[MetricSpec] = []


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What the lines and metrics of one process mean.

    Attributes:
        backend: Whose.
        version: The version that runs.
        known: Whether the contract was written for it. Otherwise what it says may be missing, but not be wrong.
        events: By name.
        metrics: All of them.
        files: Where it was read from.
    """

    backend: str
    version: str
    known: bool
    events: Mapping[str, EventSpec]
    metrics: tuple[MetricSpec, ...]
    files: tuple[Path, ...]


def read_contract(path: Path, version: str = "") -> Contract:
    """The contract in a file, with those of the shipped ones that it includes.

    Raises:
        ContractError: The file is wrong: not TOML, an unknown key, a bad regular expression, a bad literal, …; says where.
    """
    file = _read(path)
    events: dict[str, EventSpec] = {}
    metrics: list[MetricSpec] = []
    files: list[Path] = []
    for name in file.include:
        other = SHIPPED / f"{name}.toml"
        if not other.is_file():
            known = ", ".join(sorted(shipped.stem for shipped in SHIPPED.glob("*.toml")))
            line = line_of(path.read_text(encoding="utf-8"), ".include")
            raise ContractError(f"{path}:{line}: there is no shipped contract {name!r}; there are {known}")
        included = read_contract(other)
        _merge(events, included.events.values())
        metrics += included.metrics
        files += included.files
    _merge(events, file.event)
    return Contract(
        backend=file.backend,
        version=version,
        known=_covers(file.versions, version),
        events=events,
        metrics=(*metrics, *file.metric),
        files=(*files, path),
    )


@cache
def load_contract(backend: str, version: str) -> Contract:
    """The shipped contract of a backend for a version; the one for the nearest versions, not ``known``, where none fits.

    Raises:
        ContractError: There is none of that backend.
    """
    candidates = [read_contract(path, version) for path in sorted(SHIPPED.glob(f"{backend}*.toml"))]
    own = [contract for contract in candidates if contract.backend == backend]
    if not own:
        known = ", ".join(sorted({path.stem for path in SHIPPED.glob("*.toml")}))
        raise ContractError(f"there is no contract for {backend!r}; there are {known}")
    fitting = [contract for contract in own if contract.known]
    # Files of one backend are named in the order of their versions; what comes after the last is most like the last.
    return fitting[-1] if fitting else own[-1]


@cache
def shipped_events() -> frozenset[str]:
    """The names of all events that any shipped contract has."""
    return frozenset(event.name for path in SHIPPED.glob("*.toml") for event in _read(path).event)


def _read(path: Path) -> _File:
    try:
        file = read_toml(path, _File)
    except TomlError as error:
        raise ContractError(str(error)) from error
    text = path.read_text(encoding="utf-8")

    def wrong(where: str, what: str) -> ContractError:
        return ContractError(f"{path}:{line_of(text, where)}: {what}")

    try:
        SpecifierSet(file.versions)
    except InvalidSpecifier as error:
        raise wrong(".versions", f"{error}; versions are given as in requirements: '>=1.4,<1.6'") from error
    for i, event in enumerate(file.event):
        if not event.pattern:
            raise wrong(f".event[{i}].pattern", f"event {event.name!r} has no pattern")
        for j, pattern in enumerate(event.pattern):
            where = f".event[{i}].pattern[{j}]"
            bad = next((c for c in pattern.literal if not " " <= c <= "~" or c in '"\\'), "")
            if bad or not pattern.literal:
                raise wrong(
                    f"{where}.literal", f"literal {pattern.literal!r}: printable ASCII without quotes or backslashes"
                )
            try:
                re2.compile(pattern.regex.encode(), _quiet())
            except re2.error as error:
                said = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
                raise wrong(f"{where}.regex", f"bad regular expression {pattern.regex!r}: {said}") from error
    return file


def _quiet() -> re2.Options:
    options = re2.Options()
    options.log_errors = False  # they are ours to tell
    return options


def _merge(events: dict[str, EventSpec], more: Iterable[EventSpec]) -> None:
    for event in more:
        known = events.get(event.name)
        patterns = [*(known.pattern if known else ()), *event.pattern]
        events[event.name] = EventSpec(event.name, event.meaning, patterns)


def _covers(versions: str, version: str) -> bool:
    if not versions:
        return True
    try:
        return SpecifierSet(versions).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False
