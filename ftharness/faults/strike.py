"""One fault being injected: what its code gets, and how it says what came of it."""

import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ftharness.client import Stream
from ftharness.history import FaultHealed, FaultLanded, FaultMissed, History, RequestFinished
from ftharness.process import Living, Process
from ftharness.registry import find_installed

Heal = Callable[[], Awaitable[dict[str, Any]]]
#: The request that a process had at a moment, in ns since the run's start; one that was over where it had none; or "".
Had = Callable[[int], str]


#: By the name of a kind: the evidence that what it had done is undone; None where there was nothing to undo.
Undo = Callable[[str], Awaitable[dict[str, Any] | None]]


async def _nothing_to_undo(_: str) -> None:
    return None


class WrongTarget(Exception):  # noqa: N818 - says what is the case
    """A kind of fault that hits processes was aimed at a client, or the other way round."""


class Strike:
    """A fault on its way to a process, or to the client of a request.

    Args:
        had: Of a process that is hit by its name: which request it had.
        holds: Whether what is hit was not done with a request by a moment, in ns since the run's start.
        joins: Starts one more shadow engine beside the process.
        restarts: Starts the process again, which has ended.
        data: The folder where it keeps what it may not lose.
        undoes: Heals what a fault of a kind, by its name, has done to it; returns the evidence, None where there is nothing.
        earlier: The lives that it had before it was started again, on this machine.

    Attributes:
        id: This fault's name in the history.
        source: Whom the history's events are about: the process's name, or ``client``.
        history: Where the evidence is, and goes.
        args: The fault's own arguments.
        request: The id of the request that it is aimed at, or "".
        undo: As ``undoes``.
        earlier: As given.
    """

    def __init__(
        self,
        fault_id: str,
        hits: Living | Stream,
        history: History,
        args: dict[str, Any],
        request: str,
        had: Had = lambda _: "",
        joins: Callable[[], Awaitable[Living]] | None = None,
        restarts: Callable[[], Awaitable[Living]] | None = None,
        holds: Callable[[str, int], bool] = lambda *_: True,
        data: Path | None = None,
        undoes: Undo = _nothing_to_undo,
        earlier: Sequence[Process] = (),
    ) -> None:
        self.id = fault_id
        self.source = "client" if isinstance(hits, Stream) else hits.name
        self.history = history
        self.args = args
        self.request = request
        self.hits = hits
        self._had = had
        self._holds = holds
        self._joins = joins
        self._restarts = restarts
        self._data = data
        self.undo = undoes
        self.earlier = earlier
        self._heal: Heal | None = None

    @property
    def process(self) -> Process:
        """What it hits, on this machine.

        Raises:
            WrongTarget: It is a client, or runs elsewhere.
        """
        if isinstance(self.hits, Process):
            return self.hits
        if isinstance(self.hits, Stream):
            raise WrongTarget("it hits processes, and was aimed at a client")
        raise WrongTarget(f"this kind of fault cannot reach {self.source}, which does not run on this machine")

    @property
    def data(self) -> Path:
        """Where what it hits keeps what it may not lose.

        Raises:
            WrongTarget: It keeps nothing.
        """
        if self._data is None:
            raise WrongTarget(f"it hits what a job keeps on its disk, and {self.source} keeps nothing")
        return self._data

    async def join(self) -> Living:
        """Start one more shadow engine of the group of the process; returns when it waits for the lock.

        Raises:
            WrongTarget: It is a client.
            LookupError: The process is in no group.
            StartError: It could not be started.
            NotReady: It did not come so far.
        """
        if self._joins is None:
            raise WrongTarget("it starts an engine beside a process, and was aimed at a client")
        return await self._joins()

    async def restart(self) -> Living:
        """Start the process again, under a new name; returns when it is ready.

        Raises:
            WrongTarget: It is a client.
            StartError: It could not be started.
            NotReady: It did not come so far.
        """
        if self._restarts is None:
            raise WrongTarget("it starts a process again, and was aimed at a client")
        return await self._restarts()

    @property
    def stream(self) -> Stream:
        """The request whose client it hits.

        Raises:
            WrongTarget: It is a process.
        """
        if not isinstance(self.hits, Stream):
            raise WrongTarget(f"it hits clients, and was aimed at the process {self.source}")
        return self.hits

    def landed(self, *, at: int, **evidence: object) -> None:
        """Say that it verifiably happened, at ``at`` (CLOCK_MONOTONIC, ns)."""
        t = at - self.history.start_ns
        request = self.request or self._had(t)
        ended = next(self.history.select(RequestFinished, request=request), None) if request else None
        runs = ended is None or ended.t >= t  # at the same moment: it is this that ended it
        on_target = runs and (not request or self._holds(request, t))
        if request:
            evidence["request"] = "was running" if on_target else "was done with there" if runs else "had already ended"
        self.history.append(
            FaultLanded(source=self.source, id=self.id, evidence=dict(evidence), on_target=on_target), at=at
        )

    def missed(self, reason: str) -> None:
        """Say that it did not happen, or that it could not be shown to have happened."""
        self.history.append(FaultMissed(source=self.source, id=self.id, reason=reason))

    def heals_by(self, heal: Heal) -> None:
        """Undo it by ``heal``, which returns the evidence, at the latest when the run ends."""
        self._heal = heal

    async def heal(self) -> dict[str, Any] | None:
        """Undo it, once; returns the evidence, None where there is nothing to undo."""
        heal, self._heal = self._heal, None
        if heal is None:
            return None
        at = time.monotonic_ns()  # not when it is seen to be undone: what goes on may have done something by then
        evidence = await heal()
        self.history.append(FaultHealed(source=self.source, id=self.id, evidence=evidence), at=at)
        return evidence


FaultKind = Callable[[Strike], Coroutine[Any, Any, None]]


@runtime_checkable
class HitElsewhere(Protocol):
    """A process that does not run on this machine, and knows how it is hit where it does."""

    @property
    def fault_kinds(self) -> Mapping[str, FaultKind]:
        """By the kinds' names; any other kind cannot reach it."""


def kind_for(kind: FaultKind, name: str, hits: Living | Stream) -> FaultKind:
    """The code that hits just this one with the kind ``name``: ``kind``, or what is its like where it runs."""
    return hits.fault_kinds.get(name, kind) if isinstance(hits, HitElsewhere) else kind


def fault_kind(name: str) -> FaultKind:
    """The code of the fault kind ``name``.

    Raises:
        LookupError: There is none; names the nearest.
    """
    kind: FaultKind = find_installed("ftharness.faults", name, "fault kind")
    return kind
