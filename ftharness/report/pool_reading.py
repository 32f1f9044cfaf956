"""What managers of pools said, read into lives, waits, breakers, drains and leases: a slot's state line by line."""

from collections.abc import Iterable, Sequence

from ftharness.history import (
    Event,
    FaultHealed,
    FaultLanded,
    Log,
    ProcessExited,
    ProcessStarted,
    RunPhase,
    RunStarted,
)
from ftharness.report.pools import (
    HALF_OPEN,
    OPEN,
    READY,
    STARTING,
    UNREADY,
    UNWATCHED,
    Life,
    Operation,
    PoolLane,
    SlotLane,
    Stretch,
    Wait,
)
from ftharness.report.units import NS_PER_MS
from ftharness.stack.pool_setup import MANAGER

_LIFE = {"engine_started": STARTING, "engine_ready": READY, "engine_unready": UNREADY, "engine_adopted": UNREADY}
_ENDS = ("engine_lost", "engine_stopped", "engine_gone")
_LEASED, _GIVEN_BACK = ("lease_granted", "lease_taken_over"), ("lease_released", "lease_revoked", "lease_expired")
_NONE = "None"  # how a log of JSON says that it does not know


class _Slot:
    """What is known of one slot while the history is read."""

    def __init__(self, name: str, pool: str) -> None:
        self.name, self.pool = name, pool
        self.lives: list[Life] = []
        self.waits: list[Wait] = []
        self.breaker: list[Stretch] = []
        self.closed: list[int] = []
        self.frozen: list[tuple[str, int]] = []
        self.thawed: dict[str, int] = {}
        self._pid = self._model = ""
        self._told: list[tuple[str, int]] = []  # what the process is, since when
        self._wait: tuple[int, int] | None = None  # since when, and how long, in ms
        self._breaker: tuple[str, int] | None = None

    def hears(self, line: Log, reload: str, since: int) -> None:
        """A manager's line; ``reload`` is what the pool is being reloaded to, and since when, if it is."""
        if line.event in _LIFE:
            self._lives(line, reload, since)
        elif line.event in _ENDS and self._told:
            gone = line.event == "engine_gone"
            status = "gone" if gone else line.captures.get("exit", "")
            self._ends(line.t, status, line.captures.get("reason", ""), hard=line.event != "engine_stopped")
        elif line.event == "restart_scheduled":
            said = line.captures.get("delay_ms", "")
            self._wait = (line.t, int(said) if said.isdecimal() else 0)
        elif line.event == "backoff_reset":
            self._waited(line.t)
        elif line.event.startswith("breaker_"):
            self._turns(line)

    def _lives(self, line: Log, reload: str, since: int) -> None:
        pid, model = line.captures.get("pid", ""), line.captures.get("model", _NONE)
        if line.event == "engine_started":
            self._waited(line.t)
            self._ends(line.t, "", "", hard=False)  # of the one before nobody said how it ended
            broke = any(one.start >= since and one.hard for one in self.lives)  # and the old one comes back
            self._pid, self._model = pid, "" if broke else reload
        elif line.event == "engine_adopted" and pid != self._pid:
            self._ends(line.t, "", "", hard=False)
            self._pid, self._model = pid, ""
        if line.event == "engine_ready" and model != _NONE:
            self._model = model
        self._told.append((_LIFE[line.event], line.t))

    def _turns(self, line: Log) -> None:
        """The breaker's next state."""
        if self._breaker is not None:
            self.breaker.append(Stretch(*self._breaker, line.t))
        self._breaker = None
        if line.event == "breaker_closed":
            self.closed.append(line.t)
        else:
            self._breaker = (OPEN if line.event == "breaker_open" else HALF_OPEN, line.t)

    def left_alone(self, t: int) -> None:
        """Its manager has ended: the process may run on, and all that was planned is over."""
        if self._told:
            self._told.append((UNWATCHED, t))
        self._waited(t)
        self._drops_breaker(t)

    def over(self, end: int) -> SlotLane:
        """The end of what is known."""
        self._ends(end, "", "", hard=False)
        self._waited(end)
        self._drops_breaker(end)
        frozen = []
        for fault, start in self.frozen:
            life = next((one for one in self.lives if one.start <= start < one.end), None)
            until = min(self.thawed.get(fault, end), life.end if life else start)
            frozen += [Stretch("frozen", start, until)] if until > start else []
        return SlotLane(
            name=self.name,
            pool=self.pool,
            lives=self.lives,
            waits=self.waits,
            breaker=self.breaker,
            closed=self.closed,
            frozen=frozen,
        )

    def _ends(self, t: int, status: str, why: str, *, hard: bool) -> None:
        if not self._told:
            return
        ends = [*(start for _, start in self._told[1:]), t]
        stretches = [Stretch(what, start, max(start, end)) for (what, start), end in zip(self._told, ends, strict=True)]
        self.lives.append(
            Life(pid=self._pid, model=self._model, stretches=stretches, status=status, why=why, hard=hard)
        )
        self._told, self._pid, self._model = [], "", ""

    def _waited(self, t: int) -> None:
        """A wait is over: when it was to be, or before that."""
        if self._wait is not None:
            start, ms = self._wait
            self.waits.append(Wait(start, min(t, start + ms * NS_PER_MS), ms))
            self._wait = None

    def _drops_breaker(self, t: int) -> None:
        if self._breaker is not None:
            self.breaker.append(Stretch(*self._breaker, t))
            self._breaker = None


class _Pool:
    """What is known of one pool while the history is read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.slots: dict[str, _Slot] = {}
        self.operations: list[Operation] = []
        self.refused: list[tuple[int, str]] = []
        self.held: list[tuple[int, int]] = []
        self.unmanaged: list[Stretch] = []
        self._leases: set[str] = set()
        self._since: dict[str, tuple[int, str]] = {}  # by kind: when what is under way was begun, and of what
        self._alone: int | None = None

    def hears(self, line: Log) -> None:
        """A manager's line."""
        kind, _, what = line.event.partition("_")
        if self._alone is not None:
            self.unmanaged.append(Stretch(UNWATCHED, self._alone, line.t))
            self._alone = None
        if kind in ("drain", "reload"):
            if what == "begun":
                self._since[kind] = (line.t, line.captures.get("reference", ""))
            else:
                self._done(kind, line.t, line.captures.get("outcome", ""))
        elif line.event in _LEASED or line.event in _GIVEN_BACK:
            change = self._leases.add if line.event in _LEASED else self._leases.discard
            change(line.captures.get("lease", ""))
            self._holds(line.t)
        elif name := line.captures.get("engine", ""):
            slot = self.slots.setdefault(name, _Slot(name, self.name))
            since, of = self._since.get("reload", (line.t, ""))
            slot.hears(line, of.rpartition("/")[2], since)

    def left_alone(self, t: int, *, survive: bool) -> None:
        """Its manager has ended."""
        self._alone = t
        for kind in list(self._since):
            self._done(kind, t, "")
        for slot in self.slots.values():
            slot.left_alone(t)
        if not survive:
            self._leases.clear()
            self._holds(t)

    def over(self, end: int, teardown: int) -> PoolLane:
        """The end of what is known; ``teardown`` is when all managers were to end."""
        if self._alone is not None and self._alone < teardown:
            self.unmanaged.append(Stretch(UNWATCHED, self._alone, teardown))
        for kind in list(self._since):
            self._done(kind, end, "")
        return PoolLane(
            name=self.name,
            slots=[self.slots[name].over(end) for name in sorted(self.slots, key=_numbered)],
            operations=self.operations,
            refused=self.refused,
            held=self.held,
            unmanaged=self.unmanaged,
        )

    def _done(self, kind: str, t: int, outcome: str) -> None:
        if kind in self._since:
            start, of = self._since.pop(kind)
            self.operations.append(Operation(kind, of, start, t, outcome))

    def _holds(self, t: int) -> None:
        self.held.append((t, len(self._leases)))


def pools_of(ordered: Sequence[Event], end: int) -> list[PoolLane]:
    """The pools of a run, in the order in which they were first told of; none where there is no manager.

    Args:
        ordered: The history, in order of time.
        end: The end of what is known.
    """
    managers = {e.source for e in ordered if isinstance(e, ProcessStarted) and e.role == MANAGER}
    if not managers:
        return []
    survive = any(_survive(event) for event in ordered if isinstance(event, RunStarted))
    pools: dict[str, _Pool] = {}
    asks: dict[str, str] = {}  # which pool a job asks
    for event in ordered:
        if isinstance(event, Log):
            if event.event == "job_started":
                asks[event.source] = event.captures.get("pool", "")
            elif event.event == "lease_refused" and (pool := pools.get(asks.get(event.source, ""))):
                pool.refused.append((event.t, event.captures.get("why", "")))
            elif event.source in managers and (name := event.captures.get("pool", "")):
                pools.setdefault(name, _Pool(name)).hears(event)
        elif isinstance(event, ProcessExited) and event.source in managers:
            for pool in pools.values():
                pool.left_alone(event.t, survive=survive)
    _freeze(ordered, [slot for pool in pools.values() for slot in pool.slots.values()])
    teardown = next((e.t for e in ordered if isinstance(e, RunPhase) and e.phase == "teardown"), end)
    return [pool.over(end, teardown) for pool in pools.values()]


def _numbered(slot: str) -> tuple[int, str]:
    """In whose order the tenth slot of a pool does not come before the second."""
    return len(slot), slot


def _survive(run: RunStarted) -> bool:
    told = run.params.get("pool")
    return isinstance(told, dict) and bool(told.get("engines_survive"))


def _freeze(ordered: Iterable[Event], slots: Iterable[_Slot]) -> None:
    """What faults on the engines in slots show that no manager sees: since when, and until when, one was stopped."""
    named = {slot.name: slot for slot in slots}
    for event in ordered:
        if isinstance(event, FaultLanded) and event.evidence.get("signal") == "SIGSTOP":
            if slot := named.get(str(event.evidence.get("engine", ""))):
                slot.frozen.append((event.id, event.t))
        elif isinstance(event, FaultHealed):
            for slot in named.values():
                slot.thawed[event.id] = event.t
