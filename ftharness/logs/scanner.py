"""The scan: bytes in as they are read, events out, whatever way the bytes were split.

The buffer is searched for one literal per pattern, all at once, by RE2; only lines that hit are looked at closely.
That is three times as fast as any way that looks at each line.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import re2

from ftharness.logs.contract import Contract
from ftharness.logs.line import unwrap

#: Bytes of a line that are stored with its event.
KEPT = 4096
#: A line longer than this is scanned in pieces of this size; bytes.
LONGEST = 16 << 20


class Match(NamedTuple):
    """A line that means something.

    Attributes:
        event: What.
        captures: The named groups of its pattern.
        line: The line, without escapes, cut to 4,096 bytes.
        t: CLOCK_MONOTONIC (ns) of the read that completed it.
    """

    event: str
    captures: dict[str, str]
    line: str
    t: int


class _Form(NamedTuple):
    event: str
    literal: bytes
    regex: Any  # of re2, which has no types; None where the literal is enough
    groups: tuple[tuple[str, int], ...]  # name and number; a match of re2 asks its regex for them each time


class _Tables(NamedTuple):
    forms: list[_Form]
    literals: Any
    near: dict[bytes, tuple[_Form, ...]]  # per literal: the forms that a line may match in which it was found


@lru_cache(maxsize=16)
def _tables(key: tuple[tuple[str, str, str], ...]) -> _Tables:
    forms = [_form(*pattern) for pattern in key]
    literals = sorted({form.literal for form in forms}, key=len, reverse=True)
    return _Tables(
        forms,
        re2.compile(b"|".join(re2.escape(literal) for literal in literals)) if literals else None,
        {one: tuple(form for form in forms if _can_overlap(one, form.literal)) for one in literals},
    )


def _form(event: str, literal: str, regex: str) -> _Form:
    compiled = re2.compile(regex.encode()) if regex else None
    groups = tuple((name.decode(), number) for name, number in compiled.groupindex.items()) if compiled else ()
    return _Form(event, literal.encode(), compiled, groups)


def _can_overlap(one: bytes, other: bytes) -> bool:
    """Whether two literals can share bytes of a line: then a search that finds the one may step over the other."""
    return one in other or other in one or _ends_as_begins(one, other) or _ends_as_begins(other, one)


def _ends_as_begins(one: bytes, other: bytes) -> bool:
    return any(one.endswith(other[:size]) for size in range(1, len(other)))


class Scanner:
    """Finds a contract's events in one process's output.

    A line means every event of which it matches a pattern, in the contract's order.
    """

    def __init__(self, contract: Contract) -> None:
        key = tuple((e.name, p.literal, p.regex) for e in contract.events.values() for p in e.pattern)
        self._tables = _tables(key)
        self._parts: list[bytes] = []  # of the line that is not complete
        self._size = 0

    def feed(self, data: bytes, at: int) -> Iterator[Match]:
        """The events of the lines that ``data``, read at ``at`` (CLOCK_MONOTONIC, ns), completes.

        All of ``data`` is taken before the first event comes.
        """
        self._parts.append(data)
        self._size += len(data)
        if b"\n" not in data and self._size < LONGEST:
            return iter(())
        block, found, start = b"".join(self._parts), [], 0
        while True:
            # As many whole lines as fit; else a piece of one. What is cut depends on where lines begin, not on the reads.
            end = block.rfind(b"\n", start, start + LONGEST) + 1
            if not end and len(block) - start < LONGEST:
                break
            end = end or start + LONGEST
            found += self._scan(block, start, end, at)
            start = end
        rest = block[start:]
        self._parts, self._size = [rest] if rest else [], len(rest)
        return iter(found)

    def end(self, at: int) -> Iterator[Match]:
        """The events of a last line that has no end."""
        block, self._parts, self._size = b"".join(self._parts), [], 0
        return iter(self._scan(block, 0, len(block), at))

    def _scan(self, block: bytes, start: int, end: int, at: int) -> list[Match]:
        """The events of the lines between two places of a block, the first of which begins a line."""
        if self._tables.literals is None:
            return []
        lines: list[tuple[int, int, tuple[_Form, ...]]] = []
        line_end = start
        for hit in self._tables.literals.finditer(block, start, end):
            first, last = hit.span()
            forms = self._tables.near[block[first:last]]
            if first < line_end:  # another one in the same line
                begin, _, others = lines[-1]
                lines[-1] = (begin, line_end, self._both(others, forms))
                continue
            begin = block.rfind(b"\n", start, first) + 1 or start
            line_end = block.find(b"\n", last, end)
            line_end = end if line_end < 0 else line_end
            lines.append((begin, line_end, forms))
        found: list[Match] = []
        for begin, line_end, forms in lines:
            self._look(block[begin:line_end], forms, at, found)
        return found

    def _both(self, some: tuple[_Form, ...], others: tuple[_Form, ...]) -> tuple[_Form, ...]:
        """Both, in the contract's order."""
        return tuple(form for form in self._tables.forms if form in some or form in others)

    def _look(self, raw: bytes, forms: tuple[_Form, ...], at: int, found: list[Match]) -> None:
        """Look closely at a line; what it means is added to ``found``."""
        # A progress bar rewrites its line: what stands between two carriage returns is a line to its reader.
        for part in raw.split(b"\r") if b"\r" in raw else (raw,):
            line, done = b"", set()
            for event, literal, regex, groups in forms:
                if literal not in part or event in done:
                    continue
                line = line or unwrap(part)
                captures: dict[str, str] = {}
                if regex is not None:
                    match = regex.search(line)
                    if match is None:
                        continue
                    captures = {name: held for name, number in groups if (held := _text(match[number]))}
                done.add(event)
                found.append(Match(event, captures, line[:KEPT].decode(errors="replace"), at))


def _text(held: bytes | None) -> str:
    return held.decode(errors="replace")[:KEPT] if held else ""
