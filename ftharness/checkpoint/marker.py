"""The marker beside a checkpoint: what says that it is committed, and which bytes are.

``batch_00000.pt.done`` holds the seal of ``batch_00000.pt``. While a checkpoint that is there already is replaced by another,
it holds both seals: whichever file a crash leaves under the name, it is a committed one.
"""

import json
from pathlib import Path
from typing import Any, BinaryIO

from ftharness.checkpoint.seal import Seal

SUFFIX = ".done"


def marker_of(checkpoint: Path) -> Path:
    """Where the marker of a checkpoint is."""
    return checkpoint.with_name(checkpoint.name + SUFFIX)


def write(seals: list[Seal], stream: BinaryIO) -> None:
    """Write a marker: the seal of what is there, and of what is about to be there as well."""
    now, *others = (_said(seal) for seal in seals)
    stream.write(json.dumps(now | ({"or": others} if others else {})).encode() + b"\n")


def parse(text: bytes) -> list[Seal]:
    """The seals in a marker; none where it is empty, cut or something else."""
    try:
        said = json.loads(text)
        return [_seal(one) for one in (said, *said.get("or", []))]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _said(seal: Seal) -> dict[str, Any]:
    return {"size": seal.size, "crc32": f"{seal.checksum:08x}"}


def _seal(said: dict[str, Any]) -> Seal:
    return Seal(int(said["size"]), int(said["crc32"], 16))
