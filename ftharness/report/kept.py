"""A stored history, as far as it can be read: the one reader of whoever shows a run or judges it again."""

from collections.abc import Sequence
from itertools import count, pairwise
from pathlib import Path

import msgspec

from ftharness.history import Event, HistoryError, RunFinished, read_history


class Kept(msgspec.Struct, frozen=True):
    """What is left of a history.

    Attributes:
        events: Everything up to the first damage, in the order of the file.
        problem: Why that is not the whole run, with the file and the line; empty when it is.
    """

    events: list[Event]
    problem: str = ""


def read_kept(path: Path) -> Kept:
    """Read a ``history.jsonl``; what is damaged or missing is said in ``problem``, not raised."""
    try:
        events = read_history(path)
    except HistoryError as error:
        return Kept(error.events, f"the history is damaged: {error}; what stands before that line is all that is known")
    except FileNotFoundError:
        return Kept([], f"there is no history: {path} is missing")
    except OSError as error:
        return Kept([], f"the history cannot be read: {path}: {error.strerror}")
    if not events:
        return Kept([], f"the history is empty: {path} holds no event")
    twice = _twice(events)
    if twice:
        known = [event for event in events if event.n < twice]
        return Kept(known, f"the history is damaged: {path}: event {twice} is there twice; only those before it count")
    hole = _hole(events)
    if hole:
        # What came later may rest on what is not there: a lost chunk would look like a lost token.
        known = [event for event in events if event.n < hole]
        return Kept(
            known, f"the history is damaged: {path}:{hole}: event {hole} is not there; only those before it count"
        )
    if not any(isinstance(event, RunFinished) for event in events):
        return Kept(
            events,
            "the harness was ended before the run was, or could no longer write: "
            f"{path} breaks off after line {len(events)}",
        )
    return Kept(events)


def _twice(events: Sequence[Event]) -> int:
    """The first number that two events have, or 0: which of them happened, nobody can tell."""
    numbers = sorted(event.n for event in events)
    return next((one for one, after in pairwise(numbers) if one == after), 0)


def _hole(events: Sequence[Event]) -> int:
    """The first number that no event has though a later one is there, or 0; the order of the lines does not matter."""
    numbers = {event.n for event in events}
    first = next(n for n in count(1) if n not in numbers)
    return first if first <= len(numbers) else 0
