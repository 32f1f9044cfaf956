"""What an engine's log says when its device, its driver or its collective communication has failed, and what to do then.

The lines are data: ``engine_errors.toml``. PyTorch, CUDA, NCCL and the driver print them, whichever engine is above.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import re2

from ftharness.logs import read_toml

_FILE = Path(__file__).with_name("engine_errors.toml")
#: What is looked at of one line: such errors stand at its beginning, or behind a short prefix.
_LONGEST = 4096
#: Where engines begin to repeat what they were asked: vLLM's ``prompt: '…'``, SGLang's ``obj=GenerateReqInput(text=…)``.
_REQUEST = re.compile(
    r"\bprompt(?:_text)?\b['\"]?\s*[:= ]\s*['\"]|\bmessages['\"]?\s*[:=]\s*\[|GenerateReqInput\(|\bReceived request\b"
)


class EngineError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of error.

    Attributes:
        name: For metrics and logs: a word.
        remediation: What to do, a sentence for people.
        patterns: What its lines look like: RE2's syntax, found anywhere in the line.
    """

    name: str
    remediation: str
    patterns: list[str]


class _Errors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    error: list[EngineError]


def known_errors() -> list[EngineError]:
    """All kinds, the most particular first: of a line that several fit, the first is meant."""
    return _known()[0]


def recognise(line: str) -> EngineError | None:
    """The error that a line of an engine's log tells of; None: none that is known."""
    errors, any_of = _known()
    if any_of.search(_looked_at(line)) is None:  # nearly every line: one look for all patterns
        return None
    text = _looked_at(_without_requests(line))
    return next((error for error, pattern in zip(errors, _patterns(), strict=True) if pattern.search(text)), None)


def _looked_at(line: str) -> bytes:
    return line[:_LONGEST].encode("utf-8", "replace")


def _without_requests(line: str) -> str:
    """The line as far as no request of a client's stands in it: servers log what they are asked, which may be about anything."""
    found = _REQUEST.search(line)
    return line if found is None else line[: found.start()]


@cache
def _known() -> tuple[list[EngineError], Any]:
    errors = read_toml(_FILE, _Errors).error
    return errors, re2.compile("|".join(f"(?:{pattern})" for one in errors for pattern in one.patterns))


@cache
def _patterns() -> list[Any]:
    return [re2.compile("|".join(f"(?:{pattern})" for pattern in one.patterns)) for one in _known()[0]]
