"""When engines that ended were started again: ``backoff_follows_policy``."""

from collections import Counter
from collections.abc import Iterator

from ftharness.history import Log
from ftharness.pool.config import PoolConfig
from ftharness.scenario.case import Case, Finding, short_of_passing
from ftharness.scenario.oracles.pool_lines import (
    NO_POOL,
    at,
    engines,
    in_fault_phase,
    killed_t,
    managers,
    policy,
    pool_of,
    said,
)

#: What a manager's clock may be off by between two of its lines; seconds. The delay is told in whole milliseconds.
_CLOCK_S, _ROUNDED_S = 0.02, 0.001
#: Seconds that a start may take beyond its wait: a shim and a program, on a busy machine.
_START_S = 10.0
_ALL = (
    "engine_started",
    "engine_adopted",
    "engine_ready",
    "engine_lost",
    "engine_stopped",
    "restart_scheduled",
    "backoff_reset",
    "breaker_open",
    "breaker_half_open",
    "breaker_closed",
    "drain_begun",
    "drain_ended",
    "reload_begun",
    "reload_ended",
)


def backoff_follows_policy(case: Case) -> Finding:
    """Each wait that was told is the policy's, give or take the jitter, and was kept; while the breaker was open none started.

    The first wait comes again after a stable run, or when somebody has seen to it. The breaker opens when there were as many
    restarts in its window as it lets through, and not before. Times are those of the manager's own clock.
    """
    config = policy(case)
    if config is None:
        return NO_POOL
    found = [
        _Slot(case, manager, slot, pool).judged() if pool is not None else _of_no_pool(case, manager, slot)
        for manager in managers(case)
        for slot, pool in ((name, pool_of(config, name)) for name in engines(case))
    ]
    if finding := short_of_passing(found):
        return finding
    ended = [one for one in found if one.evidence]
    if not ended:
        return Finding("unknown", "no engine ended that was to be started again")
    return Finding("pass", "; ".join(one.reason for one in ended), tuple(n for one in ended for n in one.evidence))


def _of_no_pool(case: Case, manager: str, slot: str) -> Finding:
    """A slot that was never configured: there is no policy for it, so that nothing may be done in it."""
    line = next(said(case, *_ALL, engine=slot, source=manager), None)
    if line is None:
        return Finding("pass", slot)
    what = f"{manager} said {line.event} of {slot}, an engine that no pool has"
    return Finding("fail", what, (line.n,), invariant=True)


class _Slot:
    """What one manager did about one slot, line by line."""

    def __init__(self, case: Case, manager: str, slot: str, pool: PoolConfig) -> None:
        self._case = case
        self._manager = manager
        self._name = slot
        self._pool = pool
        self._failures = 0
        self._up: float | None = None
        self._ended: Log | None = None
        self._scheduled: Log | None = None
        self._let_through: list[float] = []
        self._breaker = "closed"
        self._opened = 0.0
        self._asked = self._operating = False
        self._waits: list[str] = []
        self._events: Counter[str] = Counter()
        self._evidence: list[int] = []

    def judged(self) -> Finding:
        """What is wrong with it; or what it did, with evidence where engines ended in the fault phase."""
        for line in self._lines():
            wrong = self._take(line)
            if wrong:
                return Finding("fail", f"{self._name}: {wrong}", (*self._evidence[-1:], line.n), invariant=True)
            if line.event in ("restart_scheduled", "breaker_open") and in_fault_phase(self._case, line):
                self._evidence.append(line.n)
        if wrong := self._never_started():
            return Finding("fail", f"{self._name}: {wrong}", tuple(self._evidence), invariant=True)
        opened = self._events["breaker_open"]
        breaker = f"; its breaker opened {'once' if opened == 1 else f'{opened} times'}" if opened else ""
        return Finding("pass", f"{self._name}: waits of {', '.join(self._waits)} ms{breaker}", tuple(self._evidence))

    def _lines(self) -> Iterator[Log]:
        for line in said(self._case, *_ALL, source=self._manager):
            if line.captures.get("engine") == self._name or (
                "engine" not in line.captures and line.captures.get("pool") == self._pool.id
            ):
                yield line

    def _take(self, line: Log) -> str:
        self._events[line.event] += 1
        match line.event:
            case "engine_started":
                return self._started(line)
            case "engine_ready":
                self._up = self._up or at(line)
            case "engine_lost" | "engine_stopped":
                if line.event == "engine_lost" and self._scheduled is not None:
                    return "it was lost, and nobody had said that it was started again"
                self._ended = line
            case "restart_scheduled":
                return self._waits_for(line)
            case "backoff_reset":
                self._seen_to()
            case "breaker_open" | "breaker_half_open" | "breaker_closed":
                return self._of_the_breaker(line)
            case "drain_begun" | "reload_begun":  # what follows is asked for
                self._operating = True
                self._seen_to()
            case "drain_ended" | "reload_ended":
                self._operating = False
        return ""

    def _of_the_breaker(self, line: Log) -> str:
        before = self._breaker
        if line.event == "breaker_open":
            return self._opens(line)
        if line.event == "breaker_closed":
            self._breaker, self._let_through = "closed", []
            if line.captures.get("reason") != "the engine is up":
                self._seen_to()
            return "its breaker closed, and nobody had said that it opened" if before == "closed" else ""
        self._breaker = "half_open"
        if before != "open":
            return "its breaker was half open, and nobody had said that it opened"
        half_open_s = self._pool.breaker.half_open_s
        since = at(line) - self._opened
        if not half_open_s or since < half_open_s - _CLOCK_S:
            return f"its breaker was half open {since:.2f} s after it opened, not after {half_open_s} s"
        return ""

    def _seen_to(self) -> None:
        self._failures, self._scheduled, self._asked = 0, None, True

    def _started(self, line: Log) -> str:
        if self._breaker == "open":
            return "it was started while its breaker was open"
        if self._scheduled is not None:
            told_s = int(self._scheduled.captures["delay_ms"]) / 1000
            waited_s = at(line) - at(self._scheduled)
            if waited_s < told_s - _CLOCK_S:
                return f"it was started {waited_s * 1000:.0f} ms after a wait of {told_s * 1000:.0f} ms had begun"
        elif self._breaker == "closed" and self._ended is not None and not self._asked:
            return "it was started again without a wait"
        self._scheduled, self._ended, self._up, self._asked = None, None, None, self._operating
        return ""

    def _failed(self, line: Log) -> tuple[int, ...]:
        """How many ends in a row that may be; two answers where it was as stable as that, give or take the clock."""
        ran_s = at(self._ended or line) - self._up if self._up is not None else 0.0
        stable_s = self._pool.backoff.stable_s
        before = self._failures
        if self._up is not None and ran_s > stable_s + _CLOCK_S:
            return (1,)
        if self._up is not None and ran_s > stable_s - _CLOCK_S:
            return (1, before + 1)
        return (before + 1,)

    def _waits_for(self, line: Log) -> str:
        delay_s = int(line.captures["delay_ms"]) / 1000
        backoff, may = self._pool.backoff, self._failed(line)
        planned = {count: min(backoff.initial_s * backoff.factor ** (count - 1), backoff.max_s) for count in may}
        fits = [
            count
            for count, wait_s in planned.items()
            if wait_s * (1 - backoff.jitter) - _ROUNDED_S <= delay_s <= wait_s * (1 + backoff.jitter) + _ROUNDED_S
        ]
        if not fits:
            due = " or ".join(f"{wait_s * 1000:.0f}" for wait_s in planned.values())
            due = f"{due} ms ± {backoff.jitter:.0%}"
            return f"end number {may[0]} in a row was followed by a wait of {delay_s * 1000:.0f} ms, not of {due}"
        if self._breaker != "closed":
            return f"it was to be started again though its breaker was {self._breaker.replace('_', ' ')}"
        if self._is_storm(at(line) + _CLOCK_S):
            return f"restart number {self._pool.breaker.restarts + 1} within {self._pool.breaker.window_s:g} s was let through"
        self._failures, self._scheduled = fits[0], line
        self._let_through.append(at(line))
        self._waits.append(f"{delay_s * 1000:.0f}")
        return ""

    def _opens(self, line: Log) -> str:
        if self._breaker == "closed" and not self._is_storm(at(line) - _CLOCK_S):
            return f"its breaker opened after {len(self._let_through)} restarts; it lets {self._pool.breaker.restarts} through"
        self._failures = self._failed(line)[0]
        self._breaker, self._opened, self._scheduled = "open", at(line), None
        return ""

    def _is_storm(self, now: float) -> bool:
        last = self._let_through[-self._pool.breaker.restarts :]
        return len(last) == self._pool.breaker.restarts and now - last[0] < self._pool.breaker.window_s

    def _never_started(self) -> str:
        """Whether it was to be started again, and was not, though its manager had the time."""
        until = killed_t(self._case, self._manager) or self._case.fault_end_t or 0
        lost = self._ended if self._breaker == "closed" and not self._operating and not self._asked else None
        if self._scheduled is None and lost is not None and (until - lost.t) / 1e9 > _START_S:
            return f"it ended, and nobody said within {(until - lost.t) / 1e9:.0f} s when it would be started again"
        if self._scheduled is None:
            return ""
        waited_s = (until - self._scheduled.t) / 1e9
        told_s = int(self._scheduled.captures["delay_ms"]) / 1000
        if waited_s > told_s + _START_S:
            return f"it was to be started again after {told_s:.2f} s, and was not within {waited_s:.0f} s"
        return ""
