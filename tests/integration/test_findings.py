"""Known findings through real runs: a worker stalls for longer than its scenario allows."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from ftharness import __version__
from ftharness.cli import app
from ftharness.scenario import findings
from ftharness.scenario.library import load_file

# It is frozen for longer than is allowed: to the scenario this is a defect of the stack.
STALLS = """
from ftharness.client import completion
from ftharness.faults import freeze, serving
from ftharness.scenario import Scenario, gap_within, on_token, succeeds
from ftharness.stack import aggregated

stalls = Scenario(
    name="mine/stalls",
    topology=aggregated(workers=1),
    workload=[completion(max_tokens=80)],
    faults=[on_token(10).inject(freeze(serving, duration_s=0.4))],
    expect=[succeeds(), gap_within(ms=200)],
)
"""
STALL = f"""
title = "A stall"
what = "It stalls."
stack = "sim"
versions = "=={__version__}"
scenarios = ["mine/stalls"]
seen = "9 of 9"
since = 2026-01-31
[[shows]]
oracle = "gap_within"
reason = "allowed: 200"
"""

Know = Callable[[str], None]


@pytest.fixture
def know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Know:
    """``know(text)``: from now on this is the one finding that ships, named ``stall``; "" is none."""

    def one(text: str) -> None:
        folder = tmp_path / f"findings-{len(list(tmp_path.iterdir()))}"  # a folder is read once
        folder.mkdir()
        if text:
            (folder / "stall.toml").write_text(text)
        monkeypatch.setattr(findings, "SHIPPED", folder)

    (tmp_path / "stalls.py").write_text(STALLS)
    return one


def call(*arguments: str | Path, status: int) -> str:
    """What a command says, in which no line was broken to fit."""
    done: Result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == status, done.output
    return done.output


def test_a_run_whose_failure_is_known_ends_with_0(tmp_path: Path, know: Know) -> None:
    """Its verdict is fail. Judged again without the finding, or by one of another version, the status is 1; with it 0 again."""
    know(STALL)
    run = tmp_path / "run"
    said = call("run", tmp_path / "stalls.py", "--out", run, status=0)
    first, second, third = said.splitlines()[:3]
    assert first.startswith(f"✗ mine/stalls  sim vllm {__version__}  ")
    assert first.endswith(" s  known finding")
    assert second == f"    known finding  stall: A stall (seen 9 of 9 on =={__version__}); see docs/findings.md#stall"
    assert third.startswith("    ✗ gap_within(ms=200): ")
    record = json.loads((run / "run.json").read_text())
    assert record["verdict"] == record["scenarios"][0]["verdict"] == "fail"
    assert [note["kind"] for note in record["scenarios"][0]["annotations"]] == ["known_finding"]
    assert call("check", run, status=0).splitlines()[:2] == [first, second]
    know("")
    assert call("check", run, status=1).startswith("FAIL  mine/stalls")
    know(STALL.replace(f"=={__version__}", "==0.0.9"))
    like = "like a finding stall: A stall was seen on ==0.0.9 only, and gap_within(ms=200) of"
    assert like in " ".join(call("check", run, status=1).split())


def test_a_scenario_alone_is_replayed_and_says_that_a_finding_is_mended(tmp_path: Path, know: Know) -> None:
    """A folder with nothing but scenario.json, as those below docs/findings, on a version that does not stall."""
    know(STALL.replace(f"=={__version__}", "<=0.0.9"))
    text = STALLS.replace("gap_within(ms=200)", "gap_within(ms=5_000)")
    (tmp_path / "mended.py").write_text(text)
    (scenario,) = load_file(tmp_path / "mended.py")
    (tmp_path / "stall").mkdir()
    (tmp_path / "stall" / "scenario.json").write_bytes(msgspec.json.encode({"scenario": scenario, "stack": "sim"}))
    said = call("replay", tmp_path / "stall", "--out", tmp_path / "run", status=0).splitlines()
    assert said[0].startswith("✓ mine/stalls")
    assert (
        said[1]
        == f"    finding mended  stall: A stall is not there any more in {__version__}; see docs/findings.md#stall"
    )


def test_the_list_has_a_line_for_each(know: Know) -> None:
    """What, where, on which versions, in which scenarios; whole as JSON; one list at a time."""
    know(STALL)
    assert call("list", "--findings", status=0) == f"stall  sim  =={__version__}  mine/stalls  A stall\n"
    (one,) = json.loads(call("list", "--findings", "--json", status=0))
    assert (one["id"], one["versions"], one["shows"][0]["oracle"]) == ("stall", f"=={__version__}", "gap_within")
    assert "ask for one of them" in call("list", "--findings", "--bugs", status=2)


def test_pytest_expects_a_known_failure_to_fail(pytester: pytest.Pytester) -> None:
    """``ft.run`` ends such a test as xfail with the reason; who looks at the record goes on; the summary names the finding."""
    (pytester.path / "findings").mkdir()
    (pytester.path / "findings" / "stall.toml").write_text(STALL)
    (pytester.path / "stalls.py").write_text(STALLS)
    pytester.makeconftest(
        """
        from pathlib import Path
        from ftharness.scenario import findings
        findings.SHIPPED = Path(__file__).parent / "findings"
        """
    )
    pytester.makepyfile(
        """
        from pathlib import Path
        from ftharness.scenario.library import load_file

        (stalls,) = load_file(Path("stalls.py"))

        def test_it(ft):
            ft.launch()
            ft.run(stalls)
            raise RuntimeError("it goes on")

        def test_record(ft):
            record = ft.run(stalls, check=False)
            assert [note.kind for note in record.annotations] == ["known_finding"]
        """
    )
    result = pytester.runpytest_subprocess("--ft-out", "out", "-ra")
    result.assert_outcomes(xfailed=1, passed=1)
    said = f"stall: A stall (seen 9 of 9 on =={__version__}); see docs/findings.md#stall"
    result.stdout.fnmatch_lines(
        [f"ftharness: known finding (2 runs): {said}", f"XFAIL *test_it - known finding: {said}"]
    )
    whole = json.loads((pytester.path / "out" / "run.json").read_text())["scenarios"]
    assert [(one["name"].rpartition(".")[2], one["verdict"]) for one in whole] == [
        ("test_it", "pass"),  # what the test launched itself is no failure for it
        ("mine/stalls", "fail"),
        ("mine/stalls", "fail"),
    ]
