"""junit.xml, read by a real XML parser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest

from ftharness.report import RunRecord, exit_status, write_report
from ftharness.scenario.record import Annotation

Make = Callable[..., RunRecord]

CASES = {
    "pass": (0, (1, 0, 0, 0)),
    "drop": (1, (1, 1, 0, 0)),
    "hang": (1, (1, 1, 0, 0)),
    "missed": (3, (1, 0, 1, 0)),
}


def suite_of(folder: Path) -> ET.Element:
    root = ET.fromstring((folder / "junit.xml").read_bytes())  # noqa: S314 - we wrote it
    suite = root.find("testsuite")
    assert suite is not None
    assert [root.get(key) for key in ("tests", "failures", "errors")] == [
        suite.get(k) for k in ("tests", "failures", "errors")
    ]
    return suite


def counts(suite: ET.Element) -> tuple[int, ...]:
    return tuple(int(suite.get(key) or "") for key in ("tests", "failures", "errors", "skipped"))


def with_note(record: RunRecord, kind: str) -> RunRecord:
    note = Annotation(kind=kind, reason="see issue 12")
    noted = [msgspec.structs.replace(one, annotations=[note]) for one in record.scenarios]
    return msgspec.structs.replace(record, scenarios=noted)


@pytest.mark.parametrize("ending", CASES)
def test_it_counts_as_the_exit_status_does(make: Make, tmp_path: Path, ending: str) -> None:
    """A failure where the status is 1, an error where it is 3, neither where it is 0."""
    record = make({"ending": ending})
    write_report(tmp_path, record)
    assert (exit_status(record), counts(suite_of(tmp_path))) == CASES[ending]


@pytest.mark.parametrize("kind", ["known_finding", "not_applicable"])
@pytest.mark.parametrize("ending", ["drop", "missed"])
def test_what_is_excused_is_skipped(make: Make, tmp_path: Path, ending: str, kind: str) -> None:
    """A known finding, or what does not apply, neither fails a CI job nor passes: it is skipped, with its reason."""
    record = with_note(make({"ending": ending}), kind)
    write_report(tmp_path, record)
    suite = suite_of(tmp_path)
    assert exit_status(record) == 0
    assert counts(suite) == (1, 0, 0, 1)
    skipped = suite.find("testcase/skipped")
    assert skipped is not None
    assert skipped.get("message") == f"{kind}: see issue 12"


def test_quarantine_excuses_nothing(make: Make, tmp_path: Path) -> None:
    """Whoever picks what gates decides on quarantine; the verdict stands."""
    record = with_note(make({"ending": "drop"}), "quarantined")
    write_report(tmp_path, record)
    assert counts(suite_of(tmp_path)) == (1, 1, 0, 0)


def test_a_run_without_scenarios_does_not_pass(tmp_path: Path) -> None:
    """Nothing was tested: an empty file would be green."""
    record = RunRecord(verdict="unknown")
    write_report(tmp_path, record)
    assert exit_status(record) == 3
    assert counts(suite_of(tmp_path)) == (1, 0, 1, 0)


def test_a_failure_tells_the_story(make: Make, tmp_path: Path) -> None:
    """Whoever reads only the CI's page sees the oracle, the fault's evidence, and the log line."""
    write_report(tmp_path, make({"ending": "drop"}))
    failure = suite_of(tmp_path).find("testcase/failure")
    assert failure is not None
    assert (failure.get("message") or "").startswith("tokens_exact(): request 0 lost 1 token")
    assert "wait status 9" in (failure.text or "")
    assert "Stream disconnected, recreating stream" in (failure.text or "")


def test_recovery_figures_are_properties(make: Make, tmp_path: Path) -> None:
    """Under the names of run.json, with its values."""
    record = make({})
    write_report(tmp_path, record)
    found = {p.get("name"): p.get("value") for p in suite_of(tmp_path).iterfind("testcase/properties/property")}
    recovery = record.scenarios[0].faults[0].recovery
    assert float(found["faults.0.first_token_ms"] or "") == recovery.first_token_ms
    assert float(found["faults.0.max_gap_ms"] or "") == recovery.max_gap_ms
    assert found["tokens.received"] == "300"


def test_every_scenario_has_a_name_of_its_own(make: Make, tmp_path: Path, twelve: list[dict[str, Any]]) -> None:
    """CI systems merge test cases of the same class and name: repeats are numbered."""
    write_report(tmp_path, make(*twelve))
    cases = [(case.get("classname"), case.get("name")) for case in suite_of(tmp_path).iterfind("testcase")]
    assert len(set(cases)) == 12
    assert ("ftharness.sim.vllm", "migration/worker_failure #4") in cases


@pytest.mark.parametrize(
    "nasty", ["]]></failure><x a='", "\x00\x01\x0b\x1b[31mred\x1b[0m", "\ufffe\uffff", "<!ENTITY x>&x;"]
)
def test_whatever_a_log_says_the_file_parses(make: Make, tmp_path: Path, nasty: str) -> None:
    """Characters that XML cannot hold, terminal escapes and markup leave it well-formed."""
    write_report(
        tmp_path,
        make({"ending": "drop", "text": nasty, "name": f"a{nasty}", "engine": nasty, "params": {nasty: nasty}}),
    )
    suite = suite_of(tmp_path)
    assert counts(suite) == (1, 1, 0, 0)
    assert "\x1b" not in (tmp_path / "junit.xml").read_text()
