"""Secrets kept out of what a run stores: in environments, in arguments, and in whatever a program prints."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import re2

MASK = "***"
_SHORTEST = 6
# Longer values than this are no secrets but files; a bound is needed to redact a stream in pieces.
_LONGEST = 4096
_SEGMENT = 64 * 1024
# Bounded repeats make large automata: with RE2's own limit, 8 MiB, it says so on our standard error, and is slower.
_MEMORY = 256 << 20

_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:token|secret|password|passwd|passphrase|credentials?|api[_-]?key|access[_-]?key|private[_-]?key|key)$",
    re.IGNORECASE,
)
# What the usual secrets look like, wherever they stand. Each is bounded, see _LONGEST.
_SHAPES = (
    r"\bhf_[A-Za-z0-9]{20,200}",
    r"\bsk-[A-Za-z0-9_-]{16,200}",
    r"\bnvapi-[A-Za-z0-9_-]{20,200}",
    r"\bgh[pousr]_[A-Za-z0-9]{20,255}",
    r"\bAKIA[0-9A-Z]{16}\b",
    r"\beyJ[A-Za-z0-9_-]{10,1000}\.[A-Za-z0-9_-]{10,1000}\.[A-Za-z0-9_-]{5,1000}",
    r"(?i:\bbearer )[A-Za-z0-9._~+/-]{8,1000}",
)


class Redactor:
    """Knows the run's secrets, and replaces them by ``***``.

    A value counts as secret by the name that it has in an environment or among arguments (``HF_TOKEN``, ``--api-key``), or
    by its shape.

    Args:
        environment: Where to learn values from first; the harness's own.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._values: set[str] = set()
        self._compiled: Any = None  # of re2, which has no types
        self.learn_environment(os.environ if environment is None else environment)

    def learn_environment(self, environment: Mapping[str, str]) -> None:
        """Take over the values of variables with a secret's name."""
        self._learn(value for name, value in environment.items() if _SECRET_NAME.search(name))

    def learn_arguments(self, argv: Sequence[str]) -> None:
        """Take over the values of options with a secret's name: ``--api-key VALUE``, ``--api-key=VALUE``."""
        found = []
        for argument, following in pairwise([*argv, ""]):
            name, has_value, value = argument.partition("=")
            if name.startswith("-") and _SECRET_NAME.search(name):
                found.append(value if has_value else following)
        self._learn(found)

    def _learn(self, values: Iterable[str]) -> None:
        # A stream is redacted line by line, and so is what a private key of several lines holds.
        lines = (line.strip() for value in values for line in value.splitlines())
        new = {v for v in lines if _SHORTEST <= len(v) <= _LONGEST and not v.isdigit() and not v.startswith("-")}
        if new - self._values:
            self._values |= new
            self._compiled = None

    @property
    def _pattern(self) -> Any:
        # Made when it is first needed, which is while the stack starts: the bounds of the shapes cost 50 ms.
        if self._compiled is None:
            known = sorted((re.escape(value).encode() for value in self._values), key=len, reverse=True)
            options = re2.Options()
            options.max_mem = _MEMORY
            options.log_errors = False
            self._compiled = re2.compile(b"|".join([*known, *(shape.encode() for shape in _SHAPES)]), options)
        return self._compiled

    def data(self, data: bytes) -> bytes:
        """``data`` without secrets. One that is cut off at an end of it is not seen: see :class:`RedactedStream`."""
        if self._pattern.search(data) is None:
            return data
        return b"".join(self._pieces(data, len(data)))

    def text(self, text: str) -> str:
        """``text`` without secrets."""
        raw = text.encode("utf-8", "surrogatepass")
        return text if self._pattern.search(raw) is None else self.data(raw).decode("utf-8", "surrogatepass")

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The same arguments without secrets; what they hold is learned."""
        self.learn_arguments(argv)
        return [self.text(argument) for argument in argv]

    def cut(self, data: bytes, at: int) -> tuple[bytes, int]:
        """The first ``at`` bytes without secrets, and where the rest begins: behind a secret that ``at`` would split."""
        end = at
        for match in self._pattern.finditer(data):
            if match.start() < at < match.end():
                end = match.end()
        return b"".join(self._pieces(data[:end], end)), end

    def _pieces(self, data: bytes, end: int) -> Iterable[bytes]:
        done = 0
        for match in self._pattern.finditer(data):
            yield data[done : match.start()]
            yield b"Bearer ***" if match.group()[:7].lower() == b"bearer " else MASK.encode()
            done = match.end()
        yield data[done:end]


class RedactedStream:
    """Redacts bytes that come in pieces: the result is the same however they were split.

    What is not yet a whole line is held back; of a line longer than 64 KiB all but its last 4 KiB is let go.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = bytearray()

    def feed(self, data: bytes) -> bytes:
        """What is certain by now."""
        self._held += data
        out: list[bytes] = []
        end = self._held.rfind(b"\n") + 1
        if end and not self._too_long(end):
            out.append(self._redactor.data(bytes(self._held[:end])))
            del self._held[:end]
        if len(self._held) >= _SEGMENT:
            out += self._long_lines()
        return b"".join(out)

    def peek(self) -> bytes:
        """What is held back, without the secrets that are whole by now."""
        return self._redactor.data(bytes(self._held))

    def end(self) -> bytes:
        """What was held back, when no more comes."""
        held, self._held = bytes(self._held), bytearray()
        return self._redactor.data(held)

    def _too_long(self, end: int) -> bool:
        """Whether one of the lines in the first ``end`` bytes is to be cut; decided by what they hold, not how they came."""
        start = 0
        while end - start > _SEGMENT:
            following = self._held.rfind(b"\n", start, start + _SEGMENT) + 1
            if not following:
                return True
            start = following
        return False

    def _long_lines(self) -> Iterable[bytes]:
        held = bytes(self._held)
        start = 0
        while True:
            newline = held.find(b"\n", start, start + _SEGMENT) + 1
            if newline:
                yield self._redactor.data(held[start:newline])
                start = newline
            elif len(held) - start >= _SEGMENT:
                out, end = self._redactor.cut(held[start : start + _SEGMENT], _SEGMENT - _LONGEST)
                yield out
                start += end
            else:
                break
        self._held = bytearray(held[start:])
