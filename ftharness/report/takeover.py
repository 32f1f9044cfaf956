"""One engine in the place of another: who, and when it had the lock, was awake, was announced, and said its first token."""

import math
from collections.abc import Iterator

import msgspec

from ftharness.history import Log, RequestChunk
from ftharness.report.clean import one_line
from ftharness.report.units import NS_PER_MS, milliseconds
from ftharness.scenario.case import Case
from ftharness.scenario.oracles.turns import HITS_NOBODY
from ftharness.scenario.recovery import struck_t
from ftharness.scenario.views import FaultView

_STRUCK = {"kill": "kill", "kill_engine": "kill", "terminate": "signal", "interrupt": "signal", "freeze": "freeze"}


class Takeover(msgspec.Struct, frozen=True, kw_only=True):
    """What followed a fault on the engine that had the lock; times in ns since the run's start, None for what was not seen.

    Attributes:
        engine: Who took over, by its name.
        since: When the fault took effect.
        fault: Its kind.
        lock: It had the lock.
        awake: It was awake.
        ready: It was announced: requests may come.
        first_token: The first chunk that it made.
        fenced: A fencer killed the former one.
        fenced_by: That fencer's engine.
        silent: For how many seconds the former one had said nothing by then, as the fencer says.
    """

    engine: str
    since: int
    fault: str
    lock: int
    awake: int | None = None
    ready: int | None = None
    first_token: int | None = None
    fenced: int | None = None
    fenced_by: str = ""
    silent: str = ""

    def ms(self, t: int | None) -> float | None:
        """How long after the fault that was, in ms."""
        return None if t is None else (t - self.since) / NS_PER_MS

    @property
    def steps(self) -> list[tuple[str, int]]:
        """Those that were seen, in the order in which they are made."""
        named = (("lock", self.lock), ("awake", self.awake), ("registered", self.ready))
        return [(name, t) for name, t in (*named, ("first token", self.first_token)) if t is not None]

    @property
    def served(self) -> bool:
        """Whether it came so far that requests reach it."""
        return self.ready is not None or self.first_token is not None

    @property
    def fencing(self) -> str:
        """``fenced by standby-1 after 0.43 s of silence``; empty where nobody was."""
        if self.fenced is None:
            return ""
        seconds = f" after {float(self.silent):.2f} s of silence" if self.silent.replace(".", "", 1).isdecimal() else ""
        return f"fenced by {one_line(self.fenced_by, 40)}{seconds}"

    @property
    def brief(self) -> str:
        """``standby-1 took over after 59.2 ms``: until its first token, or what came last of it."""
        who = f"{self.fencing}, {one_line(self.engine, 40)}" if self.fencing else one_line(self.engine, 40)
        if not self.served:
            return f"{who} took the lock after {milliseconds(self.ms(self.lock))}"
        name, t = self.steps[-1]
        until = "" if name == "first token" else f" ({name})"
        return f"{who} took over after {milliseconds(self.ms(t))}{until}"

    @property
    def told(self) -> str:
        """``standby-1 took over: lock 3.70 ms, awake 24.0 ms, registered 25.5 ms, first token 59.2 ms after the kill``."""
        who, after = one_line(self.engine, 40), f"after the {_STRUCK.get(self.fault, 'fault')}"
        steps = ", ".join(f"{name} {milliseconds(self.ms(t))}" for name, t in self.steps)
        if not self.served:
            return f"{who} took the lock, and served nobody: {steps} {after}"
        return f"{who} took over: {steps} {after}"


def takeover_of(case: Case, fault: FaultView) -> Takeover | None:
    """The takeover that a fault was followed by; None where it hit no engine that had the lock, or nobody took it.

    Of several faults on one engine it followed the last one. Of a SIGTERM that was escalated it counts from the SIGKILL, unless
    the lock was another's by then.
    """
    members = set(_group(case, fault.process))
    if not members or fault.landed is None or fault.requested.fault in HITS_NOBODY:
        return None
    landed, until = fault.landed.t, case.phase_t("teardown") or math.inf
    locks = [line for line in case.select(Log, event="lock_acquired") if line.source in members]
    holder = next((line.source for line in reversed(locks) if line.t <= landed), "")
    won = next((line for line in locks if landed < line.t < until and line.source != fault.process), None)
    if won is None or holder != fault.process:
        return None
    others = (one for one in case.faults if one.process == fault.process and one.requested.fault not in HITS_NOBODY)
    if any(one.landed is not None and landed < one.landed.t <= won.t for one in others):
        return None
    escalated = struck_t(case, fault) or landed
    since = escalated if escalated <= won.t else landed

    def first(event: str) -> int | None:
        own = case.select(Log, event=event, source=won.source)
        return next((line.t for line in own if won.t <= line.t < until), None)

    chunks = case.select(RequestChunk, worker=won.source)
    killer = next(
        (one for one in case.select(Log, event="fenced") if one.source in members and since <= one.t <= won.t), None
    )
    return Takeover(
        engine=won.source,
        since=since,
        fault=fault.requested.fault,
        lock=won.t,
        awake=first("awake"),
        ready=first("ready"),
        first_token=next((chunk.t for chunk in chunks if won.t <= chunk.t < until), None),
        fenced=killer.t if killer else None,
        fenced_by=killer.source if killer else "",
        silent=killer.captures.get("silent", "") if killer else "",
    )


def takeovers(case: Case) -> list[Takeover]:
    """Of every fault, in order of time."""
    return [found for fault in case.faults if (found := takeover_of(case, fault))]


def _group(case: Case, source: str) -> Iterator[str]:
    if group := case.group(source):
        yield from (name for name in case.roles if case.group(name) == group)
