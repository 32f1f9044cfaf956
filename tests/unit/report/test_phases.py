"""Who had a request in which phase, in the picture, in the trace and in words."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ftharness.history import (
    ContractChosen,
    Event,
    History,
    Log,
    ProcessStarted,
    RequestChunk,
    RequestFinished,
    RequestSent,
    RunFinished,
    RunPhase,
    RunStarted,
)
from ftharness.report.chart import chart, whole
from ftharness.report.chronicle import chronicle
from ftharness.report.served import HELD, serving
from ftharness.report.stored import read_stored
from ftharness.report.timeline import timeline
from ftharness.report.trace import trace
from ftharness.scenario import Scenario, judge
from ftharness.scenario.runner import Cell, keep_cell

MS = 1_000_000


def said(source: str, event: str, request: str = "r", **captures: str) -> Log:
    return Log(source=source, event=event, captures={"request": request, **captures}, line=f"{event} {request}")


def phase(source: str, name: str, request: str = "r") -> Log:
    return said(source, "request_phase", request, phase=name)


def told(*events: tuple[int, Event]) -> list[Event]:
    """Each at its ms; before them the stack's own."""
    history = History(start_ns=0)
    history.append(RunStarted(source="harness", scenario="a/b", stack="sim"), at=0)
    for pid, name in enumerate(("prefill-1", "decode-1", "decode-2"), 100):
        role = name.partition("-")[0]
        history.append(ContractChosen(source=name, backend="sim", events=["request_aborted"]), at=0)
        history.append(ProcessStarted(source=name, pid=pid, role=role), at=0)
    history.append(RunPhase(source="harness", phase="fault"), at=0)
    for t, event in events:
        history.append(event, at=t * MS)
    return list(history.events)


#: The claim of the prefill worker is read last, as it may be: it comes through another pipe.
DECODE_FIRST = (
    (1, RequestSent(source="client", request="r", endpoint="/v1/completions", stream=True)),
    (10, said("decode-1", "request_received")),
    (11, phase("decode-1", "queued")),
    (12, said("prefill-1", "request_received")),
    (13, phase("prefill-1", "prefill")),
    (100, phase("decode-1", "kv_transfer")),
    (200, phase("decode-1", "decode")),
    *((t, RequestChunk(source="client", request="r", first=t // 10 - 21, tokens=1)) for t in range(210, 500, 10)),
)
DONE = (
    (500, RequestFinished(source="client", request="r", outcome="success", status=200, finish_reason="length")),
    (501, said("decode-1", "request_finished")),
    (502, said("prefill-1", "request_finished")),
    (600, RunFinished(source="harness", outcome="complete")),
)


def test_each_of_two_workers_has_the_request_in_its_own_phases() -> None:
    """The one that prefilled keeps the KV while the other decodes: it is the other that serves, and makes the tokens."""
    lanes = timeline(told(*DECODE_FIRST, *DONE))
    spans = {span.worker: span for span in lanes.requests[0].served}
    assert {name: (span.start // MS, span.end // MS) for name, span in spans.items()} == {
        "decode-1": (10, 500),
        "prefill-1": (12, 500),
    }
    parts = {name: [(p.phase, p.start // MS, p.end // MS) for p in span.parts] for name, span in spans.items()}
    assert parts == {
        "decode-1": [("queued", 11, 100), ("kv_transfer", 100, 200), ("decode", 200, 500)],
        "prefill-1": [("prefill", 13, 100), (HELD, 100, 500)],
    }
    (request,) = lanes.requests
    assert [request.worker_at(t * MS) for t in (50, 150, 300)] == ["prefill-1", "decode-1", "decode-1"]
    assert [request.phase_at(t * MS) for t in (5, 50, 150, 300)] == [
        "",
        "prefill in prefill-1",
        "kv_transfer in decode-1",
        "decode in decode-1",
    ]
    assert [span.worker for lane in lanes.processes for span in lane.served] == ["prefill-1", "decode-1"]


def test_one_that_moved_is_no_more_with_who_had_it_in_that_role() -> None:
    """And two choices of one request are with two workers at a time."""
    moved = told(*DECODE_FIRST, (300, said("decode-2", "request_received")), *DONE)
    assert [(s.worker, s.start // MS, s.end // MS) for s in serving(moved, 600 * MS)] == [
        ("decode-1", 10, 300),
        ("prefill-1", 12, 500),
        ("decode-2", 300, 500),
    ]
    choices = told(
        DECODE_FIRST[0],
        (10, said("decode-1", "request_received", "r-0")),
        (11, said("decode-2", "request_received", "r-1")),
        *DONE,
    )
    assert [(s.worker, s.end // MS) for s in serving(choices, 600 * MS)] == [("decode-1", 500), ("decode-2", 500)]


@pytest.mark.parametrize("ends", [250, None])
def test_a_worker_that_gives_a_request_up_has_it_until_it_says_so(ends: int | None) -> None:
    """Not until its client has gone: one that never says so is seen to work for nobody."""
    gone = (220, RequestFinished(source="client", request="r", outcome="cancelled"))
    end = () if ends is None else ((ends, said("decode-1", "request_aborted")),)
    spans = serving(told(*DECODE_FIRST[:7], gone, *end), 600 * MS)
    assert {s.worker: s.end // MS for s in spans}["decode-1"] == (ends or 600)


def test_the_picture_shades_each_phase_and_has_a_key() -> None:
    """With a label where there is room; a stack that tells no phases has no key."""
    lanes = timeline(told(*DECODE_FIRST, *DONE))
    drawn = ET.fromstring(chart(lanes, [], whole(lanes), "x").svg)  # noqa: S314 - we drew it
    texts = [node.text for node in drawn.iter("text")]
    assert {"request 0: kv_transfer", "request 0: prefill", "request 0: decode"} <= set(texts)
    assert {"queued", "prefill", "kv_transfer", "decode", "KV held"} <= set(texts)
    classes = [(node.get("class") or "").split() for node in drawn.iter("rect")]
    for name in ("queued", "prefill", "kv-transfer", "decode", "held"):
        assert any("busy" in one and name in one for one in classes)
    plain = timeline([e for e in told(*DECODE_FIRST, *DONE) if not isinstance(e, Log) or e.event != "request_phase"])
    assert "KV held" not in chart(plain, [], whole(plain), "x").svg


def test_the_trace_has_each_phase_on_its_workers_track(tmp_path: Path) -> None:
    """Within the request's own slice; from prefill to decode no arrow leads, for both have it."""
    events = told(*DECODE_FIRST, *DONE)
    with History(tmp_path / "history.jsonl", start_ns=0) as history:
        for event in events:
            history.append(event, at=event.t)
    scenario = Scenario(name="a/b", workload=[])
    keep_cell(Cell(scenario=scenario, stack="sim"), tmp_path)
    made = json.loads(trace(read_stored(tmp_path, judge(scenario, events))))["traceEvents"]
    tracks = {one["pid"]: one["args"]["name"] for one in made if one["name"] == "process_name"}
    slices = {
        (tracks[one["pid"]].partition(" ")[0], one["name"]): one["dur"] / 1e3
        for one in made
        if one["ph"] == "X" and one["name"] in ("queued", "prefill", "kv_transfer", "decode", HELD)
    }
    assert slices == {
        ("decode-1", "queued"): 89,
        ("decode-1", "kv_transfer"): 100,
        ("decode-1", "decode"): 300,
        ("prefill-1", "prefill"): 87,
        ("prefill-1", HELD): 400,
    }
    assert not [one for one in made if one["ph"] in "sf"]


def test_in_words_a_line_of_a_phase_says_which() -> None:
    """And of which request."""
    events = told(*DECODE_FIRST, *DONE)
    said_ = [(entry.source, entry.what) for entry in chronicle(events, timeline(events), [])]
    assert ("decode-1", "request 0: kv_transfer") in said_
