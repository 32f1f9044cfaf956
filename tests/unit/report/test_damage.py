"""Stored runs that are not whole, judged again, shown again, compared: what is missing is never taken for what held."""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from ftharness.cli import app
from ftharness.history import History, ProcessExited, RunPhase, read_history
from ftharness.report import RunRecord, read_run, write_run
from ftharness.scenario.record import ScenarioRecord
from ftharness.stored_runs import judge_again

Make = Callable[..., RunRecord]
RecordOf = Callable[[list[ScenarioRecord]], RunRecord]
Damage = Callable[[list[bytes]], list[bytes]]


def called(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def damaged(folder: Path, damage: Damage) -> None:
    file = folder / "history.jsonl"
    file.write_bytes(b"".join(damage(file.read_bytes().splitlines(keepends=True))))


GARBAGE: Damage = lambda lines: [*lines[:99], b"\x00 garbage\n", *lines[100:]]  # noqa: E731
DAMAGES: list[tuple[str, Damage, str]] = [
    ("a line that is no event", GARBAGE, "history.jsonl:100: not an event"),
    ("a line that is missing", lambda lines: lines[:99] + lines[100:], "history.jsonl:100: event 100 is not there"),
    ("a line that is there twice", lambda lines: [*lines[:100], lines[99], *lines[100:]], "event 100 is there twice"),
    ("the first line is missing", lambda lines: lines[1:], "history.jsonl:1: event 1 is not there"),
    ("cut between two lines", lambda lines: lines[:150], "history.jsonl breaks off after line 150"),
    ("cut within a line", lambda lines: [*lines[:150], lines[150][:20]], "history.jsonl breaks off after line 150"),
    ("the end alone is missing", lambda lines: lines[:-1], "history.jsonl breaks off after line "),
    ("empty", lambda _: [], "history.jsonl holds no event"),
]


@pytest.mark.parametrize("damage, said", [pytest.param(damage, said, id=name) for name, damage, said in DAMAGES])
def test_what_is_left_of_a_history_passes_nothing(make: Make, tmp_path: Path, damage: Damage, said: str) -> None:
    """The verdict is unknown for the file and the line that are named, and no oracle is said to have passed."""
    make({"tokens": 80})
    assert judge_again(tmp_path).verdict == "pass"
    damaged(tmp_path, damage)
    record = judge_again(tmp_path).scenarios[0]
    assert (record.verdict, {oracle.verdict for oracle in record.oracles}) == ("unknown", {"unknown"})
    assert said in record.reason
    done = called("check", tmp_path)
    assert done.exit_code == 3
    assert record.reason in " ".join(done.stdout.split())
    assert done.stdout.startswith("UNKNOWN  migration/worker_failure on sim · vllm")
    assert "passed:" not in done.stdout


def test_a_history_that_is_missing_passes_nothing(make: Make, tmp_path: Path) -> None:
    """What was run is still known from scenario.json."""
    make({"tokens": 80})
    (tmp_path / "history.jsonl").unlink()
    done = called("check", tmp_path)
    assert done.exit_code == 3
    assert done.stdout.startswith("UNKNOWN  migration/worker_failure on sim · vllm\n")
    assert "history.jsonl is missing" in " ".join(done.stdout.split())
    assert "passed:" not in done.stdout


def test_an_invariant_that_failed_before_the_damage_failed(tmp_path: Path, make: Make) -> None:
    """A crash that nothing explains stays one, whatever came after it."""
    make({"tokens": 80})
    whole = read_history(tmp_path / "history.jsonl")
    control = next(event.n for event in whole if isinstance(event, RunPhase) and event.phase == "control")
    (tmp_path / "history.jsonl").unlink()
    with History(tmp_path / "history.jsonl", start_ns=0) as history:
        for event in whole[:control]:
            history.append(event, at=event.t)
        history.append(ProcessExited(source="worker-2", pid=40_126, signal="SIGSEGV"), at=whole[control].t)
    record = judge_again(tmp_path).scenarios[0]
    assert record.verdict == "fail"
    assert [oracle.name for oracle in record.oracles if oracle.verdict == "fail"] == ["exits_explained()"]
    assert "breaks off after line" in record.reason
    assert called("check", tmp_path).exit_code == 1


def test_a_history_without_its_scenario_is_named(make: Make, tmp_path: Path) -> None:
    """It is not passed over as if it had never been run."""
    make({"tokens": 80}, {"tokens": 80})
    (tmp_path / "02" / "scenario.json").unlink()
    done = called("check", tmp_path)
    assert done.exit_code == 2
    assert "02/scenario.json: is missing" in done.stderr


def test_a_scenario_whose_folder_is_gone_passes_nothing(make: Make, tmp_path: Path) -> None:
    """The report has it, so it is unknown, at its place, with what is missing; what is left of the others is judged."""
    write_run(tmp_path, make({"tokens": 80}, {"tokens": 80}, {"tokens": 80}))
    shutil.rmtree(tmp_path / "02")
    record = judge_again(tmp_path)
    assert [(one.path, one.verdict) for one in record.scenarios] == [("01", "pass"), ("02", "unknown"), ("03", "pass")]
    lost = record.scenarios[1]
    assert lost.reason == f"nothing of it is left to be judged: {tmp_path / '02'} is missing"
    assert {oracle.verdict for oracle in lost.oracles} == {"unknown"}
    done = called("check", tmp_path)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (3, "2 pass, 1 unknown")
    replayed = called("replay", tmp_path, "--out", tmp_path / "again")
    assert (replayed.exit_code, (tmp_path / "again").exists()) == (2, False)
    assert f"{tmp_path / '02'} is missing" in replayed.stderr


def test_a_run_of_which_only_the_report_is_left_passes_nothing(make: Make, tmp_path: Path) -> None:
    """A report is no evidence, however it says that all passed."""
    write_run(tmp_path, make({"tokens": 80}, {"tokens": 80}))
    for name in ("01", "02"):
        shutil.rmtree(tmp_path / name)
    assert called("check", tmp_path).exit_code == 3
    assert [one.verdict for one in judge_again(tmp_path).scenarios] == ["unknown", "unknown"]


def test_the_runs_of_a_call_of_pytest_are_judged(make: Make, tmp_path: Path) -> None:
    """They lie two folders below the report over all of them, and keep their paths."""
    make({"tokens": 80}, {"tokens": 80}, folder=tmp_path / "test_one")
    assert [one.path for one in judge_again(tmp_path).scenarios] == ["test_one/01", "test_one/02"]
    assert called("check", tmp_path).stdout.splitlines()[-1] == "2 pass"


def test_a_damaged_run_json_is_made_again_and_said(make: Make, tmp_path: Path) -> None:
    """The report comes from the history, and the reader is told that it is not what was written first."""
    make({"tokens": 80})
    (tmp_path / "run.json").write_text('{"schema": 1, "verd')
    done = called("report", tmp_path)
    assert done.exit_code == 0
    assert "run.json is damaged" in done.stderr
    assert read_run(tmp_path).verdict == "pass"


def test_a_run_that_was_ended_before_its_first_scenario_tested_nothing(record_of: RecordOf, tmp_path: Path) -> None:
    """Judged, shown and compared it says so; nobody is told that there is no run, or no regression."""
    write_run(tmp_path, msgspec.structs.replace(record_of([]), verdict="unknown"))
    checked = called("check", tmp_path)
    assert (checked.exit_code, checked.stderr) == (3, "")
    assert checked.stdout.startswith("UNKNOWN  no scenario was run")
    assert called("report", tmp_path).exit_code == 0
    assert "no scenario was run" in called("replay", tmp_path).stderr
    both = called("compare", tmp_path, tmp_path)
    assert (both.exit_code, both.stdout) == (2, "nothing to compare: the two runs hold no scenario\n")


def test_a_comparison_says_that_a_history_is_no_longer_whole(make: Make, tmp_path: Path) -> None:
    """What is compared was judged from the whole; that it can no longer be looked at is said beside it."""
    for name in ("a", "b"):
        write_run(tmp_path / name, make({"tokens": 80}, folder=tmp_path / name))
    assert called("compare", tmp_path / "a", tmp_path / "b").stderr == ""
    damaged(tmp_path / "b", GARBAGE)
    done = called("compare", tmp_path / "a", tmp_path / "b")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "no regressions in 1 scenario")
    assert "b/history.jsonl:100: not an event" in done.stderr
    assert "run.json" in done.stderr
