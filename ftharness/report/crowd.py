"""Many clients that went away, taken together: a hundred labels say less than one."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from ftharness.report.moments import Moments
from ftharness.report.recovered import given_up
from ftharness.report.units import amount, milliseconds, moment

#: So many may each be told by themselves.
FEW = 3
_HOW = {
    "disconnect": "closed their connection",
    "reset": "reset it",
    "cancel_task": "cancelled the task that awaited the answer",
    "kill_client": "were killed",
    "half_close": "closed their sending side",
}


class Crowd(msgspec.Struct, frozen=True):
    """Clients that went away, in order of time; all of them landed."""

    faults: list[Moments]

    @property
    def first(self) -> Moments:
        """Who left first."""
        return self.faults[0]

    @property
    def span(self) -> tuple[int, int]:
        """From the first that left to the last, in ns since the run's start."""
        times = [one.landed for one in self.faults if one.landed is not None]
        return min(times), max(times)

    @property
    def slowest(self) -> Moments:
        """Whose request was given up last after its client had gone; the first where no worker said so."""
        return max(self.faults, key=lambda one: one.fault.recovery.given_up_ms or 0.0)

    @property
    def what(self) -> str:
        """For a label: ``100 clients left, until 3.204 s``."""
        return f"{amount(len(self.faults), 'client')} left from {moment(self.span[0])} to {moment(self.span[1])}"

    @property
    def how(self) -> str:
        """How many left in which way: ``34 closed their connection, 33 reset it``."""
        counts = Counter(one.fault.kind for one in self.faults)
        return ", ".join(f"{count:,} {_HOW.get(kind, f'by {kind}')}" for kind, count in counts.most_common())

    @property
    def given_up(self) -> str:
        """How soon the workers gave their requests up; empty where none said so."""
        waits = sorted(ms for one in self.faults if (ms := one.fault.recovery.given_up_ms) is not None)
        if not waits:
            return ""
        middle = milliseconds(waits[len(waits) // 2])
        return f"{len(waits):,} given up by a worker, half of them within {middle}; the slowest {self._slowest()}"

    def _slowest(self) -> str:
        one = self.slowest
        return f"({one.request.name if one.request else 'one'}) {given_up(one.fault.recovery)}"


def crowd_of(faults: Sequence[Moments]) -> tuple[list[Moments], Crowd | None]:
    """The faults that are told one by one, and the clients that are told together, if they are many."""
    left = [one for one in faults if one.left and one.landed is not None]
    if len(left) <= FEW:
        return list(faults), None
    return [one for one in faults if not (one.left and one.landed is not None)], Crowd(left)
