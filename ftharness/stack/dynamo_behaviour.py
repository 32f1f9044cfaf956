"""What a release of Dynamo is documented to do, where releases differ: read from ``dynamo_behaviour.toml``."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from ftharness.logs import read_toml

_FILE = Path(__file__).with_suffix(".toml")


class _Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stack: str
    versions: str
    behaviour: dict[str, bool | int]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    release: list[_Release] = []


def documented(stack: str, version: str) -> Mapping[str, Any]:
    """The behaviour of a version on a stack; nothing where none is documented."""
    for release in _releases():
        if release.stack == stack and SpecifierSet(release.versions).contains(Version(version), prereleases=True):
            return release.behaviour
    return {}


def known_behaviours() -> set[str]:
    """The names of all that is documented of any stack that ships."""
    return {name for release in _releases() for name in release.behaviour}


@cache
def _releases() -> list[_Release]:
    return read_toml(_FILE, _File).release
