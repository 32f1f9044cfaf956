"""A takeover as the page, the story and the terminal tell it: by its steps, and by who was lost with the engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ftharness.client import completion
from ftharness.history import (
    Event,
    FaultHealed,
    FaultLanded,
    FaultRequested,
    History,
    Log,
    ProcessExited,
    ProcessReady,
    ProcessSignalled,
    ProcessStarted,
    RequestChunk,
    RequestFinished,
    RequestSent,
    RunFinished,
    RunPhase,
    RunStarted,
)
from ftharness.report import story
from ftharness.report.section import Section, section
from ftharness.report.stored import read_stored
from ftharness.report.takeover import takeovers
from ftharness.report.trace import trace
from ftharness.scenario import Scenario, ends_cleanly, tokens_exact
from ftharness.scenario.case import Case
from ftharness.scenario.record import FaultRecord, OracleRecord, Recovery, ScenarioRecord, TokenCount
from ftharness.scenario.runner import Cell, keep_cell
from ftharness.stack import aggregated
from ftharness.telling import Telling

MS = 1_000_000
TOOK_OVER = "took_over_within(ms=500)"


class Group:
    """The history of engines that share a lock: each told at its ms; what they are killed by, and what they say."""

    def __init__(self, *engines: str) -> None:
        self.history = History(start_ns=0)
        self.faults: list[FaultRecord] = []
        self.at(0, RunStarted(source="harness", scenario="a/b", stack="sim", params={"groups": 1}))
        self.at(0, ProcessStarted(source="frontend", pid=99, role="frontend"))
        for pid, name in enumerate(engines, 100):
            self.joins(1, name, pid)
        self.at(50, RunPhase(source="harness", phase="fault"))

    def at(self, ms: float, event: Event) -> None:
        self.history.append(event, at=round(ms * MS))

    def says(self, ms: float, source: str, event: str, **captures: str) -> None:
        self.at(ms, Log(source=source, event=event, captures=captures, line=f"{event} of {source}"))

    def joins(self, ms: float, name: str, pid: int) -> None:
        self.at(ms, ProcessStarted(source=name, pid=pid, role="aggregated"))
        for place, state in enumerate(("init", "standby")):
            self.says(ms + 1 + place, name, "failover_state", state=state)
        self.at(ms + 3, ProcessReady(source=name, pid=pid))

    def has_its_turn(self, ms: float, name: str) -> None:
        """Lock at ``ms``, awake 20 ms later, announced 2 ms after that."""
        self.says(ms, name, "lock_acquired")
        self.says(ms + 0.1, name, "failover_state", state="waking")
        self.says(ms + 20, name, "awake")
        self.says(ms + 22, name, "failover_state", state="active")
        self.says(ms + 22, name, "ready")

    def asks(self, ms: float, index: int, worker: str, until: float, status: int = 200) -> None:
        """A request; its answer is a token, and then an end or an error that says so."""
        name = f"r{index}"
        self.at(ms, RequestSent(source="client", request=name, endpoint="/v1/completions", stream=True, index=index))
        self.at(ms + 1, RequestChunk(source="client", request=name, first=0, tokens=1, text="a", worker=worker))
        how: dict[str, Any] = {"outcome": "success"} if status == 200 else {"outcome": "error", "error_code": status}
        self.at(until, RequestFinished(source="client", request=name, status=200, **how))

    def struck(self, ms: float, kind: str, name: str, **evidence: Any) -> None:
        number = f"fault-{len(self.faults) + 1}"
        asked = FaultRequested(source="harness", id=number, fault=kind, target="active", trigger="on token 1")
        self.at(ms - 1, asked)
        self.at(ms, FaultLanded(source=name, id=number, evidence=evidence))
        if kind == "kill":
            self.at(ms, ProcessSignalled(source=name, pid=100, signal="SIGKILL", reason="fault"))
            self.at(ms + 0.5, ProcessExited(source=name, pid=100, signal="SIGKILL"))
        self.faults.append(
            FaultRecord(
                id=number,
                kind=kind,
                target="active",
                process=name,
                trigger="on token 1",
                requested_ns=round((ms - 1) * MS),
                landed_ns=round(ms * MS),
                evidence=evidence,
                recovery=Recovery(detect_ms=1.0, reroute_ms=51.6, first_token_ms=59.2, max_gap_ms=80.0),
            )
        )

    def record(self, folder: Path, *oracles: str, verdict: Any = "pass") -> ScenarioRecord:
        """Written into the folder, as a run leaves it."""
        self.at(900, RunPhase(source="harness", phase="teardown"))
        self.at(1_000, RunFinished(source="harness", outcome="complete"))
        with History(folder / "history.jsonl", start_ns=0) as kept:
            for event in sorted(self.history.events, key=lambda one: one.t):
                kept.append(event, at=event.t)
        scenario = Scenario(name="a/b", topology=aggregated(workers=1, standbys=1), workload=[completion()], expect=[])
        keep_cell(Cell(scenario=scenario, stack="sim"), folder)
        said = {str(ends_cleanly()): "2 answered, 1 failed and were told so"}
        return ScenarioRecord(
            name="a/b",
            stack="sim",
            verdict=verdict,
            faults=self.faults,
            tokens=TokenCount(expected=120, received=21, lost=99, duplicated=0, altered=0),
            oracles=[OracleRecord(name=name, verdict="pass", reason=said.get(name, "it did")) for name in oracles],
        )

    @property
    def events(self) -> Sequence[Event]:
        return list(self.history.events)


def killed() -> Group:
    """worker-1 is killed at 200 ms; standby-1 has the lock 3.7 ms later, and says its first token after 59.2."""
    group = Group("worker-1", "standby-1")
    group.has_its_turn(10, "worker-1")
    group.asks(60, 0, "worker-1", 90)
    group.asks(150, 1, "worker-1", 201, status=503)
    group.struck(200, "kill", "worker-1", wait_status="SIGKILL")
    group.has_its_turn(203.7, "standby-1")
    group.asks(258.2, 2, "standby-1", 300)
    return group


def shown(group: Group, folder: Path, *oracles: str) -> Section:
    record = group.record(folder, *(oracles or (TOOK_OVER, str(ends_cleanly()))))
    return section(read_stored(folder, record), "s1", pictures=True)


def test_the_lead_names_the_steps(tmp_path: Path) -> None:
    """Each from the kill on, and who took over; not that another worker got a request."""
    lead = shown(killed(), tmp_path).lead
    assert (
        "standby-1 took over: lock 3.70 ms, awake 23.7 ms, registered 25.7 ms, first token 59.2 ms after the kill."
        in lead
    )
    assert "another worker" not in lead


def test_each_step_is_a_figure(tmp_path: Path) -> None:
    """In the place of the time until a request was rerouted."""
    figures = {one.name: one.value for one in shown(killed(), tmp_path).figures}
    assert (figures["until the lock"], figures["until awake"]) == ("3.70 ms", "23.7 ms")
    assert (figures["until it serves"], figures["until its first token"]) == ("25.7 ms", "59.2 ms")
    assert "until rerouted" not in figures


def test_each_step_is_a_line_of_the_close_view(tmp_path: Path) -> None:
    """With its distance, as the moment at which the frontend noticed has one."""
    close = shown(killed(), tmp_path).pictures[0]
    assert close.title == "Around the fault"
    for words in ("standby-1 has the lock +3.70 ms", "awake +23.7 ms", "registered +25.7 ms", "first token +59.2 ms"):
        assert f">{words}</text>" in close.svg
    assert close.svg.count('class="line step"') == 3
    assert "rerouted" not in close.svg


def test_a_bar_has_its_engines_states_and_a_key_to_them(tmp_path: Path) -> None:
    """Waiting for the lock, waking and serving look apart; who has no such states has no key."""
    whole = shown(killed(), tmp_path).pictures[1].svg
    for state, words in (("standby", "waits for the lock"), ("waking", "wakes"), ("active", "serves")):
        assert f'class="state {state} w' in whole
        assert f'class="state {state} key"' in whole
        assert f'class="key">{words}</text>' in whole


def test_requests_that_were_lost_are_told_as_failed(tmp_path: Path) -> None:
    """Where nothing asks for every token, none is called lost."""
    told = shown(killed(), tmp_path)
    assert "Requests: 2 answered, 1 failed and were told so; 21 tokens came, each as expected." in told.lead
    figures = {one.name: one.value for one in told.figures}
    assert figures["requests failed, and told so"] == "1"
    assert not any("lost" in name for name in figures)


def test_where_every_token_is_asked_for_the_lost_ones_are_counted(tmp_path: Path) -> None:
    """Whatever else was asked."""
    told = shown(killed(), tmp_path, str(ends_cleanly()), str(tokens_exact()))
    assert "21 of 120 tokens came: 99 lost." in told.lead
    assert ("99", "lost") in [(one.value, one.name) for one in told.figures]


def test_a_fencers_kill_is_marked(tmp_path: Path) -> None:
    """By whom, and after how long a silence; the frozen bar ends with its process, and nobody was healed."""
    group = Group("worker-1", "standby-1")
    group.has_its_turn(10, "worker-1")
    group.at(200, ProcessSignalled(source="worker-1", pid=100, signal="SIGSTOP", reason="fault"))
    group.struck(200, "freeze", "worker-1", state="T")
    group.says(630, "standby-1", "fenced", engine="engine-0", silent="0.431")
    group.at(632, ProcessExited(source="worker-1", pid=100, signal="SIGKILL"))
    group.has_its_turn(634, "standby-1")
    group.at(800, ProcessSignalled(source="worker-1", pid=100, signal="SIGCONT", reason="heal"))
    group.at(800, FaultHealed(source="worker-1", id="fault-1", evidence={}))
    told = shown(group, tmp_path)
    fenced = "fenced by standby-1 after 0.43 s of silence"
    assert f"It was {fenced}. standby-1 took over: lock 434 ms" in told.lead
    assert "registered 456 ms after the freeze." in told.lead
    for picture in told.pictures:
        assert f">{fenced}" in picture.svg
        assert "healed" not in picture.svg
        assert "SIGCONT" not in picture.svg


def test_one_that_is_lost_in_its_turn_served_nobody(tmp_path: Path) -> None:
    """It took the lock; another took over from it, and both are told."""
    group = Group("worker-1", "standby-1", "standby-2")
    group.has_its_turn(10, "worker-1")
    group.struck(200, "kill", "worker-1")
    group.says(205, "standby-1", "lock_acquired")
    group.struck(210, "kill", "standby-1")
    group.has_its_turn(215, "standby-2")
    told = shown(group, tmp_path)
    lead, close = told.lead, told.pictures[0].svg
    for words in (
        "standby-1 has the lock +5.00 ms",
        "kill standby-1 landed +10.0 ms",
        "standby-2 has the lock +15.0 ms",
    ):
        assert words in close  # as its axis counts: from the fault that the picture is about
    briefs = [one.brief for one in takeovers(Case(group.events))]
    assert briefs == ["standby-1 took the lock after 5.00 ms", "standby-2 took over after 27.0 ms (registered)"]
    assert "standby-1 took the lock, and served nobody: lock 5.00 ms after the kill." in lead
    assert "standby-2 took over: lock 5.00 ms, awake 25.0 ms, registered 27.0 ms after the kill." in lead


def test_of_several_takeovers_each_has_its_view(tmp_path: Path) -> None:
    """And the shadow that joins between them has a flag, but no view: nothing was broken."""
    group = killed()
    group.joins(262, "standby-2", 103)
    group.struck(263, "start_standby", "standby-1", started="standby-2", pid=103, state="standby")
    group.struck(500, "kill", "standby-1", wait_status="SIGKILL")
    group.has_its_turn(510, "standby-2")
    told = shown(group, tmp_path)
    assert [one.title for one in told.pictures[:2]] == ["Around kill worker-1", "Around kill standby-1"]
    assert "standby-2 has the lock +10.0 ms" in told.pictures[1].svg
    assert "standby-1 has the lock" not in told.pictures[1].svg
    assert ">standby-2 joins" in told.pictures[2].svg
    assert "standby-2 joined beside standby-1" in told.lead
    assert {one.name: one.value for one in told.figures}["until the lock"] == "10.0 ms"  # the slowest


def test_of_several_faults_on_one_engine_the_last_was_followed() -> None:
    """A stall that was over has no takeover: the kill after it has."""
    group = Group("worker-1", "standby-1")
    group.has_its_turn(10, "worker-1")
    group.struck(100, "freeze", "worker-1", state="T")
    group.at(150, FaultHealed(source="worker-1", id="fault-1", evidence={}))
    group.struck(200, "kill", "worker-1")
    group.has_its_turn(205, "standby-1")
    assert [one.fault for one in takeovers(Case(group.events))] == ["kill"]


def test_a_takeover_from_one_that_was_told_to_end_counts_from_its_kill() -> None:
    """Where its grace was over before the lock was free; else from the signal."""
    for kill_at, lock_ms in ((400, 5.0), (900, 205.0)):
        group = Group("worker-1", "standby-1")
        group.has_its_turn(10, "worker-1")
        group.struck(200, "terminate", "worker-1")
        group.at(kill_at, ProcessSignalled(source="worker-1", pid=100, signal="SIGKILL", reason="escalation"))
        group.has_its_turn(405, "standby-1")
        (found,) = takeovers(Case(group.events))
        assert found.ms(found.lock) == lock_ms


def test_the_terminal_and_the_story_name_who_took_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pass in its line, what did not pass in a line of its story."""
    group = killed()
    record = group.record(tmp_path, TOOK_OVER, str(ends_cleanly()))
    Telling(1).told(record, tmp_path)
    said = capsys.readouterr().out
    assert "  kill active, standby-1 took over after 59.2 ms; 2 answered, 1 failed and were told so\n" in said
    lines = story(record, group.events).splitlines()
    assert "  takeover standby-1 took over: lock 3.70 ms, awake 23.7 ms" in "\n".join(lines)
    assert len(lines) < 30


def test_the_trace_has_the_steps(tmp_path: Path) -> None:
    """On the track of the faults."""
    stored = read_stored(tmp_path, killed().record(tmp_path))
    for name in ("lock", "awake", "registered", "first token"):
        assert f'"standby-1: {name}"'.encode() in trace(stored)


def test_a_stack_without_a_lock_has_no_takeover(tmp_path: Path) -> None:
    """What is no group of engines is told as before."""
    group = Group("worker-1", "worker-2")
    group.struck(200, "kill", "worker-1")
    lead = shown(group, tmp_path).lead
    assert "took over after 51.6 ms" in lead
    assert "lock" not in lead
