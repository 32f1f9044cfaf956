"""What oracles rest on is in the picture around the fault that it came after, wherever it fits."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ftharness.history import (
    Event,
    FaultLanded,
    FaultRequested,
    Log,
    ProcessExited,
    ProcessStarted,
    RunFinished,
    RunPhase,
    RunStarted,
)
from ftharness.report import RunRecord, write_report
from ftharness.report.chart import Window, around, chart
from ftharness.report.moments import Moments, moments
from ftharness.report.proofs import Proof, proofs_of
from ftharness.report.timeline import Timeline, timeline
from ftharness.scenario import Scenario, judge
from ftharness.scenario.record import OracleRecord, Verdict

MS = 1_000_000
STRUCK = 1_000
LANDED = 5  # the number of the event with which the disk was full


def events(*said: tuple[int, str], second: int = 0) -> list[Event]:
    """A job whose disk is full after a second, of ten that it runs; what it said, by when that was after the fault, in ms.

    Args:
        said: The lines; the first has the number 10.
        second: Where there is another fault, how many ms after the first.
    """
    found: list[Event] = [
        RunStarted(n=1, t=0, source="harness", scenario="jobs/one", stack="sim", engine="", seed=0),
        RunPhase(n=2, t=1, source="harness", phase="fault"),
        ProcessStarted(n=3, t=2 * MS, source="job-1", pid=7, role="job"),
        *_filled(4, STRUCK),
        *(_filled(6, STRUCK + second) if second else ()),
    ]
    found += [
        Log(n=10 + place, t=(STRUCK + ms) * MS, source="job-1", event=event, line=event)
        for place, (ms, event) in enumerate(said)
    ]
    return [
        *found,
        ProcessExited(n=98, t=10_000 * MS, source="job-1", pid=7, returncode=0),
        RunFinished(n=99, t=10_001 * MS, source="harness", outcome="complete"),
    ]


def _filled(n: int, ms: int) -> list[Event]:
    return [
        FaultRequested(n=n, t=ms * MS - 1, source="harness", id=f"fault-{n}", fault="fill_disk", target="job-1"),
        FaultLanded(n=n + 1, t=ms * MS, source="job-1", id=f"fault-{n}", evidence={"free_bytes": 0}),
    ]


def said_by(verdict: Verdict, *evidence: int) -> OracleRecord:
    """An oracle that rests on these events."""
    return OracleRecord(name="full_disk_told()", verdict=verdict, reason="", evidence=list(evidence))


def seen(
    history: Sequence[Event], *oracles: OracleRecord, fault: int = 0
) -> tuple[Timeline, list[Moments], list[Proof]]:
    """The lanes, the faults, and what those rest on that came after one of them."""
    lanes = timeline(history)
    faults = moments(judge(Scenario(name="jobs/one", workload=[]), history).faults, history, lanes)
    return lanes, faults, proofs_of(faults[fault], faults, oracles, history)


def window(history: Sequence[Event], *oracles: OracleRecord, fault: int = 0) -> Window:
    """The close view of one of the faults."""
    lanes, faults, proofs = seen(history, *oracles, fault=fault)
    found = around(faults[fault], lanes, proofs)
    assert found is not None
    return found


def end_ms(found: Window) -> float:
    """Until how long after its fault a picture goes, in ms."""
    assert found.zero is not None
    return (found.end - found.zero) / MS


def test_a_false_commit_is_in_the_picture() -> None:
    """160 ms after the fault, and pointed at with the oracle that failed by it; without one the picture ends before."""
    history, failed = events((160, "checkpoint_committed")), said_by("fail", LANDED, 10)
    assert end_ms(window(history)) == 30
    assert end_ms(window(history, failed)) > 160
    lanes, faults, proofs = seen(history, failed)
    drawn = chart(lanes, faults, window(history, failed), "x", proofs).svg
    assert "✗ full_disk_told: checkpoint committed +160 ms" in drawn
    assert "✗" not in chart(lanes, faults, window(history), "x").svg


@pytest.mark.parametrize(
    "verdict,evidence,inside",
    [
        ("fail", [10], True),
        ("unknown", [10], True),
        ("pass", [LANDED, 10], True),  # which is about the fault
        ("pass", [10], False),  # about what went well later
        ("fail", [77], False),  # an event that is not there any more
    ],
)
def test_whose_evidence_it_is_that_counts(verdict: Verdict, evidence: list[int], inside: bool) -> None:
    """Of whoever found something, and of who judged the fault."""
    history = events((160, "checkpoint_failed"))
    assert (end_ms(window(history, said_by(verdict, *evidence))) > 160) is inside


def test_what_is_far_away_leaves_the_rest_as_it_is() -> None:
    """The nearer ones are in it; what is more than ten times as far would make one line of them all."""
    history = events((160, "checkpoint_committed"), (900, "checkpoint_committed"), (8_900, "job_finished"))
    found = end_ms(window(history, said_by("fail", 10, 11, 12)))
    assert 900 < found < 1_200
    assert end_ms(window(events((500, "checkpoint_committed")), said_by("fail", 10))) == 30


def test_what_would_show_most_of_the_run_is_left_out() -> None:
    """There is a picture of the whole run for it."""
    steps = [(ms, "checkpoint_committed") for ms in (160, 900, 6_500)]
    assert end_ms(window(events(*steps), said_by("fail", 10, 11, 12))) < 1_200


def test_what_came_before_the_first_fault_is_of_that() -> None:
    """The picture goes back for it."""
    found = window(events((-90, "checkpoint_committed")), said_by("fail", 10))
    assert (STRUCK * MS - found.start) / MS > 90
    assert end_ms(found) == 30


def test_it_is_of_the_last_fault_before_it() -> None:
    """The picture of the first ends before the second one's evidence."""
    history, failed = events((160, "checkpoint_committed"), second=100), said_by("fail", LANDED, 10)
    assert end_ms(window(history, failed)) == 30
    assert 60 < end_ms(window(history, failed, fault=1)) < 100


def test_of_many_the_first_are_pointed_at() -> None:
    """A line for each would hide what they cross."""
    history = events(*[(20 + ms, "checkpoint_committed") for ms in range(9)])
    failed = said_by("fail", *range(10, 19))
    lanes, faults, proofs = seen(history, failed)
    assert chart(lanes, faults, window(history, failed), "x", proofs).svg.count("✗ full_disk_told") == 3


def test_the_page_has_it(make: Callable[..., RunRecord], tmp_path: Path) -> None:
    """In the picture around its fault."""
    write_report(tmp_path, make({"ending": "hang"}))
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"✗ migrated: [a-z ]+ \+[0-9.]+ ms", page)
