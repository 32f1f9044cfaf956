"""The oracles of a takeover, on histories made by hand: what each passes, what each fails, and what it cannot know."""

from collections.abc import Callable
from typing import Any

import pytest

from ftharness.engine import tokens
from ftharness.history import (
    Event,
    FaultHealed,
    FaultLanded,
    FaultRequested,
    History,
    Log,
    ProcessExited,
    ProcessStarted,
    RequestChunk,
    RequestFinished,
    RequestSent,
    RunPhase,
    RunStarted,
)
from ftharness.scenario.case import Case
from ftharness.scenario.oracles.failover import (
    fenced,
    legal_states,
    nobody_takes_over,
    one_active,
    serves_again,
    took_over_within,
)
from ftharness.scenario.oracles.outcome import ends_cleanly
from ftharness.scenario.oracles.processes import exits_explained

MS = 1_000_000
IDS = tokens.generate(0, tokens.encode("Once"), 10)
WAY = ("init", "standby", "waking", "active")


class Shadows:
    """A run in which worker-1 serves, is hit at 200 ms, and standby-1 takes over: the lock at 202, awake 222, ready 223."""

    def __init__(self, fault: str = "kill", *, groups: int = 1) -> None:
        self.events: list[tuple[float, Event]] = []
        params = {"exact": True, "seed": 0, "groups": groups}
        self.add(0, RunStarted(source="harness", scenario="a/b", stack="sim", sut_version="1", params=params))
        for pid, name in enumerate(("frontend", "worker-1", "standby-1"), 100):
            role = "frontend" if name == "frontend" else "aggregated"
            self.add(1, ProcessStarted(source=name, pid=pid, role=role))
        self.turn("worker-1", 2)
        self.states("standby-1", 3, *WAY[:2])
        self.add(90, RunPhase(source="harness", phase="fault"))
        signal = "SIGSTOP" if fault == "freeze" else "SIGKILL"
        self.add(199, FaultRequested(source="harness", id="f1", fault=fault, target="active", trigger="token 4"))
        self.add(200, FaultLanded(source="worker-1", id="f1", evidence={"signal": signal}))

    def add(self, t_ms: float, event: Event) -> None:
        self.events.append((t_ms, event))

    def log(self, t_ms: float, source: str, event: str, **captures: str) -> None:
        self.add(t_ms, Log(source=source, event=event, captures=captures, line=event))

    def states(self, source: str, t_ms: float, *states: str) -> None:
        for place, state in enumerate(states):
            self.log(t_ms + place / 10, source, "failover_state", engine="0", state=state)

    def turn(
        self, source: str, t_ms: float, *, states: bool = True, awake_ms: float = 20, ready_ms: float = 21
    ) -> None:
        if states:
            self.states(source, t_ms - 0.5, *(WAY if source == "worker-1" else WAY[2:]))
        self.log(t_ms, source, "lock_acquired", engine="engine-0")
        self.log(t_ms + awake_ms, source, "awake")
        self.log(t_ms + ready_ms, source, "ready")

    def request(
        self, t_ms: float, name: str, *, worker: str, ids: list[int] = IDS, outcome: str = "success", **end: Any
    ) -> None:
        sent = RequestSent(
            source="client",
            request=name,
            endpoint="/v1/completions",
            body={"prompt": "Once", "max_tokens": 10},
            stream=True,
        )
        self.add(t_ms, sent)
        for place, one in enumerate(ids):
            text = tokens.decode([one])
            self.chunk(t_ms + 5 * (place + 1), name, worker, place, text)
        self.add(
            t_ms + 5 * len(ids) + 1,
            RequestFinished(
                source="client", request=name, outcome=outcome, **{"status": 200, "finish_reason": "length", **end}
            ),
        )

    def chunk(self, t_ms: float, name: str, worker: str, place: int, text: str = "x") -> None:
        self.add(t_ms, RequestChunk(source="client", request=name, first=place, tokens=1, text=text, worker=worker))

    def takeover(self, **how: Any) -> "Shadows":
        self.request(100, "before", worker="worker-1")
        self.turn("standby-1", 202, **how)
        self.request(230, "after", worker="standby-1")
        return self

    def case(self) -> Case:
        history = History()
        for t_ms, event in sorted(self.events, key=lambda one: one[0]):
            history.append(event, at=history.start_ns + int(t_ms * MS))
        return Case(list(history.select(Event)))


def verdict(finding: Any) -> tuple[str, str]:
    return finding.verdict, finding.reason


def test_a_takeover_is_split_into_its_steps() -> None:
    """From the fault to the lock, the waking, the registration and the first token of another engine."""
    case = Shadows().takeover().case()
    split = "(lock 2.0 ms, wake 20.0 ms, registered 1.0 ms, first token 12.0 ms)"
    told = f"kill of worker-1: standby-1 served 35.0 ms after it {split}"
    assert verdict(took_over_within(case, ms=100)) == ("pass", told)
    assert verdict(took_over_within(case, ms=34)) == ("fail", f"{told}; allowed: 34 ms")


def test_nobody_took_over() -> None:
    """Not the lock, or not a single request: a failure that may still turn out otherwise."""
    nobody = took_over_within(Shadows().case(), ms=100)
    assert (*verdict(nobody), nobody.pending) == ("fail", "kill of worker-1: nobody took the lock after it", True)
    idle = Shadows()
    idle.turn("standby-1", 202)
    served = took_over_within(idle.case(), ms=100)
    assert (*verdict(served), served.pending) == (
        "fail",
        "kill of worker-1: standby-1 served nobody: lock 2.0 ms, wake 20.0 ms, registered 1.0 ms",
        True,
    )


def test_one_that_was_struck_while_it_woke_is_measured_no_further() -> None:
    """The next fault is: who is hit has had its turn, and another takes over from that."""
    story = Shadows()
    story.add(1, ProcessStarted(source="standby-2", pid=103, role="aggregated"))
    story.turn("standby-1", 202, awake_ms=1_000, ready_ms=1_000)
    story.add(209, FaultRequested(source="harness", id="f2", fault="kill", target="waking", trigger=""))
    story.add(210, FaultLanded(source="standby-1", id="f2", evidence={}, on_target=True))
    story.turn("standby-2", 212)
    story.request(240, "after", worker="standby-2")
    finding = took_over_within(story.case(), ms=100)
    assert finding.verdict == "pass"
    assert (
        "standby-1 had the lock 2.0 ms after it, and was struck itself; kill of standby-1: standby-2 served"
        in finding.reason
    )


def test_one_more_that_joins_is_no_fault_to_take_over_from() -> None:
    """Nothing is to follow it."""
    story = Shadows().takeover()
    story.add(300, FaultRequested(source="harness", id="f2", fault="start_standby", target="active", trigger=""))
    story.add(301, FaultLanded(source="standby-1", id="f2", evidence={}, on_target=True))
    story.request(310, "late", worker="standby-1")
    assert took_over_within(story.case(), ms=100).verdict == "pass"
    assert serves_again(story.case()).verdict == "pass"


def test_a_fault_on_one_that_only_waited_tests_no_takeover() -> None:
    """Unknown, as where there are no groups at all."""
    story = Shadows()
    story.events = [(t, one) for t, one in story.events if not (isinstance(one, FaultLanded))]
    story.add(200, FaultLanded(source="standby-1", id="f1", evidence={}, on_target=True))
    assert took_over_within(story.case(), ms=100).verdict == "unknown"
    assert serves_again(story.case()).verdict == "unknown"
    alone = Shadows(groups=0).takeover().case()
    for oracle in (lambda case: took_over_within(case, ms=1), serves_again, one_active, legal_states):
        assert oracle(alone).verdict == "unknown"


def test_one_serves_after_the_other() -> None:
    """Each by what the clients were given, in time."""
    assert verdict(one_active(Shadows().takeover().case())) == ("pass", "one after the other: worker-1 → standby-1")


@pytest.mark.parametrize("late_ms", [236, 500])
def test_two_that_serve_at_once(late_ms: float) -> None:
    """One token of the former, after the first of the next, is enough; however long after."""
    story = Shadows().takeover()
    story.chunk(late_ms, "other", "worker-1", 0)
    finding = one_active(story.case())
    assert finding.verdict == "fail"
    assert "worker-1 and standby-1 served at the same time" in finding.reason


def test_who_serves_is_not_told() -> None:
    """Without names in the answers nothing is known."""
    story = Shadows()
    story.request(100, "before", worker="")
    assert one_active(story.case()).verdict == "unknown"


def test_two_groups_serve_at_once_as_they_should() -> None:
    """It is within a group that one serves."""
    story = Shadows(groups=2)
    story.add(1, ProcessStarted(source="worker-2", pid=104, role="aggregated"))
    for t in range(5):
        story.chunk(100 + 10 * t, "one", "worker-1", t)
        story.chunk(105 + 10 * t, "two", "worker-2", t)
    assert one_active(story.case()).verdict == "pass"


def test_states_that_are_legal() -> None:
    """Of every engine that tells them."""
    assert verdict(legal_states(Shadows().takeover().case())) == ("pass", "2 engines, each by its legal states")


@pytest.mark.parametrize(
    "bend, reason",
    [
        (lambda story: story.states("standby-1", 100, "active"), "standby-1 went from standby to active"),
        (lambda story: story.states("worker-1", 250, "standby"), "worker-1 went from active to standby"),
        (
            lambda story: story.turn("standby-1", 202, awake_ms=20, ready_ms=5),
            "standby-1 was announced 15.0 ms before it was awake",
        ),
        (lambda story: story.log(202, "standby-1", "ready"), "standby-1 was announced and never was awake"),
    ],
)
def test_states_that_are_not(bend: Callable[[Shadows], None], reason: str) -> None:
    """A state skipped, a way back, and one that is announced before it is awake."""
    story = Shadows()
    bend(story)
    finding = legal_states(story.case())
    assert finding.verdict == "fail"
    assert finding.reason.startswith(reason)


def test_serving_again() -> None:
    """A request that is sent after the next engine's first token has to be answered, and rightly."""
    story = Shadows().takeover()
    story.request(300, "late", worker="standby-1")
    assert verdict(serves_again(story.case())) == ("pass", "1 requests since standby-1 served, each answered")
    failed = Shadows().takeover()
    failed.request(300, "late", worker="", ids=[], outcome="error", status=503, finish_reason=None, error="no worker")
    assert serves_again(failed.case()).verdict == "fail"
    wrong = Shadows().takeover()
    wrong.request(300, "late", worker="standby-1", ids=[*IDS[:-1], (IDS[-1] + 1) % 8_192])
    assert serves_again(wrong.case()).verdict == "fail"
    assert verdict(serves_again(Shadows().takeover().case())) == (
        "unknown",
        "no request was sent once standby-1 served",
    )
    nobody = Shadows()
    nobody.turn("standby-1", 202)
    assert serves_again(nobody.case()).verdict == "fail"


def test_a_frozen_holder_keeps_its_lock() -> None:
    """Somebody who takes it while that one is frozen has broken in; afterwards it is free to be taken."""
    quiet = Shadows("freeze")
    quiet.add(400, FaultHealed(source="worker-1", id="f1", evidence={}))
    assert verdict(nobody_takes_over(quiet.case())) == (
        "pass",
        "a stall, and nobody took over: worker-1 was frozen for 200.0 ms",
    )
    quiet.turn("standby-1", 500)
    assert nobody_takes_over(quiet.case()).verdict == "pass"
    broken = Shadows("freeze").takeover()
    broken.add(400, FaultHealed(source="worker-1", id="f1", evidence={}))
    assert verdict(nobody_takes_over(broken.case())) == ("fail", "standby-1 took the lock of worker-1, which is frozen")
    assert nobody_takes_over(Shadows("kill").case()).verdict == "unknown"


def test_a_holder_that_was_fenced() -> None:
    """It was ended, or it was thawed and does nothing more; that nobody tried is no proof."""
    ended = Shadows("freeze").takeover()
    ended.add(201, ProcessExited(source="worker-1", pid=101, signal="SIGKILL"))
    assert verdict(fenced(ended.case())) == ("pass", "worker-1 was ended (SIGKILL) 1.0 ms after it froze")
    thawed = Shadows("freeze").takeover()
    assert fenced(thawed.case()).verdict == "unknown"
    thawed.add(400, FaultHealed(source="worker-1", id="f1", evidence={}))
    assert verdict(fenced(thawed.case())) == ("pass", "worker-1 was thawed, and served nobody any more")
    thawed.chunk(405, "before", "worker-1", 4)
    assert verdict(fenced(thawed.case())) == ("fail", "worker-1 served 170.0 ms after standby-1 had begun to")
    assert fenced(Shadows("freeze").case()).verdict == "unknown"


def test_an_engine_that_another_killed_is_explained() -> None:
    """By the line of the one that did, which names the process; not by any such line."""
    story = Shadows("freeze").takeover()
    story.add(201, ProcessExited(source="worker-1", pid=101, signal="SIGKILL"))
    assert exits_explained(story.case()).verdict == "fail"
    story.log(201, "standby-1", "fenced", engine="engine-0", pid="99", silent="0.5")
    assert exits_explained(story.case()).verdict == "fail"
    story.log(201, "standby-1", "fenced", engine="engine-0", pid="101", silent="0.5")
    assert exits_explained(story.case()).verdict == "pass"


def test_requests_that_end_cleanly() -> None:
    """Answered, or failed with an error; a broken connection, a hang and a wrong token are neither."""
    story = Shadows().takeover()
    story.request(300, "refused", worker="", ids=[], outcome="error", status=503, finish_reason=None, error="none")
    story.request(300, "cut", worker="worker-1", ids=IDS[:4], outcome="error", error_code=500, finish_reason=None)
    assert verdict(ends_cleanly(story.case())) == ("pass", "2 answered, 2 failed and were told so")
    for outcome, ids, end in (
        ("error", IDS[:4], {"error": "connection closed"}),
        ("hang", IDS[:4], {}),
        ("error", [IDS[1]], {"error_code": 500}),
        ("success", IDS[:4], {}),
    ):
        bent = Shadows().takeover()
        bent.request(300, "bent", worker="standby-1", ids=ids, outcome=outcome, finish_reason=None, **end)
        assert ends_cleanly(bent.case()).verdict == "fail", (outcome, ids)
