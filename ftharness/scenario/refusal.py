"""Why a scenario's data was refused, with what would have been taken."""

import re
from typing import Any

import msgspec
import msgspec.inspect as shapes

from ftharness.suggest import nearest

_ENUM = re.compile(r"Invalid enum value '(?P<value>.*)'(?: - at `\$(?P<path>.*)`)?$")


def explained(error: Exception, kind: Any) -> str:
    """The error's own words; where a name is none of those that its field takes, which these are, and the nearest.

    Args:
        error: Of msgspec, or any other.
        kind: The type that the data was to be.
    """
    said = str(error)
    found = _ENUM.match(said) if isinstance(error, msgspec.ValidationError) else None
    names = _names_at(shapes.type_info(kind), re.findall(r"\w+", found["path"] or "")) if found else []
    if found is None or not names:
        return said
    field = (found["path"] or "").lstrip(".")
    what = f"{field} = {found['value']!r}" if field else repr(found["value"])
    near = nearest(found["value"], names)
    meant = "" if near.startswith("there are") else f"; {near}"
    return f"{what}: must be one of {', '.join(names)}{meant}"


def _names_at(shape: Any, path: list[str]) -> list[str]:
    """The names that the field at the end of ``path`` takes."""
    if isinstance(shape, shapes.UnionType):
        return [name for one in shape.types for name in _names_at(one, path)]
    if isinstance(shape, shapes.LiteralType):
        return [str(value) for value in shape.values if value != ""] if not path else []  # "" is that it is not given
    if isinstance(shape, shapes.ListType):
        # In a message a list's place is `[...]`, which leaves nothing in the path.
        return _names_at(shape.item_type, path)
    if isinstance(shape, shapes.StructType) and path:
        return [name for one in shape.fields if one.encode_name == path[0] for name in _names_at(one.type, path[1:])]
    return []
