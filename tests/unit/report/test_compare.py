"""Two stored runs, compared."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from ftharness.cli import app
from ftharness.report import compare, write_run
from ftharness.report.run import RunRecord
from ftharness.scenario.record import Annotation, ScenarioRecord

Make = Callable[..., RunRecord]
RecordOf = Callable[[list[ScenarioRecord]], RunRecord]


def of(make: Make, folder: Path, *endings: str, **more: object) -> RunRecord:
    folder.mkdir()
    return make(*({"ending": ending, "tokens": 80, **more} for ending in endings), folder=folder)


def test_what_passed_before_and_does_not_now_is_a_regression(make: Make, tmp_path: Path) -> None:
    """It is named with the oracle that changed and its reason; the other way round it is none."""
    good, bad = of(make, tmp_path / "a", "pass"), of(make, tmp_path / "b", "drop")
    worse, better = compare(good, bad), compare(bad, good)
    assert len(worse.regressions) == 1
    assert worse.lines[0].startswith("✗ migration/worker_failure sim vllm")
    assert worse.lines[0].endswith("pass → fail")
    assert any("tokens_exact(): pass → fail: request 0 lost 1 token" in line for line in worse.lines)
    assert any("leak new: process: engine child 40133" in line for line in worse.lines)
    assert better.regressions == []
    assert better.lines[0].endswith("fail → pass")


def test_unknown_is_a_regression_too(make: Make, tmp_path: Path) -> None:
    """It is not tested any more, and drift that is new is said."""
    both = compare(of(make, tmp_path / "a", "pass"), of(make, tmp_path / "b", "missed"))
    assert len(both.regressions) == 1
    assert any("drift new: dynamo 1.9.0: no line for worker_joined was seen" in line for line in both.lines)


def test_a_known_finding_is_no_regression(make: Make, record_of: RecordOf, tmp_path: Path) -> None:
    """What is excused does not count, as in the exit status."""
    bad = of(make, tmp_path / "b", "drop").scenarios[0]
    known = msgspec.structs.replace(bad, annotations=[Annotation(kind="known_finding", reason="issue 12")])
    assert compare(of(make, tmp_path / "a", "pass"), record_of([known])).regressions == []


def test_one_of_many_repeats_that_fails_is_a_regression(make: Make, tmp_path: Path) -> None:
    """Repeats of a scenario are taken together; the worst of them counts."""
    before = of(make, tmp_path / "a", "pass", "pass", "pass")
    now = of(make, tmp_path / "b", "pass", "drop", "pass")
    both = compare(before, now)
    assert len(both.regressions) == 1
    assert both.lines[0].endswith("3 pass → 1 fail, 2 pass")
    assert compare(now, now).regressions == []


def test_a_scenario_of_one_run_only_is_named_and_no_regression(make: Make, tmp_path: Path) -> None:
    """What was not run cannot have got worse."""
    both = compare(of(make, tmp_path / "a", "pass"), of(make, tmp_path / "b", "drop", name="migration/other"))
    assert both.regressions == []
    assert both.common == 0
    assert [line[0] for line in both.lines[:2]] == ["-", "+"]


def test_what_a_run_did_not_test_cannot_be_compared(make: Make, tmp_path: Path) -> None:
    """Unknown twice, or before a failure, is no regression, and is not counted among what has none; the reason is said."""
    unknown, bad = of(make, tmp_path / "a", "missed"), of(make, tmp_path / "b", "drop")
    for before, now in ((unknown, unknown), (unknown, bad), (bad, unknown)):
        both = compare(before, now)
        assert (both.regressions, both.untested) == (
            [],
            ["migration/worker_failure sim vllm max tokens 80, endpoint completions, stream yes"],
        )
        assert both.lines[0].startswith("? migration/worker_failure")
        assert any("not tested in the" in line and "the fault did not land" in line for line in both.lines)
        assert both.lines[-1] == "nothing could be compared; 1 not tested in one of the runs"
    for name, run in (("a", unknown), ("b", bad)):
        write_run(tmp_path / name, run)
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert done.exit_code == 3


def test_what_the_second_run_did_not_come_to_is_counted(make: Make, record_of: RecordOf, tmp_path: Path) -> None:
    """As after an interrupt: the last line says how much of the first run it leaves open."""
    first = [of(make, tmp_path / str(place), "pass", name=f"migration/{place}").scenarios[0] for place in range(3)]
    assert (
        compare(record_of(first), record_of(first[:1])).lines[-1]
        == "no regressions in 1 scenario; 2 not in the second run"
    )


def test_a_slower_recovery_is_said(make: Make, record_of: RecordOf, tmp_path: Path) -> None:
    """In figures; a difference that the machine alone makes is not called slower."""
    base = of(make, tmp_path / "a", "pass")

    def slower(ms: float) -> RunRecord:
        one = base.scenarios[0]
        fault = one.faults[0]
        first = (fault.recovery.first_token_ms or 0) + ms
        recovery = msgspec.structs.replace(fault.recovery, first_token_ms=first)
        return record_of([msgspec.structs.replace(one, faults=[msgspec.structs.replace(fault, recovery=recovery)])])

    assert any("next token" in line and "slower by 40.0 ms" in line for line in compare(base, slower(40)).lines)
    assert not any("slower" in line for line in compare(base, slower(2)).lines)


@pytest.mark.parametrize("first, second, status", [("pass", "pass", 0), ("pass", "drop", 1), ("drop", "pass", 0)])
def test_the_command_ends_with_1_on_a_regression(
    make: Make, tmp_path: Path, first: str, second: str, status: int
) -> None:
    """From the stored files alone, and its last line says why."""
    for name, ending in (("a", first), ("b", second)):
        write_run(tmp_path / name, of(make, tmp_path / name, ending))
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert done.exit_code == status
    last = "1 of 1 scenario passed before and does not now" if status else "no regressions in 1 scenario"
    assert done.stdout.splitlines()[-1] == last


def test_the_command_ends_with_2_where_there_is_nothing_to_compare(make: Make, tmp_path: Path) -> None:
    """A folder that is no run, or two runs without a common scenario, are a wrong call and not a pass."""
    write_run(tmp_path / "a", of(make, tmp_path / "a", "pass"))
    write_run(tmp_path / "b", of(make, tmp_path / "b", "pass", name="migration/other"))
    assert CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b")]).exit_code == 2
    missing = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "c")])
    assert missing.exit_code == 2
    assert "does not exist" in missing.stderr
