"""One fault being injected into one process: what its code gets, and how it says what came of it."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ftharness.history import FaultHealed, FaultLanded, FaultMissed, History, RequestFinished
from ftharness.process import Process
from ftharness.registry import find_installed

Heal = Callable[[], Awaitable[dict[str, Any]]]


class Strike:
    """A fault on its way to a process.

    Attributes:
        id: This fault's name in the history.
        process: What it hits.
        history: Where the evidence is, and goes.
        args: The fault's own arguments.
        request: The id of the request that it is aimed at, or "".
    """

    def __init__(self, fault_id: str, process: Process, history: History, args: dict[str, Any], request: str) -> None:
        self.id = fault_id
        self.process = process
        self.history = history
        self.args = args
        self.request = request
        self._heal: Heal | None = None

    def landed(self, *, at: int, **evidence: object) -> None:
        """Say that it verifiably happened, at ``at`` (CLOCK_MONOTONIC, ns)."""
        ended = next(self.history.select(RequestFinished, request=self.request), None) if self.request else None
        on_target = ended is None or ended.t > at - self.history.start_ns
        if not on_target:
            evidence["request"] = "had already ended"
        elif self.request:
            evidence["request"] = "was running"
        self.history.append(
            FaultLanded(source=self.process.name, id=self.id, evidence=dict(evidence), on_target=on_target), at=at
        )

    def missed(self, reason: str) -> None:
        """Say that it did not happen, or that it could not be shown to have happened."""
        self.history.append(FaultMissed(source=self.process.name, id=self.id, reason=reason))

    def heals_by(self, heal: Heal) -> None:
        """Undo it by ``heal``, which returns the evidence, at the latest when the run ends."""
        self._heal = heal

    async def heal(self) -> None:
        """Undo it, once; nothing happens where there is nothing to undo."""
        heal, self._heal = self._heal, None
        if heal is not None:
            self.history.append(FaultHealed(source=self.process.name, id=self.id, evidence=await heal()))


FaultKind = Callable[[Strike], Coroutine[Any, Any, None]]


def fault_kind(name: str) -> FaultKind:
    """The code of the fault kind ``name``.

    Raises:
        LookupError: There is none; names the nearest.
    """
    kind: FaultKind = find_installed("ftharness.faults", name, "fault kind")
    return kind
