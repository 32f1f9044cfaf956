"""How an answer differs from the right one: what of it was lost, duplicated or altered, and where that begins."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from difflib import Match, SequenceMatcher
from typing import NamedTuple, TypeVar

Token = TypeVar("Token", bound=Hashable)

# Equal tokens in a row that chance does not bring about, of a vocabulary of 8,192.
_RUN = 4


class Differences(NamedTuple):
    """Counts of tokens; ``first_wrong`` is the place of the first difference, from 0, or None."""

    expected: int
    received: int
    lost: int
    duplicated: int
    altered: int
    first_wrong: int | None

    @property
    def said(self) -> str:
        """What became of them, for a person."""
        return (
            f"of {self.expected} tokens {self.lost} lost, {self.duplicated} duplicated, {self.altered} altered;"
            f" the first at token {(self.first_wrong or 0) + 1}"
        )


def differences(expected: Sequence[Token], received: Sequence[Token]) -> Differences:
    """Of two answers, token by token."""
    wrong = first_difference(expected, received)
    if wrong is None:
        return Differences(len(expected), len(received), 0, 0, 0, None)
    return _sorted_out(expected, received, wrong)


def first_difference(expected: Sequence[Token], received: Sequence[Token]) -> int | None:
    """The place, from 0, of the first token that is another, or that only one of the two has; None where they are equal."""
    wrong = next((i for i, (a, b) in enumerate(zip(expected, received, strict=False)) if a != b), None)
    if wrong is None and len(expected) != len(received):
        return min(len(expected), len(received))
    return wrong


def _sorted_out(expected: Sequence[Token], received: Sequence[Token], first_wrong: int) -> Differences:
    """How the two differ, from the first difference on (what is before it is equal)."""
    tail, got = expected[first_wrong:], received[first_wrong:]
    matcher = SequenceMatcher(None, tail, got, autojunk=False)
    lost = duplicated = altered = a = b = 0
    for match in (*_alike(matcher.get_matching_blocks(), len(tail), len(got)), Match(len(tail), len(got), 0)):
        missing, extra = match.a - a, match.b - b
        altered += min(missing, extra)
        lost += max(0, missing - extra)
        duplicated += max(0, extra - missing)
        a, b = match.a + match.size, match.b + match.size
    return Differences(len(expected), len(received), lost, duplicated, altered, first_wrong)


def _alike(blocks: Iterable[Match], expected: int, received: int) -> Iterator[Match]:
    """Runs of equal tokens that are no coincidence: of another answer's tokens, too, some stand where they should."""
    for block in blocks:
        at_the_end = block.a + block.size == expected and block.b + block.size == received
        if block.size >= _RUN or (at_the_end and block.size):
            yield block
