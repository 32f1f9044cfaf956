"""Several writers, one operation at a time, in an order that is given: what a race does once in a thousand runs, each time."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ftharness.checkpoint.storage import Storage

_STUCK_S = 30.0


class Deadlock(RuntimeError):  # noqa: N818 - says what is the case
    """All that are left wait for a lock."""


class _Writer(Storage):
    """One writer's disk: before each operation it waits for its turn."""

    def __init__(self, disk: Storage) -> None:
        self._disk = disk
        self._go = threading.Event()
        self._here = threading.Event()
        self.ended = False
        self.waits = False
        self.error: BaseException | None = None

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name not in _OPERATIONS:
            return object.__getattribute__(self, name)
        real = getattr(self._disk, name)

        def in_turn(*arguments: Any) -> Any:
            self._wait()
            if name == "lock":  # it must not keep the turn while another has the lock
                while not self._disk.lock_at_once(*arguments):
                    self.waits = True
                    self._wait()
                self.waits = False
                return None
            return real(*arguments)

        return in_turn

    def _wait(self) -> None:
        self._here.set()
        assert self._go.wait(_STUCK_S), "it did not get its turn"
        self._go.clear()

    def run(self, work: Callable[[Storage], object]) -> None:
        """In its thread."""
        try:
            self._wait()
            work(self)
        except BaseException as error:  # noqa: BLE001 - it is told by who asked for it
            self.error = error
        finally:
            self.ended = True
            self._here.set()

    def turn(self) -> None:
        """Let it do one operation, and come to the next."""
        self._here.clear()
        self._go.set()
        assert self._here.wait(_STUCK_S), "it did not come back"


_OPERATIONS = frozenset(name for name in vars(Storage) if not name.startswith("_"))


def in_turns(
    writers: Sequence[Callable[[Storage], object]], switches: Sequence[int], disk: Storage | None = None
) -> int:
    """Run writers, one operation at a time; after so many turns it is the next one's.

    Args:
        writers: Each does its work with the disk that it is given, in a thread of its own.
        switches: After which turns, counted from 1, the next writer goes on. In its first turn a writer begins; one that
            waits for a lock, or has ended, is passed over.
        disk: The disk; this machine's files.

    Returns:
        How many turns there were.

    Raises:
        Deadlock: All that are left wait.
        Exception: What a writer raised, if one did.
    """
    turns = [_Writer(disk or Storage()) for _ in writers]
    threads = [
        threading.Thread(target=turn.run, args=(work,), daemon=True) for turn, work in zip(turns, writers, strict=True)
    ]
    for thread, turn in zip(threads, turns, strict=True):
        thread.start()
        assert turn._here.wait(_STUCK_S)  # noqa: SLF001 - a part of it
    count = current = passed = 0
    while any(not turn.ended for turn in turns):
        turn = turns[current]
        if not turn.ended:
            turn.turn()
        if turn.ended or turn.waits:
            passed += 1
            if passed > len(turns) and all(one.ended or one.waits for one in turns):
                raise Deadlock(f"after {count} turns each that has not ended waits for a lock")
        else:
            count, passed = count + 1, 0
        if turn.ended or turn.waits or count in switches:
            current = (current + 1) % len(turns)
    for thread in threads:
        thread.join(_STUCK_S)
    for turn in turns:
        if turn.error is not None:
            raise turn.error
    return count


def schedules(turns: int, most: int, sample: int, seed: int = 1) -> Iterator[tuple[int, ...]]:
    """Ways to switch within so many turns: all with one switch at most, and a sample of those with more.

    Args:
        turns: Of all writers together.
        most: Switches.
        sample: How many with more than one.
        seed: Of the sample.
    """
    yield ()
    yield from ((turn,) for turn in range(1, turns))
    chance = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(sample):
        yield tuple(sorted(chance.sample(range(1, turns), chance.randint(2, most))))
