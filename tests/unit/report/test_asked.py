"""What a page says of a pool manager: which engine was hit, what was asked of the manager, and what its leases came to."""

from pathlib import Path
from typing import Any

import pytest

from ftharness.faults import ask, count_engines, end_job, kill_engine, named
from ftharness.history import (
    FaultLanded,
    FaultRequested,
    History,
    ProcessExited,
    ProcessStarted,
    RunFinished,
    RunPhase,
    RunStarted,
)
from ftharness.pool.config import PoolConfig
from ftharness.report.chronicle import chronicle
from ftharness.report.section import Section, section
from ftharness.report.stored import read_stored
from ftharness.report.timeline import timeline
from ftharness.scenario import Scenario, after_fault, judge, on_log
from ftharness.stack import leases, pooled

MS = 1_000_000
POOL, JOB = named("pool"), named("job-1")
DRAIN: dict[str, Any] = {"asked": "POST /v1/pools/main/drain", "took_ms": 491.0, "status": 202, "detail": "drained"}
LANDED: list[tuple[str, str, str, dict[str, Any]]] = [
    ("kill_engine", "pool", "on lease_got of job-1", {"engine_pid": 7, "engine": "main-1", "wait_status": "SIGKILL"}),
    ("ask", "pool", "on engine_ready of pool", DRAIN),
    ("count_engines", "pool", "after_fault(1)", {"engines": {"main-1": [8], "main-2": [9, 10]}}),
    ("end_job", "job-1", "after_fault(2)", {"told": "to end", "signal": "SIGTERM"}),
]
ONE = Scenario(
    name="pool/test",
    topology=pooled(PoolConfig(id="main", engine="sim")),
    workload=[],
    jobs=[leases()],
    faults=[
        on_log("lease_got", source="job-1").inject(kill_engine(POOL, engine="main-1")),
        on_log("engine_ready").inject(ask(POOL, "POST", "/v1/pools/main/drain", status=202)),
        after_fault(1).inject(count_engines(POOL)),
        after_fault(2).inject(end_job(JOB)),
    ],
)


@pytest.fixture
def history(tmp_path: Path) -> History:
    with History(tmp_path / "history.jsonl", start_ns=0) as h:
        h.append(RunStarted(source="harness", scenario="pool/test", stack="sim", sut_version="1.0"), at=0)
        for name, role in (("pool", "manager"), ("control-job-1", "job"), ("job-1", "job")):
            h.append(ProcessStarted(source=name, pid=1, role=role), at=MS)
        h.append(ProcessExited(source="control-job-1", pid=1, returncode=0), at=2 * MS)
        h.append(RunPhase(source="harness", phase="fault"), at=10 * MS)
        for place, (fault, who, trigger, evidence) in enumerate(LANDED, 1):
            asked = FaultRequested(source="harness", id=f"fault-{place}", fault=fault, target=who, trigger=trigger)
            h.append(asked, at=place * 100 * MS)
            h.append(FaultLanded(source=who, id=f"fault-{place}", evidence=evidence), at=(place * 100 + 1) * MS)
        h.append(RunFinished(source="harness", outcome="complete"), at=900 * MS)
    return h


@pytest.fixture
def page(history: History, tmp_path: Path) -> Section:
    return section(read_stored(tmp_path, judge(ONE, history.events)), "s", pictures=True)


def test_each_is_told_in_a_sentence(page: Section) -> None:
    """The engine that was hit by its slot; of a call what it came to; and how many processes a slot had."""
    assert page.lead.startswith(
        "pool lost its engine main-1 on lease_got of job-1. "
        "pool was asked for POST /v1/pools/main/drain on engine_ready of pool: drained after 491 ms. "
        "The processes in the slots of pool were counted: main-1 1, main-2 2."
    )
    assert "more fault" not in page.lead, "the end of a job is none"


def test_only_what_harmed_is_called_a_fault(page: Section) -> None:
    """The others have a name that says what came of them, and no picture of their own."""
    assert [(box.what, box.name) for box in page.faults] == [
        ("The fault: ", "kill_engine main-1 of pool"),
        ("Asked: ", "POST /v1/pools/main/drain: drained"),
        ("Asked: ", "engines of pool: main-1 1, main-2 2"),
        ("Asked: ", "job-1 told to end"),
    ]
    assert [one.title for one in page.pictures if one.title.startswith("Around")] == ["Around the fault"]


def test_in_the_chronicle_they_are_looks(history: History) -> None:
    """Their evidence is told, not that a fault landed."""
    entries = chronicle(history.events, timeline(history.events), [])
    lines = [line for line in entries if line.kind in ("look", "fault")]
    landed = [line.what for line in lines if "asked for" not in line.what]
    assert [line.kind for line in lines] == ["fault", "fault", *["look"] * 6]
    assert landed[0].startswith("fault landed: ")
    assert landed[1].startswith("asked POST /v1/pools/main/drain, took ms 491")
    assert not any("fault" in text for text in landed[1:])
