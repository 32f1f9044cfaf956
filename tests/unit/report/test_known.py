"""Known findings in a report: on the terminal, on the page, in junit.xml, and where two runs are compared."""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from ftharness.report import RunRecord, compare, exit_status, story, write_report
from ftharness.report.stored import read_stored
from ftharness.scenario.record import IN_PART, KNOWN, MENDED, NOT_SEEN, Annotation, ScenarioRecord
from ftharness.telling import Telling

Make = Callable[..., RunRecord]
RecordOf = Callable[[list[ScenarioRecord]], RunRecord]

WHY = "old-engine: An engine outlives its worker; see docs/findings.md#old-engine"
SAID = {
    KNOWN: f"known finding  {WHY}",
    IN_PART: f"known in part  {WHY}",
    NOT_SEEN: f"finding not seen  {WHY}",
    MENDED: f"finding mended  {WHY}",
}


def noted(record: ScenarioRecord, kind: str, *, known: str = "all") -> ScenarioRecord:
    """With a note of this kind; ``known`` are the oracles that it explains, by their names: ``all``, or one."""
    oracles = [
        msgspec.structs.replace(one, known=["old-engine"])
        if one.verdict != "pass" and known in ("all", one.name)
        else one
        for one in record.oracles
    ]
    return msgspec.structs.replace(record, annotations=[Annotation(kind=kind, reason=WHY)], oracles=oracles)


def told(record: ScenarioRecord, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    Telling(1).told(record, folder)
    return capsys.readouterr().out.splitlines()


def test_a_known_finding_is_a_short_failure(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its line says what it is, the next which one and where to read, then each oracle with who explains it; no story."""
    lines = told(noted(make({"ending": "drop", "tokens": 80}).scenarios[0], KNOWN), tmp_path, capsys)
    assert lines[0].startswith("✗ migration/worker_failure  sim vllm 0.1.0  ")
    assert lines[0].endswith(" s  known finding")
    assert lines[1] == f"    {SAID[KNOWN]}"
    assert lines[2].startswith("    ✗ tokens_exact(): request 0 lost 1 token")
    assert lines[3] == "    ✗ no_leaks(): an engine child of worker-1 outlived it: pid 40133 [known: old-engine]"
    assert len(lines) == 4


def test_what_did_not_show_is_said_below_a_pass(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And it is a pass."""
    good = make({"tokens": 80}).scenarios[0]
    for kind in (NOT_SEEN, MENDED):
        first, second = told(noted(good, kind), tmp_path, capsys)
        assert first.startswith("✓ ")
        assert second == f"    {SAID[kind]}"


def test_the_story_of_what_is_known_in_part_says_so(make: Make, tmp_path: Path) -> None:
    """Which oracle is explained, and which is not; of an excused one, as junit.xml and pytest tell it, the first line does."""
    record = make({"ending": "drop", "tokens": 80}).scenarios[0]
    events = read_stored(tmp_path, record).events
    lines = story(noted(record, IN_PART, known="no_leaks()"), events).splitlines()
    assert lines[0].startswith("FAIL  migration/worker_failure")
    assert f"  known in part {WHY}" in lines
    (tokens,) = (line for line in lines if "✗ tokens_exact()" in line)
    (leaks,) = (line for line in lines if "✗ no_leaks()" in line)
    assert ("[known: old-engine]" in leaks, "[known" in tokens) == (True, False)
    assert story(noted(record, KNOWN), events).startswith("FAIL (known finding)  migration/worker_failure")


def test_junit_and_the_status_count_alike(make: Make, record_of: RecordOf, tmp_path: Path) -> None:
    """Known is skipped and 0; with a new failure it is a failure and 1; with the rest untested an error and 3."""
    bad = make({"ending": "drop", "tokens": 80}).scenarios[0]
    cases = [
        (noted(bad, KNOWN), 0, "skipped"),
        (noted(bad, IN_PART, known="no_leaks()"), 1, "failure"),
        (noted(bad, IN_PART), 3, "error"),
    ]
    for one, status, outcome in cases:
        run = record_of([one])
        assert exit_status(run) == status
        write_report(tmp_path, run)
        root = ET.fromstring((tmp_path / "junit.xml").read_bytes())  # noqa: S314 - we wrote it
        assert [len(root.findall(f".//{kind}")) for kind in ("skipped", "failure", "error")] == [
            kind == outcome for kind in ("skipped", "failure", "error")
        ]
        (kept,) = (p for p in root.iterfind(".//property") if p.get("name") in (KNOWN, IN_PART))
        assert kept.get("value") == WHY


def test_junit_tells_every_finding_that_excuses(make: Make, record_of: RecordOf, tmp_path: Path) -> None:
    """A run that is excused by two names both."""
    one = noted(make({"ending": "drop", "tokens": 80}).scenarios[0], KNOWN)
    notes = [*one.annotations, Annotation(kind=KNOWN, reason="short-answer: An answer that breaks off")]
    write_report(tmp_path, record_of([msgspec.structs.replace(one, annotations=notes)]))
    root = ET.fromstring((tmp_path / "junit.xml").read_bytes())  # noqa: S314 - we wrote it
    (skipped,) = root.findall(".//skipped")
    assert skipped.get("message") == f"known_finding: {WHY}; short-answer: An answer that breaks off"


def test_the_page_says_it(make: Make, record_of: RecordOf, tmp_path: Path) -> None:
    """Beside the verdict, below its reason, and by the oracle; a note below a pass is among the notes."""
    record = make({"ending": "drop", "tokens": 80}).scenarios[0]
    page = write_report(tmp_path, record_of([noted(record, KNOWN)])).read_text()
    assert "<em>known finding</em>" in page
    assert f'<p class="finding"><b>known finding</b> {WHY}</p>' in page
    assert '<p class="reason known">' in page
    assert "pid 40133 [known: old-engine]" in page
    (tmp_path / "good").mkdir()
    good = make({"tokens": 80}, folder=tmp_path / "good").scenarios[0]
    page = write_report(tmp_path / "good", record_of([noted(good, MENDED)])).read_text()
    assert f"<dt>finding mended</dt><dd>{WHY}</dd>" in page


def test_a_comparison_names_what_is_known(make: Make, record_of: RecordOf, tmp_path: Path) -> None:
    """Of which run, or once where it is of both; it is no regression, and with the rest untested it is one."""
    for name in "ab":
        (tmp_path / name).mkdir()
    good = make({"tokens": 80}, folder=tmp_path / "a").scenarios[0]
    bad = make({"ending": "drop", "tokens": 80}, folder=tmp_path / "b").scenarios[0]
    known = record_of([noted(bad, KNOWN)])
    both = compare(record_of([good]), known)
    assert both.regressions == []
    assert both.lines[0].endswith("pass → fail (known finding)")
    assert f"    known finding of the second run: {WHY}" in both.lines
    assert f"    known finding: {WHY}" in compare(known, known).lines
    mended = compare(known, record_of([noted(good, MENDED)]))
    assert f"    finding mended of the second run: {WHY}" in mended.lines
    assert len(compare(record_of([good]), record_of([noted(bad, IN_PART)])).regressions) == 1
