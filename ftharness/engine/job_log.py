"""A job's log: one line an event, ``[job] EVENT key=value …``, and what the libraries say by logging.

The contract ``job`` reads it. Ids are told as ranges. What may have spaces in it stands last.
"""

import logging
import os
import sys
from collections.abc import Iterable

from ftharness.id_ranges import ranges

_STDOUT = 1


def say(event: str, **fields: object) -> None:
    """Write a line, in one call: several processes share the pipe, and a line of one is not to stand in another's."""
    said = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
    os.write(_STDOUT, f"[job] {event} {said}\n".encode())


def speak_by_logging() -> None:
    """What libraries say by logging goes into the same log: their warnings and errors are evidence as well."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", force=True)


def ids_of(items: Iterable[int]) -> list[str]:
    """What the items are called in checkpoints and in lines."""
    return [str(item) for item in items]


def _shown(value: object) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        return ranges(value)
    if isinstance(value, float):
        return f"{value:g}"
    return " | ".join(str(value).splitlines())
