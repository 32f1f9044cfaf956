"""``{word}`` in a text of a user's or of ours, filled in."""

import re
from collections.abc import Mapping

#: A letter is in each: ``{3}`` is a repetition in somebody's pattern.
_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_.-]*[A-Za-z][A-Za-z0-9_.-]*)\}")


def filled(text: str, words: Mapping[str, str]) -> str:
    """The text with every ``{word}`` replaced by what it stands for; other braces, as of JSON, stay.

    Raises:
        LookupError: A word stands for nothing; names those that do.
    """

    def word(match: re.Match[str]) -> str:
        if match[1] not in words:
            raise LookupError(f"unknown placeholder {match[0]}; there are {', '.join(sorted(words))}")
        return words[match[1]]

    return _PLACEHOLDER.sub(word, text)
