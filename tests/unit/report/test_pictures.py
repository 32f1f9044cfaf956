"""What pictures are made of: moments, labels' places, ticks, and text made safe."""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftharness.history import (
    Event,
    FaultHealed,
    FaultLanded,
    FaultMissed,
    FaultRequested,
    Log,
    ProcessSignalled,
    ProcessStarted,
    RequestChunk,
    RequestFinished,
    RequestSent,
    RunPhase,
    recorded,
)
from ftharness.report import RunRecord, story
from ftharness.report.chart import MOST_REQUESTS, around, chart, whole
from ftharness.report.clean import one_line, plain, xml_text
from ftharness.report.gaps import gaps
from ftharness.report.moments import moments
from ftharness.report.placing import Flag, place_flags
from ftharness.report.recovered import went_on
from ftharness.report.scale import ticks
from ftharness.report.stored import read_stored
from ftharness.report.timeline import outcome_text, timeline
from ftharness.scenario import Scenario, judge
from ftharness.scenario.record import FaultRecord, Recovery

Make = Callable[..., RunRecord]
MS = 1_000_000


def test_the_points_of_a_fault_are_where_its_figures_say(make: Make, tmp_path: Path) -> None:
    """Picture and figures agree, and the worker that took over is named."""
    record = make({})
    one = read_stored(tmp_path, record.scenarios[0]).faults[0]
    figures = one.fault.recovery
    assert one.struck == one.landed == one.fault.landed_ns
    assert one.process == "worker-1"
    assert one.rerouted_to == "worker-2"
    for point, ms in (
        (one.detected, figures.detect_ms),
        (one.rerouted, figures.reroute_ms),
        (one.first_token, figures.first_token_ms),
    ):
        assert (point - one.landed) / MS == pytest.approx(ms, abs=0.001)


def test_recovery_counts_from_the_end_of_a_grace_period() -> None:
    """A worker that is told to end, and is killed once its grace is over, was lost at that moment and not before."""
    events = list(
        recorded(
            [
                ProcessStarted(n=1, t=0, source="worker-1", pid=7, role="aggregated"),
                RequestSent(n=2, t=10 * MS, source="client", request="r", endpoint="/v1/completions"),
                FaultRequested(
                    n=3, t=100 * MS, source="harness", id="fault-1", fault="terminate", target="serving", request="r"
                ),
                FaultLanded(n=4, t=101 * MS, source="worker-1", id="fault-1", evidence={"signal": "SIGTERM"}),
                ProcessSignalled(n=5, t=501 * MS, source="worker-1", pid=7, signal="SIGKILL", reason="escalation"),
                RequestChunk(n=6, t=512 * MS, source="client", request="r", first=0, tokens=1, text="a"),
            ]
        ).events
    )
    fault = FaultRecord(
        id="fault-1", kind="terminate", target="serving (worker-1)", process="worker-1", trigger="on token 64 of request 0",
        landed_ns=101 * MS, recovery=Recovery(first_token_ms=11.0),
    )  # fmt: skip
    lanes = timeline(events)
    one = moments([fault], events, lanes)[0]
    assert one.struck == 501 * MS
    assert one.first_token == 512 * MS
    window = around(one, lanes)
    assert window is not None
    assert window.zero == 501 * MS


def test_a_fault_on_several_processes_has_its_own_moments_on_each() -> None:
    """Each was hit, and healed, at its own time; what was never found is nobody's."""
    asked = {"source": "harness", "trigger": "by the test", "request": "r"}
    events: list[Event] = [
        RequestSent(n=1, t=10 * MS, source="client", request="r", endpoint="/v1/completions"),
        FaultRequested(n=2, t=20 * MS, id="fault-1", fault="freeze", target="every_worker", **asked),
        FaultLanded(n=3, t=21 * MS, source="worker-1", id="fault-1", evidence={"state": "T"}),
        FaultLanded(n=4, t=25 * MS, source="worker-2", id="fault-1", evidence={"state": "T"}),
        FaultHealed(n=5, t=30 * MS, source="worker-1", id="fault-1"),
        FaultHealed(n=6, t=40 * MS, source="worker-2", id="fault-1"),
        FaultRequested(n=7, t=50 * MS, id="fault-2", fault="kill", target="serving", **asked),
        FaultMissed(n=8, t=51 * MS, source="harness", id="fault-2", reason="nobody serves it"),
    ]
    faults = judge(Scenario(name="a/b", workload=[]), events).faults
    assert [(one.target, one.process) for one in faults] == [
        ("every_worker (worker-1)", "worker-1"), ("every_worker (worker-2)", "worker-2"), ("serving", "")
    ]  # fmt: skip
    # As stored, and as an earlier version stored it.
    for records in (faults, [msgspec.structs.replace(one, process="") for one in faults]):
        found = moments(records, events, timeline(events))
        assert [(one.what, one.at, one.struck, one.healed) for one in found] == [
            ("freeze worker-1", 21 * MS, 21 * MS, 30 * MS),
            ("freeze worker-2", 25 * MS, 25 * MS, 40 * MS),
            ("kill serving", 50 * MS, None, None),
        ]


@pytest.mark.parametrize(
    "end, said",
    [
        (RequestFinished(request="r", outcome="success", status=200, finish_reason="length"), "200 · length"),
        (RequestFinished(request="r", outcome="error", status=200, error_code=500), "error 500 in the stream"),
        (RequestFinished(request="r", outcome="error", status=200, error="reset by peer"), "error after HTTP 200"),
        (RequestFinished(request="r", outcome="error", status=503), "error 503"),
        (RequestFinished(request="r", outcome="error"), "error"),
        (RequestFinished(request="r", outcome="hang", status=200), "hang"),
    ],
)
def test_how_a_request_ended_is_said_in_few_words(end: RequestFinished, said: str) -> None:
    """A status of 200 is not what an answer failed with."""
    assert outcome_text(end) == said


@pytest.mark.parametrize(
    "recovery, said",
    [
        (Recovery(detect_ms=2.3, reroute_ms=9.6, first_token_ms=329.2, max_gap_ms=6.2), "next token 329 ms later"),
        (Recovery(first_token_ms=903.0, max_gap_ms=908.4), "next token 903 ms later"),
        (Recovery(detect_ms=980.4, max_gap_ms=5.7), "longest gap 5.70 ms"),
        (Recovery(detect_ms=12.0, first_token_ms=14.4, max_gap_ms=5.7), "longest gap 5.70 ms"),
        (Recovery(detect_ms=2.5), ""),
    ],
    ids=["moved", "frozen", "drained", "drained and noticed", "broken for good"],
)
def test_a_stream_that_flowed_on_has_no_next_token(recovery: Recovery, said: str) -> None:
    """While a worker drains, tokens keep coming: the one that ends the longest wait is not the first one after the fault."""
    assert went_on(recovery) == said
    fault = FaultRecord(kind="terminate", target="serving", trigger="at 1 s", landed_ns=MS, recovery=recovery)
    one = moments([fault], [], timeline([]))[0]
    assert (one.first_token is not None) == said.startswith("next token")


def test_a_worker_with_request_names_of_its_own_is_still_seen_to_serve() -> None:
    """It may lengthen the client's name; one of its own is clear while only one request runs."""
    events = [
        ProcessStarted(n=1, t=0, source="worker-1", pid=7, role="aggregated"),
        RequestSent(n=2, t=1 * MS, source="client", request="abc", endpoint="/v1/completions"),
        Log(n=3, t=2 * MS, source="worker-1", event="request_received", captures={"request": "abc-0"}),
        RequestFinished(n=4, t=9 * MS, source="client", request="abc", outcome="success"),
        RequestSent(n=5, t=10 * MS, source="client", request="def", endpoint="/v1/completions"),
        Log(n=6, t=11 * MS, source="worker-1", event="request_received", captures={"request": "its-own"}),
        RequestFinished(n=7, t=19 * MS, source="client", request="def", outcome="success"),
    ]
    first, second = timeline(events).requests
    assert [(span.worker, span.start, span.end) for span in first.served] == [("worker-1", 2 * MS, 9 * MS)]
    assert [(span.worker, span.start, span.end) for span in second.served] == [("worker-1", 11 * MS, 19 * MS)]


@pytest.mark.parametrize("ending", ["pass", "drop", "hang", "missed", "freeze", "killed"])
def test_pictures_are_well_formed(make: Make, tmp_path: Path, ending: str) -> None:
    """Each is parsed by a real XML parser; a lane stands there for every process and request."""
    stored = read_stored(tmp_path, make({"ending": ending, "text": "<&\"'"}).scenarios[0])
    window = [around(one, stored.lanes) for one in stored.faults]
    drawn = [chart(stored.lanes, stored.faults, w, "a <title> & more").svg for w in [whole(stored.lanes), *window] if w]
    between = gaps(stored.lanes, stored.faults)
    for svg in [*drawn, *([between.svg] if between else [])]:
        ET.fromstring(svg)  # noqa: S314 - we drew it
    texts = [node.text for node in ET.fromstring(drawn[0]).iter("text")]  # noqa: S314 - the same
    assert {"worker-1", "worker-2", "frontend", "control 0", "request 0"} <= set(texts)


def test_lanes_for_which_there_is_no_room_are_counted(make: Make, tmp_path: Path) -> None:
    """And the request that the fault was aimed at is always among those that are drawn."""
    stored = read_stored(tmp_path, make({"requests": 40, "tokens": 80}).scenarios[0])
    drawn = chart(stored.lanes, stored.faults, whole(stored.lanes), "x")
    assert drawn.hidden == f"{80 - MOST_REQUESTS} more requests"
    assert ">request 0<" in drawn.svg


def test_the_gap_at_the_fault_is_marked(make: Make, tmp_path: Path) -> None:
    """With its length, which is what lies between the two tokens around the fault."""
    stored = read_stored(tmp_path, make({"ending": "freeze"}).scenarios[0])
    gap = stored.faults[0].gap
    assert gap is not None
    assert gap[0] <= (stored.faults[0].landed or 0) <= gap[1]
    drawn = gaps(stored.lanes, stored.faults)
    assert drawn is not None
    assert f"{(gap[1] - gap[0]) / MS:.0f} ms at token 64" in drawn.svg


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1120), st.floats(10, 400)), max_size=12))
def test_flags_never_cover_each_other(places: list[tuple[float, float]]) -> None:
    """Wherever their lines stand and however long they are: no text lies on another of its row."""
    flags = [Flag(x, width) for x, width in sorted(places)]
    placed = place_flags(flags, 0, 1120)
    boxes: dict[int, list[tuple[float, float]]] = {}
    for flag, place in zip(flags, placed, strict=True):
        start = flag.x - 5 - flag.width if place.leftward else flag.x + 5
        for other_start, other_end in boxes.get(place.row, []):
            assert start + flag.width <= other_start or other_end <= start
        boxes.setdefault(place.row, []).append((start, start + flag.width))


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_within(start: float, length: float) -> None:
    """About as many as were asked for, in order, none outside."""
    found = list(ticks(start, start + length, 10))
    assert len(found) <= 12
    assert found == sorted(found)
    assert all(start - length * 0.01 <= tick <= start + length * 1.01 for tick in found)


@given(st.text())
def test_text_made_plain_controls_no_terminal(text: str) -> None:
    """No escape, no control character but line ends and tabs, no turn of direction, no half of a pair."""
    shown = plain(text)
    assert not any(ord(letter) < 32 and letter not in "\n\t" for letter in shown)
    assert not set(shown) & {"\x1b", "\x7f", "\x9b", "\u202e", "\u2066"}
    shown.encode()


def test_an_unfinished_escape_swallows_nothing() -> None:
    """The evidence behind it stays readable, and a long line is cut with its length said."""
    assert "evidence" in plain("\x1b]0;never ends evidence")
    assert plain("\x1b[31mred\x1b[0m") == "red"
    assert plain("x" * 5_000).endswith("(3,000 more characters)")
    assert len(one_line("word " * 1_000, 80)) == 80


@given(st.text())
def test_xml_text_is_accepted_by_a_parser(text: str) -> None:
    """Whatever it was before."""
    element = ET.Element("a")
    element.text = xml_text(text)
    ET.fromstring(ET.tostring(element))  # noqa: S314 - ours


@pytest.mark.parametrize("ending", ["drop", "hang", "missed", "killed"])
def test_a_story_is_short_and_has_the_proof(make: Make, tmp_path: Path, ending: str) -> None:
    """Under thirty lines: the oracle's reason once, the fault and its evidence, the run's folder last."""
    record = make({"ending": ending}).scenarios[0]
    told = story(record, read_stored(tmp_path, record).events, tmp_path)
    lines = told.splitlines()
    assert len(lines) < 30
    assert all(len(line) <= 200 or line == lines[-1] for line in lines)
    assert lines[-1].startswith(f"  run      {tmp_path}")
    if ending == "drop":
        assert told.count("token 64 is not what the control got") == 1
        assert "wait status 9" in told
        assert "Stream disconnected" in told


def test_of_a_client_that_left_it_is_told_when_the_frontend_noticed() -> None:
    """Not when a worker left, at the teardown or before; and nothing is taken over from a client."""
    events: list[Event] = [
        RequestSent(n=1, t=10 * MS, source="client", request="r", endpoint="/v1/completions"),
        FaultRequested(
            n=2, t=20 * MS, source="harness", id="fault-1", fault="disconnect", target="client", request="r"
        ),
        FaultLanded(n=3, t=21 * MS, source="client", id="fault-1", evidence={}),
        Log(n=4, t=22 * MS, source="frontend", event="client_disconnected"),
        Log(n=5, t=23 * MS, source="worker-1", event="request_received", captures={"request": "r"}),
        RunPhase(n=6, t=30 * MS, source="harness", phase="teardown"),
        Log(n=7, t=31 * MS, source="frontend", event="worker_left"),
    ]
    faults = judge(Scenario(name="a/b", workload=[]), events).faults
    assert [fault.target for fault in faults] == ["client"]
    (one,) = moments(faults, events, timeline(events))
    assert (one.detected, one.rerouted, one.first_token) == (22 * MS, None, None)
    assert [e.detected for e in moments(faults, [e for e in events if e.n != 4], timeline(events))] == [None]


def test_a_long_line_of_a_process_costs_those_after_it_nothing(make: Make) -> None:
    """A parser's usage names all there is; what was wrong stands below it."""
    record = make({"tokens": 80}).scenarios[0]
    reason = f"the stack did not start: frontend ended\n  its last lines:\n    usage: {'x,' * 3_000}\n    error: not a number"
    told = story(msgspec.structs.replace(record, verdict="unknown", reason=reason), [])
    assert told.splitlines()[4] == "      error: not a number"
