"""Who had a cancelled request, and what ended that: a worker's end is no word of its own, and two claims need two ends."""

from collections.abc import Callable
from typing import Any

import pytest

from ftharness.history import ContractChosen, Log, ProcessExited, ProcessSignalled, ProcessStarted
from ftharness.scenario import Expect, aborted_in, cancelled_within, never_reached
from ftharness.scenario.case import Finding
from ftharness.scenario.expect import apply

Build = Callable[..., Any]  # the fixture ``left`` of conftest.py: the client of request 0 goes away at 126 ms

WORDS = ["request_received", "request_aborted", "remote_aborted", "request_finished"]
DECODE = [
    (1, ContractChosen(source="worker-2", backend="sim", events=WORDS)),
    (1, ProcessStarted(source="worker-2", pid=1, role="decode")),
]


def log(event: str, source: str = "worker-1", **captures: str) -> Log:
    return Log(source=source, event=event, captures={"request": "r"} | captures, line=f"{event} there")


def said(expect: Expect, run: Any) -> Finding:
    """What the oracle says of it."""
    return apply(expect, run.case())


def test_an_answer_that_was_finished_long_after_the_client_had_gone_was_not_given_up(left: Build) -> None:
    """Though it came within the time that a worker has to give it up: our engine says so where it does."""
    one = left(aborted=None, more=[(500, log("request_finished"))])
    finding = said(cancelled_within(ms=500), one)
    assert finding.verdict == "fail"
    assert (
        finding.reason == "worker-1 finished the whole answer to request 0 (r), 374.0 ms after its client had gone, "
        "and never said that it gave it up"
    )


@pytest.mark.parametrize("at,noticed,verdict", [(370, None, "unknown"), (380, None, "fail"), (380, 150, "unknown")])
def test_one_that_was_finished_while_the_abort_was_on_its_way_was_not_tested(
    left: Build, at: float, noticed: float | None, verdict: str
) -> None:
    """Which is some ms from when the client goes, or from when the frontend says that it saw that."""
    more = [(at, log("request_finished"))]
    if noticed:
        more.append((noticed, log("client_disconnected", "frontend")))
    assert said(cancelled_within(ms=500), left(aborted=None, more=more)).verdict == verdict


def test_what_is_on_its_way_is_late_all_the_same_when_the_bound_is_over(left: Build) -> None:
    """A bound below those ms is the bound."""
    finished = [(190, log("request_finished"))]
    assert said(cancelled_within(ms=50), left(aborted=None, more=finished)).verdict == "fail"


@pytest.mark.parametrize("error,verdict", [("cancelled", "unknown"), ("internal", "fail")])
def test_the_frontend_may_say_whose_client_went_only_where_it_counts_its_errors(
    left: Build, error: str, verdict: str
) -> None:
    """As Dynamo's does, which saw it 700 ms late on a busy machine: its line that a client disconnected names nobody."""
    nameless = Log(source="frontend", event="client_disconnected", line="Stream closed unexpectedly")
    failed = log("request_failed", "frontend", error=error)
    more = [(820, nameless), (826, failed), (862, log("request_finished"))]
    finding = said(cancelled_within(ms=1_000), left(aborted=None, more=more))
    assert finding.verdict == verdict, finding.reason


def test_the_worker_that_made_the_answer_is_to_blame(left: Build) -> None:
    """Not the one that prefilled, and that was done only when the answer was."""
    prefills = [
        (1, ContractChosen(source="worker-2", backend="sim", events=WORDS)),
        (1, ProcessStarted(source="worker-2", pid=1, role="prefill")),
        (101, log("request_received", "worker-2")),
    ]
    ends = [(600, log("request_finished")), (602, log("request_finished", "worker-2"))]
    finding = said(cancelled_within(ms=100), left(aborted=None, more=[*prefills, *ends]))
    assert finding.verdict == "fail"
    assert finding.reason.startswith("worker-1 finished the whole answer to request 0 (r), 474.0 ms after")


def test_a_bound_is_told_as_it_was_given(left: Build) -> None:
    """A small one is not 0.0."""
    assert said(cancelled_within(ms=0.001), left()).reason.endswith("; allowed: 0.001 ms")


def test_an_engine_that_says_only_that_it_is_done_is_not_known_to_have_given_it_up(left: Build) -> None:
    """It may as well have answered it: no pass, and drift by name."""
    finding = said(cancelled_within(ms=500), left(exact=False, aborted=None, more=[(500, log("request_finished"))]))
    assert finding.verdict == "unknown"
    assert finding.drift == (
        "request_aborted: worker-1 did not say that it gave the request up, but that it was done with it",
    )


def test_a_worker_that_has_a_request_twice_has_to_give_it_up_twice(left: Build) -> None:
    """One of two attempts of the same worker that goes on is one too many."""
    twice = [(128, log("request_received"))]
    finding = said(cancelled_within(ms=500), left(more=twice))
    assert (finding.verdict, finding.pending) == ("fail", True)
    assert finding.reason == "worker-1 never said that it gave request 0 (r) up"
    finding = said(cancelled_within(ms=2_000), left(more=[*twice, (990, log("request_finished"))]))
    assert finding.verdict == "fail"
    assert "worker-1 finished the whole answer to request 0 (r), 864.0 ms after" in finding.reason
    both = left(more=[*twice, (140, log("request_aborted"))])
    assert said(cancelled_within(ms=500), both).reason.endswith("by worker-1, 14.0 ms after its client had gone")


def test_a_worker_that_says_it_gave_up_and_goes_on_to_the_end_has_not(left: Build) -> None:
    """What it says last counts; the two in one moment are how some backends always say it."""
    assert said(cancelled_within(ms=2_000), left(more=[(990, log("request_finished"))])).verdict == "fail"
    assert said(cancelled_within(ms=2_000), left(more=[(131, log("request_finished"))])).verdict == "pass"


def test_nothing_has_kept_away_from_a_request_that_still_goes_on_elsewhere(left: Build) -> None:
    """Nobody knows whether it is going to be handed on: not until those that have it have let go."""
    on = said(never_reached("decode"), left(aborted=None, more=list(DECODE)))
    assert (on.verdict, on.pending) == ("unknown", True)
    assert on.reason == "request 0 (r): worker-1 never said that it gave it up, and may still hand it on"
    nowhere = said(never_reached("decode"), left(took=None, aborted=None, more=list(DECODE)))
    assert (nowhere.verdict, nowhere.pending) == ("unknown", True)
    finished = said(never_reached("decode"), left(aborted=None, more=[*DECODE, (400, log("request_finished"))]))
    assert (finished.verdict, finished.pending) == ("unknown", True)
    assert said(never_reached("decode"), left(more=list(DECODE))).verdict == "pass"


def killed(signalled: float, exited: float, worker: str = "worker-1") -> list[tuple[float, Any]]:
    """A worker that a fault kills, and when its end was seen."""
    return [
        (signalled, ProcessSignalled(source=worker, pid=1, signal="SIGKILL", reason="fault")),
        (exited, ProcessExited(source=worker, pid=1, signal="SIGKILL")),
    ]


@pytest.mark.parametrize("signalled,exited", [(125.8, 129.5), (127, 130), (110, 112)])
def test_a_worker_that_was_killed_has_not_cancelled_anything(left: Build, signalled: float, exited: float) -> None:
    """Nor need it have said so: whether the stack would have told it has not been tested."""
    for expect in (cancelled_within(ms=5), aborted_in("aggregated")):
        finding = said(expect, left(aborted=None, more=killed(signalled, exited)))
        assert finding.verdict == "unknown"
        assert finding.reason.startswith("request 0 (r): worker-1, which had it, was gone itself: it had nothing to ")


def test_of_several_those_that_had_lost_their_workers_do_not_count(left: Build) -> None:
    """As in a storm, in which a worker is killed, too."""
    one = left(next_by="worker-2", next_outcome="cancelled", aborted=None, more=killed(120, 121))
    one.more.append((183, log("request_aborted", "worker-2", request="s")))
    finding = said(cancelled_within(ms=50), one)
    assert finding.verdict == "pass", finding.reason
    assert finding.reason.endswith("; 1 had lost their workers")


def test_the_next_worker_of_one_that_was_killed_is_judged(left: Build) -> None:
    """And a kill is of the moment when it was sent: what was seen of it 50 ms later is no late end of the request."""
    moved = [*killed(120, 190), (124, log("request_received", "worker-2")), (130, log("request_aborted", "worker-2"))]
    finding = said(cancelled_within(ms=5), left(aborted=None, more=moved))
    assert (finding.verdict, finding.reason) == (
        "pass",
        "1 given up; the last: request 0 (r) by worker-2, 4.0 ms after its client had gone",
    )
    assert said(aborted_in("aggregated"), left(aborted=None, more=list(moved))).verdict == "pass"


@pytest.mark.parametrize("role", ["decode", "prefill"])
def test_a_role_that_no_worker_has_is_not_one_that_was_spared(left: Build, role: str) -> None:
    """The reason says so: it is nothing that a contract could know."""
    finding = said(never_reached(role), left())
    assert (finding.verdict, finding.reason, finding.drift) == ("unknown", f"there is no {role} worker", ())
