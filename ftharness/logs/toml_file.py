"""TOML files of users: read into a type, with the file and the line in every error."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from ftharness.suggest import nearest

T = TypeVar("T")

_SYNTAX_PLACE = re.compile(r"\(at line (\d+), column \d+\)")
_STEP = re.compile(r"\.?([A-Za-z_][\w-]*)|\[(\d+)\]")
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
_NAMED = re.compile(r"([a-z_]+(?:\[\d+\]\.[a-z_]+)?) = ")


class TomlError(Exception):
    """A TOML file is wrong; the message begins with ``FILE:LINE:``."""


def read_toml(path: Path, kind: type[T]) -> T:
    """The file's content as ``kind``.

    Raises:
        TomlError: It cannot be read, is not TOML, or does not fit ``kind``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TomlError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TomlError(f"{path}: cannot be read: {error}") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _SYNTAX_PLACE.search(str(error))
        line = int(place[1]) if place else len(text.splitlines())
        raise TomlError(f"{path}:{line}: not TOML: {error}") from error
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        unknown = _UNKNOWN.search(what)
        if unknown:
            where = f"{where.rstrip('`')}.{unknown[1]}"
        where = where.rstrip("`")
        near = _nearest(kind, where) if unknown else ""
        # What a type says of itself begins with the key that it is about, where it is about one.
        named = _NAMED.match(what)
        line = line_of(text, f"{where}.{named[1]}" if named else where)
        raise TomlError(f"{path}:{line}: {_plainly(what, where)}{near}{_choices(kind, where)}") from error


def line_of(text: str, where: str) -> int:
    """The line, from 1, of a place such as ``.event[3].pattern[0].regex``; of what holds it, where it is missing itself.

    Understands the usual layout: tables as ``[a.b]`` or ``[[a.b]]`` and keys at the start of their line.
    """
    lines = text.splitlines()
    steps = [(name, int(number) if number else None) for name, number in _STEP.findall(where)]
    at, table = 0, ""
    for place, (name, _) in enumerate(steps):
        if not name:
            continue
        index = steps[place + 1][1] if place + 1 < len(steps) else None
        path = f"{table}.{name}" if table else name
        header = re.compile(rf"\s*\[\[?\s*{re.escape(path)}\s*\]\]?\s*(#.*)?$")
        heads = [n for n in range(at, len(lines)) if header.match(lines[n])]
        if heads and (index is None or index < len(heads)):
            at, table = heads[index or 0], path
            continue
        key = re.compile(rf'\s*(?:{re.escape(path)}|"?{re.escape(name)}"?)\s*=|.*[{{,]\s*"?{re.escape(name)}"?\s*=')
        at = next((n for n in range(at, len(lines)) if key.match(lines[n])), at)
        table = path
    return at + 1


def _choices(kind: Any, where: str) -> str:
    """Where only some words may stand in a place: ``; it is one of …``."""
    kind = _kind_at(kind, _STEP.findall(where))
    return f"; it is one of {', '.join(map(repr, get_args(kind)))}" if get_origin(kind) is Literal else ""


def _nearest(kind: Any, where: str) -> str:
    """Of a key that there is not: which one may have been meant."""
    *path, (name, _) = _STEP.findall(where)
    known = _keys(_kind_at(kind, path))
    return f"; {nearest(name, known)}" if known else ""


def _kind_at(kind: Any, steps: Sequence[tuple[str, str]]) -> Any:
    """What is to stand in a place of a ``kind``; None where it has no such place."""
    for name, _ in steps:
        kind = _keys(kind).get(name) if name else [kind, *get_args(kind)][-1]
    return kind


def _keys(kind: Any) -> dict[str, Any]:
    """The keys of a table, with the type of each; none where it is no table."""
    inner = [kind, *get_args(kind)]  # itself, or what it is a list or a choice of
    struct = next((one for one in inner if isinstance(one, type) and issubclass(one, msgspec.Struct)), None)
    return {field.encode_name: field.type for field in msgspec.structs.fields(struct)} if struct else {}


def _plainly(what: str, where: str) -> str:
    unknown = _UNKNOWN.search(what)
    if unknown:
        return f"unknown key {unknown[1]!r}"
    return f"{what} at {where.lstrip('.')}" if where else what
