"""A typo's nearest name."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], more: str = "") -> str:
    """``did you mean X?``, or what there is; ``more`` is said after the names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}{more}"
