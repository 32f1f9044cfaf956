"""What is written, in which order and form; and runs that were cut short, damaged or not written whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from ftharness.history import json_schema
from ftharness.report import ReportError, RunRecord, read_run, run_schema, write_report
from ftharness.scenario.record import TokenCount

Make = Callable[..., RunRecord]


def test_run_json_and_the_history_validate_against_their_schemas(
    make: Make, tmp_path: Path, twelve: list[dict[str, Any]]
) -> None:
    """As others read them: with a real validator, every scenario and every line."""
    write_report(tmp_path, make(*twelve))
    jsonschema.validate(json.loads((tmp_path / "run.json").read_text()), run_schema())
    line = jsonschema.Draft202012Validator(json_schema())
    for file in sorted(tmp_path.glob("*/history.jsonl"))[3:6]:
        for text in file.read_text().splitlines()[::5]:
            line.validate(json.loads(text))


@pytest.mark.parametrize(
    "place", [("verdict",), ("scenarios", 0, "verdict"), ("scenarios", 0, "faults", 0, "recovery")]
)
def test_the_schema_knows_a_wrong_run(make: Make, tmp_path: Path, place: tuple[str | int, ...]) -> None:
    """A verdict that is none, a recovery that is no object: the schema is not one that lets everything through."""
    write_report(tmp_path, make({}))
    run = json.loads((tmp_path / "run.json").read_text())
    inner = run
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = "passed"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(run, run_schema())


def test_the_fields_of_run_json_are_those_that_were_promised(make: Make, tmp_path: Path) -> None:
    """Other programs read them by these names."""
    write_report(tmp_path, make({}))
    run = json.loads((tmp_path / "run.json").read_text())
    scenario = run["scenarios"][0]
    assert set(run) == {"schema", "ftharness", "seed", "started_at", "verdict", "scenarios"}
    promised = (
        "name stack engine sut_version params path verdict annotations duration_s faults tokens oracles leaks drift"
    )
    assert set(promised.split()) <= set(scenario)
    assert set(scenario["tokens"]) == {"expected", "received", "lost", "duplicated", "altered"}
    fault = scenario["faults"][0]
    assert {"kind", "target", "trigger", "requested_ns", "landed_ns", "evidence", "recovery"} <= set(fault)
    of_the_stream = {"detect_ms", "reroute_ms", "first_token_ms", "max_gap_ms"}
    assert set(fault["recovery"]) == of_the_stream | {"given_up_ms", "given_up_by", "told"}
    assert all({"name", "verdict", "reason"} <= set(oracle) for oracle in scenario["oracles"])


def test_what_was_written_is_read_back(make: Make, tmp_path: Path, twelve: list[dict[str, Any]]) -> None:
    """Nothing is lost on the way to the disk, and no temporary file is left there."""
    record = make(*twelve)
    page = write_report(tmp_path, record)
    assert read_run(tmp_path) == record
    assert page == tmp_path / "report.html"
    assert not list(tmp_path.rglob("*.tmp"))
    assert len(list(tmp_path.glob("*/trace.json"))) == 12


@pytest.mark.parametrize("blocked", ["run.json", "trace.json", "junit.xml", "report.html"])
def test_a_file_that_cannot_be_written_costs_no_other(make: Make, tmp_path: Path, blocked: str) -> None:
    """The error names it, and comes after everything else was written."""
    record = make({"ending": "drop"})
    (tmp_path / blocked).mkdir()
    with pytest.raises(ReportError, match=blocked):
        write_report(tmp_path, record)
    others = {"run.json", "trace.json", "junit.xml", "report.html"} - {blocked}
    assert all((tmp_path / name).stat().st_size > 500 for name in others)
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_killed_run_leaves_a_page_that_says_so(make: Make, tmp_path: Path) -> None:
    """What was written until then is drawn."""
    write_report(tmp_path, make({"ending": "killed"}))
    html = (tmp_path / "report.html").read_text()
    assert "The harness was ended before the run was" in html
    assert "history.jsonl breaks off after line " in html
    assert "The whole run" in html


def test_a_run_that_never_came_to_its_fault_boasts_of_no_tokens(make: Make, tmp_path: Path) -> None:
    """Of a fault phase without requests nothing is said: none of none expected is no success."""
    record = make({})
    none = msgspec.structs.replace(
        record.scenarios[0], faults=[], tokens=TokenCount(expected=0, lost=0, duplicated=0, altered=0)
    )
    html = write_report(tmp_path, msgspec.structs.replace(record, scenarios=[none])).read_text()
    assert "No fault was injected." in html
    assert "each as expected" not in html
    assert "tokens received" not in html


def test_a_damaged_line_ends_the_story_and_is_named(make: Make, tmp_path: Path) -> None:
    """What stands before it is shown, on the page and in the trace."""
    record = make({})
    file = tmp_path / "history.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:200], b"\x00\xff garbage\n", *lines[200:]]))
    write_report(tmp_path, record)
    html = (tmp_path / "report.html").read_text()
    assert "The history is damaged" in html
    assert "history.jsonl:201" in html
    assert "control 0" in html
    assert (tmp_path / "trace.json").exists()


@pytest.mark.parametrize("data", [None, b"", b"\n", b"{}\n", b"\x00" * 100])
def test_without_a_history_the_page_says_what_run_json_says(make: Make, tmp_path: Path, data: bytes | None) -> None:
    """Verdict, oracles and figures are there; no link leads to a file that is not."""
    record = make({"ending": "drop"})
    (tmp_path / "history.jsonl").unlink()
    if data is not None:
        (tmp_path / "history.jsonl").write_bytes(data)
    write_report(tmp_path, record)
    html = (tmp_path / "report.html").read_text()
    assert 'class="problem"' in html
    assert "request 0 lost 1 token" in html
    assert 'href="trace.json"' not in html


def test_a_run_without_scenarios_has_a_page(tmp_path: Path) -> None:
    """It says that nothing was run, and is not called a pass."""
    html = write_report(tmp_path, RunRecord(verdict="unknown")).read_text()
    assert "Nothing was run" in html
    assert "unknown" in html
    assert "pass</span>" not in html


def test_events_of_any_order_and_repeated_names_are_drawn(make: Make, tmp_path: Path) -> None:
    """A history may be shuffled, and a process may be started again under its name."""
    record = make({})
    file = tmp_path / "history.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    started = [msgspec.json.decode(line) for line in lines if b'"process.started"' in line]
    again = [msgspec.json.encode(one | {"n": n}) + b"\n" for n, one in enumerate(started, len(lines) + 1)]
    file.write_bytes(b"".join(lines[::-1] + again))
    write_report(tmp_path, record)
    assert "The whole run" in (tmp_path / "report.html").read_text()
