"""The oracles of cancellation, over histories made by hand: what they pass, what they fail, what they cannot tell."""

from collections.abc import Callable
from typing import Any

import pytest

from ftharness.history import (
    ContractChosen,
    FaultLanded,
    FaultRequested,
    Log,
    Metric,
    ProcessExited,
    ProcessStarted,
    RequestChunk,
)
from ftharness.scenario import (
    Expect,
    aborted_in,
    cancellations_counted,
    cancelled_within,
    ends_as_asked,
    kv_freed,
    never_reached,
    no_tokens_after_abort,
    slots_freed,
    still_serves,
)
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.expect import apply

Make = Callable[..., Any]
Build = Callable[..., Any]  # the fixture ``left`` of conftest.py, which makes a run whose first client went away
WORDS = ["request_received", "request_aborted", "remote_aborted", "request_finished"]


def say(expect: Expect, case: Case) -> Finding:
    """What the oracle says."""
    return apply(expect, case)


GOOD: list[tuple[Expect, str]] = [
    (cancelled_within(ms=5), "1 given up; the last: request 0 (r) by worker-1, 4.0 ms after its client had gone"),
    (aborted_in("aggregated"), "request 0 (r): request_aborted in worker-1"),
    (never_reached("decode"), "no decode worker took request 0 (r)"),
    (no_tokens_after_abort(), "worker-1 made none for 300 ms; of the 15 tokens of all clients got 15"),
    (slots_freed(), "slots_busy as before: worker-1 0"),
    (kv_freed(), "kv_used as before: worker-1 4"),
    (still_serves(), "worker-1 gave request 0 (r) up, and answered the next"),
    (cancellations_counted(), "the frontend counted 1; the workers counted 1"),
    (ends_as_asked(), "1 cancelled as asked, 1 complete; every token exact"),
]
DECODE = [
    (1, ContractChosen(source="worker-2", backend="sim", events=WORDS)),
    (1, ProcessStarted(source="worker-2", pid=1, role="decode")),
]


@pytest.mark.parametrize("expect,says", GOOD, ids=[str(expect) for expect, _ in GOOD])
def test_a_good_cancellation_passes(left: Build, expect: Expect, says: str) -> None:
    """And the reason says what was seen."""
    finding = say(expect, left(more=list(DECODE)).case())
    assert (finding.verdict, finding.drift) == ("pass", ()), finding.reason
    assert finding.reason == says


def log(event: str, source: str = "worker-1", **captures: str) -> Log:
    return Log(source=source, event=event, captures={"request": "r"} | captures, line=f"{event} there")


def values(**changed: tuple[float, ...]) -> dict[str, Any]:
    """With these readings instead of the good ones."""
    return {
        "values": {
            "slots": (0, 0, 0),
            "kv": (4, 4, 4),
            "tokens": (10, 25, 25),
            "work_cancels": (0, 1, 1),
            "front_cancels": (0, 1, 1),
        }
        | changed
    }


# What is changed, the oracle, its verdict, what its reason says, and whether more may come.
BENT: list[tuple[dict[str, Any], Expect, str, str, bool]] = [
    # cancelled_within
    ({}, cancelled_within(ms=3), "fail", "by worker-1, 4.0 ms after its client had gone; allowed: 3 ms", False),
    ({"aborted": None}, cancelled_within(ms=5), "fail", "worker-1 never said that it gave request 0 (r) up", True),
    (
        {"aborted": 140, "abort": log("request_finished")},
        cancelled_within(ms=5),
        "fail",
        "worker-1 finished the whole answer to request 0 (r), 14.0 ms after its client had gone, and never said that it gave",
        False,
    ),
    (
        {"aborted": 129, "abort": log("request_finished")},
        cancelled_within(ms=5),
        "unknown",
        "the workers were done with it before they could hear that its client had gone",
        False,
    ),
    (
        {"aborted": 120, "abort": log("request_finished")},
        cancelled_within(ms=5),
        "unknown",
        "the workers were done with it before they could hear that its client had gone",
        False,
    ),
    (
        {"more": [(140, log("request_received", "worker-2"))]},
        cancelled_within(ms=10),
        "fail",
        "worker-2 took request 0 (r) 14.0 ms after its client had gone",
        False,
    ),
    (
        {"more": [(128, log("request_received", "worker-2"))]},
        cancelled_within(ms=10),
        "fail",
        "worker-2 never said that it gave request 0 (r) up",
        True,
    ),
    (
        {"aborted": None, "more": [(127, ProcessExited(source="worker-1", pid=1, signal="SIGKILL"))]},
        cancelled_within(ms=5),
        "unknown",
        "request 0 (r): worker-1, which had it, was gone itself: it had nothing to give up",
        False,
    ),
    ({"took": None, "aborted": None}, cancelled_within(ms=5), "pass", "by nobody, for no worker had it", False),
    ({"outcome": "success"}, cancelled_within(ms=5), "unknown", "no client gave its request up", False),
    # aborted_in
    ({"aborted": None}, aborted_in("aggregated"), "fail", "no aggregated worker logged request_aborted", True),
    ({}, aborted_in("prefill"), "fail", "request_aborted in worker-1, which is no prefill worker", False),
    ({}, aborted_in("aggregated", remote="decode"), "unknown", "no decode worker logged remote_aborted", True),
    ({"more": list(DECODE)}, aborted_in("aggregated", remote="decode"), "fail", "no decode worker logged remote", True),
    (
        {"more": [*DECODE, (131, log("remote_aborted", "worker-2"))]},
        aborted_in("aggregated", remote="decode"),
        "pass",
        "request_aborted in worker-1",
        False,
    ),
    # never_reached
    ({}, never_reached("aggregated"), "fail", "request 0 (r) was taken by worker-1", False),
    ({}, never_reached("decode"), "unknown", "there is no decode worker", False),
    # no_tokens_after_abort
    (
        {"more": [(127, RequestChunk(source="client", request="r", first=5, tokens=1, text=" x"))]},
        no_tokens_after_abort(),
        "fail",
        "request 0 (r): 1 chunks came after its client had gone",
        False,
    ),
    (
        values(tokens=(10, 25, 29)),
        no_tokens_after_abort(),
        "fail",
        "the engine of worker-1 made 4 more tokens in 300 ms after all requests were over",
        False,
    ),
    ({"readings": (99, 200, 240)}, no_tokens_after_abort(), "unknown", "read twice within 40 ms: too soon", True),
    ({"readings": (99, 150, 160)}, no_tokens_after_abort(), "unknown", "was not read after the last request", True),
    ({"aborted": 440}, no_tokens_after_abort(), "unknown", "read twice within 0 ms", True),
    ({"aborted": None}, no_tokens_after_abort(), "unknown", "request 0 (r): a worker never said that it gave", True),
    # slots_freed, kv_freed
    (
        values(slots=(0, 0, 1)),
        slots_freed(),
        "fail",
        "worker-1: slots_busy = 1 with no request left, and 0 before",
        True,
    ),
    (values(kv=(4, 4, 9)), kv_freed(), "fail", "worker-1: kv_used = 9 with no request left, and 4 before", True),
    ({"readings": (99, 150, 160)}, kv_freed(), "unknown", "kv_used of worker-1 was not read after the last", True),
    (
        {"more": [(300, ProcessExited(source="worker-1", pid=1, signal="SIGKILL"))]},
        slots_freed(),
        "unknown",
        "no process that is left told its slots_busy",
        True,
    ),
    ({"next_outcome": ""}, slots_freed(), "unknown", "a request had not ended", True),
    # still_serves
    ({"next_by": "worker-2"}, still_serves(), "unknown", "worker-1 got no request after request 0 (r)", False),
    (
        {"next_outcome": "hang"},
        still_serves(),
        "fail",
        "worker-1 gave request 0 (r) up, and then request 1 (s): hang",
        False,
    ),
    (
        {"more": [(200, ProcessExited(source="worker-1", pid=1, signal="SIGKILL"))]},
        still_serves(),
        "unknown",
        "no worker that had it is left",
        False,
    ),
    # cancellations_counted
    ({}, cancellations_counted(frontend=2), "fail", "the frontend counted 1 cancellations, not 2", True),
    ({}, cancellations_counted(frontend=0), "fail", "the frontend counted 1 cancellations, not 0", False),
    ({}, cancellations_counted(workers=2), "fail", "the workers counted 1 cancellations, not 2", True),
    (values(work_cancels=(0, 0, 0)), cancellations_counted(workers=None), "pass", "the frontend counted 1", False),
    ({"values": {}}, cancellations_counted(), "unknown", "were not read after the cancellation", True),
    # ends_as_asked
    ({"outcome": "error"}, ends_as_asked(), "fail", "request 0 (r): its client went away, but: error", False),
    ({"faults": ()}, ends_as_asked(), "fail", "request 0 (r): its client waited for all of it, but: cancelled", False),
    ({"faults": ("r", "s")}, ends_as_asked(), "fail", "request 1 (s): its client went away, but: success", False),
    (
        {"next_outcome": "hang"},
        ends_as_asked(),
        "fail",
        "request 1 (s): its client waited for all of it, but: hang",
        False,
    ),
]


@pytest.mark.parametrize("bent,expect,verdict,says,pending", BENT, ids=[f"{one[1]} {one[3]}" for one in BENT])
def test_what_an_oracle_makes_of_it(
    left: Build, bent: dict[str, Any], expect: Expect, verdict: str, says: str, pending: bool
) -> None:
    """Its verdict, its reason, and whether a run that goes on would wait for more."""
    finding = say(expect, left(**bent).case())
    assert (finding.verdict, finding.pending) == (verdict, pending), finding
    assert says in finding.reason


# Of a version that the contract was not written for, what is missing is drift and no failure.
UNKNOWN: list[tuple[dict[str, Any], Expect, str]] = [
    ({"aborted": None}, cancelled_within(ms=5), "request_aborted: not seen from worker-1"),
    ({"took": None, "aborted": None}, cancelled_within(ms=5), "request_received: no worker said that it has"),
    ({"aborted": None}, aborted_in("aggregated"), "request_aborted: not seen from a aggregated worker"),
    ({"more": DECODE[1:]}, never_reached("decode"), "request_received: not to be expected of every decode worker"),
    (values(front_cancels=(0, 0, 0)), cancellations_counted(), "cancellation: the metric did not rise"),
    ({"metrics": {}}, slots_freed(), "slots_busy: no metric of that meaning in the contract"),
    ({"metrics": {}}, kv_freed(), "kv_used: no metric of that meaning in the contract"),
    ({"metrics": {}}, no_tokens_after_abort(), "tokens_generated: no metric of that meaning in the contract"),
    ({"metrics": {}}, cancellations_counted(), "cancellation: no metric of that meaning in the contract"),
]


@pytest.mark.parametrize("bent,expect,drift", UNKNOWN, ids=[f"{one[1]} {one[2]}" for one in UNKNOWN])
def test_what_an_unknown_version_does_not_say_is_drift(
    left: Build, bent: dict[str, Any], expect: Expect, drift: str
) -> None:
    """Told by name; behaviour decides."""
    finding = say(expect, left(known=False, **bent).case())
    assert finding.verdict == "unknown", finding
    assert drift in finding.drift[0]


def test_an_engine_whose_words_are_not_known_stands_still_all_the_same(left: Build) -> None:
    """That it gave the request up is drift; its count of tokens is not."""
    assert say(no_tokens_after_abort(), left(known=False, aborted=None).case()).verdict == "pass"


def test_a_line_without_a_name_is_that_of_the_only_one_that_was_left(left: Build) -> None:
    """So the mocker of Dynamo 1.4 says it; of its workers, and after the client had gone."""
    nameless = Log(source="worker-1", event="request_aborted", captures={})
    assert say(cancelled_within(ms=5), left(abort=nameless).case()).verdict == "pass"
    assert say(aborted_in("aggregated"), left(abort=nameless).case()).verdict == "pass"
    early = say(cancelled_within(ms=5), left(abort=nameless, aborted=120).case())
    assert early.verdict == "fail"
    elsewhere = Log(source="worker-2", event="request_aborted", captures={})
    assert say(cancelled_within(ms=5), left(abort=elsewhere).case()).verdict == "fail"


def test_one_that_says_of_every_request_that_it_is_done_has_given_it_up_if_it_says_so(left: Build) -> None:
    """As the mocker does, in this order."""
    one = left(more=[(129, log("request_finished"))])
    assert "4.0 ms after its client had gone" in say(cancelled_within(ms=5), one.case()).reason


def test_lines_that_name_nobody_prove_nothing_where_several_were_left(left: Build) -> None:
    """Neither that a request was given up nor that it was answered: drift."""
    nameless = Log(source="worker-1", event="request_aborted", captures={})
    one = left(abort=nameless, next_outcome="cancelled", more=[(128, log("request_finished"))])
    finding = say(cancelled_within(ms=1), one.case())
    assert (finding.verdict, finding.drift) == (
        "unknown",
        ("request_aborted: the lines of worker-1 do not say which request",),
    )


def test_of_several_those_that_were_left_too_late_do_not_count(left: Build) -> None:
    """The engine had made all of it; the others were tested."""
    aborted = (190, log("request_aborted", request="s"))
    finding = say(
        cancelled_within(ms=50),
        left(aborted=120, abort=log("request_finished"), next_outcome="cancelled", more=[aborted]).case(),
    )
    assert finding.verdict == "pass"
    assert finding.reason.endswith("1 were done with before")


def test_a_worker_that_only_says_that_it_is_done_has_proved_nothing(left: Build) -> None:
    """Of an engine that is not ours that may be all that it says, and also all that one says that answers: that is drift."""
    one = left(exact=False, aborted=129, abort=log("request_finished"))
    finding = say(cancelled_within(ms=5), one.case())
    assert (finding.verdict, "3.0 ms after" in finding.reason) == ("unknown", True)
    assert "did not say that it gave the request up" in finding.drift[0]
    where = say(aborted_in("aggregated"), left(exact=False, aborted=129, abort=log("request_finished")).case())
    assert (where.verdict, where.drift) == ("unknown", finding.drift)


def test_each_choice_has_to_be_given_up(left: Build) -> None:
    """Workers get the choices of a request one by one; the last counts."""
    choices = [(102, log("request_received", "worker-2", request="r-1")), (101, log("request_received", request="r-0"))]
    one = left(took=None, abort=log("request_aborted", request="r-0"), more=list(choices))
    assert say(cancelled_within(ms=9), one.case()).reason == "worker-2 never said that it gave request 0 (r) up"
    both = [*choices, (134, log("request_aborted", "worker-2", request="r-1"))]
    two = left(took=None, abort=log("request_aborted", request="r-0"), more=both)
    finding = say(cancelled_within(ms=9), two.case())
    assert (finding.verdict, "by worker-2, 8.0 ms" in finding.reason) == ("pass", True)


def test_a_worker_of_the_other_phase_lets_go_in_its_own_words(left: Build) -> None:
    """Prefill is done, or was told: either ends what it held."""
    taken = (103, log("request_received", "worker-2"))
    for word in ("remote_aborted", "request_finished"):
        one = left(more=[*DECODE, taken, (133, log(word, "worker-2"))])
        assert say(cancelled_within(ms=9), one.case()).verdict == "pass"


def test_a_phase_that_was_over_when_the_client_left_was_not_tested(left: Build) -> None:
    """A prompt that was in a cache is no prefill to be cancelled: neither passed nor failed."""
    done, taken = (115, log("request_finished")), (116, log("request_received", "worker-2"))
    given_up = (130, log("request_aborted", "worker-2"))
    late = left(aborted=None, more=[*DECODE, done, taken, given_up])
    for expect in (aborted_in("aggregated"), never_reached("decode")):
        finding = say(expect, late.case())
        assert (finding.verdict, finding.reason) == (
            "unknown",
            "request 0 (r): worker-1 was done with it before its client had gone",
        )
        late = left(aborted=None, more=[*DECODE, done, taken, given_up])
    in_time = left(more=[*DECODE, taken, given_up])
    assert say(never_reached("decode"), in_time.case()).verdict == "fail"
    afterwards = left(aborted=None, more=[*DECODE, done, (127, log("request_received", "worker-2"))])
    assert say(never_reached("decode"), afterwards.case()).verdict == "fail"


def test_what_came_before_the_client_left_has_to_be_right(left: Build, ids: list[int]) -> None:
    """A cancelled answer is the right one's begin."""
    one = left()
    one.ids = [*ids[:2], ids[0], *ids[3:]]
    one.story.request = with_right_others(one.story.request, ids)
    finding = say(ends_as_asked(), one.case())
    assert finding.reason == "request 0 (r), choice 0: token 3 is not the one that belongs there"


def with_right_others(request: Make, ids: list[int]) -> Make:
    """Only the request that is left has other tokens."""
    return lambda t, name, given, **fields: request(t, name, given if name == "r" else ids, **fields)


def test_an_oracle_that_is_asked_about_one_request_looks_at_that_one(left: Build) -> None:
    """The other was not left; but whether a worker serves on, and whether it stands still, the others show."""
    for expect in (still_serves(), no_tokens_after_abort()):
        assert say(expect, left().case(only="r")).verdict == "pass"
    assert say(no_tokens_after_abort(), left(readings=(99, 150, 450)).case(only="r")).verdict == "unknown"
    assert say(cancelled_within(ms=5), left().case(only="r")).verdict == "pass"
    assert say(cancelled_within(ms=5), left().case(only="s")).reason == "no client gave its request up"


def test_a_fault_that_only_half_closes_asks_for_no_cancellation(left: Build) -> None:
    """Its client waits for all of the answer."""
    one = left(faults=())
    one.more = [
        (125, FaultRequested(source="harness", id="fault-9", fault="half_close", target="", request="s")),
        (126, FaultLanded(source="client", id="fault-9", evidence={})),
        (125, FaultRequested(source="harness", id="fault-8", fault="reset", target="", request="r")),
        (126, FaultLanded(source="client", id="fault-8", evidence={})),
    ]
    assert say(ends_as_asked(), one.case()).verdict == "pass"


def test_labels_are_added_up(left: Build) -> None:
    """A metric with several label sets has one value a reading."""
    one = left(values={})
    for t, value in ((99, 1), (200, 1), (500, 2)):
        one.more += [
            (t, Metric(source="worker-1", name="slots", value=value, labels={"kind": kind})) for kind in ("a", "b")
        ]
    assert "slots_busy = 4 with no request left, and 2 before" in say(slots_freed(), one.case()).reason


def test_a_request_that_never_ended_is_not_cancelled(left: Build) -> None:
    """Nor is it an error of the oracle's."""
    finding = say(cancelled_within(ms=5), left(outcome="").case())
    assert (finding.verdict, finding.reason) == ("unknown", "no client gave its request up")


def test_a_client_that_a_test_itself_had_go_was_asked_to(left: Build) -> None:
    """By ``stream.cancel()``, which is no fault: in a run that has no control, since a test drives it."""
    one = left(faults=())
    case = one.case()
    assert say(ends_as_asked(), case).verdict == "fail"
    driven = Case([event for event in case.events if getattr(event, "phase", "") != "control"])
    assert say(ends_as_asked(), driven).reason == "1 cancelled as asked, 1 complete; every token exact"


def test_a_request_that_nothing_had_touched_and_that_failed_is_no_matter_of_the_faults(left: Build) -> None:
    """An invariant: it fails whatever became of the run's faults. One that was aimed at, or whose worker was hit, is none."""
    finding = say(ends_as_asked(), left(next_outcome="error").case())
    assert (finding.verdict, finding.invariant) == ("fail", True)
    assert finding.reason.startswith("request 1 (s): no fault had touched it, but: error")
    aimed = say(ends_as_asked(), left(next_outcome="error", faults=("r", "s")).case())
    assert (aimed.verdict, aimed.invariant) == ("fail", False)
    for t, by, invariant in ((150, "worker-1", False), (150, "worker-2", True), (190, "worker-1", True)):
        kill = [
            (t, FaultRequested(source="harness", id="fault-9", fault="kill", target="worker-1")),
            (t, FaultLanded(source="worker-1", id="fault-9", evidence={})),
        ]
        assert say(ends_as_asked(), left(next_outcome="error", next_by=by, more=kill).case()).invariant == invariant
