"""What a pool manager does, as the report draws and tells it: lives, waits, a breaker, drains, reloads, and its own end."""

import json
import re
import tomllib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest

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
    RunFinished,
    RunPhase,
    RunStarted,
)
from ftharness.report import RunRecord, story, write_report
from ftharness.report.chart import chart, whole
from ftharness.report.pictures import Picture
from ftharness.report.pool_lanes import MOST_SLOTS
from ftharness.report.pool_reading import pools_of
from ftharness.report.pools import PoolLane, SlotLane
from ftharness.report.section import Section, section
from ftharness.report.stored import read_stored
from ftharness.report.timeline import timeline
from ftharness.report.trace import trace
from ftharness.scenario.record import FaultRecord, OracleRecord, ScenarioRecord

ROOT = Path(__file__).parents[3]
MS = 1_000_000
Measure = Callable[..., dict[str, Any]]


class Run:
    """The history of a run with a manager of two slots, each event told at its ms; launched by 1,000, with faults from 2,000."""

    def __init__(self, *, survive: bool = False, slots: int = 2, name: str = "main") -> None:
        self.pending: list[tuple[float, Event]] = []
        self.faults: list[FaultRecord] = []
        self.name, self.pid, self.manager = name, 100, "pool"
        self.pids: dict[str, int] = {}
        self.at(
            0, RunStarted(source="harness", scenario="p/q", stack="sim", params={"pool": {"engines_survive": survive}})
        )
        self.at(0, RunPhase(source="harness", phase="launch"))
        self.begins(10, "pool")
        for slot in range(1, slots + 1):
            self.starts(200, f"{name}-{slot}")
            self.says(600, "engine_ready", f"{name}-{slot}", model="first")
        self.at(1_000, RunPhase(source="harness", phase="control"))
        self.at(2_000, RunPhase(source="harness", phase="fault"))
        self.at(2_010, ProcessStarted(source="job-1", pid=90, role="job"))
        self.at(2_020, Log(source="job-1", event="job_started", captures={"pool": name}, line="job_started"))

    def at(self, ms: float, event: Event) -> None:
        self.pending.append((ms, event))

    def says(self, ms: float, event: str, engine: str = "", **captures: str) -> None:
        told = {"pool": self.name, "engine": engine, "model": "None"} | captures
        self.at(ms, Log(source=self.manager, event=event, captures=told, line=f"event={event}"))

    def begins(self, ms: float, manager: str) -> None:
        self.manager = manager
        self.at(ms, ProcessStarted(source=manager, pid=len(manager), role="manager"))
        self.at(ms + 50, ProcessReady(source=manager, pid=len(manager)))

    def starts(self, ms: float, engine: str) -> str:
        self.pid += 1
        self.pids[engine] = self.pid
        self.says(ms, "engine_started", engine, pid=str(self.pid))
        return str(self.pid)

    def dies(self, ms: float, engine: str, delay_ms: int = 0, exit_: str = "SIGKILL") -> None:
        """It is lost, and is to be started again after so long; 0: the breaker opens."""
        self.says(ms, "engine_lost", engine, exit=exit_, reason=f"it ended by itself: {exit_}")
        if delay_ms:
            self.says(ms + 1, "restart_scheduled", engine, delay_ms=str(delay_ms), reason="it ended")
        else:
            self.says(ms + 1, "breaker_open", engine, reason="it ended")

    def leases(self, ms: float, event: str, *numbers: int) -> None:
        for number in numbers:
            self.says(ms, event, f"{self.name}-1", lease=f"lease-{number}")

    def refused(self, why: str, *times: float) -> None:
        for ms in times:
            self.at(
                ms,
                Log(
                    source="job-1",
                    event="lease_refused",
                    captures={"holder": "job-1/1", "why": why},
                    line="lease_refused",
                ),
            )

    def struck(self, ms: float, kind: str, **evidence: Any) -> str:
        number = f"fault-{len(self.faults) + 1}"
        self.at(ms, FaultRequested(source="harness", id=number, fault=kind, target="pool", trigger="by the test"))
        self.at(ms, FaultLanded(source=self.manager, id=number, evidence=evidence))
        self.faults.append(
            FaultRecord(
                id=number, kind=kind, target="pool", process=self.manager, trigger="by the test",
                requested_ns=round(ms * MS), landed_ns=round(ms * MS), evidence=evidence,
            )
        )  # fmt: skip
        return number

    def killed(self, ms: float) -> None:
        """The manager is, by a fault."""
        self.struck(ms, "kill", wait_status="SIGKILL")
        self.at(ms, ProcessSignalled(source=self.manager, pid=1, signal="SIGKILL", reason="fault"))
        self.at(ms + 1, ProcessExited(source=self.manager, pid=1, signal="SIGKILL"))

    def ends(self, ms: float) -> "Run":
        """The teardown: its manager ends what is its own."""
        self.at(ms, RunPhase(source="harness", phase="teardown"))
        self.at(ms + 10, ProcessExited(source="job-1", pid=90, returncode=0))
        for slot in (1, 2):
            self.says(
                ms + 100, "engine_stopped", f"{self.name}-{slot}", exit="exit status 0", reason="the manager ends"
            )
        self.at(ms + 110, ProcessExited(source=self.manager, pid=1, returncode=0))
        self.at(ms + 120, RunFinished(source="harness", outcome="complete"))
        return self

    @property
    def events(self) -> Sequence[Event]:
        history = History(start_ns=0)
        for ms, event in sorted(self.pending, key=lambda one: one[0]):
            history.append(event, at=round(ms * MS))
        return list(history.events)

    @property
    def pool(self) -> PoolLane:
        (lane,) = timeline(self.events).pools
        return lane

    @property
    def slot(self) -> SlotLane:
        """The first one."""
        return self.pool.slots[0]

    def record(self, folder: Path, *oracles: OracleRecord) -> ScenarioRecord:
        """Written into the folder, as a run leaves it."""
        folder.mkdir(parents=True, exist_ok=True)
        with History(folder / "history.jsonl", start_ns=0) as kept:
            for ms, event in sorted(self.pending, key=lambda one: one[0]):
                kept.append(event, at=round(ms * MS))
        verdict: Any = "fail" if any(one.verdict == "fail" for one in oracles) else "pass"
        return ScenarioRecord(name="p/q", stack="sim", verdict=verdict, faults=self.faults, oracles=list(oracles))

    def shown(self, folder: Path, *oracles: OracleRecord) -> Section:
        return section(read_stored(folder, self.record(folder, *oracles)), "s1", pictures=True)


def crash_loop() -> Run:
    """main-1 dies when it is ready, and at each of its next four starts; the breaker opens, and its one try holds."""
    run = Run()
    t = 2_200.0
    for delay in (91, 186, 282, 323):
        run.struck(t, "kill_engine", engine="main-1", engine_pid=run.pids["main-1"], wait_status="SIGKILL")
        run.dies(t + 10, "main-1", delay)
        t += 10 + delay + 60
        run.starts(t, "main-1")
        t += 20
    run.struck(t, "kill_engine", engine="main-1", engine_pid=run.pids["main-1"], wait_status="SIGKILL")
    run.dies(t + 10, "main-1")
    run.says(t + 511, "breaker_half_open", "main-1")
    run.starts(t + 600, "main-1")
    run.says(t + 1_100, "engine_ready", "main-1", model="first")
    run.says(t + 1_100, "breaker_closed", "main-1", reason="the engine is up")
    run.refused("full", *range(2_300, 4_000, 40))
    return run.ends(5_300)


def drained() -> Run:
    """Six leases are held; a drain lets them end, a second one takes them back, a third one gives up."""
    run = Run()
    run.refused("full", 2_250, 2_260)
    for t, outcome, took in ((2_300, "drained", 600), (3_700, "stopped", 120), (4_600, "aborted", 110)):
        run.leases(t - 100, "lease_granted", *range(t, t + 6))
        run.struck(t - 5, "ask", asked="POST /v1/pools/main/drain", status=202, operation="drain", detail=outcome)
        run.says(t, "drain_begun", deadline_ms="100", on_timeout="stop")
        run.refused("draining", t + 20, t + 60, t + 90)
        if outcome != "aborted":
            run.leases(t + took - 20, "lease_released" if outcome == "drained" else "lease_revoked", *range(t, t + 6))
            for slot in ("main-1", "main-2"):
                why = "drained" if outcome == "drained" else "the drain's deadline is over"
                run.says(t + took - 10, "engine_stopped", slot, exit="exit status 0", reason=why)
                run.starts(t + took + 150, slot)
                run.says(t + took + 500, "engine_ready", slot, model="first")
        run.says(t + took, "drain_ended", outcome=outcome, duration_ms=str(took))
    return run.ends(5_300)


def rolled_back() -> Run:
    """A reload with a model whose engines do not start, and one with a model that serves."""
    run = Run()
    for t, model, good in ((2_300, "broken", False), (4_000, "next", True)):
        run.says(t, "reload_begun", model="first", reference=f"models/{model}")
        for slot in ("main-1", "main-2"):
            run.says(t + 100, "engine_stopped", slot, exit="exit status 0", reason="reload")
            run.starts(t + 200, slot)
            if not good:
                run.says(t + 500, "engine_lost", slot, exit="exit status 1", reason="it ended by itself: exit status 1")
                run.starts(t + 600, slot)
            run.says(t + 1_000, "engine_ready", slot, model=model if good else "first")
        run.says(t + 1_010, "reload_ended", outcome="succeeded" if good else "rolled_back", duration_ms="1010")
    return run.ends(5_600)


def left_alone(*, survive: bool) -> Run:
    """The manager is killed with four leases held, and the next one serves 1.2 s later."""
    run = Run(survive=survive)
    run.leases(2_100, "lease_granted", 1, 2, 3, 4)
    run.killed(2_500)
    run.begins(2_520, "pool.2")
    for slot, pid in (("main-1", "101"), ("main-2", "102")):
        if survive:
            run.says(3_701, "engine_adopted", slot, pid=pid)
            run.says(3_702, "engine_unready", slot, reason="it was adopted, and has not answered yet")
        else:
            run.says(3_701, "engine_gone", slot, pid=pid, reason="it was ended by SIGKILL")
            run.starts(3_900, slot)
        run.says(4_300, "engine_ready", slot, model="first")
    if survive:
        run.leases(3_703, "lease_taken_over", 1, 2, 3, 4)
        run.leases(4_500, "lease_released", 1, 2, 3, 4)
    return run.ends(5_000)


def frozen() -> Run:
    """An engine is frozen until it is thawed; then for good, so that its manager stops it."""
    run = Run()
    first = run.struck(
        2_200, "freeze_engine", engine="main-1", engine_pid=run.pids["main-1"], signal="SIGSTOP", state="T"
    )
    run.says(2_400, "engine_unready", "main-1", reason="no answer within 0.2 s")
    run.at(3_000, FaultHealed(source="pool", id=first, evidence={"signal": "SIGCONT"}))
    run.says(3_050, "engine_ready", "main-1", model="first")
    run.struck(3_500, "freeze_engine", engine="main-1", engine_pid=run.pids["main-1"], signal="SIGSTOP", state="T")
    run.says(3_700, "engine_unready", "main-1", reason="no answer within 0.2 s")
    run.says(4_500, "engine_stopped", "main-1", exit="SIGKILL", reason="its probe failed 5 times in a row")
    run.says(4_501, "restart_scheduled", "main-1", delay_ms="100", reason="its probe failed")
    run.starts(4_700, "main-1")
    return run.ends(5_400)


def everything() -> Run:
    """All that there is a mark for, within one run: the key to it takes two rows."""
    run = left_alone(survive=True)
    run.refused("full", 2_450, 2_460)
    run.refused("draining", 4_720)
    run.dies(4_350, "main-2")
    run.says(4_400, "breaker_half_open", "main-2")
    run.starts(4_410, "main-2")
    run.dies(4_500, "main-2", 120)
    run.struck(4_550, "freeze_engine", engine="main-1", engine_pid=run.pids["main-1"], signal="SIGSTOP", state="T")
    for kind, t in (("drain", 4_700), ("reload", 4_730)):
        run.says(t, f"{kind}_begun", reference="models/next")
        run.says(t + 100, f"{kind}_ended", outcome="failed", duration_ms="100")
    return run


def first(run: Run, folder: Path, *oracles: OracleRecord) -> Picture:
    picture = run.shown(folder, *oracles).pictures[0]
    assert picture.title == "The fault phase"
    return picture


def nodes(picture: Picture) -> list[ET.Element]:
    return list(ET.fromstring(picture.svg).iter())  # noqa: S314 - we drew it


def texts(picture: Picture) -> list[str]:
    return [node.text or "" for node in nodes(picture) if node.tag == "text"]


def of_class(picture: Picture, class_: str) -> list[ET.Element]:
    """The marks of such a class, in whatever slot's colour; without those of the key, which have no title."""
    titled = [node for node in nodes(picture) if node.find("title") is not None]
    return [node for node in titled if re.sub(r" w\d$", "", node.get("class", "")) == class_]


def titles(picture: Picture, class_: str) -> list[str]:
    return [node.findtext("title") or "" for node in of_class(picture, class_)]


def test_lives_follow_on_each_other_with_their_waits_and_the_breaker() -> None:
    """As the manager told it: when each began, what it was, how it ended; and for how long none was tried."""
    slot = crash_loop().slot
    assert [life.status for life in slot.lives] == ["SIGKILL"] * 5 + ["exit status 0"]
    assert [life.hard for life in slot.lives] == [True] * 5 + [False]
    assert [(one.what, (one.end - one.start) // MS) for one in slot.lives[0].stretches] == [
        ("starting", 400),
        ("ready", 1_610),
    ]
    assert [(wait.ms, (wait.end - wait.start) // MS) for wait in slot.waits] == [(ms, ms) for ms in (91, 186, 282, 323)]
    assert [(one.what, (one.end - one.start) // MS) for one in slot.breaker] == [("open", 500), ("half open", 589)]
    assert slot.closed == [slot.breaker[-1].end]


def test_a_breaker_whose_try_comes_to_nothing_is_open_again() -> None:
    """And what a reset by hand cuts short is over then."""
    run = Run()
    run.dies(2_100, "main-1")
    run.says(2_200, "breaker_half_open", "main-1")
    run.starts(2_210, "main-1")
    run.dies(2_250, "main-1")
    run.says(2_400, "breaker_closed", "main-1", reason="it was reset")
    run.starts(2_410, "main-1")
    run.dies(2_500, "main-1", 900)
    run.says(2_600, "backoff_reset", "main-1", reason="it was reset")
    slot = run.ends(3_000).slot
    assert [one.what for one in slot.breaker] == ["open", "half open", "open"]
    assert [one.start for one in slot.breaker[1:]] == [one.end for one in slot.breaker[:-1]]
    assert slot.closed == [2_400 * MS]
    assert [(wait.ms, wait.end) for wait in slot.waits] == [(900, 2_600 * MS)]


def test_a_crash_loop_shows_its_growing_waits_and_its_breaker(tmp_path: Path) -> None:
    """Each with a mark, a word and a key; and in words below the picture."""
    picture = first(crash_loop(), tmp_path)
    assert titles(picture, "wait") == [f"main-1 is started again after {ms} ms" for ms in (91, 186, 282, 323)]
    widths = [
        float(re.findall(r"H([\d.]+)", node.get("d", ""))[0]) - float(re.findall(r"M([\d.]+)", node.get("d", ""))[0])
        for node in of_class(picture, "wait")
    ]
    assert widths == sorted(widths)
    assert len(of_class(picture, "gone hard")) == 5
    assert "SIGKILL" in [node.text for node in nodes(picture) if node.get("class") == "label hard"]
    assert titles(picture, "breaker open") == ["main-1: breaker open, 500 ms"]
    assert titles(picture, "breaker half-open") == ["main-1: breaker half open, 589 ms"]
    assert [title for title in titles(picture, "end ok") if "breaker closed" in title]
    assert {"91 ms", "186 ms", "282 ms", "323 ms", "open 500 ms", "half open 589 ms", "closed", "SIGKILL"} <= set(
        texts(picture)
    )
    key = {"starts", "ready", "waits before a restart", "breaker open", "breaker half open", "refused: full"}
    assert key <= set(texts(picture))
    assert (
        "main-1: 6 starts; ended unasked 5 times; waits before restarts of 91 ms, 186 ms, 282 ms, 323 ms; its breaker opened at "
        in picture.caption
    )
    assert "half open at" in picture.caption
    assert "main-2" in texts(picture)
    assert "main-2" not in picture.caption


def test_faults_on_engines_say_no_more_than_which(tmp_path: Path) -> None:
    """In the pool's picture: what the proof is, the lane shows; close views of single milliseconds are not drawn."""
    shown = crash_loop().shown(tmp_path)
    assert [one.title for one in shown.pictures] == ["The fault phase", "The whole run"]
    assert "kill_engine main-1 of pool at 2.200 s" in texts(shown.pictures[0])
    assert "kill_engine main-1 of pool at 2.200 s" in texts(shown.pictures[1])


def test_a_drain_shows_its_begin_what_it_refused_and_its_end(tmp_path: Path) -> None:
    """And how the leases that were held came to an end; one that gave up is not as the others."""
    run = drained()
    assert [(one.outcome, (one.end - one.start) // MS) for one in run.pool.operations] == [
        ("drained", 600), ("stopped", 120), ("aborted", 110)
    ]  # fmt: skip
    assert [max((count for t, count in run.pool.held if t <= ms * MS), default=0) for ms in (2_199, 2_800)] == [0, 6]
    assert [[count for t, count in run.pool.held if t <= ms * MS][-1] for ms in (2_890, 3_810, 4_720)] == [0, 0, 6]
    picture = first(run, tmp_path)
    assert titles(picture, "change drain") == [
        "drain: drained after 600 ms, from 2.300 s",
        "drain: stopped after 120 ms, from 3.700 s",
        "drain: aborted after 110 ms, from 4.600 s",
    ]
    assert titles(picture, "refused full") == ["2 leases refused, as all slots were taken"]
    assert titles(picture, "refused") == ["9 leases refused, as the pool was draining or not ready"]
    assert titles(picture, "held-leases") == ["main: at most 6 leases at once"]
    (held,), (bar, *_) = of_class(picture, "held-leases"), of_class(picture, "change drain")
    base, high = (float(found) for found in re.findall(r"M[\d.]+ ([\d.]+)v-([\d.]+)", held.get("d", ""))[0])
    assert float(bar.get("y", "")) + float(bar.get("height", "")) <= base - high
    assert {"drain: drained after 600 ms", "drain: stopped after 120 ms", "drained", "at most 6 leases"} <= set(
        texts(picture)
    )
    hard = [node.text for node in nodes(picture) if node.get("class") == "label hard"]
    assert hard == ["drain: aborted after 110 ms"]
    assert "drain asked for at 2.295 s" in texts(picture)
    assert {"drain", "refused: draining, not ready", "leases that are held"} <= set(texts(picture))
    assert "A drain of main at 4.600 s: aborted after 110 ms." in picture.caption
    assert (
        "Leases of main that were refused: 2 as all slots were taken, 9 as it was draining or not ready."
        in picture.caption
    )


def test_of_drains_that_are_near_each_other_each_says_what_it_came_to(tmp_path: Path) -> None:
    """In all of its words, or in fewer; where there is no room for all, in as many as there is."""
    run = Run()
    for t, took in ((2_300, 600), (2_960, 120)):
        run.says(t, "drain_begun", deadline_ms="100", on_timeout="stop")
        run.says(t + took, "drain_ended", outcome="drained", duration_ms=str(took))
    words = texts(first(run.ends(7_000), tmp_path / "two"))
    assert {"drain: drained after 600 ms", "drain: drained after 120 ms"} <= set(words)
    run = Run()
    for t, outcome in ((2_300, "drained"), (2_900, "stopped"), (3_200, "aborted")):
        run.says(t, "drain_begun", deadline_ms="100", on_timeout="stop")
        run.says(t + 110, "drain_ended", outcome=outcome, duration_ms="110")
    words = texts(first(run.ends(7_000), tmp_path / "near"))
    assert {"drained", "stopped", "aborted"} <= set(words)
    for t in range(40):
        run.says(3_400 + 80 * t, "drain_begun", deadline_ms="100", on_timeout="stop")
        run.says(3_405 + 80 * t, "drain_ended", outcome="drained", duration_ms="5")
    words = texts(first(run, tmp_path / "many"))
    assert sum(text.endswith(("drained", "stopped", "aborted")) for text in words) > 8


def test_a_reload_that_is_rolled_back_shows_the_new_engine_fail_and_the_old_one_come_back(tmp_path: Path) -> None:
    """Each life with the model that it was started with; the one that came back is told by its own word."""
    run = rolled_back()
    assert [(life.model, life.status) for life in run.slot.lives] == [
        ("first", "exit status 0"), ("broken", "exit status 1"), ("first", "exit status 0"), ("next", "exit status 0")
    ]  # fmt: skip
    picture = first(run, tmp_path)
    assert titles(picture, "change reload") == [
        "reload to models/broken: rolled back after 1.01 s, from 2.300 s",
        "reload to models/next: succeeded after 1.01 s, from 4.000 s",
    ]
    words = texts(picture)
    for model, count in (("first", 4), ("broken", 2), ("next", 2), ("exit status 1", 2)):
        assert words.count(model) == count
    assert "reload to models/broken: rolled back after 1.01 s" in words
    assert "A reload of main to models/broken at 2.300 s: rolled back after 1.01 s." in picture.caption


def test_a_second_reload_to_what_failed_before_is_told_as_the_first() -> None:
    """What failed then says nothing of who is started now."""
    run = rolled_back()
    run.pending = [(ms, one) for ms, one in run.pending if ms < 3_400]
    again = [(ms + 1_700, msgspec.structs.replace(one)) for ms, one in run.pending if ms >= 2_300]
    run.pending += again
    assert [life.model for life in run.ends(5_600).slot.lives] == ["first", "broken", "first", "broken", "first"]


def test_of_a_reload_whose_way_back_fails_too_nothing_is_guessed() -> None:
    """What was started then was not the new one, and nobody said which it was."""
    run = Run()
    run.says(2_300, "reload_begun", model="first", reference="models/broken")
    run.says(2_400, "engine_stopped", "main-1", exit="exit status 0", reason="reload")
    for t in (2_500, 2_700):
        run.starts(t, "main-1")
        run.says(t + 100, "engine_lost", "main-1", exit="exit status 1", reason="it ended by itself: exit status 1")
    run.says(2_900, "reload_ended", outcome="failed", duration_ms="600")
    assert [life.model for life in run.ends(5_000).slot.lives] == ["first", "broken", ""]


def test_a_killed_manager_leaves_a_gap_and_its_engines_are_gone(tmp_path: Path) -> None:
    """Nobody says what they are meanwhile; the leases are over with it."""
    run = left_alone(survive=False)
    (gap,) = run.pool.unmanaged
    assert (gap.start, gap.end) == (2_501 * MS, 3_701 * MS)
    assert [one.what for one in run.slot.lives[0].stretches] == ["starting", "ready", "unwatched"]
    assert [life.status for life in run.slot.lives] == ["gone", "exit status 0"]
    assert next(one for one in run.pool.held if one[0] > 2_200 * MS) == (2_501 * MS, 0)
    picture = first(run, tmp_path)
    assert titles(picture, "unmanaged") == ["main: no manager for 1.20 s, from 2.501 s"]
    assert len(of_class(picture, "unwatched")) == 2
    assert {"no manager for 1.20 s", "without a manager"} <= set(texts(picture))
    assert texts(picture).count("gone") == 2
    assert "main had no manager from 2.501 s to 3.701 s." in picture.caption


def test_engines_that_outlive_their_manager_are_the_same_ones(tmp_path: Path) -> None:
    """One life each, across the gap, until the next manager has heard of it; its leases go on."""
    run = left_alone(survive=True)
    (life,) = run.slot.lives
    assert [one.what for one in life.stretches] == ["starting", "ready", "unwatched", "unready", "unready", "ready"]
    assert (life.pid, life.stretches[2].start, life.stretches[2].end) == ("101", 2_501 * MS, 3_701 * MS)
    assert {count for t, count in run.pool.held if 2_200 * MS < t < 4_400 * MS} == {4}
    picture = first(run, tmp_path)
    assert len(of_class(picture, "unwatched")) == 2
    assert len(of_class(picture, "unready")) == 4
    assert "gone" not in texts(picture)


def test_a_manager_that_nobody_starts_again_is_missed_until_the_teardown() -> None:
    """And what it had begun has no end."""
    run = Run()
    run.says(2_300, "drain_begun", deadline_ms="5000", on_timeout="stop")
    run.killed(2_500)
    run.at(3_000, RunPhase(source="harness", phase="teardown"))
    (gap,) = run.pool.unmanaged
    assert gap.end == 3_000 * MS
    (drain,) = run.pool.operations
    assert (drain.words, drain.good) == ("drain: not ended after 201 ms", False)


def test_what_a_fault_stops_is_seen_beside_what_the_manager_takes_it_for(tmp_path: Path) -> None:
    """It is ready until its probe fails; thawed at the end of its life, whatever heals the fault later."""
    run = frozen()
    assert [(one.start // MS, one.end // MS) for one in run.slot.frozen] == [(2_200, 3_000), (3_500, 4_500)]
    picture = first(run, tmp_path)
    assert len(of_class(picture, "frozen")) == 2
    assert len(of_class(picture, "unready")) == 2
    assert {"stopped by a fault", "runs, and is not ready", "100 ms"} <= set(texts(picture))
    assert "stopped by a fault for 800 ms, 1.00 s" in picture.caption


def too_soon(run: Run) -> OracleRecord:
    (number, *_) = [e.n for e in run.events if isinstance(e, Log) and e.event == "restart_scheduled"]
    return OracleRecord(name="backoff_follows_policy()", verdict="fail", reason="too soon", evidence=[number])


def test_what_an_oracle_failed_by_is_pointed_at(tmp_path: Path) -> None:
    """In the picture of the pool, as in the close view of another fault."""
    run = crash_loop()
    assert "✗ backoff_follows_policy: restart scheduled at 2.211 s" in texts(first(run, tmp_path, too_soon(run)))


def test_a_short_run_has_one_picture_with_all_of_it(tmp_path: Path) -> None:
    """Where the fault phase is nearly all of it, there is no second one."""
    run = crash_loop()
    begun = ("launch", "control")
    run.pending = [(ms if ms > 2_000 else 1_990 + ms / 200, one) for ms, one in run.pending]
    run.pending = [(ms, one) for ms, one in run.pending if not (isinstance(one, RunPhase) and one.phase in begun)]
    events = run.events
    shift = events[0].t
    run.pending = [(ms - shift / MS, one) for ms, one in run.pending]
    (picture,) = run.shown(tmp_path, too_soon(run)).pictures
    assert picture.title == "The whole run"
    assert "waits before restarts of 91 ms" in picture.caption
    assert any(text.startswith("✗ backoff_follows_policy: restart scheduled") for text in texts(picture))


def test_of_many_slots_those_that_something_befell_are_drawn(tmp_path: Path) -> None:
    """In their own order; the others are counted."""
    run = Run(slots=MOST_SLOTS + 5)
    run.dies(2_300, f"main-{MOST_SLOTS + 3}", 100)
    picture = first(run.ends(5_000), tmp_path)
    assert f"main-{MOST_SLOTS + 3}" in texts(picture)
    assert sum(text.startswith("main-") for text in texts(picture)) == MOST_SLOTS
    assert "Not drawn: 5 more engines of pools." in picture.caption
    assert (
        "Not drawn: 1 more engine of a pool." in first(Run(slots=MOST_SLOTS + 1).ends(5_000), tmp_path / "one").caption
    )


def test_a_run_without_a_manager_has_no_pool() -> None:
    """Whatever its workers say."""
    events: list[Event] = [
        ProcessStarted(n=1, t=0, source="worker-1", pid=7, role="aggregated"),
        Log(n=2, t=MS, source="worker-1", event="engine_started", captures={"pool": "main", "engine": "main-1"}),
    ]
    assert pools_of(events, 2 * MS) == []
    assert "ENGINE POOLS" not in chart(timeline(events), [], whole(timeline(events)), "x").svg


def test_what_happened_names_the_engines_and_is_not_flooded_by_leases(tmp_path: Path) -> None:
    """Each step of the manager's is told, with what it is about, however many leases there are between."""
    run = crash_loop()
    run.says(4_500, "reload_ended", outcome="rolled_back", duration_ms="10")
    for place in range(600):
        run.leases(2_200 + 3 * place, "lease_granted", place)
    told = [one.what for one in run.shown(tmp_path).told]
    for words in (
        "engine lost: main-1, SIGKILL",
        "restart scheduled: main-1, in 186 ms",
        "engine started: main-1, pid 105",
        "breaker open: main-1",
        "breaker half open: main-1",
        "breaker closed: main-1",
        "reload ended: rolled back",
    ):
        assert words in told
    assert "lease granted: main-1" in told
    assert "lease refused: full" in told
    for place in range(100):
        run.at(2_201 + place / 100, Log(source="job-1", event="noise", line="noise"))
    told = [one.what for one in run.shown(tmp_path / "noisy").told]
    assert "breaker half open: main-1" in told
    assert told.count("noise") > 20


def test_what_befell_one_engine_again_and_again_is_told_once(tmp_path: Path) -> None:
    """How often, when it was noticed, and when the slot had an engine again; the slowest of each stands out."""
    shown = crash_loop().shown(tmp_path)
    assert shown.lead == (
        "pool lost its engine main-1 5 times: its manager noticed after 10.0 ms, and it was ready again after 2.34 s."
    )
    figures = {one.name: one.value for one in shown.figures}
    assert figures == {"until the manager noticed": "10.0 ms", "until ready again": "2.34 s"}
    rows = {row.name: row.text for row in shown.faults[-1].rows}
    assert (rows["noticed"], rows["ready again"]) == ("after 10.0 ms", "after 1.10 s")
    lead = frozen().shown(tmp_path / "frozen").lead
    assert "noticed after 200 ms, it was healed after 800 ms, and it was ready again after 850 ms." in lead
    figures = {one.name: one.value for one in left_alone(survive=True).shown(tmp_path / "alone").figures}
    assert figures == {"without a manager": "1.20 s"}


def test_who_was_struck_is_noticed_by_its_own_end() -> None:
    """Not by that of another in its slot; one that the manager stops is not noticed by that."""
    slot = crash_loop().slot
    assert [slot.noticed(life.pid, life.start) for life in slot.lives] == [*(life.end for life in slot.lives[:5]), None]
    assert slot.noticed("7", 0) is None
    assert slot.ready_after(slot.lives[-1].stretches[-1].start) is None


def test_the_story_of_a_failure_says_which_wait_was_wrong(tmp_path: Path) -> None:
    """On a terminal there is no room for the whole line."""
    run = crash_loop()
    told = story(run.record(tmp_path, too_soon(run)), run.events, tmp_path)
    assert "restart scheduled: main-1, in 91 ms" in told
    run = left_alone(survive=False)
    told = story(run.record(tmp_path / "alone", too_soon(crash_loop())), run.events, tmp_path)
    assert "engine gone: main-1, pid 101" in told


def test_the_page_stays_small_however_often_an_engine_is_started(tmp_path: Path) -> None:
    """Marks that would lie on one another are drawn once; all of the run is covered all the same."""
    run = Run()
    for place in range(2_000):
        t = 2_300 + 200 * place + (30_000 if place > 1_000 else 0)  # once it lives for half a minute
        run.dies(t, "main-1", 100)
        run.starts(t + 130, "main-1")
        run.says(t + 180, "engine_ready", "main-1", model="first")
    run.ends(433_000)
    folder = tmp_path / "run"
    page = write_report(folder, RunRecord(verdict="pass", scenarios=[run.record(folder)]))
    assert 60_000 < page.stat().st_size < 400_000
    picture = run.shown(tmp_path / "shown").pictures[0]
    crosses = of_class(picture, "gone hard")
    places = sorted(float(re.findall(r"M([\d.]+)", node.get("d", ""))[0]) for node in crosses)
    assert places[0] < 180
    assert places[-1] > 1_085
    assert sorted(b - a for a, b in pairwise(places))[-2] < 7
    lives = [float(node.get("width", "")) for node in of_class(picture, "state active")]
    assert any(60 < wide < 80 for wide in lives)


def test_names_are_escaped_and_cut(tmp_path: Path) -> None:
    """Pools, engines, models and reasons are others' words."""
    run = Run(name="a<b>&\"'" + "x" * 80)
    slot = f"{run.name}-1"
    run.says(2_100, "reload_begun", reference="models/<script>" + "y" * 200)
    run.dies(2_200, slot, 100, exit_="<b>" + "z" * 300)
    run.starts(2_400, slot)
    run.says(2_600, "engine_ready", slot, model="<i>" + "m" * 100)
    run.says(2_700, "reload_ended", outcome="<u>" + "o" * 90)
    picture = first(run.ends(5_000), tmp_path)
    assert max(len(text) for text in texts(picture)) < 120
    assert len(picture.caption) <= 1_500


def test_the_trace_has_a_track_for_each_slot(tmp_path: Path) -> None:
    """With its lives, waits and breaker; drains and reloads on the pool's own."""
    run = crash_loop()
    run.says(4_900, "drain_begun", deadline_ms="100", on_timeout="stop")
    run.says(4_990, "drain_ended", outcome="drained", duration_ms="90")
    found = trace(read_stored(tmp_path, run.record(tmp_path)))
    entries = json.loads(found)["traceEvents"]
    (pool,) = {one["pid"] for one in entries if one["ph"] == "M" and one["args"].get("name") == "pool main"}
    threads = {
        one["tid"]: one["args"]["name"] for one in entries if one["pid"] == pool and one["name"] == "thread_name"
    }
    assert list(threads.values()) == ["drains and reloads", "main-1", "main-1: breaker", "main-2"]
    told = [(threads[one["tid"]], one["name"]) for one in entries if one["pid"] == pool and one["ph"] == "X"]
    assert told.count(("main-1", "starting")) == 6
    assert ("main-1", "waits 186 ms") in told
    assert ("main-1: breaker", "half open") in told
    assert ("drains and reloads", "drain: drained after 90.0 ms") in told


def test_each_mark_is_explained(tmp_path: Path) -> None:
    """In docs/report.md, by the words of its key."""
    picture = first(everything(), tmp_path)
    keys = [node.text or "" for node in nodes(picture) if node.get("class") == "key"]
    assert len(keys) == 13
    page = (ROOT / "docs" / "report.md").read_text()
    assert [key for key in keys if f"`{key}`" not in page] == []


# What the report reads of lines, by their events.
READ = {
    "pool": {
        "engine_started": {"pool", "engine", "pid"},
        "engine_ready": {"pool", "engine", "model"},
        "engine_unready": {"pool", "engine"},
        "engine_lost": {"pool", "engine", "exit", "reason"},
        "engine_stopped": {"pool", "engine", "exit", "reason"},
        "engine_adopted": {"pool", "engine", "pid"},
        "engine_gone": {"pool", "engine", "pid", "reason"},
        "restart_scheduled": {"pool", "engine", "delay_ms"},
        "backoff_reset": {"pool", "engine"},
        "breaker_open": {"pool", "engine"},
        "breaker_half_open": {"pool", "engine"},
        "breaker_closed": {"pool", "engine"},
        "lease_granted": {"pool", "lease"},
        "lease_taken_over": {"pool", "lease"},
        "lease_released": {"pool", "lease"},
        "lease_revoked": {"pool", "lease"},
        "lease_expired": {"pool", "lease"},
        "drain_begun": {"pool"},
        "drain_ended": {"pool", "outcome"},
        "reload_begun": {"pool", "reference"},
        "reload_ended": {"pool", "outcome"},
    },
    "job": {"job_started": {"pool"}, "lease_refused": {"holder", "why"}},
}


@pytest.mark.parametrize("backend", READ)
def test_what_is_read_is_what_the_contracts_give(backend: str) -> None:
    """The histories of this file are made up; those of real runs have these events, with these captures."""
    path = next((ROOT / "ftharness" / "logs" / "contracts").glob(f"{backend}*.toml"))
    given: dict[str, set[str]] = {}
    for event in tomllib.loads(path.read_text())["event"]:
        for pattern in event["pattern"]:
            given.setdefault(event["name"], set()).update(re.findall(r"\(\?P<(\w+)>", pattern.get("regex", "")))
    missing = {name: read - given.get(name, set()) for name, read in READ[backend].items()}
    assert {name: captures for name, captures in missing.items() if captures} == {}


RUNS: dict[str, Callable[[], Run]] = {
    "crash_loop": crash_loop,
    "drained": drained,
    "rolled_back": rolled_back,
    "left_alone": lambda: left_alone(survive=False),
    "adopted": lambda: left_alone(survive=True),
    "frozen": frozen,
    "everything": everything,
}


@pytest.mark.parametrize("width", [1280, 800])
def test_no_label_of_a_pool_covers_another(tmp_path: Path, measure: Measure, width: int) -> None:
    """Measured in a real browser, wide and narrow: labels keep clear of each other, of the key, and of the picture's edge."""
    figures: list[str] = []
    for name, made in RUNS.items():
        run, folder = made(), tmp_path / name
        scenario = run.record(folder)
        html = write_report(folder, RunRecord(verdict="pass", scenarios=[scenario])).read_text()
        figures += re.findall(r"<figure>.*?</figure>", html, re.DOTALL)
    measured = measure(html, figures, f"--window-size={width},1000")
    assert measured["pictures"] == len(figures) == 2 * len(RUNS)
    assert measured["labels"] > 400
    assert measured["wrong"] == []
    assert not measured["wide"]
