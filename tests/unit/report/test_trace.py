"""trace.json, against the rules of the trace event format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftharness.report import RunRecord, write_report

Make = Callable[..., RunRecord]

# What each kind of event must have, by the format's own description.
NEEDED = {
    "M": {"name", "pid", "args"},
    "X": {"name", "pid", "tid", "ts", "dur"},
    "i": {"name", "pid", "tid", "ts", "s"},
    "C": {"name", "pid", "ts", "args"},
    "s": {"name", "pid", "tid", "ts", "id", "cat"},
    "f": {"name", "pid", "tid", "ts", "id", "cat", "bp"},
}


def events_of(folder: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads((folder / "trace.json").read_bytes())["traceEvents"]
    return events


def tracks(events: list[dict[str, Any]]) -> dict[int, str]:
    return {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}


@pytest.mark.parametrize("ending", ["pass", "drop", "hang", "missed", "freeze", "killed"])
def test_every_event_has_what_its_kind_needs(make: Make, tmp_path: Path, ending: str) -> None:
    """No event is of an unknown kind, lacks a field, has a negative length, or lies on a track without a name."""
    write_report(tmp_path, make({"ending": ending}))
    events = events_of(tmp_path)
    named = tracks(events)
    for event in events:
        assert NEEDED[event["ph"]] <= event.keys()
        assert event.get("dur", 0) >= 0
        assert event.get("s", "t") in "tpg"
        assert event["pid"] in named


def test_slices_of_one_row_nest(make: Make, tmp_path: Path) -> None:
    """A viewer drops what overlaps in one row: requests that a worker has at the same time have rows of their own."""
    write_report(tmp_path, make({"requests": 6}))
    rows: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events_of(tmp_path):
        if event["ph"] == "X":
            rows.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert len(rows) > 12
    for spans in rows.values():
        open_: list[float] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_ and open_[-1] <= start + 0.01:  # 10 ns: times are floats
                open_.pop()
            assert not open_ or end <= open_[-1] + 0.01
            open_.append(end)


def test_there_is_a_track_for_every_process_and_request(make: Make, tmp_path: Path) -> None:
    """By their names, and the fault and its recovery on a track of the run's."""
    record = make({"requests": 2})
    write_report(tmp_path, record)
    events = events_of(tmp_path)
    assert {"worker-1 (pid 40123)", "worker-2 (pid 40126)", "frontend (pid 40120)", "requests"} <= set(
        tracks(events).values()
    )
    threads = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert {"control 0", "control 1", "request 0", "request 1", "phases", "faults"} <= threads
    fault = record.scenarios[0].faults[0]
    at = {event["name"]: event["ts"] for event in events if event["ph"] == "i" and event["pid"] == 1}
    landed = at["kill worker-1 landed"]
    assert fault.landed_ns is not None
    assert landed == pytest.approx(fault.landed_ns / 1_000)
    assert (at["detected"] - landed) / 1_000 == pytest.approx(fault.recovery.detect_ms, abs=0.001)
    assert (at["rerouted to worker-2"] - landed) / 1_000 == pytest.approx(fault.recovery.reroute_ms, abs=0.001)
    assert (at["first token after the fault"] - landed) / 1_000 == pytest.approx(
        fault.recovery.first_token_ms, abs=0.001
    )


def test_a_migration_is_an_arrow_between_two_workers(make: Make, tmp_path: Path) -> None:
    """From the row of the worker that was killed to that of the one that took over."""
    write_report(tmp_path, make({}))
    events = events_of(tmp_path)
    named = tracks(events)
    ends = {event["ph"]: named[event["pid"]] for event in events if event["ph"] in "sf"}
    assert ends == {"s": "worker-1 (pid 40123)", "f": "worker-2 (pid 40126)"}


def test_the_token_counter_ends_at_what_was_received(make: Make, tmp_path: Path) -> None:
    """Also where a long stream is sampled, and the file stays small."""
    record = make({"tokens": 8192, "rate": 4000.0})
    write_report(tmp_path, record)
    counted = [event for event in events_of(tmp_path) if event["ph"] == "C" and event["name"] == "tokens of request 0"]
    values = [event["args"]["tokens"] for event in counted]
    assert values == sorted(values)
    assert values[-1] == record.scenarios[0].tokens.received == 8192
    assert 2_000 < len(values) < 7_000
    assert (tmp_path / "trace.json").stat().st_size < 2_000_000
