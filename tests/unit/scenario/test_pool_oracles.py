"""The oracles of pools, on histories made by hand: what each passes, what each fails, and what it cannot know.

Their lines are read by the contracts, as those of a real manager and of a real job are.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from ftharness.history import (
    ContractChosen,
    Event,
    FaultHealed,
    FaultLanded,
    FaultRequested,
    History,
    Leak,
    Log,
    ProcessExited,
    ProcessSignalled,
    ProcessStarted,
    RunFinished,
    RunPhase,
    RunStarted,
)
from ftharness.logs import Scanner, load_contract
from ftharness.pool.config import BackoffConfig, BreakerConfig, ManagerConfig, PoolConfig, ProbeConfig
from ftharness.pool.log_events import EVENTS, POOL_FIELDS
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.oracles.jobs import job_completes
from ftharness.scenario.oracles.pool_expiry import leases_expire_on_time
from ftharness.scenario.oracles.pool_leases import leases_conserved
from ftharness.scenario.oracles.pool_operations import operations_come_to
from ftharness.scenario.oracles.pool_ready import ready_only_when_healthy
from ftharness.scenario.oracles.pool_restarts import backoff_follows_policy
from ftharness.scenario.oracles.pool_starts import no_double_start
from ftharness.scenario.oracles.processes import no_leaks

NS = 1_000_000_000
#: A restart of which the word that it was started is missing.
UNSAID_START: list[tuple[float, tuple[str], dict[str, Any]]] = [
    (90, ("engine_lost",), {"exit": "SIGKILL", "reason": "it ended by itself"}),
    (90.01, ("restart_scheduled",), {"delay_ms": 4000, "reason": "it ended"}),
    (95, ("engine_lost",), {"exit": "SIGKILL", "reason": "it ended by itself"}),
]
STAMP = datetime.fromtimestamp(1_700_000_011, UTC).isoformat(timespec="microseconds")  # 11 s
GOT, BACK = "got lease=a engine=main-1 holder=job-1/1", "returned lease=a engine=main-1"
KILL = {"exit": "SIGKILL", "reason": "it ended by itself: SIGKILL; its last lines: serving main, reason=none"}


class Pools:
    """A run of a manager, whose two engines are ready when the fault phase begins, at 10 s; times are in seconds.

    Waits are 1, 2 and 4 s, give or take a tenth; two restarts in 60 s are let through; a probe takes 1 s to see a frozen engine.
    """

    def __init__(self, *, slots_per_engine: int = 2, **manager: Any) -> None:
        pool = PoolConfig(
            id="main",
            engine="sim",
            replicas=2,
            slots_per_engine=slots_per_engine,
            probe=ProbeConfig(interval_s=0.5, timeout_s=0.5),
            backoff=BackoffConfig(initial_s=1, factor=2, max_s=4, jitter=0.1, stable_s=30),
            breaker=BreakerConfig(restarts=2, window_s=60, half_open_s=10),
        )
        config = msgspec.to_builtins(ManagerConfig(pools=[pool], **manager))
        self.events: list[tuple[float, Event]] = []
        self._pid = 100
        self._scanners = {name: Scanner(load_contract(name, "1")) for name in ("pool", "job")}
        self.add(0, RunStarted(source="harness", scenario="a/b", stack="sim", params={"pool": config}))
        self.add(0.1, ProcessStarted(source="pool", pid=1, role="manager"))
        for engine in ("main-1", "main-2"):
            self.starts(1, engine)
            self.says(2, "engine_ready", engine, url="http://127.0.0.1:1")
        self.add(10, RunPhase(source="harness", phase="fault"))
        self.add(10, ProcessStarted(source="job-1", pid=3, role="job"))
        self.add(100, RunPhase(source="harness", phase="teardown"))

    def add(self, t: float, event: Event) -> None:
        self.events.append((t, event))

    def says(self, t: float, event: str, engine: str = "main-1", *, source: str = "pool", **says: Any) -> None:
        """A line of the manager's, as it writes it."""
        stamp = datetime.fromtimestamp(1_700_000_000 + t, UTC).isoformat(timespec="microseconds")
        about = dict.fromkeys(POOL_FIELDS) | {"pool_id": "main", "engine_id": engine, "model_id": "old"}
        about["last_error"] = 'main-1: it ended\nby itself; pid=7 said "lease_id=x"'
        line = {"timestamp": stamp, "level": EVENTS[event].level, "event": event, **about, **says}
        self._read(t, source, "pool", json.dumps(line))

    def serves(self, t: float, source: str) -> None:
        stamp = datetime.fromtimestamp(1_700_000_000 + t, UTC).isoformat(timespec="microseconds")
        line = {
            "timestamp": stamp,
            "level": "info",
            "event": "manager_started",
            "host": "127.0.0.1",
            "port": 1,
            "pid": 2,
        }
        self._read(t, source, "pool", json.dumps(line))

    def starts(self, t: float, engine: str = "main-1", *, source: str = "pool", pid: int = 0) -> int:
        self._pid += 1
        self.says(t, "engine_started", engine, source=source, pid=pid or self._pid)
        return pid or self._pid

    def is_ready(self, t: float, engine: str = "main-1", **more: Any) -> None:
        self.says(t, "engine_ready", engine, url="http://127.0.0.1:1", **more)

    def grants(self, t: float, lease: str, engine: str = "main-1", *, ttl_s: float = 60, **more: Any) -> None:
        about = {"lease_id": lease, "holder": "job-1/1", "expires_ms": expires_ms(t + ttl_s)}
        self.says(t, "lease_granted", engine, **about | more)

    def takes_over(self, t: float, lease: str, until: float = 71, engine: str = "main-1", **more: Any) -> None:
        about = {"lease_id": lease, "holder": "job-1/1", "expires_ms": expires_ms(until)}
        self.says(t, "lease_taken_over", engine, source="pool.2", **about | more)

    def renews(self, t: float, lease: str, *, ttl_s: float = 60) -> None:
        self.job(t, f"lease_renewed lease={lease} engine=main-1 expires_ms={expires_ms(t + ttl_s)}")

    def ends(
        self, t: float, lease: str, how: str = "released", engine: str = "main-1", reason: str = "gone", **more: Any
    ) -> None:
        about = {"lease_id": lease, "holder": "job-1/1"} | ({"reason": reason} if how == "revoked" else {})
        self.says(t, f"lease_{how}", engine, **about | more)

    def job(self, t: float, line: str, source: str = "job-1") -> None:
        self._read(t, source, "job", f"[job] {line}")

    def got(self, t: float, lease: str, engine: str = "main-1", holder: str = "job-1/1", source: str = "job-1") -> None:
        self.job(t, f"lease_got lease={lease} engine={engine} holder={holder}", source)

    def lease(self, t: float, lease: str, engine: str = "main-1") -> None:
        """A lease as it should be: granted, got, used, given back."""
        self.grants(t, lease, engine)
        self.job(t + 0.01, f"lease_got lease={lease} engine={engine} holder=job-1/1")
        self.job(t + 0.02, f"lease_used lease={lease} engine={engine} status=200")
        self.ends(t + 0.03, lease, engine=engine)
        self.job(t + 0.04, f"lease_returned lease={lease} engine={engine}")

    def hit(self, t: float, fault: str, name: str = "pool", *, healed: float | None = None, **evidence: Any) -> None:
        fault_id = f"fault-{len(self.events)}"
        self.add(t, FaultRequested(source="harness", id=fault_id, fault=fault, target=name))
        self.add(t, FaultLanded(source=name, id=fault_id, evidence=evidence))
        if healed is not None:
            self.add(healed, FaultHealed(source=name, id=fault_id))

    def kills(self, t: float, engine: str, pid: int) -> None:
        self.hit(t, "kill_engine", engine=engine, engine_pid=pid)
        self.says(t + 0.01, "engine_lost", engine, **KILL)

    def manager_dies(self, t: float) -> None:
        self.hit(t, "kill")
        self.add(t, ProcessSignalled(source="pool", pid=1, signal="SIGKILL", reason="fault"))
        self.add(t, ProcessExited(source="pool", pid=1, signal="SIGKILL"))
        self.add(t + 0.1, ProcessStarted(source="pool.2", pid=2, role="manager"))

    def stalls(self, since: float, until: float) -> None:
        """The harness reads nothing meanwhile: what was written then it reads at once afterwards."""
        self.events = [
            (until if since <= t < until and isinstance(event, Log) else t, event) for t, event in self.events
        ]

    def judged(self, oracle: Callable[..., Finding], **args: Any) -> Finding:
        history = History(start_ns=0)
        for t, event in sorted(self.events, key=lambda pair: pair[0]):
            history.append(event, at=int(t * NS))
        return oracle(Case(list(history.events)), **args)

    def _read(self, t: float, source: str, contract: str, line: str) -> None:
        (match,) = self._scanners[contract].feed(f"{line}\n".encode(), 0)
        self.add(t, Log(source=source, event=match.event, captures=match.captures, line=match.line))


@pytest.fixture
def pools() -> Pools:
    return Pools()


ORACLES: list[Callable[..., Finding]] = [
    leases_conserved,
    ready_only_when_healthy,
    backoff_follows_policy,
    no_double_start,
    leases_expire_on_time,
    lambda case: operations_come_to(case, ["drained"]),
]


@pytest.mark.parametrize("oracle", ORACLES)
def test_without_a_manager_or_without_anything_that_happened_nothing_is_known(oracle: Callable[..., Finding]) -> None:
    """A run of none says nothing of any, nor does one in which nobody leased and nothing ended."""
    history = History(start_ns=0)
    history.append(RunStarted(source="harness", scenario="a/b", stack="sim"))
    assert oracle(Case(list(history.events))).verdict == "unknown"
    assert Pools().judged(oracle).verdict == "unknown"


def fails(finding: Finding, what: str) -> None:
    assert (finding.verdict, what in finding.reason) == ("fail", True), finding
    assert finding.evidence


def expires_ms(t: float) -> int:
    """A time of the run as the manager tells it."""
    return int((1_700_000_000 + t) * 1000)


# Leases.


def test_leases_that_end_as_their_holders_are_told_are_conserved(pools: Pools) -> None:
    """Released, revoked and expired ones, and one that its holder still has."""
    pools.lease(11, "a")
    for lease, how, engine in (("b", "revoked", "main-2"), ("c", "expired", "main-1")):
        pools.grants(12, lease, engine)
        pools.got(12.1, lease, engine)
        pools.ends(12.2, lease, how, engine)
        pools.job(12.3, f"lease_lost lease={lease} engine={engine} state={how} why=so")
    pools.says(12.4, "engine_lost", "main-2", **KILL)
    pools.grants(13, "d")
    found = pools.judged(leases_conserved)
    assert found.reason == "4 leases = 1 released + 1 revoked + 1 expired + 1 held; at most 2 at once"
    assert found.verdict == "pass"


def test_more_leases_than_slots(pools: Pools) -> None:
    """Two are as many as an engine has; those of the other engine count for themselves."""
    for lease, engine in (("a", "main-1"), ("b", "main-2"), ("c", "main-1")):
        pools.grants(11, lease, engine)
    assert pools.judged(leases_conserved).verdict == "pass"
    pools.grants(12, "d", "main-1")
    fails(pools.judged(leases_conserved), "main-1 has 2 slots, and 3 leases")


def test_more_leases_than_an_engine_says_that_it_carries() -> None:
    """Where its pool leaves that to it; of a manager that does not say it nothing is known."""
    for slots, verdict in (({"slots": 4}, "pass"), ({"slots": 3}, "fail"), ({}, "pass")):
        pools = Pools(slots_per_engine=0)
        pools.is_ready(10.5, **slots)
        for lease in "abcd":
            pools.grants(11, lease)
        found = pools.judged(leases_conserved)
        assert found.verdict == verdict, found
        if verdict == "fail":
            assert "main-1 has 3 slots, and 4 leases" in found.reason


@pytest.mark.parametrize(
    "second,what",
    [
        (lambda pools: pools.grants(12, "a"), "lease a was granted twice"),
        (lambda pools: pools.ends(12, "a", "expired"), "lease a was released, and then expired"),
        (lambda pools: pools.ends(12, "b"), "lease b ended, and was never granted"),
        (
            lambda pools: (pools.grants(12, "b", "main-2"), pools.ends(13, "b", engine="main-1")),
            "lease b on main-2 was released on main-1",
        ),
        (
            lambda pools: (pools.grants(12, "b"), pools.ends(13, "b", holder="job-1/2")),
            "lease b of job-1/1 was released as that of job-1/2",
        ),
        (lambda pools: pools.lease(12, "b", "main-9"), "lease b is on main-9, an engine that no pool has"),
    ],
)
def test_a_lease_begins_and_ends_once(pools: Pools, second: Callable[[Pools], None], what: str) -> None:
    """Whatever else is said of it cannot be."""
    pools.lease(11, "a")
    second(pools)
    fails(pools.judged(leases_conserved), what)


@pytest.mark.parametrize(
    "then,verdict",
    [
        (lambda pools: pools.says(12.5, "engine_stopped", **KILL), "pass"),
        (lambda pools: pools.says(12.9, "engine_stopped", **KILL), "pass"),
        (lambda pools: pools.is_ready(12.5), "fail"),
        (lambda pools: pools.lease(12.5, "b"), "fail"),
        (lambda pools: pools.says(11.5, "drain_begun", "", deadline_ms=0, on_timeout="stop"), "pass"),
        (lambda pools: pools.says(11.5, "reload_begun", "", model="models/new"), "pass"),
    ],
)
def test_a_lease_is_taken_back_as_its_engine_ends(pools: Pools, then: Callable[[Pools], None], verdict: str) -> None:
    """Or by a drain, or a reload; not while its engine goes on."""
    pools.grants(11, "a")
    pools.ends(12, "a", "revoked")
    then(pools)
    if verdict == "pass":
        pools.says(12.95, "engine_lost", **KILL)
        pools.starts(13)
        pools.is_ready(13.1)
    found = pools.judged(leases_conserved)
    assert found.verdict == verdict, found
    if verdict == "fail":
        assert "lease a on main-1 was revoked, and main-1 had not ended" in found.reason


@pytest.mark.parametrize("end", ["engine_lost", "engine_stopped"])
def test_no_lease_outlives_its_engine(pools: Pools, end: str) -> None:
    """They are taken back before it is said that it ended."""
    pools.grants(11, "a")
    pools.says(12, end, **KILL)
    fails(pools.judged(leases_conserved), "main-1 had ended, and lease a on it were not taken back")


def test_no_lease_is_granted_while_a_pool_drains(pools: Pools) -> None:
    """Before and afterwards they are."""
    pools.lease(11, "a")
    pools.says(12, "drain_begun", "", deadline_ms=1000, on_timeout="stop")
    pools.says(13, "drain_ended", "", outcome="aborted", duration_ms=1000)
    pools.lease(14, "b")
    assert pools.judged(leases_conserved).verdict == "pass"
    pools.lease(12.5, "c")
    fails(pools.judged(leases_conserved), "lease c was granted while main was drained")


@pytest.mark.parametrize(
    "word,end,what",
    [
        ("lease_returned lease=a engine=main-1", "revoked", "is revoked to pool, and released to job-1"),
        (
            "lease_lost lease=a engine=main-1 state=revoked why=so",
            "released",
            "is released to pool, and revoked to job-1",
        ),
        (
            "lease_lost lease=a engine=main-1 state=unknown why=so",
            "released",
            "is released to pool, and unknown to job-1",
        ),
        ("lease_returned lease=a engine=main-1", "", "is held to pool, and released to job-1"),
    ],
)
def test_a_holder_is_told_what_became_of_its_lease(pools: Pools, word: str, end: str, what: str) -> None:
    """What the manager thinks otherwise, one of the two has lost."""
    pools.grants(11, "a")
    pools.job(11.1, "lease_got lease=a engine=main-1 holder=job-1/1")
    if end:
        pools.ends(12, "a", end)
    pools.job(12.1, word)
    fails(pools.judged(leases_conserved), what)


def test_what_a_holder_has_was_granted_and_what_was_granted_a_holder_has(pools: Pools) -> None:
    """Once it is through, it has got all that was granted to it, and said what became of each."""
    pools.job(11, "lease_got lease=a engine=main-1 holder=job-1/1")
    fails(pools.judged(leases_conserved), "job-1 got lease a, which no manager said that it granted")
    pools.grants(10.9, "a")
    pools.lease(12, "b")
    assert pools.judged(leases_conserved).verdict == "pass", "it still has it"
    pools.job(13, "job_finished leases=2 returned=1 lost=0 most=1")
    fails(
        pools.judged(leases_conserved),
        "lease a was granted to job-1, which is through, and never said what became of it; it is held",
    )
    pools.ends(12.5, "a")
    pools.job(12.6, "lease_returned lease=a engine=main-1")
    pools.grants(12.7, "c")
    fails(
        pools.judged(leases_conserved), "lease c was granted to job-1, which is through, and never got it; it is held"
    )


def test_leases_end_with_the_manager_that_granted_them(pools: Pools) -> None:
    """Its holder is told so by the next one; of one that it had not been told of, nobody knows."""
    pools.grants(11, "a")
    pools.job(11.1, "lease_got lease=a engine=main-1 holder=job-1/1")
    pools.grants(11.2, "b")
    pools.manager_dies(12)
    pools.job(13, "lease_lost lease=a engine=main-1 state=unknown why=another manager's")
    pools.job(14, "job_finished leases=1 returned=0 lost=1 most=1")
    assert pools.judged(leases_conserved).reason == "2 leases = 2 gone with their manager; at most 2 at once"


def outlived(pools: Pools, *, kept: bool = True) -> None:
    """A lease of a manager that is killed, whose engine the next one adopts, and which that goes on with, or does not."""
    pools.add(0.2, ContractChosen(source="pool", backend="pool", events=["lease_taken_over"] if kept else []))
    pools.grants(11, "a")
    pools.job(11.1, "lease_got lease=a engine=main-1 holder=job-1/1")
    pools.manager_dies(12)
    pools.says(13, "engine_adopted", source="pool.2", pid=101)


def test_leases_go_on_with_engines_that_outlive_their_manager() -> None:
    """The next one knows them, counts them, and ends them; not those that had ended."""
    pools = Pools(engines_survive=True)
    outlived(pools)
    pools.takes_over(13.1, "a")
    found = pools.judged(leases_conserved)
    assert (found.verdict, found.reason) == ("pass", "1 leases = 1 held; at most 1 at once")
    pools.ends(14, "a", source="pool.2")
    pools.job(14.1, "lease_returned lease=a engine=main-1")
    assert pools.judged(leases_conserved).reason == "1 leases = 1 released; at most 1 at once"
    pools.takes_over(15, "a")
    fails(pools.judged(leases_conserved), "lease a was taken over, and had been released")


@pytest.mark.parametrize(
    "taken,what",
    [
        ({"holder": "job-1/99"}, "lease a of job-1/1 was taken over as that of job-1/99"),
        ({"engine": "main-2"}, "lease a on main-1 was taken over on main-2"),
        ({"until": 3671}, "lease a was taken over for 3600.00 s longer than its holder was told"),
        ({"until": 20}, "lease a was taken over for 51.00 s shorter than its holder was told"),
        ({}, "lease a was taken over, and was its own already"),
    ],
)
def test_a_lease_is_taken_over_once_and_as_it_was(taken: dict[str, Any], what: str) -> None:
    """Its holder, its engine and its time are those that were told; and who has it cannot take it over."""
    pools = Pools(engines_survive=True)
    outlived(pools)
    pools.takes_over(13.1, "a", **taken)
    if not taken:
        pools.takes_over(13.2, "a")
    fails(pools.judged(leases_conserved), what)


@pytest.mark.parametrize(
    "until,verdict", [(71, "pass"), (71.5, "pass"), (71.9, "pass"), (72.5, "fail"), (71.2, "pass")]
)
def test_a_renewal_that_its_manager_did_not_live_to_answer(until: float, verdict: str) -> None:
    """It may have been made until the manager was killed, a second after the grant, and lasts as long as the grant did."""
    pools = Pools(engines_survive=True)
    outlived(pools)
    pools.renews(11.2, "a")
    pools.takes_over(13.1, "a", until)
    assert pools.judged(leases_conserved).verdict == verdict


def test_a_lease_of_a_managers_last_instant_has_perhaps_no_holder() -> None:
    """It was written down, and its manager was killed before it said or answered so; the next one ends it."""
    pools = Pools(engines_survive=True)
    outlived(pools)
    for lease in ("a", "b"):
        pools.takes_over(13.1, lease)
        pools.ends(14, lease, source="pool.2")
    pools.job(14.1, "lease_returned lease=a engine=main-1")
    pools.job(14.2, "job_finished leases=1 returned=1 lost=0 most=1")
    found = pools.judged(leases_conserved)
    assert (found.verdict, found.reason) == ("pass", "2 leases = 2 released; at most 2 at once")


def test_a_lease_that_the_next_manager_does_not_know_though_it_has_its_engine() -> None:
    """Its holder is told so: that is what it was to keep. A manager that does not know of any has promised nothing."""
    for kept in (True, False):
        pools = Pools(engines_survive=True)
        outlived(pools, kept=kept)
        pools.job(14, "lease_lost lease=a engine=main-1 state=unknown why=another manager's")
        found = pools.judged(leases_conserved)
        assert found.verdict == ("fail" if kept else "pass"), found
        pools.ends(15, "a", source="pool.2")
        fails(pools.judged(leases_conserved), "lease a was released, and was another manager's")


@pytest.mark.parametrize(
    "died_s,got,what",
    [
        (12, True, "lease a was granted to job-1, which is through, and never said what became of it"),
        (12, False, ""),
        (14, False, "lease a was granted to job-1, which is through, and never got it"),
    ],
)
def test_a_holder_that_is_through_has_said_what_became_of_its_leases(died_s: float, got: bool, what: str) -> None:
    """Also of those of a manager that was killed; but for an answer that was on its way when it was."""
    pools = Pools()
    pools.grants(11.5, "a")
    if got:
        pools.job(11.6, "lease_got lease=a engine=main-1 holder=job-1/1")
    pools.manager_dies(died_s)
    pools.job(20, "job_finished leases=1 returned=0 lost=0 most=1")
    found = pools.judged(leases_conserved)
    if what:
        fails(found, what)
    else:
        assert found.verdict == "pass", found


def test_what_became_of_a_lease_that_its_holder_never_got(pools: Pools) -> None:
    """It cannot give back what it has not said to have."""
    pools.grants(11, "a")
    pools.ends(12, "a")
    pools.job(12.1, "lease_returned lease=a engine=main-1")
    fails(pools.judged(leases_conserved), "job-1 says what became of lease a, which it never said that it got")


@pytest.mark.parametrize(
    "says,what",
    [
        (
            ["got lease=a engine=main-1 holder=job-1/77"],
            "lease a was granted to job-1/1 on main-1, and got by job-1/77",
        ),
        (
            ["got lease=a engine=main-2 holder=job-1/1"],
            "lease a was granted to job-1/1 on main-1, and got by job-1/1 on main-2",
        ),
        ([GOT, "got lease=a engine=main-1 holder=job-1/77"], "lease a was got by job-1/1, and by job-1/77"),
        (["used lease=a engine=main-1 status=200"], "says that it used lease a, which it never said that it got"),
        (
            ["renewed lease=a engine=main-1 expires_ms=1"],
            "says that it renewed lease a, which it never said that it got",
        ),
        ([GOT, "used lease=a engine=main-2 status=200"], "says that it used lease a on main-2, which it got on main-1"),
        ([GOT, BACK, BACK], "says what became of lease a, which was over for it already"),
        (
            [GOT, BACK, "used lease=a engine=main-1 status=200"],
            "says that it used lease a, which was over for it already",
        ),
    ],
)
def test_a_lease_has_one_holder_and_one_engine(pools: Pools, says: list[str], what: str) -> None:
    """Those that its manager says, of each word of its holder's."""
    pools.grants(11, "a")
    for place, line in enumerate(says):
        pools.job(11.1 + place / 10, f"lease_{line}")
    fails(pools.judged(leases_conserved), what)


def test_a_lease_is_of_the_job_that_got_it(pools: Pools) -> None:
    """Another cannot give it back."""
    pools.add(10, ProcessStarted(source="job-2", pid=4, role="job"))
    pools.grants(11, "a")
    pools.got(11.1, "a")
    pools.ends(12, "a")
    pools.job(12.1, "lease_returned lease=a engine=main-1", "job-2")
    fails(pools.judged(leases_conserved), "job-2 says what became of lease a, which job-1 got")


def test_what_a_manager_granted_in_its_last_instant_it_may_not_have_said(pools: Pools) -> None:
    """Its answer was faster than its log; a second earlier it was not."""
    for died_s, verdict in ((11.2, "unknown"), (12.5, "fail")):
        one = Pools()
        one.got(11, "a")
        one.manager_dies(died_s)
        assert one.judged(leases_conserved).verdict == verdict


@pytest.mark.parametrize(
    "granted_s,got,what",
    [
        (21.5, True, "lease b was granted to job-1.2, which is through, and never said what became of it; it is held"),
        (21.5, False, "lease b was granted to job-1.2, which is through, and never got it; it is held"),
        (20.2, False, ""),  # asked for by the life before, perhaps, which was killed at 20 s
        (11.5, False, ""),
    ],
)
def test_the_second_life_of_a_job_is_held_to_its_word_as_well(granted_s: float, got: bool, what: str) -> None:
    """Its holders are called as those of the first; what was granted to that, which was killed, is not theirs."""
    pools = Pools()
    pools.add(20, ProcessExited(source="job-1", pid=3, signal="SIGKILL"))
    pools.add(20.1, ProcessStarted(source="job-1.2", pid=4, role="job"))
    pools.grants(granted_s, "b")
    if got:
        pools.got(granted_s + 0.1, "b", source="job-1.2")
    pools.job(23, "job_finished leases=1 returned=0 lost=0 most=1", "job-1.2")
    found = pools.judged(leases_conserved)
    if what:
        fails(found, what)
    else:
        assert found.verdict == "pass", found


@pytest.mark.parametrize(
    "told,until_told,verdict", [(False, True, "unknown"), (True, True, "fail"), (False, False, "fail")]
)
def test_a_job_that_nobody_told_to_end_has_not_failed_to(
    pools: Pools, told: bool, until_told: bool, verdict: str
) -> None:
    """It goes on until then: what was to tell it may have missed. One that was told, or ends by itself, was to end."""
    argv = ["python", "-m", "ftharness.engine.job", "leases", *(["--until-told", "true"] if until_told else [])]
    pools.events = [one for one in pools.events if one[1].source != "job-1"]
    pools.add(10, ProcessStarted(source="job-1", pid=3, role="job", argv=argv))
    if told:
        pools.add(50, ProcessSignalled(source="job-1", pid=3, signal="SIGTERM", reason="fault"))
    pools.add(20, ProcessSignalled(source="job-1", pid=3, signal="SIGSTOP", reason="fault"))
    pools.add(99, ProcessSignalled(source="job-1", pid=3, signal="SIGTERM", reason="teardown"))
    pools.add(99.5, ProcessExited(source="job-1", pid=3, returncode=0))
    assert pools.judged(job_completes).verdict == verdict
    pools.events = [one for one in pools.events if getattr(one[1], "reason", "") != "teardown"]
    pools.events[-1] = (60, ProcessExited(source="job-1", pid=3, returncode=1))
    assert pools.judged(job_completes).verdict == "fail", "it failed by itself"


# Readiness.


def test_leases_on_engines_that_are_ready(pools: Pools) -> None:
    """One died, which was said at once, and came back; another was frozen for shorter than anybody could see."""
    pools.lease(11, "a")
    pools.kills(12, "main-1", 101)
    pools.starts(13.2)
    pools.is_ready(14)
    pools.lease(14.1, "b")
    pools.hit(14.5, "kill_engine", engine="main-1", engine_pid=103)
    pools.says(14.52, "engine_lost", **KILL)
    pools.hit(15, "freeze_engine", healed=15.4, engine="main-2", engine_pid=102)
    found = pools.judged(ready_only_when_healthy)
    assert found.verdict == "pass", found
    assert found.reason == (
        "2 leases, each on an engine that was ready; 2 answered who had leased them; "
        "main-1 was killed 2 times, which was said after 0.02 s at most"
    )


@pytest.mark.parametrize(
    "event,says,word",
    [
        ("engine_unready", {"reason": "no answer within 0.5 s"}, "unready"),
        ("engine_lost", KILL, "lost"),
        ("engine_stopped", KILL, "stopped"),
        ("engine_started", {"pid": 7}, "started"),
    ],
)
def test_a_lease_on_an_engine_that_is_not_ready(pools: Pools, event: str, says: dict[str, Any], word: str) -> None:
    """What was last said of it decides; of an engine whose probe fails also whether the pool is to fail open."""
    pools.says(11, event, **says)
    pools.grants(11.5, "a")
    fails(pools.judged(ready_only_when_healthy), f"lease a was granted on main-1, of which the last word was {word}")
    opened = Pools(fail_mode="open")
    opened.says(11, event, **says)
    opened.grants(11.5, "a")
    assert opened.judged(ready_only_when_healthy).verdict == ("pass" if word == "unready" else "fail")


def test_ready_without_a_start(pools: Pools) -> None:
    """An engine that has ended is ready only when another has been started in its slot."""
    pools.lease(11, "a")
    pools.kills(12, "main-1", 101)
    pools.is_ready(13)
    fails(pools.judged(ready_only_when_healthy), "main-1 was ready, of which the last word was lost")


@pytest.mark.parametrize("event,word", [("engine_unready", "unready"), ("engine_ready", "ready")])
def test_a_manager_that_says_how_an_engine_is_that_it_never_had(event: str, word: str) -> None:
    """What the one before it had started it has to adopt first."""
    about = {"reason": "no answer"} if word == "unready" else {"url": "http://127.0.0.1:1"}
    for adopted in (True, False):
        pools = Pools(engines_survive=True)
        pools.lease(11, "a")
        pools.manager_dies(12)
        if adopted:
            pools.says(12.5, "engine_adopted", source="pool.2", pid=101)
        pools.says(13, event, source="pool.2", **about)
        found = pools.judged(ready_only_when_healthy)
        assert found.verdict == ("pass" if adopted else "fail"), found
    fails(found, f"main-1 was {word}, of which the last word was never started")


@pytest.mark.parametrize("said_s,verdict", [(0.9, "pass"), (1.2, "fail"), (None, "fail")])
def test_an_engine_that_was_killed_is_missed_within_a_second(pools: Pools, said_s: float | None, verdict: str) -> None:
    """Later, or never, is too late."""
    pools.lease(11, "a")
    pools.hit(12, "kill_engine", engine="main-1", engine_pid=101)
    if said_s is not None:
        pools.says(12 + said_s, "engine_lost", **KILL)
    assert pools.judged(ready_only_when_healthy).verdict == verdict


@pytest.mark.parametrize("until_s", [14, 100.5])
def test_what_was_written_in_time_and_read_late(pools: Pools, until_s: float) -> None:
    """A machine whose processors are all busy costs no verdict, though lines are read when the teardown has begun."""
    pools.lease(11, "a")
    pools.grants(11.9, "b")
    pools.got(11.91, "b")
    pools.hit(12, "kill_engine", engine="main-1", engine_pid=101)
    pools.ends(12.01, "b", "revoked")
    pools.says(12.01, "engine_lost", **KILL)
    pools.says(12.02, "restart_scheduled", delay_ms=1000, reason="it ended")
    pools.starts(13.1)
    pools.stalls(12.005, until_s)
    pools.job(98, "lease_lost lease=b engine=main-1 state=revoked why=so")
    for oracle in (ready_only_when_healthy, leases_conserved, backoff_follows_policy):
        found = pools.judged(oracle)
        assert found.verdict == "pass", found


def test_a_managers_lines_stay_in_their_order(pools: Pools) -> None:
    """Whatever their stamps say: a clock that is set back moves no line before another."""
    pools.kills(12, "main-1", 101)
    pools.grants(12.5, "a")
    pools.stalls(12, 14)
    pools.events = [
        (t, msgspec.structs.replace(event, captures=event.captures | {"at": STAMP}))
        if isinstance(event, Log) and event.event == "lease_granted"
        else (t, event)
        for t, event in pools.events
    ]
    fails(pools.judged(ready_only_when_healthy), "lease a was granted on main-1, of which the last word was lost")


def test_an_end_that_was_said_before_its_fault_was_seen_to_have_landed(pools: Pools) -> None:
    """Its manager may see it first."""
    pools.lease(11, "a")
    pools.add(12, FaultRequested(source="harness", id="fault-k", fault="kill_engine", target="pool"))
    pools.says(12.2, "engine_lost", **KILL)
    pools.add(12.3, FaultLanded(source="pool", id="fault-k", evidence={"engine": "main-1", "engine_pid": 101}))
    found = pools.judged(ready_only_when_healthy)
    assert (found.verdict, "main-1 was killed, which was said after 0.00 s" in found.reason) == ("pass", True)


@pytest.mark.parametrize("said_s,verdict", [(1.9, "pass"), (2.1, "fail"), (None, "fail")])
def test_an_engine_that_is_frozen_is_missed_by_its_probe(pools: Pools, said_s: float | None, verdict: str) -> None:
    """After an interval and a timeout, of half a second each, and a second for the machine."""
    pools.lease(11, "a")
    pools.hit(12, "freeze_engine", healed=15, engine="main-1", engine_pid=101)
    if said_s is not None:
        pools.says(12 + said_s, "engine_unready", reason="no answer within 0.5 s")
    pools.is_ready(15.1)
    assert pools.judged(ready_only_when_healthy).verdict == verdict


@pytest.mark.parametrize(
    "then,verdict",
    [
        (lambda _: None, "fail"),
        (lambda pools: pools.is_ready(17.1), "fail"),
        (lambda pools: pools.is_ready(16.9), "pass"),
        (lambda pools: pools.says(14, "engine_stopped", **KILL), "pass"),
        (lambda pools: pools.says(16.5, "probe_failed", reason="no answer", failures=2), "pass"),
        (
            lambda pools: pools.says(15.5, "probe_failed", reason="no answer", failures=2),
            "fail",
        ),  # asked before the thaw
        (lambda pools: pools.hit(16.5, "kill_engine", engine="main-1", engine_pid=101), "pass"),
        (lambda pools: pools.manager_dies(16.5), "pass"),
    ],
)
def test_an_engine_that_is_thawed_is_ready_again(pools: Pools, then: Callable[[Pools], None], verdict: str) -> None:
    """After an interval and a timeout, and a second; unless it ended, answers badly, or something else befell it."""
    pools.lease(11, "a")
    pools.hit(12, "freeze_engine", healed=15, engine="main-1", engine_pid=101)
    pools.says(13, "engine_unready", reason="no answer within 0.5 s")
    then(pools)
    pools.says(17.3, "engine_lost", **KILL)
    found = pools.judged(ready_only_when_healthy)
    assert found.verdict == verdict, found
    if verdict == "fail":
        assert "main-1 was thawed, and nobody said that it is ready; 2.0 s were due" in found.reason


def test_what_is_frozen_and_was_not_ready_before_needs_no_word(pools: Pools) -> None:
    """That it is not ready was said already."""
    pools.lease(11, "a")
    pools.says(12, "engine_unready", reason="no answer within 0.5 s")
    pools.hit(13, "freeze_engine", engine="main-1", engine_pid=101)
    assert pools.judged(ready_only_when_healthy).verdict == "pass"
    pools.is_ready(14)
    fails(pools.judged(ready_only_when_healthy), "main-1 was frozen, and nobody said so; 2.0 s were due")


def test_a_manager_that_dies_has_nothing_to_notice(pools: Pools) -> None:
    """It was killed before a second was over; one that is killed later had the time."""
    for died_s, verdict in ((0.5, "pass"), (1.5, "fail")):
        one = Pools()
        one.lease(11, "a")
        one.hit(12, "kill_engine", engine="main-1", engine_pid=101)
        one.manager_dies(12 + died_s)
        assert one.judged(ready_only_when_healthy).verdict == verdict
    pools.manager_dies(10.5)  # before the fault, and no excuse for the next one
    pools.lease(11, "a", engine="main-2")
    pools.hit(12, "kill_engine", name="pool.2", engine="main-1", engine_pid=101)
    fails(pools.judged(ready_only_when_healthy), "main-1 was killed, and nobody said so; 1.0 s were due")


def test_an_engine_that_is_frozen_is_not_ready_before_it_is_thawed(pools: Pools) -> None:
    """But another that is started in its place may be."""
    for replaced in (False, True):
        one = Pools()
        one.lease(11, "a")
        one.hit(12, "freeze_engine", healed=15, engine="main-1", engine_pid=101)
        one.says(12.5, "engine_unready", reason="no answer within 0.5 s")
        if replaced:
            one.says(13, "engine_stopped", exit="SIGKILL", reason="its probe failed 5 times in a row")
            one.starts(14)
        one.is_ready(14.5)
        found = one.judged(ready_only_when_healthy)
        assert found.verdict == ("pass" if replaced else "fail"), found


@pytest.mark.parametrize(
    "befell,verdict",
    [
        (lambda _: None, "fail"),
        (lambda pools: pools.kills(11.01, "main-1", 101), "pass"),
        (lambda pools: pools.says(11.03, "engine_stopped", **KILL), "pass"),
        (lambda pools: pools.says(11.5, "engine_stopped", **KILL), "fail"),
        (lambda pools: pools.hit(10.5, "freeze_engine", healed=11.3, engine="main-1", engine_pid=101), "pass"),
        (lambda pools: pools.hit(10.5, "freeze_engine", healed=10.9, engine="main-1", engine_pid=101), "fail"),
        (lambda pools: pools.kills(11.01, "main-2", 102), "fail"),
        (lambda pools: pools.manager_dies(11.01), "pass"),
    ],
)
def test_a_leased_engine_answers(pools: Pools, befell: Callable[[Pools], None], verdict: str) -> None:
    """Unless something has befallen it, and not another, since it was leased."""
    pools.grants(11, "a")
    pools.job(11.02, "lease_used lease=a engine=main-1 status=ConnectionRefusedError")
    befell(pools)
    assert pools.judged(ready_only_when_healthy).verdict == verdict


def test_the_fault_on_the_engine_before_it_excuses_nothing(pools: Pools) -> None:
    """It was missed before the lease was granted: what was leased is the next engine."""
    pools.kills(11, "main-1", 101)
    pools.starts(12.1)
    pools.is_ready(12.2)
    pools.grants(12.3, "a")
    pools.job(12.4, "lease_used lease=a engine=main-1 status=ConnectionRefusedError")
    fails(pools.judged(ready_only_when_healthy), "lease a was granted, and its engine, main-1, did not answer")


@pytest.mark.parametrize("tokens,seen,verdict", [("2", True, "pass"), ("2", False, "unknown"), ("0", False, "pass")])
def test_what_leased_engines_answered_has_to_be_seen(pools: Pools, tokens: str, seen: bool, verdict: str) -> None:
    """Of a job that asks them; one that does not has nothing to tell."""
    argv = ["python", "-m", "ftharness.engine.job", "leases", "--name", "job-2", "--tokens", tokens]
    pools.add(10, ProcessStarted(source="job-2", pid=4, role="job", argv=argv))
    pools.grants(11, "a", holder="job-2/1")
    pools.got(11.1, "a", holder="job-2/1", source="job-2")
    if seen:
        pools.job(11.2, "lease_used lease=a engine=main-1 status=200", "job-2")
    pools.ends(12, "a", holder="job-2/1")
    assert pools.judged(ready_only_when_healthy).verdict == "pass", "it may still ask"
    pools.job(12.1, "lease_returned lease=a engine=main-1", "job-2")
    found = pools.judged(ready_only_when_healthy)
    assert found.verdict == verdict, found
    assert ("1 answered who had leased them" in found.reason) == seen


def test_an_engine_that_no_pool_has(pools: Pools) -> None:
    """What befell it says nothing of any pool; what a manager does in such a slot, no policy has told it to."""
    pools.lease(11, "a")
    pools.hit(12, "freeze_engine", engine="main-9", engine_pid=9, healed=20)
    found = pools.judged(ready_only_when_healthy)
    assert (found.verdict, found.reason) == ("unknown", "a fault landed on main-9, an engine that no pool has")
    pools.says(13, "restart_scheduled", "main-9", delay_ms=1000, reason="it ended")
    fails(pools.judged(backoff_follows_policy), "pool said restart_scheduled of main-9, an engine that no pool has")


# Restarts.


def ends(pools: Pools, t: float, delay_ms: int, starts_s: float | None = None, *, stopped: bool = False) -> None:
    """An end, the wait that is told, and the next start, so many seconds after that."""
    pools.says(t, "engine_stopped" if stopped else "engine_lost", **KILL)
    pools.says(t + 0.01, "restart_scheduled", delay_ms=delay_ms, reason="it ended by itself")
    pools.starts(t + 0.01 + (delay_ms / 1000 if starts_s is None else starts_s))


def opens(pools: Pools, t: float) -> None:
    pools.says(t, "engine_lost", **KILL)
    pools.says(t + 0.01, "breaker_open", reason="it ended by itself")


def test_waits_that_grow_and_a_breaker_that_opens_and_closes(pools: Pools) -> None:
    """The third end within a minute opens it; its one try holds, and after a stable run the first wait comes again."""
    ends(pools, 11, 1050)
    ends(pools, 13, 1810, stopped=True)
    opens(pools, 16)
    pools.says(26.02, "breaker_half_open")
    pools.starts(26.1)
    pools.is_ready(27)
    pools.says(27.01, "breaker_closed", reason="the engine is up")
    ends(pools, 58, 950)
    found = pools.judged(backoff_follows_policy)
    assert (found.verdict, found.reason) == ("pass", "main-1: waits of 1050, 1810, 950 ms; its breaker opened once")


@pytest.mark.parametrize(
    "told,verdict",
    [([1098], "pass"), ([1120], "fail"), ([880], "fail"), ([1000, 1000], "fail"), ([1000, 2190], "pass")],
)
def test_a_wait_is_the_policys_give_or_take_the_jitter(pools: Pools, told: list[int], verdict: str) -> None:
    """The first is a second, the second two, by a tenth of each."""
    for place, delay_ms in enumerate(told):
        ends(pools, 11 + 5 * place, delay_ms)
    assert pools.judged(backoff_follows_policy).verdict == verdict


def test_a_run_that_is_not_stable_resets_nothing(pools: Pools) -> None:
    """29 s are none of 30."""
    ends(pools, 11, 1000)
    pools.is_ready(13)
    ends(pools, 42, 1000)
    fails(
        pools.judged(backoff_follows_policy),
        "end number 2 in a row was followed by a wait of 1000 ms, not of 2000 ms ± 10%",
    )


def test_a_wait_that_was_not_kept(pools: Pools) -> None:
    """It was told, and nobody waited; or it was not even told."""
    ends(pools, 11, 1000, starts_s=0.9)
    fails(pools.judged(backoff_follows_policy), "was started 900 ms after a wait of 1000 ms had begun")
    other = Pools()
    other.says(11, "engine_lost", **KILL)
    other.starts(11.1)
    fails(other.judged(backoff_follows_policy), "it was started again without a wait")


def test_a_wait_that_never_ends(pools: Pools) -> None:
    """It was to be started again; where its manager was killed meanwhile it cannot have been."""
    pools.says(11, "engine_lost", **KILL)
    pools.says(11.01, "restart_scheduled", delay_ms=1000, reason="it ended")
    fails(pools.judged(backoff_follows_policy), "it was to be started again after 1.00 s, and was not within 89 s")
    pools.manager_dies(13)
    assert pools.judged(backoff_follows_policy).verdict == "pass"


@pytest.mark.parametrize(
    "third,what",
    [
        (lambda pools: ends(pools, 20, 4000), "restart number 3 within 60 s was let through"),
        (lambda pools: (opens(pools, 20), pools.starts(25)), "it was started while its breaker was open"),
        (
            lambda pools: (opens(pools, 20), pools.says(25, "breaker_half_open")),
            "its breaker was half open 4.99 s after it opened, not after 10.0 s",
        ),
        (lambda pools: (opens(pools, 20), ends(pools, 21, 4000)), "to be started again though its breaker was open"),
        (
            lambda pools: (pools.says(20, "engine_lost", **KILL), pools.says(31, "breaker_half_open")),
            "its breaker was half open, and nobody had said that it opened",
        ),
        (lambda pools: pools.says(20, "engine_lost", **KILL), "nobody said within 80 s when it would be started again"),
        (
            lambda pools: pools.says(20, "breaker_closed", reason="it was reset by hand"),
            "its breaker closed, and nobody had said that it opened",
        ),
        (
            lambda pools: [pools.says(t, *said, **says) for t, said, says in UNSAID_START],
            "it was lost, and nobody had said that it was started again",
        ),
    ],
)
def test_what_the_breaker_does_not_let_through(pools: Pools, third: Callable[[Pools], Any], what: str) -> None:
    """Two restarts within a minute, then none for ten seconds."""
    ends(pools, 11, 1000)
    ends(pools, 14, 2000)
    third(pools)
    fails(pools.judged(backoff_follows_policy), what)


def test_a_breaker_that_opens_too_early(pools: Pools) -> None:
    """Two restarts are let through."""
    ends(pools, 11, 1000)
    opens(pools, 15)
    fails(pools.judged(backoff_follows_policy), "its breaker opened after 1 restarts; it lets 2 through")


@pytest.mark.parametrize("reason,delay_ms", [("it was reset by hand", 1000), ("the engine is up", 4000)])
def test_a_breaker_that_is_reset_by_hand_begins_anew(pools: Pools, reason: str, delay_ms: int) -> None:
    """Somebody has seen to it: the first wait comes again, which it does not by the one try that holds."""
    ends(pools, 11, 1000)
    ends(pools, 14, 2000)
    opens(pools, 20)
    if reason == "the engine is up":
        pools.says(30.02, "breaker_half_open")
        pools.starts(30.1)
    pools.says(31, "breaker_closed", reason=reason)
    if reason != "the engine is up":
        pools.starts(31.1)
    ends(pools, 32, delay_ms)
    assert pools.judged(backoff_follows_policy).verdict == "pass"
    other = 5000 - delay_ms
    pools.events = [(t, event) for t, event in pools.events if t < 32 or t >= 100]
    ends(pools, 32, other)
    fails(pools.judged(backoff_follows_policy), f"was followed by a wait of {other} ms, not of {delay_ms} ms")


def test_waits_that_are_reset_by_hand_begin_anew(pools: Pools) -> None:
    """While the breaker is closed, too: a wait that is under way is over, and the next is the first again."""
    ends(pools, 11, 1000)
    pools.says(20, "engine_lost", **KILL)
    pools.says(20.01, "restart_scheduled", delay_ms=2000, reason="it ended")
    pools.says(20.1, "backoff_reset", reason="it was reset by hand")
    pools.starts(20.2)
    pools.is_ready(21)
    pools.says(30, "engine_lost", **KILL)
    pools.says(30.01, "breaker_open", reason="it ended")
    pools.says(40.1, "breaker_half_open")
    pools.starts(40.2)
    assert pools.judged(backoff_follows_policy).verdict == "pass"
    pools.events = [one for one in pools.events if getattr(one[1], "event", "") != "backoff_reset"]
    fails(pools.judged(backoff_follows_policy), "was started 190 ms after a wait of 2000 ms had begun")


def test_a_run_that_is_as_long_as_a_stable_one_give_or_take_the_clock(pools: Pools) -> None:
    """Either wait is right, and not a third; a second later only the first is."""
    for end_s, delay_ms, verdict in (
        (43.01, 1000, "pass"),
        (43.01, 2000, "pass"),
        (43.01, 4000, "fail"),
        (44, 1000, "pass"),
        (44, 2000, "fail"),
    ):
        one = Pools()
        ends(one, 11, 1000)
        one.is_ready(13)
        ends(one, end_s, delay_ms)
        assert one.judged(backoff_follows_policy).verdict == verdict


def test_what_an_operator_asks_for_needs_no_wait(pools: Pools) -> None:
    """Stopped by a drain, started by a resume; a reload whose engine fails brings the old one back at once."""
    ends(pools, 11, 1000)
    pools.says(13, "drain_begun", "", deadline_ms=1000, on_timeout="stop")
    pools.says(13.1, "engine_stopped", exit="exit status 0", reason="drained")
    pools.says(13.2, "drain_ended", "", outcome="drained", duration_ms=200)
    pools.starts(13.3)
    pools.says(14, "reload_begun", "", model="models/new")
    for event, at_s in (("engine_stopped", 14.1), ("engine_lost", 14.3)):
        pools.says(at_s, event, **KILL)
        pools.starts(at_s + 0.1)
    pools.says(15, "reload_ended", "", outcome="rolled_back", duration_ms=1000)
    ends(pools, 16, 1000)
    found = pools.judged(backoff_follows_policy)
    assert (found.verdict, found.reason) == ("pass", "main-1: waits of 1000, 1000 ms")


# The time of leases.


def test_a_lease_that_nobody_renews_is_over_in_time(pools: Pools) -> None:
    """As it was told at the grant, or at the last renewal; by how much it was late is told."""
    for lease in "ab":
        pools.grants(11, lease, ttl_s=10)
    for t in (15, 20):
        pools.renews(t, "b", ttl_s=10)
    pools.ends(21.3, "a", "expired")
    pools.ends(30.2, "b", "expired")
    found = pools.judged(leases_expire_on_time)
    assert found.verdict == "pass"
    assert found.reason == "2 leases expired, 0.30 s late at most; 2 renewals were kept"


@pytest.mark.parametrize(
    "renewed,ended,how,what",
    [
        ([15], 21, "expired", "lease a of job-1/1 expired 4.00 s before its time"),
        ([], 20.9, "expired", "lease a of job-1/1 expired 0.10 s before its time"),
        ([], 22.5, "expired", "1.50 s later it is expired then"),
        ([], 40, "revoked", "19.00 s later it is revoked then"),
        ([], 21.2, "released", "was given back 0.20 s after it was to be over, and was held until then"),
        ([], None, "", "79.00 s later it is held"),
        ([25], 34, "released", "lease a of job-1/1 was renewed 4.00 s after it was to be over"),
    ],
)
def test_a_lease_that_is_over_at_another_time(
    pools: Pools, renewed: list[float], ended: float | None, how: str, what: str
) -> None:
    """Too early, too late, never, or revived: it lasts for 10 s from the grant, at 11 s, or from a renewal."""
    pools.grants(11, "a", ttl_s=10)
    for t in renewed:
        pools.renews(t, "a", ttl_s=10)
    if ended is not None:
        pools.ends(ended, "a", how)
    fails(pools.judged(leases_expire_on_time), what)


def test_of_a_holder_that_was_killed_the_last_renewal_may_not_have_been_told() -> None:
    """Its leases may last for that much longer, and no more; nor may those of one who lives."""
    for killed, ended, verdict in ((True, 31.5, "pass"), (True, 32.5, "fail"), (False, 31.5, "fail")):
        one = Pools()
        one.add(10, ContractChosen(source="job-1", backend="job", events=["lease_renewed"]))
        one.grants(11, "a", ttl_s=10)
        if killed:
            one.add(12, ProcessSignalled(source="job-1", pid=3, signal="SIGKILL", reason="fault"))
            one.add(12, ProcessExited(source="job-1", pid=3, signal="SIGKILL"))
        one.ends(ended, "a", "expired")
        assert one.judged(leases_expire_on_time).verdict == verdict


def test_a_lease_that_was_due_while_nobody_could_end_it() -> None:
    """Its manager was frozen, and killed; the next one has a second from when it took the lease over."""
    for ended, verdict in ((21.2, "pass"), (22.5, "fail")):
        pools = Pools(engines_survive=True)
        pools.grants(11, "a", ttl_s=3)
        pools.hit(12, "freeze")
        pools.manager_dies(18)
        pools.takes_over(20.9, "a", 14)
        pools.ends(ended, "a", "expired", source="pool.2")
        assert pools.judged(leases_expire_on_time).verdict == verdict


def test_a_manager_that_is_gone_or_frozen_ends_no_lease(pools: Pools) -> None:
    """What it had is over with it; once it is thawed it is late, and that is no fault of its own."""
    pools.grants(11, "a", ttl_s=10)
    pools.manager_dies(15)
    assert pools.judged(leases_expire_on_time).verdict == "unknown"
    for frozen, ended, verdict in ((20, 30.1, "pass"), (20, 31.5, "fail"), (29, 30.1, "fail")):
        other = Pools()
        other.grants(11, "a", ttl_s=10)
        other.hit(frozen, "freeze", healed=30)
        other.ends(ended, "a", "expired")
        assert other.judged(leases_expire_on_time).verdict == verdict


# Starts.


def test_one_process_to_a_slot(pools: Pools) -> None:
    """It ends before the next is started; the kernel's word is the same."""
    pools.kills(11, "main-1", 101)
    pools.starts(12.1)
    pools.hit(13, "count_engines", engines={"main-1": [103], "main-2": [102]})
    found = pools.judged(no_double_start)
    assert (found.verdict, found.reason) == ("pass", "2 slots: 1 started, never two at once; 1 looks into /proc")


def test_two_processes_in_a_slot(pools: Pools) -> None:
    """By what is said of them, or by what is there."""
    pools.starts(12)
    fails(pools.judged(no_double_start), "process 103 was started, and of 101 nobody had said that it had ended")
    other = Pools()
    other.hit(13, "count_engines", engines={"main-1": [101, 103], "main-2": [102]})
    fails(other.judged(no_double_start), "main-1 has the processes 101 and 103 at once")
    third = Pools()
    third.hit(13, "count_engines", engines={"main-1": [555], "main-2": [102]})
    fails(third.judged(no_double_start), "main-1 has the process 555, of which no manager said that it had started it")


def test_a_slot_in_which_nothing_is(pools: Pools) -> None:
    """Though something was said to be there for a second and more; not where it was only just killed, nor with its manager."""
    pools.hit(13, "count_engines", engines={"main-2": [102]})
    fails(pools.judged(no_double_start), "main-1 has no process, and 101 was said to be there")
    killed = Pools()
    killed.hit(12.5, "kill_engine", engine="main-1", engine_pid=101)
    killed.hit(13, "count_engines", engines={"main-1": [], "main-2": [102]})
    assert killed.judged(no_double_start).verdict == "pass"
    dead = Pools()
    dead.manager_dies(12)
    dead.hit(13, "count_engines", engines={})
    assert dead.judged(no_double_start).verdict == "pass"


def test_an_engine_that_is_lost_twice(pools: Pools) -> None:
    """The second time none was there that anybody had told of."""
    pools.kills(11, "main-1", 101)
    pools.kills(12, "main-1", 101)
    fails(pools.judged(no_double_start), "main-1: an engine was lost, and nobody had said that one was there")


def after_its_death(pools: Pools, event: str, pid: int) -> Pools:
    """The second manager says so of the engine that the first one had."""
    pools.manager_dies(12)
    about = {"reason": "it ended by SIGKILL"} if event == "engine_gone" else {}
    pools.says(13, event, source="pool.2", pid=pid, **about)
    return pools


@pytest.mark.parametrize(
    "survive,event,pid,what",
    [
        (True, "engine_adopted", 101, ""),
        (True, "engine_adopted", 555, "process 555 was adopted, and 101 was there before"),
        (True, "engine_gone", 101, "process 101 was gone, and was to outlive its manager"),
        (True, "engine_started", 103, "process 103 was started, and of 101 nobody had said that it had ended"),
        (False, "engine_gone", 101, ""),
        (False, "engine_gone", 555, "process 555 was gone, and 101 was there before"),
        (False, "engine_adopted", 101, "process 101 was adopted, and engines were to end with their manager"),
        (False, "engine_started", 103, "process 103 was started, and of 101 nobody had said that it had ended"),
    ],
)
def test_engines_across_the_end_of_their_manager(survive: bool, event: str, pid: int, what: str) -> None:
    """Adopted or gone, as it was configured; never beside another."""
    found = after_its_death(Pools(engines_survive=survive), event, pid).judged(no_double_start)
    if what:
        fails(found, what)
    else:
        assert found.verdict == "pass", found


@pytest.mark.parametrize("event", ["engine_adopted", "engine_gone", ""])
def test_a_manager_says_what_became_of_each_engine_that_it_found(event: str) -> None:
    """Adopted, gone: before it serves. Of one that does not serve yet nothing is known."""
    pools = Pools(engines_survive=event != "engine_gone")
    pools.manager_dies(12)
    for engine, pid in (("main-1", 101), ("main-2", 102)):
        about = {"reason": "it ended by SIGKILL"} if event == "engine_gone" else {}
        if event and (event, engine) != ("engine_adopted", "main-2"):
            pools.says(13, event, engine, source="pool.2", pid=pid, **about)
    if event == "engine_adopted":
        assert pools.judged(no_double_start).verdict == "pass"
    pools.serves(13.5, "pool.2")
    found = pools.judged(no_double_start)
    if event == "engine_gone":
        assert found.verdict == "pass", found
    else:
        fails(found, "pool left process 102, and pool.2 never said what became of it" if event else "process 101")


def test_an_engine_that_was_killed_with_its_manager_is_gone(pools: Pools) -> None:
    """Nobody can adopt it."""
    survive = Pools(engines_survive=True)
    survive.hit(11.9, "kill_engine", engine="main-1", engine_pid=101)
    assert after_its_death(survive, "engine_gone", 101).judged(no_double_start).verdict == "pass"


# Operations.


STOP = "the drain's deadline is over"


def stops(pools: Pools, t: float, reason: str = "drained") -> None:
    """Both engines, as they are where nobody holds anything of a pool that was drained."""
    for engine in ("main-1", "main-2"):
        pools.says(t, "engine_stopped", engine, exit="exit status 0", reason=reason)


def drained(
    pools: Pools,
    outcome: str,
    *,
    over_s: float | None = 0.4,
    how: str = "released",
    reason: str = STOP,
    to_do: str = "",
    ended_s: float = 1.1,
) -> None:
    """A drain, at 13 s, with a deadline of a second, in which a lease ends; other leases after it, if it was given up.

    Args:
        pools: The run.
        outcome: What it comes to.
        over_s: When that lease ends, in seconds from the drain's begin; None: it does not.
        how: How it does.
        reason: Why, where it is taken back.
        to_do: What it was to do at its deadline; "": what fits the outcome.
        ended_s: When it is over, in the same seconds.
    """
    pools.job(10.5, "job_started program=leases pool=main count=1 holders=1")
    pools.lease(11, "a")
    pools.grants(12, "b")
    to_do = to_do or ("abort" if outcome == "aborted" else "stop")
    pools.says(13, "drain_begun", "", deadline_ms=1000, on_timeout=to_do)
    if over_s is not None:
        pools.ends(13 + over_s, "b", how, reason=reason)
    if outcome != "aborted":
        stops(pools, 13 + ended_s - 0.01)
    pools.says(13 + ended_s, "drain_ended", "", outcome=outcome, duration_ms=round(ended_s * 1000))
    if outcome == "aborted":
        pools.lease(15.5, "c", "main-2")


TAKEN: dict[str, Any] = {"how": "revoked"}


@pytest.mark.parametrize(
    "outcome,became,what",
    [
        ("drained", {}, ""),
        ("stopped", {"over_s": 1.01, **TAKEN}, ""),
        ("aborted", {}, ""),
        ("aborted", {"over_s": None}, ""),
        ("stopped", {"over_s": 0.5, **TAKEN}, "took a lease back after 0.50 s, and its deadline was 1 s"),
        ("stopped", {}, "was stopped at its deadline, and no lease was taken back"),
        ("drained", {"over_s": 1.01, **TAKEN}, "was drained, and took 1 leases back"),
        ("aborted", {"over_s": 1.01, **TAKEN}, "was aborted, and took 1 leases back"),
        (
            "drained",
            {"over_s": 0.5, **TAKEN, "reason": "the operator wished so"},
            "was drained, and took 1 leases back",
        ),
        ("drained", {"over_s": None}, "was drained, and 1 leases were held"),
        ("drained", {"over_s": 1.05}, ""),
        ("drained", {"over_s": 2.2, "ended_s": 2.3}, "was drained 1.20 s after its deadline of 1 s; 1 s are allowed"),
        ("stopped", {"over_s": 21, **TAKEN, "ended_s": 21.1}, "was stopped 20.00 s after its deadline of 1 s"),
        ("stopped", {"over_s": 1.9, **TAKEN, "ended_s": 4}, ""),  # its engines take their time to end
        ("aborted", {"ended_s": 2.1}, "was aborted 1.10 s after its deadline of 1 s"),
        ("aborted", {"ended_s": 0.9}, "gave up after 0.90 s, and its deadline was 1 s"),
        ("stopped", {"over_s": 1.01, **TAKEN, "to_do": "abort"}, "was stopped, and was to abort at its deadline"),
        ("aborted", {"to_do": "stop"}, "was aborted, and was to stop at its deadline"),
    ],
)
def test_what_a_drain_comes_to_and_what_that_means(
    pools: Pools, outcome: str, became: dict[str, Any], what: str
) -> None:
    """Leases are taken back where it stops by force, not before its deadline, and a second after it at most."""
    drained(pools, outcome, **became)
    found = pools.judged(operations_come_to, outcomes=[outcome])
    if what:
        fails(found, what)
    else:
        assert found.reason == f"a drain of main: {outcome} after {became.get('ended_s', 1.1):.2f} s"


def test_an_engine_that_a_drain_has_not_stopped(pools: Pools) -> None:
    """It is said to be drained, and one of them runs on."""
    drained(pools, "drained")
    pools.events = [one for one in pools.events if getattr(one[1], "captures", {}).get("exit") != "exit status 0"]
    fails(
        pools.judged(operations_come_to, outcomes=["drained"]),
        "was drained, and main-1 and main-2 had not been stopped",
    )


def test_a_manager_that_was_frozen_as_a_deadline_was_over(pools: Pools) -> None:
    """It is late by as much, and that is no fault of its own."""
    drained(pools, "stopped", over_s=5, **TAKEN, ended_s=5.1)
    fails(pools.judged(operations_come_to, outcomes=["stopped"]), "was stopped 4.00 s after its deadline")
    pools.hit(13.5, "freeze", healed=17.5)
    assert pools.judged(operations_come_to, outcomes=["stopped"]).verdict == "pass"


@pytest.mark.parametrize("end", ["lost", "stopped", "stopped by the drain", "frozen"])
def test_a_lease_of_an_engine_that_ended_is_not_the_drains(pools: Pools, end: str) -> None:
    """It was taken back for that: it ended by itself, or for its probe, after which it is started again, or is frozen."""
    drained(pools, "drained", over_s=0.5, how="revoked", reason="it ended")
    match end:
        case "lost":
            pools.says(13.6, "engine_lost", **KILL)
        case "stopped":
            pools.says(13.6, "engine_stopped", **KILL)
            pools.says(13.7, "restart_scheduled", delay_ms=1000, reason="it ended")
        case "frozen":  # and the drain ends it, before it can be started again
            pools.hit(12.5, "freeze_engine", healed=14, engine="main-1", engine_pid=101)
    found = pools.judged(operations_come_to, outcomes=["drained"])
    if end == "stopped by the drain":
        fails(found, "was drained, and took 1 leases back")
    else:
        assert found.verdict == "pass", found


@pytest.mark.parametrize(
    "then,verdict",
    [
        (lambda pools: pools.lease(15.5, "c"), "pass"),
        (lambda pools: pools.job(15.5, "lease_refused holder=job-1/1 why=draining"), "fail"),
        (lambda pools: pools.job(15.5, "lease_refused holder=job-1/1 why=not_ready"), "fail"),
        (lambda pools: pools.job(15.5, "lease_refused holder=job-1/1 why=full"), "unknown"),
        (lambda pools: pools.job(14.5, "lease_refused holder=job-1/1 why=draining"), "unknown"),  # on its way
        (lambda pools: pools.job(99.9, "lease_refused holder=job-2/1 why=draining", "job-2"), "unknown"),
        (lambda _: None, "unknown"),
    ],
)
def test_a_pool_whose_drain_was_given_up_serves_again(
    pools: Pools, then: Callable[[Pools], None], verdict: str
) -> None:
    """Who asks gets a lease; where nobody did, or all slots were taken, that is not known."""
    drained(pools, "aborted")
    pools.add(10, ProcessStarted(source="job-2", pid=4, role="job"))
    pools.job(10.5, "job_started program=leases pool=other count=1 holders=1", "job-2")
    pools.events = [one for one in pools.events if not 15 < one[0] < 100]
    then(pools)
    found = pools.judged(operations_come_to, outcomes=["aborted"])
    assert found.verdict == verdict, found
    if verdict == "fail":
        assert found.reason.startswith("a drain of main aborted, and leases were refused afterwards, as ")
    if verdict == "unknown":
        assert found.reason == "a drain of main aborted, and nobody leased anything afterwards"


def test_what_was_expected_of_operations(pools: Pools) -> None:
    """Another outcome fails, one that does not end fails, and of others than those nothing is known."""
    drained(pools, "drained")
    fails(pools.judged(operations_come_to, outcomes=["stopped"]), "a drain of main came to drained, not to stopped")
    assert pools.judged(operations_come_to, outcomes=["drained", "drained"]).verdict == "unknown"
    pools.says(20, "reload_begun", "", model="models/new")
    found = pools.judged(operations_come_to, outcomes=["drained", "succeeded"])
    fails(found, "a reload of main was begun, and never ended")
    assert found.pending
    pools.manager_dies(21)
    found = pools.judged(operations_come_to, outcomes=["drained", "succeeded"])
    assert (found.verdict, "its manager was gone before it was over" in found.reason) == ("unknown", True)


@pytest.mark.parametrize(
    "outcome,served,what",
    [
        ("succeeded", ["new", "new"], ""),
        ("rolled_back", ["old", "old"], ""),
        ("succeeded", ["old"], "succeeded, and old is served, not new"),
        ("succeeded", ["new", "old"], "succeeded, and old is served, not new"),
        ("rolled_back", ["new"], "rolled back, and new is served, not old"),
        ("rolled_back", ["old", "new"], "rolled back, and new is served, not old"),
    ],
)
def test_what_is_served_after_a_reload(pools: Pools, outcome: str, served: list[str], what: str) -> None:
    """Each lease until the next operation says it; those after that are not this one's."""
    pools.lease(11, "a")
    pools.says(12, "reload_begun", "", model="models/new@sha256:00")
    pools.says(13, "reload_ended", "", outcome=outcome, duration_ms=1000)
    for place, model in enumerate(served):
        pools.grants(14 + place, f"b{place}", model_id=model)
    pools.says(20, "reload_begun", "", model="models/third")
    pools.says(21, "reload_ended", "", outcome="succeeded", duration_ms=1000)
    pools.grants(22, "c", model_id="third")
    found = pools.judged(operations_come_to, outcomes=[outcome, "succeeded"])
    if what:
        fails(found, what)
    else:
        assert found.verdict == "pass", found


def test_an_engine_that_a_reload_has_passed_over(pools: Pools) -> None:
    """Its manager says what the pool serves; its holder, what the engine does. A job that does not say it, does not count."""
    pools.says(12, "reload_begun", "", model="models/new")
    pools.says(13, "reload_ended", "", outcome="succeeded", duration_ms=1000)
    for lease, engine in (("a", "main-1"), ("b", "main-2")):
        pools.grants(14, lease, engine, model_id="new")
    pools.got(14.1, "a")
    pools.job(14.1, "lease_got lease=b engine=main-2 holder=job-1/1 model=new")
    assert pools.judged(operations_come_to, outcomes=["succeeded"]).verdict == "pass"
    pools.grants(15, "c", "main-2", model_id="new")
    pools.job(15.1, "lease_got lease=c engine=main-2 holder=job-1/1 model=old")
    fails(pools.judged(operations_come_to, outcomes=["succeeded"]), "succeeded, and old is served by main-2, not new")


def test_what_was_served_before_a_reload_that_failed(pools: Pools) -> None:
    """Also where nobody had leased it: its engines were ready with it. Where they were not either, it is not known."""
    pools.says(12, "reload_begun", "", model="models/new")
    pools.says(13, "reload_ended", "", outcome="rolled_back", duration_ms=1000)
    pools.grants(14, "b", model_id="new")
    fails(pools.judged(operations_come_to, outcomes=["rolled_back"]), "rolled back, and new is served, not old")
    pools.events = [one for one in pools.events if getattr(one[1], "event", "") != "engine_ready"]
    assert pools.judged(operations_come_to, outcomes=["rolled_back"]).verdict == "unknown"


@pytest.mark.parametrize(
    "survive, outcome, verdict",
    [(True, "interrupted", "unknown"), (True, "complete", "fail"), (False, "interrupted", "fail")],
)
def test_engines_that_are_to_outlive_their_manager_are_no_leak_of_a_run_that_was_cut_short(
    survive: bool, outcome: str, verdict: str
) -> None:
    """Only a run that came to its end was to drain its pools."""
    pools = Pools(engines_survive=survive)
    pools.add(20, RunPhase(source="harness", phase="teardown"))
    pools.add(21, Leak(source="pool", what="process", detail="an engine", pid=7))
    pools.add(22, RunFinished(source="harness", outcome=outcome))
    assert pools.judged(no_leaks).verdict == verdict
    pools.add(21, Leak(source="job-1", what="process", detail="a holder", pid=8))
    assert pools.judged(no_leaks).verdict == "fail"


@pytest.mark.parametrize("ended", [True, False])
def test_who_could_ask_only_the_next_manager_is_not_told_what_the_first_one_did(pools: Pools, ended: bool) -> None:
    """An orderly end takes all leases back; a holder that asks a moment later is answered by one that never had it."""
    pools.grants(11, "a")
    pools.got(11.1, "a")
    pools.ends(12, "a", "revoked", reason="the manager ends")
    pools.says(12.1, "engine_stopped", exit="exit status 0", reason="the manager ends")
    if ended:
        pools.add(12.2, ProcessSignalled(source="pool", pid=1, signal="SIGTERM", reason="fault"))
        pools.add(12.3, ProcessExited(source="pool", pid=1, returncode=0))
    pools.add(12.4, ProcessStarted(source="pool.2", pid=2, role="manager"))
    pools.job(13, "lease_lost lease=a engine=main-1 state=unknown why=another manager's")
    finding = pools.judged(leases_conserved)
    assert finding.verdict == ("pass" if ended else "fail"), finding
