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
    ProcessSignalled,
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

    def joins(self, name: str, t_ms: float = 1) -> None:
        self.add(t_ms, ProcessStarted(source=name, pid=103, role="aggregated"))

    def hit(self, t_ms: float, source: str, fault: str = "kill", *, fault_id: str = "f2") -> None:
        """One more fault; what it kills is seen ended 3 ms later."""
        self.add(
            t_ms - 0.1, FaultRequested(source="harness", id=fault_id, fault=fault, target="", trigger="by the test")
        )
        self.add(t_ms, FaultLanded(source=source, id=fault_id, evidence={}))
        if fault == "kill":
            self.ended(t_ms, source)

    def ended(self, t_ms: float, source: str = "worker-1", *, signal: str = "SIGKILL", reason: str = "fault") -> None:
        """A signal of ours, of which the process ends."""
        self.add(t_ms, ProcessSignalled(source=source, pid=101, signal=signal, reason=reason))
        self.add(t_ms + 3, ProcessExited(source=source, pid=101, signal=signal))

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


@pytest.mark.parametrize(
    "struck_ms, says",
    [
        (205, "standby-1 had the lock 2.0 ms after it, and was struck itself"),
        (
            400,
            "standby-1 had the lock 2.0 ms after it, and was struck itself 200.0 ms after it, when it had served nobody",
        ),
    ],
)
def test_one_that_was_struck_had_its_turn_by_a_line_that_is_read_when_it_is_dead(struck_ms: float, says: str) -> None:
    """It had written it before; and struck when its time was over, it is no excuse."""
    story = Shadows()
    story.joins("standby-2")
    story.turn("standby-1", 202, awake_ms=1_000, ready_ms=1_000)
    story.hit(struck_ms, "standby-1")
    story.turn("standby-2", struck_ms + 2)
    story.request(struck_ms + 30, "after", worker="standby-2")
    finding = took_over_within(story.case(), ms=100)
    assert finding.verdict == ("pass" if struck_ms < 300 else "fail")
    assert says in finding.reason
    late = Shadows()
    late.joins("standby-2")
    late.log(203, "standby-1", "lock_acquired")
    late.hit(201.5, "standby-1")
    late.turn("standby-2", 204)
    late.request(230, "after", worker="standby-2")
    told = took_over_within(late.case(), ms=100)
    assert told.verdict == "pass"
    assert "standby-1 had the lock 3.0 ms after it, and was struck itself; kill of standby-1: standby-2" in told.reason


def test_nobody_is_excused_by_a_fault_on_one_that_only_waited() -> None:
    """A third lives to the end, and takes nothing; where all others were struck in that time, it was not tested."""
    story = Shadows()
    story.joins("standby-2")
    story.hit(800, "standby-1")
    idle = took_over_within(story.case(), ms=1_000)
    assert verdict(idle) == ("fail", "kill of worker-1: nobody took the lock after it")
    story.hit(810, "standby-2", fault_id="f3")
    struck = "kill of worker-1: whoever could come next was struck as well: standby-1, standby-2"
    assert verdict(took_over_within(story.case(), ms=1_000)) == ("unknown", struck)
    assert took_over_within(story.case(), ms=100).verdict == "fail"


def test_nobody_is_left_to_take_over() -> None:
    """Which tests no takeover."""
    story = Shadows()
    story.hit(150, "standby-1")
    told = "kill of worker-1: no other engine of its group was left to take over"
    assert verdict(took_over_within(story.case(), ms=100)) == ("unknown", told)


def test_who_took_over_is_who_served() -> None:
    """Of two that believe that they have the lock the first to say so need not be the one that serves."""
    story = Shadows()
    story.joins("standby-2")
    story.turn("standby-1", 202)
    story.turn("standby-2", 203)
    story.request(230, "after", worker="standby-2")
    finding = took_over_within(story.case(), ms=100)
    assert finding.reason.startswith("kill of worker-1: standby-2 served 35.0 ms after it (lock 3.0 ms,")


@pytest.mark.parametrize("taken_ms, took", [(1_010, "43.0 ms"), (300, "133.0 ms")])
def test_a_sigterm_that_was_escalated_counts_from_the_sigkill(taken_ms: float, took: str) -> None:
    """Where the takeover followed that; one that let go by itself is measured from when it was told to."""
    story = Shadows("terminate")
    story.ended(1_000, reason="escalation")
    story.turn("standby-1", taken_ms)
    story.request(taken_ms + 28, "after", worker="standby-1")
    finding = took_over_within(story.case(), ms=200)
    assert finding.verdict == "pass", finding.reason
    assert f"standby-1 served {took} after it" in finding.reason


def test_a_freeze_that_was_over_before_anybody_took_over_is_none_to_take_over_from() -> None:
    """A later kill is measured from itself; alone it tests no takeover."""
    story = Shadows("freeze")
    story.add(250, FaultHealed(source="worker-1", id="f1", evidence={}))
    told = "worker-1 was frozen for 50.0 ms, and nobody had to take over"
    assert verdict(took_over_within(story.case(), ms=100)) == ("unknown", told)
    assert verdict(serves_again(story.case())) == ("unknown", told)
    story.hit(1_000, "worker-1")
    story.turn("standby-1", 1_002)
    story.request(1_030, "after", worker="standby-1")
    finding = took_over_within(story.case(), ms=100)
    assert finding.verdict == "pass", finding.reason
    assert finding.reason.startswith("kill of worker-1: standby-1 served 35.0 ms after it")
    thawed = Shadows("freeze")
    thawed.hit(250, "worker-1", "thaw")
    assert verdict(took_over_within(thawed.case(), ms=100)) == ("unknown", told)


def test_of_two_faults_on_one_engine_the_last_before_the_takeover_counts() -> None:
    """A frozen holder keeps its lock; who kills it gives it away."""
    story = Shadows("freeze")
    story.hit(700, "worker-1")
    story.turn("standby-1", 702)
    story.request(730, "after", worker="standby-1")
    finding = took_over_within(story.case(), ms=100)
    assert finding.verdict == "pass", finding.reason
    assert finding.reason.startswith("kill of worker-1: standby-1 served 35.0 ms after it")


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


def test_two_that_are_awake_at_once() -> None:
    """By their own lines, though each client was served by one alone."""
    story = Shadows()
    story.joins("standby-2")
    story.states("standby-2", 3, *WAY[:2])
    story.request(100, "before", worker="worker-1")
    story.turn("standby-1", 202, states=False)
    story.turn("standby-2", 203, states=False)
    story.request(700, "after", worker="standby-1")
    finding = one_active(story.case())
    assert (finding.verdict, finding.pending) == ("fail", True)
    assert finding.reason == (
        "by their own lines standby-1 and standby-2 had their turn at the same time: standby-2 from 203.0 ms after the start "
        "on, when standby-1, which had it since 202.0 ms, had neither ended nor been struck, nor said that it is done"
    )


def parts(story: Shadows) -> None:
    story.states("worker-1", 290, "dead")


def ends(story: Shadows) -> None:
    story.add(390, ProcessExited(source="worker-1", pid=101, returncode=0))


def is_fenced(story: Shadows) -> None:
    story.log(390, "standby-1", "fenced", engine="engine-0", pid="101", silent="0.5")


def loses_its_engine(story: Shadows) -> None:
    story.hit(299, "worker-1", "kill_engine")


def is_thawed(story: Shadows) -> None:
    story.hit(250, "worker-1", "freeze")
    story.add(280, FaultHealed(source="worker-1", id="f2", evidence={}))


@pytest.mark.parametrize(
    "over, holds",
    [
        (parts, True),
        (ends, True),
        (is_fenced, True),
        (loses_its_engine, True),
        (is_thawed, False),
        (lambda story: story.hit(299, "worker-1", "freeze"), True),
        (lambda story: story.hit(390, "worker-1"), True),
        (lambda story: story.hit(450, "worker-1"), False),
        (lambda story: story.hit(250, "worker-1", "terminate"), False),
        (lambda _: None, False),
    ],
)
def test_one_that_has_its_turn_when_the_other_is_done(over: Callable[[Shadows], None], holds: bool) -> None:
    """It has ended, was struck or said so; read 100 ms late at most. One that was only told to end still has it."""
    story = Shadows()
    story.events = [(t, one) for t, one in story.events if not isinstance(one, FaultLanded | FaultRequested)]
    story.request(100, "before", worker="worker-1")
    over(story)
    story.turn("standby-1", 300)
    story.request(500, "after", worker="standby-1")
    assert one_active(story.case()).verdict == ("pass" if holds else "fail")


def test_a_line_of_one_that_was_killed_may_be_read_after_its_successors() -> None:
    """They are two pipes."""
    story = Shadows()
    story.joins("standby-2")
    story.request(100, "before", worker="worker-1")
    story.log(206, "standby-1", "lock_acquired")
    story.hit(203, "standby-1")
    story.turn("standby-2", 205)
    story.request(500, "after", worker="standby-2")
    assert one_active(story.case()).verdict == "pass"


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
        (
            lambda story: story.states("standby-1", 201, "waking") or story.turn("standby-1", 202, states=False),
            "standby-1 was announced and never said to be active: init → standby → waking",
        ),
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


def test_a_frozen_holder_that_is_killed_is_frozen_no_more() -> None:
    """Its lock is free from then on: from the signal, whenever its end is seen."""
    story = Shadows("freeze")
    story.hit(700, "worker-1")
    story.turn("standby-1", 702)
    told = "a stall, and nobody took over: worker-1 was frozen for 500.0 ms"
    assert verdict(nobody_takes_over(story.case())) == ("pass", told)


def test_a_frozen_holder_that_another_killed_has_lost_its_lock_to_it() -> None:
    """That is what is not to happen."""
    story = Shadows("freeze")
    story.log(699, "standby-1", "fenced", engine="engine-0", pid="101", silent="0.5")
    story.add(700, ProcessExited(source="worker-1", pid=101, signal="SIGKILL"))
    story.turn("standby-1", 702)
    assert nobody_takes_over(story.case()).verdict == "fail"


def test_nobody_can_take_over_where_nobody_else_lives() -> None:
    """It proves nothing of the lock."""
    story = Shadows("freeze")
    story.hit(150, "standby-1")
    story.add(400, FaultHealed(source="worker-1", id="f1", evidence={}))
    told = "worker-1 was frozen, and no other engine of its group was alive to take over"
    assert verdict(nobody_takes_over(story.case())) == ("unknown", told)


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
