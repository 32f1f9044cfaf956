"""Many numbered ids in few words, for a line of a log: ``0-49,100`` for 0 to 49, and 100."""

from collections.abc import Iterable, Iterator


def ranges(ids: Iterable[str]) -> str:
    """The ids, those that are numbers in order and as ranges; others stand behind them as they are. "" for none."""
    known = list(ids)
    numbers = sorted({int(one) for one in known if one.isdecimal()})
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in _runs(numbers)]
    return ",".join([*shown, *(one for one in known if not one.isdecimal())])


#: A text that claims to mean more ids is damaged: nobody tells so many by ranges, and as a list they would take all memory.
_MOST = 1_000_000


def ids_in(text: str) -> list[str]:
    """The ids that :func:`ranges` told so; a word that is no range is one id.

    Raises:
        ValueError: They would be more than a million.
    """
    found: list[str] = []
    for word in text.split(","):
        first, dash, last = word.partition("-")
        if dash and first.isdecimal() and last.isdecimal():
            if len(found) + int(last) - int(first) >= _MOST:
                raise ValueError(f"{word} are more ids than anybody tells so: at most {_MOST:,}")
            found += map(str, range(int(first), int(last) + 1))
        elif word:
            found.append(word)
    return found


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    first = last = None
    for number in numbers:
        if first is None or last is None:
            first = last = number
        elif number == last + 1:
            last = number
        else:
            yield first, last
            first = last = number
    if first is not None and last is not None:
        yield first, last
