"""The states of an engine that shares its weights with others, and the ways from one to the next: as data."""

from collections.abc import Iterable
from itertools import pairwise

#: Its model is loaded, and it waits its turn; it serves once it is active. Dynamo's names, and ``dead``, which it has none for.
STATES = ("init", "standby", "waking", "active", "dead")
#: Those in which a probe finds it healthy: it loads no more, and does what it is there for.
HEALTHY = frozenset({"standby", "active"})
#: From each, where it may go. There is no way back to sleep: who has lost the lock is dead, by its own hand or a fencer's.
NEXT: dict[str, frozenset[str]] = {
    "init": frozenset({"standby", "dead"}),
    "standby": frozenset({"waking", "dead"}),
    "waking": frozenset({"active", "dead"}),
    "active": frozenset({"dead"}),
    "dead": frozenset(),
}


def may_go(before: str, after: str) -> bool:
    """Whether there is a way from one state to the other; none where either is not a state at all."""
    return after in NEXT.get(before, ())


def illegal_step(states: Iterable[str]) -> tuple[str, str] | None:
    """The first two states of one engine's, in their order, between which there is no way; None: all is as it may be.

    The first state has to be ``init``; of one that is not it is told as ``("", state)``.
    """
    walked = list(states)
    if walked and walked[0] != "init":
        return "", walked[0]
    return next(((before, after) for before, after in pairwise(walked) if not may_go(before, after)), None)
