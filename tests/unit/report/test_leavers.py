"""Clients that went away: what became of their requests, in words and figures, and many of them at once."""

import json
from pathlib import Path

import msgspec
import pytest

from ftharness.client import completion
from ftharness.faults import client_of, disconnect
from ftharness.history import (
    ContractChosen,
    FaultLanded,
    FaultRequested,
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
from ftharness.report import RunRecord, compare, story, write_report
from ftharness.report.chart import around, chart, whole
from ftharness.report.groups import groups
from ftharness.report.lead import lead
from ftharness.report.section import section
from ftharness.report.stored import Stored, read_stored
from ftharness.scenario import Scenario, cancelled_within, judge, on_token
from ftharness.scenario.record import FaultRecord, Recovery, ScenarioRecord
from ftharness.scenario.runner import Cell, keep_cell
from ftharness.telling import Telling

MS = 1_000_000


def write(folder: Path, clients: int = 1, *, faults: bool = True) -> ScenarioRecord:
    """A control of two requests each; then every second client leaves, 20 ms apart; decode-1 gives up after 2 ms and more."""
    scenario = Scenario(
        name="cancellation/one",
        workload=[completion()] * (2 * clients),
        faults=[on_token(1, request=2 * n).inject(disconnect(client_of(2 * n))) for n in range(clients)]
        if faults
        else [],
        expect=[cancelled_within(ms=500)],
    )
    folder.mkdir(exist_ok=True)
    with History(folder / "history.jsonl", start_ns=0) as h:
        h.append(RunStarted(source="harness", scenario=scenario.name, stack="sim"), at=0)
        for pid, name in enumerate(("frontend", "prefill-1", "decode-1"), 100):
            events = ["request_received", "request_aborted", "remote_aborted"]
            h.append(ContractChosen(source=name, backend="sim", events=events), at=0)
            h.append(ProcessStarted(source=name, pid=pid, role=name.partition("-")[0]), at=0)
        for place, phase in enumerate(("control", "fault")):
            start = place * 3_000 + 10
            h.append(RunPhase(source="harness", phase=phase), at=start * MS)
            for n in range(2 * clients):
                _request(h, start + 10 * n, n, leaves=bool(place) and n % 2 == 0, control=not place, fault=faults)
        h.append(RunPhase(source="harness", phase="teardown"), at=9_000 * MS)
        h.append(RunFinished(source="harness", outcome="complete"), at=9_001 * MS)
        events_ = list(h.events)
    keep_cell(Cell(scenario=scenario, stack="sim"), folder)
    return judge(scenario, events_)


def _request(h: History, t: int, n: int, *, leaves: bool, control: bool, fault: bool) -> None:
    name = f"{'c' if control else 'r'}{n:03d}"
    sent = RequestSent(source="client", request=name, endpoint="/v1/completions", stream=True, control=control, index=n)
    h.append(sent, at=t * MS)
    for source, event, more in (
        ("prefill-1", "request_received", {}),
        ("decode-1", "request_received", {}),
        ("decode-1", "request_phase", {"phase": "kv_transfer" if leaves else "decode"}),
    ):
        h.append(Log(source=source, event=event, captures={"request": name, **more}), at=(t + 1) * MS)
    h.append(RequestChunk(source="client", request=name, first=0, tokens=1, text="a"), at=(t + 3) * MS)
    if not leaves:
        h.append(RequestFinished(source="client", request=name, outcome="success", status=200), at=(t + 9) * MS)
        return
    at = (t + 5) * MS
    if fault:
        asked = FaultRequested(
            source="harness", id=f"fault-{n // 2 + 1}", fault="disconnect", target=str(client_of(n)), request=name
        )
        h.append(asked, at=at - 1)
        evidence = {"client": "closed the connection", "tokens": 1}
        h.append(FaultLanded(source="client", id=asked.id, evidence=evidence), at=at)
    h.append(RequestFinished(source="client", request=name, outcome="cancelled"), at=at)
    about = {"request": name}
    h.append(Log(source="frontend", event="client_disconnected", captures=about), at=at + MS)
    h.append(Log(source="prefill-1", event="remote_aborted", captures=about), at=at + 3 * MS // 2)
    h.append(Log(source="decode-1", event="request_aborted", captures=about), at=at + (2 + n) * MS)


def stored(folder: Path, clients: int = 1, *, faults: bool = True) -> Stored:
    return read_stored(folder, write(folder, clients, faults=faults))


def test_a_report_says_who_gave_the_request_up_and_how_soon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the headline, on the terminal, in the overview, among the figures, in a story and between two runs."""
    one = stored(tmp_path)
    said = "given up in decode-1 after 2.00 ms, told prefill-1"
    assert lead(one) == (
        "The client of request 0 closed its connection, in kv_transfer in decode-1: the frontend noticed after 1.00 ms, and its "
        f"request was {said}. It had got 1 token by then; all 1 token of the other request came."
    )
    Telling(1).told(one.record, tmp_path)
    assert f"disconnect client, {said}; " in capsys.readouterr().out
    (group,) = groups([one.record], ["#"])
    assert group.next_token == "given up after 2.00 ms"  # noqa: S105 - no password
    figures = {figure.name: figure.value for figure in section(one, "s1", pictures=False).figures}
    assert (figures["until given up"], figures["until noticed"]) == ("2.00 ms", "1.00 ms")
    assert (
        f"request 0 had 1 token when disconnect client of request 0 landed at 3.015 s, in kv_transfer in decode-1; {said}"
        in (story(one.record, one.events))
    )
    run = RunRecord(ftharness="", seed=0, started_at="", verdict="pass", scenarios=[one.record])
    assert any("given up 2.00 ms → 2.00 ms" in line for line in compare(run, run).lines)


def test_a_client_that_left_without_a_fault_is_told(tmp_path: Path) -> None:
    """As in a test that cancels its stream: a client did leave, and something was given up."""
    one = stored(tmp_path, faults=False)
    assert lead(one).startswith("The client of request 0 left: given up in decode-1 after 2.00 ms, told prefill-1.")
    assert [note.kind for note in one.record.annotations] == ["client_left"]


def test_many_that_left_are_told_together(tmp_path: Path) -> None:
    """One label for all of them, and a box; the requests that are drawn are those that were hit, the nearest first."""
    one = stored(tmp_path, clients=40)
    assert lead(one).startswith(
        "40 clients left from 3.015 s to 3.795 s: 40 closed their connection; 40 given up by a worker, half of them within "
        "42.0 ms; the slowest (request 78) given up in decode-1 after 80.0 ms, told prefill-1."
    )
    drawn = chart(one.lanes, one.faults, whole(one.lanes), "x")
    assert drawn.svg.count('class="flag landed"') == 1
    assert ">40 clients left from 3.015 s to 3.795 s<" in drawn.svg
    shown = section(one, "s1", pictures=True)
    assert [box.name for box in shown.faults] == ["40 clients left"]
    assert [picture.title for picture in shown.pictures][:2] == [
        "Around disconnect client of request 78, the slowest of 40 to be given up",
        "Around disconnect client of request 0",
    ]
    slowest = next(fault for fault in one.faults if fault.request and fault.request.name == "request 78")
    window = around(slowest, one.lanes)
    assert window is not None
    close = chart(one.lanes, one.faults, window, "x").svg
    assert close.count('class="flag landed"') == 1
    places = [close.find(f">request {n}<") for n in (78, 76, 74)]
    assert places[0] > 0
    assert places[0] < min(place for place in places[1:] if place > 0)


def test_the_terminal_tells_of_many_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the slowest of them, and what else was broken; the overview has both figures."""
    one = write(tmp_path, clients=40)
    Telling(1).told(one, tmp_path)
    assert "  40 clients left, given up in decode-1 after 80.0 ms, told prefill-1; " in capsys.readouterr().out
    kill = FaultRecord(
        id="fault-41", kind="kill", target="serving (decode-1)", process="decode-1", trigger="at the begin", landed_ns=1,
        recovery=Recovery(detect_ms=1.0, reroute_ms=2.0, first_token_ms=14.5, max_gap_ms=20.0),
    )  # fmt: skip
    both = msgspec.structs.replace(one, faults=[*one.faults, kill])
    Telling(1).told(both, tmp_path)
    said = capsys.readouterr().out
    assert (
        "  kill serving (decode-1), 40 clients left, next token 14.5 ms later, given up in decode-1 after 80.0 ms"
        in said
    )
    (group,) = groups([both], ["#"])
    assert group.next_token.startswith("14.5 ms; given up after 41.0 ms, at most 80.0 ms")


def test_its_files_hold_the_figures(tmp_path: Path) -> None:
    """Under the names that others read."""
    record = write(tmp_path)
    write_report(tmp_path, RunRecord(ftharness="", seed=0, started_at="", verdict="pass", scenarios=[record]))
    recovery = json.loads((tmp_path / "run.json").read_text())["scenarios"][0]["faults"][0]["recovery"]
    assert recovery["given_up_ms"] == 2.0
    assert (recovery["given_up_by"], recovery["told"]) == ("decode-1", "prefill-1")
