"""Pools of engines as a picture shows them: who lived in which slot when, what kept it from running, what was leased."""

import msgspec

from ftharness.report.clean import middle, one_line
from ftharness.report.units import MS_PER_S, NS_PER_MS, milliseconds

#: What an engine is while it lives, in the order of the key; ``unwatched``: no manager is there to say.
STARTING, READY, UNREADY, UNWATCHED = "starting", "ready", "unready", "unwatched"
#: What a breaker is, when it is not closed.
OPEN, HALF_OPEN = "open", "half open"
#: Why a lease is refused where all slots are taken: nothing is wrong then.
FULL = "full"
#: What is done to a pool as a whole, and takes a while.
OPERATIONS = ("drain", "reload")


class Stretch(msgspec.Struct, frozen=True):
    """Something was so from ``start`` to ``end``, in ns since the run's start; ``what`` is one of the words above."""

    what: str
    start: int
    end: int


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """One process in a slot, from its start or from when it was first told of, to its end.

    Attributes:
        pid: As the manager says.
        model: What it served, or was started to serve; empty where nobody said.
        stretches: What it was, in order of time, without gaps.
        status: How it ended: its exit, ``gone`` where it was found gone; empty while it has not.
        why: The manager's reason for that.
        hard: Whether nobody had asked it to end.
    """

    pid: str
    model: str
    stretches: list[Stretch]
    status: str = ""
    why: str = ""
    hard: bool = False

    @property
    def start(self) -> int:
        """Its begin."""
        return self.stretches[0].start

    @property
    def end(self) -> int:
        """Its end, or the end of what is known."""
        return self.stretches[-1].end


class Wait(msgspec.Struct, frozen=True):
    """A wait before a restart: from when it was told until it was over, and how long it was said to be, in ms."""

    start: int
    end: int
    ms: int

    @property
    def words(self) -> str:
        """For a label: how long it was said to be."""
        return f"{self.ms} ms" if self.ms < MS_PER_S else milliseconds(self.ms)


class SlotLane(msgspec.Struct, frozen=True, kw_only=True):
    """One slot of a pool, which has one engine at a time.

    Attributes:
        name: As the manager calls it: ``main-1``.
        pool: The pool.
        lives: One after the other.
        waits: Before restarts.
        breaker: When it was open, and half open; it is closed at all other times.
        closed: When it was told to be closed again.
        frozen: When a fault kept the process from running.
    """

    name: str
    pool: str
    lives: list[Life]
    waits: list[Wait]
    breaker: list[Stretch]
    closed: list[int]
    frozen: list[Stretch]

    @property
    def eventful(self) -> bool:
        """Whether anything befell it."""
        return bool(
            len(self.lives) > 1 or self.waits or self.breaker or self.frozen or any(one.hard for one in self.lives)
        )

    def noticed(self, pid: str, t: int) -> int | None:
        """When the manager first said that something was wrong with a process that something befell at ``t``."""
        life = next((one for one in self.lives if one.pid == pid), None)
        if life is None:
            return None
        told = [one.start for one in life.stretches if one.what == UNREADY]
        return min((at for at in [*told, *([life.end] if life.hard else [])] if at >= t), default=None)

    def ready_after(self, t: int) -> int | None:
        """When its engine, or the next one, was ready again after ``t``."""
        return next((e.start for life in self.lives for e in life.stretches if e.what == READY and e.start > t), None)


class Operation(msgspec.Struct, frozen=True):
    """A drain or a reload; ``outcome`` is empty where its manager ended first.

    Attributes:
        kind: ``drain`` or ``reload``.
        of: What is to be served, of a reload.
        start: When it was begun, in ns since the run's start.
        end: When it ended.
        outcome: The manager's word.
    """

    kind: str
    of: str
    start: int
    end: int
    outcome: str

    @property
    def good(self) -> bool:
        """Whether it came to what it was begun for."""
        return self.outcome in ("drained", "stopped", "succeeded")

    @property
    def words(self) -> str:
        """``drain: drained after 1.14 s``, ``reload to models/broken: rolled back after 2.28 s``."""
        return f"{self.kind}{f' to {middle(self.of, 30)}' if self.of else ''}: {self.brief}"

    @property
    def brief(self) -> str:
        """``rolled back after 2.28 s``."""
        return f"{self.came_to} after {milliseconds((self.end - self.start) / NS_PER_MS)}"

    @property
    def came_to(self) -> str:
        """``rolled back``."""
        return one_line(self.outcome, 30).replace("_", " ") or "not ended"


class PoolLane(msgspec.Struct, frozen=True, kw_only=True):
    """One pool.

    Attributes:
        name: Its name.
        slots: Its engines', by their names.
        operations: Its drains and reloads.
        refused: When a lease was refused, and why, in a word.
        held: From when on how many leases were held.
        unmanaged: When there was no manager between two.
    """

    name: str
    slots: list[SlotLane]
    operations: list[Operation]
    refused: list[tuple[int, str]]
    held: list[tuple[int, int]]
    unmanaged: list[Stretch]

    @property
    def most(self) -> int:
        """How many leases were held at once, at most."""
        return max((count for _, count in self.held), default=0)
