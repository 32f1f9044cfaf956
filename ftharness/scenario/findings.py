"""Known findings, as data: where a released system falls short, on which versions that was seen, and by which failures it shows.

One file each in ``findings/``, whose name is the finding's. ``docs/findings.md`` tells of them.
"""

import re
from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from ftharness.logs import TomlError, read_toml
from ftharness.logs.toml_file import line_of
from ftharness.registry import installed
from ftharness.scenario.library import find
from ftharness.stack import find_stack
from ftharness.suggest import nearest

SHIPPED = Path(__file__).parent / "findings"
#: Where a person reads more; each finding has a heading of its name there.
PAGE = "docs/findings.md"

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SEEN = re.compile(r"([1-9]\d*) of ([1-9]\d*)")
# Without one of these a range has no end, and a version that nobody has tried would be in it.
_ENDS = ("==", "<=", "<")
# Every letter and figure, in words that no oracle says: what is found in it would be found in far too much.
_SAID_BY_NONE = "sphinx of black quartz, judge my vow 1234567890"
_LETTERS = 4


class Shows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A failure by which a finding shows.

    Attributes:
        oracle: Whose, by its name.
        reason: A regular expression that is found somewhere in what the oracle says.
        of: Of what names its process, such as a leak, whose it has to be: ``hit``, of one that a fault hit, itself or its engine;
            ``shown``, of one that was hit and by which the finding shows as well in a clause that says ``hit``; ``any``, of
            whichever.
            Without a fault only ``any`` explains something.
    """

    oracle: str
    reason: str
    of: Literal["hit", "shown", "any"] = "hit"


class KnownFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding.

    Attributes:
        id: Its name, the file's.
        title: In one line, without a full stop.
        what: What was seen, in sentences.
        stacks: On which stacks it was seen, by their names.
        engines: With which engines; none: with whichever.
        versions: On which versions of the system under test, as in requirements. With an end: a newer one is never presumed to
            have it.
        scenarios: Which scenarios show it, by name; ``family/*`` are all of one.
        shows: The failures that it explains. Of an oracle that cannot tell, because of it, too.
        seen: How often of how many tries: ``6 of 9``.
        since: The day on which it was first seen.
        command: What reproduces it; "" is to replay what lies in ``docs/findings/<id>``.
    """

    id: str
    title: str
    what: str
    stacks: tuple[str, ...]
    engines: tuple[str, ...] = ()
    versions: str
    scenarios: tuple[str, ...]
    shows: tuple[Shows, ...]
    seen: str
    since: date
    command: str = ""

    @property
    def always(self) -> bool:
        """Whether every try has shown it."""
        count, tries = self.seen.split(" of ")
        return count == tries

    @property
    def reproduction(self) -> str:
        """The command that shows it."""
        return self.command or f"ftharness replay {PAGE.removesuffix('.md')}/{self.id}"

    @property
    def page(self) -> str:
        """Where a person reads more."""
        return f"{PAGE}#{self.id}"

    def of(self, stack: str, engine: str, scenario: str) -> bool:
        """Whether it was seen there, on whichever version."""
        named = any(scenario == one or (one.endswith("/*") and scenario.startswith(one[:-1])) for one in self.scenarios)
        return named and stack in self.stacks and (not self.engines or engine in self.engines)

    def covers(self, version: str) -> bool:
        """Whether this version is one of those on which it was seen."""
        try:
            return SpecifierSet(self.versions).contains(Version(version), prereleases=True)
        except InvalidVersion:
            return False

    def is_before(self, version: str) -> bool:
        """Whether this version is later than all of those on which it was seen."""
        try:
            public = Version(Version(version).public)
            return not self.covers(version) and all(
                public >= _named(one.version) for one in SpecifierSet(self.versions)
            )
        except InvalidVersion:
            return False


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    what: str
    stack: str | list[str]
    versions: str
    scenarios: list[str]
    shows: list[Shows]
    seen: str
    since: date
    engine: str | list[str] = []
    reproduction: str = ""


def known_findings() -> tuple[KnownFinding, ...]:
    """Those that ship, by their names.

    Raises:
        TomlError: A file is wrong; says where.
    """
    return _read_all(SHIPPED)


@cache
def _read_all(folder: Path) -> tuple[KnownFinding, ...]:
    return tuple(read_finding(path) for path in sorted(folder.glob("*.toml")))


def read_finding(path: Path) -> KnownFinding:
    """The finding in a file.

    Raises:
        TomlError: The file is wrong: not TOML, an unknown key, versions without an end, a bad regular expression, …; says where.
    """
    file = read_toml(path, _File)
    for where, problem in _problems(path.stem, file):
        raise TomlError(f"{path}:{line_of(path.read_text(encoding='utf-8'), where)}: {problem}")
    return KnownFinding(
        id=path.stem,
        title=file.title,
        what=file.what.strip(),
        stacks=_several(file.stack),
        engines=_several(file.engine),
        versions=file.versions,
        scenarios=tuple(file.scenarios),
        shows=tuple(file.shows),
        seen=file.seen,
        since=file.since,
        command=file.reproduction,
    )


def _problems(name: str, file: _File) -> Iterator[tuple[str, str]]:
    """What is wrong by itself, and where."""
    if not _NAME.fullmatch(name):
        yield "", f"a finding's file has a name of small letters, figures and hyphens, not {name!r}"
    for key in ("title", "what", "stack", "scenarios", "shows"):
        if not getattr(file, key):
            yield f".{key}", f"{key} is empty"
    try:
        specifiers = SpecifierSet(file.versions)
    except InvalidSpecifier as error:
        yield ".versions", f"{error}; versions are given as in requirements: '>=1.4,<=1.6.1'"
    else:
        if not any(one.operator in _ENDS for one in specifiers):
            yield (
                ".versions",
                f"versions = {file.versions!r} has no end: a newer version is never presumed to have it; add '<=VERSION'",
            )
    tries = _SEEN.fullmatch(file.seen)
    if not tries or int(tries[1]) > int(tries[2]):
        yield ".seen", f"seen = {file.seen!r}: is how often of how many tries, such as '6 of 9'"
    if file.reproduction and not file.reproduction.startswith("ftharness "):
        yield ".reproduction", f"reproduction = {file.reproduction!r}: is a command of ftharness"
    for place, one in enumerate(file.shows):
        where = f".shows[{place}].reason"
        try:
            # What is found in nothing is found in every reason, and would explain failures that nobody has seen yet.
            if re.search(one.reason, ""):
                yield where, f"the reason {one.reason!r} explains everything: name what the oracle says"
            elif re.search(one.reason, _SAID_BY_NONE) or len(re.findall(r"\w", one.reason)) < _LETTERS:
                yield where, f"the reason {one.reason!r} explains too much: name what the oracle says, in whole words"
        except re.error as error:
            yield where, f"bad regular expression {one.reason!r}: {error}"


def strangers(finding: KnownFinding) -> list[str]:
    """What it names and is not there: oracles, scenarios, stacks, engines; each with the nearest name."""
    said = [
        f"no oracle {one.oracle!r}; {nearest(one.oracle, known)}"
        for known in [installed("ftharness.oracles")]
        for one in finding.shows
        if one.oracle not in known
    ]
    for name in finding.scenarios:
        try:
            find([name])
        except LookupError as error:
            said.append(str(error.args[0]))
    engines: set[str] = set()
    for name in finding.stacks:
        try:
            engines.update(find_stack(name).engines)
        except LookupError as error:
            said.append(str(error.args[0]))
    if engines:
        said += [f"no engine {one!r}; {nearest(one, engines)}" for one in finding.engines if one not in engines]
    return said


def _several(given: str | list[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _named(version: str) -> Version:
    """The version that a specifier names, without ``.*``."""
    return Version(version.removesuffix(".*"))
