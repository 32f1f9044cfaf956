"""What a page says of looks at health, of a frozen engine, of a long launch, and of what is known: at a glance."""

from pathlib import Path

import pytest

from ftharness.client import completion
from ftharness.faults import check_health, freeze_engine, hit, serving
from ftharness.history import (
    FaultHealed,
    FaultLanded,
    FaultRequested,
    History,
    ProcessStarted,
    RequestChunk,
    RequestFinished,
    RequestSent,
    RunFinished,
    RunPhase,
    RunStarted,
)
from ftharness.report.section import Section, section
from ftharness.report.stored import read_stored
from ftharness.scenario import Scenario, after_fault, findings, judge, on_token, succeeds

S = 1_000_000_000
MS = 1_000_000
KNOWN = """
title = "A frozen engine"
what = "Its clients wait."
stack = "sim"
versions = "==1.0"
scenarios = ["a/frozen"]
seen = "3 of 3"
since = 2026-01-31
[[shows]]
oracle = "succeeds"
reason = "hang"
[[shows]]
oracle = "every_request_ends"
reason = "^request [0-9]+ .*: hang"
"""
FROZEN = Scenario(
    name="a/frozen",
    workload=[completion("Once", max_tokens=4)],
    faults=[
        on_token(2).inject(freeze_engine(serving)),
        after_fault(0, delay_s=0.5).inject(check_health(hit(0))),
    ],
    expect=[succeeds()],
)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Section:
    """A launch of 60 s; an engine that is frozen, whose server answers 503, until the teardown lets it go on."""
    (tmp_path / "findings").mkdir()
    (tmp_path / "findings" / "frozen-engine.toml").write_text(KNOWN)
    monkeypatch.setattr(findings, "SHIPPED", tmp_path / "findings")
    with History(tmp_path / "history.jsonl", start_ns=0) as h:
        h.append(RunStarted(source="harness", scenario="a/frozen", stack="sim", sut_version="1.0"), at=0)
        h.append(RunPhase(source="harness", phase="launch"), at=0)
        h.append(ProcessStarted(source="worker-1", pid=1, role="aggregated"), at=MS)
        requests = (
            ("control", 60 * S, "c", True, ""),
            ("repeat", 61 * S, "d", True, "repeat"),
            ("fault", 62 * S, "r", False, ""),
        )
        for phase, t, name, control, check in requests:
            h.append(RunPhase(source="harness", phase=phase), at=t)
            sent = RequestSent(
                source="client", request=name, endpoint="/v1/completions", stream=True, control=control, check=check
            )
            h.append(sent, at=t)
            for place in range(4 if control else 2):
                h.append(
                    RequestChunk(source="client", request=name, first=place, tokens=1, text="a"), at=t + place * MS
                )
            if control:
                end = RequestFinished(source="client", request=name, outcome="success", status=200)
                h.append(end, at=t + 10 * MS)
        asked = FaultRequested(
            source="harness", id="fault-1", fault="freeze_engine", target="serving", request="r", trigger="on token 2"
        )
        h.append(asked, at=62 * S + 2 * MS)
        h.append(FaultLanded(source="worker-1", id="fault-1", evidence={"state": "T"}), at=62 * S + 3 * MS)
        asked = FaultRequested(source="harness", id="fault-2", fault="check_health", target="what fault 0 hit")
        h.append(asked, at=62 * S + 503 * MS)
        said = {"path": "/health", "took_ms": 4.1, "status": 503}
        h.append(FaultLanded(source="worker-1", id="fault-2", evidence=said), at=62 * S + 503 * MS)
        hang = RequestFinished(source="client", request="r", outcome="hang", error="no byte for 6 s")
        h.append(hang, at=68 * S)
        h.append(RunPhase(source="harness", phase="teardown"), at=69 * S)
        h.append(FaultHealed(source="worker-1", id="fault-1", evidence={"signal": "SIGCONT"}), at=69 * S + MS)
        h.append(RunFinished(source="harness", outcome="complete"), at=70 * S)
        events = list(h.events)
    record = judge(FROZEN, events)
    return section(read_stored(tmp_path, record), "s", pictures=True)


def test_what_is_known_stands_beside_the_reason(page: Section) -> None:
    """With what it is and how it is reproduced further down; the reason is then not told as a new failure."""
    assert (page.excused, page.mood) == ("known finding", "known")
    (one,) = page.known
    assert (one.kind, one.href) == ("known finding", "#s-frozen-engine")
    assert one.text.startswith("frozen-engine: A frozen engine (seen 3 of 3 on ==1.0)")
    (told,) = page.findings
    assert (told.anchor, told.title, told.what) == ("s-frozen-engine", "A frozen engine", "Its clients wait.")
    assert told.command == "ftharness replay docs/findings/frozen-engine"
    assert "known finding" not in [note.name for note in page.notes]


def test_a_look_at_health_is_no_fault(page: Section) -> None:
    """Its answer is told in a sentence; it has no picture of its own, and its line is not that of something broken."""
    assert "worker-1 answered /health with 503 in 4.10 ms, 500 ms after that." in page.lead
    assert "hit by check_health" not in page.lead
    assert [one.title for one in page.pictures if one.title.startswith("Around")] == ["Around the fault"]
    assert [(box.what, box.name) for box in page.faults] == [
        ("The fault: ", "freeze_engine worker-1"),
        ("A look: ", "health of worker-1: 503"),
    ]
    (whole,) = [one.svg for one in page.pictures if one.title.startswith("The whole run")]
    (flag,) = [part for part in whole.split("<text")[1:] if "health of worker-1" in part]
    assert 'class="flag step"' in flag


def test_what_the_teardown_undoes_is_no_recovery(page: Section) -> None:
    """A frozen engine is let go on to be ended."""
    assert "healed" not in page.lead
    assert "it stayed so until the teardown, 7.00 s later" in page.lead
    assert not any("healed" in one.svg for one in page.pictures)


def test_of_a_launch_that_takes_most_of_the_run_the_end_is_drawn(page: Section) -> None:
    """The caption says so, and what the lanes of the checks are."""
    (whole,) = [one for one in page.pictures if one.title.startswith("The whole run")]
    assert float(whole.svg.partition('data-start="')[2].partition('"')[0]) == pytest.approx(58_750)
    assert "Of the launch, which took 1.0 min, only the end is drawn." in whole.caption
    assert "“repeat 0” is the request without the fault, once more." in whole.caption
    assert "“cut" not in whole.caption


def test_what_happened_says_that_it_answered(page: Section) -> None:
    """In a row of its own kind, which is not drawn as a fault."""
    told = [(one.kind, one.what) for one in page.told if "health" in one.what]
    assert told == [
        ("look", "check_health what fault 0 hit asked for"),
        ("look", "answered: path /health, took ms 4.1, status 503"),
    ]
