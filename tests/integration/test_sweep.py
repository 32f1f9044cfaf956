"""Sweeps as a user meets them: real processes, ended in every way, and gone on with."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ftharness.process.process_table import below, command_line, read_table

FTHARNESS = [sys.executable, "-m", "ftharness"]
DONE_S = 60
# At random moments, of one sweep; FTHARNESS_KILL_SEEDS=50 takes two minutes, more where the machine is busy.
KILLS = int(os.environ.get("FTHARNESS_KILL_SEEDS", "1"))
KILL_S = 10  # each: up to 2.5 s until it comes, and as long as whoever goes on waits for the workers
# Three cells of about 2 s, the second of which fails.
TEXT = """
[matrix]
scenarios = ["migration/drain"]
set = {max_tokens = [200], speed = [400]}

[[include]]
scenario = "migration/worker_failure"
bug = "drop-token"
set = {speed = 400}

[[include]]
scenario = "cancellation/reset"
"""
FOLDERS = ["1-migration-drain", "2-migration-worker_failure", "3-cancellation-reset"]
VERDICTS = ["pass", "fail", "pass"]

Until = Callable[..., None]
AllGone = Callable[[list[int], float], bool]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.toml").write_text(TEXT)
    return tmp_path / "mine.toml"


def call(folder: Path, *arguments: str, status: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*FTHARNESS, "sweep", *arguments], cwd=folder, capture_output=True, text=True, timeout=DONE_S, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@contextmanager
def running(file: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A sweep in a process group of its own, as a shell starts it; killed at the end, if it still is there."""
    argv = [*FTHARNESS, "sweep", str(file), "--out", "out", *arguments]
    with subprocess.Popen(
        argv, cwd=file.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def workers(process: "subprocess.Popen[str]") -> list[int]:
    """The pids of the sweep's worker processes."""
    children = [entry for entry in read_table().values() if entry.ppid == process.pid]
    return [entry.pid for entry in children if any("spawn_main" in word for word in command_line(entry))]


def run_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def outcome(folder: Path) -> list[tuple[str, str, str]]:
    """What a report says of each cell that does not depend on the machine's pace."""
    return [(one["name"], one["path"], one["verdict"]) for one in run_of(folder)["scenarios"]]


def serves(folder: Path) -> bool:
    """Whether the cell in the folder is in the midst of an answer."""
    history = folder / "history.jsonl"
    return history.exists() and b'"kind":"request.chunk"' in history.read_bytes()


def test_a_whole_sweep_has_one_report(file: Path) -> None:
    """As one run of several scenarios: its files, its status, its order; and a line for each cell as it ends."""
    done = call(file.parent, str(file), "--out", "out", "--jobs", "2", status=1)
    lines = done.stdout.splitlines()
    assert sorted(line[:5] for line in lines[:3]) == ["[1/3]", "[2/3]", "[3/3]"]
    assert sum("1 lost" in line for line in lines) == 1
    assert re.search(r"\(\d+ s left\)$", lines[0])
    assert lines[-2].startswith("2 pass, 1 fail in ")
    out = file.parent / "out"
    assert [verdict for *_, verdict in outcome(out)] == VERDICTS
    assert [path for _, path, _ in outcome(out)] == FOLDERS
    for name in FOLDERS:
        assert {path.name for path in (out / name).iterdir()} == {
            "history.jsonl",
            "scenario.json",
            "trace.json",
            "logs",
        }
    assert (out / "junit.xml").read_text().count("<testcase") == 3
    assert "drop-token" in (out / "report.html").read_text()
    assert json.loads((out / "sweep" / "manifest.json").read_text())["shards"]["0"]["status"] == "complete"
    check = subprocess.run([*FTHARNESS, "check", str(out)], capture_output=True, text=True, check=False)
    assert (check.returncode, check.stdout.splitlines()[-1]) == (1, "2 pass, 1 fail")
    again = call(file.parent, "--resume", "out", status=1)
    assert "3 of 3 cells were finished before" in again.stdout


def test_a_killed_sweep_goes_on(file: Path, until: Until, all_gone: AllGone) -> None:
    """SIGKILL in its second cell: all it started goes; the rest is run, the first cell is not, and the report is the same."""
    out = file.parent / "out"
    with running(file) as process:
        until(lambda: serves(out / FOLDERS[1]), process)
        ours = [entry.pid for entry in below(process.pid, read_table())]
        (worker,) = workers(process)
        os.kill(worker, signal.SIGSTOP)  # it takes its time to stop its stack
        process.kill()
        with running(file) as resumed:
            try:
                assert resumed.stderr is not None
                assert "still stop their stacks; waiting" in resumed.stderr.readline()
                assert not (out / "sweep" / "interrupted").exists(), "what it writes into is not moved"
            finally:
                os.kill(worker, signal.SIGCONT)
            said, told = resumed.communicate(timeout=DONE_S)
        assert resumed.returncode == 1, said + told
        assert all_gone(ours, 0.0)
    assert "[2/3]" in said
    assert "[1/3]" not in said
    assert "1 of 3 cells were finished before" in said
    assert [path.name for path in (out / "sweep" / "interrupted").iterdir()] == [FOLDERS[1]]
    assert serves(out / "sweep" / "interrupted" / FOLDERS[1])
    assert outcome(out) == list(zip(_names(), FOLDERS, VERDICTS, strict=True))


@pytest.mark.timeout(DONE_S + 60 + KILL_S * KILLS)
def test_killed_at_any_moment(file: Path) -> None:
    """However often: no record is written twice, and in the end every cell has one."""
    file.write_text(
        '[matrix]\nscenarios = ["migration/drain"]\nseeds = [1, 2]\nset = {max_tokens = [100], speed = [400]}\n'
    )
    out, kept = file.parent / "out", dict[str, int]()
    for tenths in random.Random(7).choices(range(5, 25), k=KILLS):  # noqa: S311 - any moments will do
        with running(file) as process, suppress(subprocess.TimeoutExpired):
            process.wait(tenths / 10)
        now = {path.name: path.stat().st_mtime_ns for path in out.glob("sweep/shard_0/cell_*.json")}
        assert kept.items() <= now.items()
        kept = now
    call(file.parent, str(file), "--out", "out", status=0)
    assert outcome(out) == [("migration/drain", f"{place}-migration-drain", "pass") for place in (1, 2)]


def _names() -> list[str]:
    return [folder[2:].replace("-", "/", 1) for folder in FOLDERS]


def test_a_cell_that_kills_its_worker_is_given_up(file: Path, until: Until, all_gone: AllGone) -> None:
    """Its stack dies with each; the second strike is the last, and says so in the report; the others are run, once."""
    file.write_text(
        '[matrix]\nscenarios = ["cancellation/reset", "migration/drain"]\n[[include]]\nscenario = "cancellation/reset"\nseed = 1'
    )
    out, fatal = file.parent / "out", "2-migration-drain"
    kept = out / "sweep" / "interrupted"
    with running(file) as process:

        def below_it() -> list[int]:
            return [entry.pid for worker in workers(process) for entry in below(worker, read_table())]

        for strike in range(2):
            # The guardian, three keepers, a frontend, two workers and their engines.
            until(
                lambda strike=strike: kept.exists() == bool(strike) and serves(out / fatal) and len(below_it()) >= 8,
                process,
            )
            (worker,) = workers(process)
            os.kill(worker, signal.SIGSTOP)  # on a busy machine its cell might end before we have looked
            stack = below_it()
            assert len(stack) >= 8
            assert os.getsid(worker) == worker, "what comes to the terminal's processes is for the sweep to decide"
            masked = b"CUDA_VISIBLE_DEVICES" in Path(f"/proc/{worker}/environ").read_bytes()
            assert masked == ("CUDA_VISIBLE_DEVICES" in os.environ), "stacks reserve their GPUs themselves"
            os.kill(worker, signal.SIGKILL)
            assert all_gone([worker, *stack], 2.0)
        said, told = process.communicate(timeout=DONE_S)
    assert process.returncode == 3, said + told
    assert "its worker ended: killed by SIGKILL" in told
    assert [line[:5] for line in said.splitlines()[:3]] == ["[1/3]", "[2/3]", "[3/3]"]
    assert [path.name for path in kept.iterdir()] == [fatal], "what was finished was not run again"
    assert [verdict for *_, verdict in outcome(out)] == ["pass", "unknown", "pass"]
    reason = "given up: it took its worker down 2 times, the last time: killed by SIGKILL"
    assert run_of(out)["scenarios"][1]["reason"].startswith(reason)
    assert reason in (out / "junit.xml").read_text()
    assert "3 of 3 cells were finished before" in call(file.parent, "--resume", "out", status=3).stdout


def test_ctrl_c_tears_down_and_reports(file: Path, until: Until, all_gone: AllGone) -> None:
    """As from a terminal, to all of its processes: the cell's stack is stopped in order, and what is finished is reported."""
    out = file.parent / "out"
    with running(file) as process:
        until(lambda: serves(out / FOLDERS[1]), process)
        ours = [entry.pid for entry in below(process.pid, read_table())]
        os.killpg(process.pid, signal.SIGINT)
        said, told = process.communicate(timeout=DONE_S)
        assert process.returncode == 130, said + told
        assert all_gone(ours, 2.0)
    assert told == "\nftharness: interrupted: stopping what runs; once more ends it at once\n", (
        "workers say nothing here"
    )
    assert said.splitlines()[-1] == "go on with  ftharness sweep --resume out"
    assert [verdict for *_, verdict in outcome(out)] == ["pass"]
    end = (out / FOLDERS[1] / "history.jsonl").read_text().splitlines()[-1]
    assert ('"run.finished"' in end, '"interrupted"' in end) == (True, True)
    assert "[2/3]" in call(file.parent, "--resume", "out", status=1).stdout


def test_a_changed_file_is_refused(file: Path) -> None:
    """What changed is said, and nothing is run; begun anew, nothing of the old one is left."""
    call(file.parent, str(file), "--out", "out", "--only", "migration/drain", status=0)
    out = file.parent / "out"
    file.write_text(TEXT.replace("[200]", "[150]"))
    refused = call(file.parent, str(file), "--out", "out", status=2)
    assert "'migration/drain sim vllm max_tokens=150 speed=400' is new" in refused.stderr
    assert outcome(out) == [("migration/drain", FOLDERS[0], "pass")]
    anew = call(file.parent, str(file), "--out", "out", "--only", "migration/drain", "--force-restart", status=0)
    assert "[1/1] ✓ migration/drain sim vllm max_tokens=150 speed=400" in anew.stdout
    assert run_of(out)["scenarios"][0]["params"]["max_tokens"] == "150"


def test_a_cell_that_cannot_be_begun_costs_the_others_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, is no part of the report, and is tried again by whoever goes on."""
    monkeypatch.setenv("FTHARNESS_CACHE", str(file.parent / "cache"))  # where nothing is provisioned
    file.write_text('[matrix]\nscenarios = ["migration/drain"]\nstacks = ["dynamo-sim", "sim"]\n')
    done = call(file.parent, str(file), "--out", "out", status=3)
    assert "migration/drain was not run: " in done.stderr
    assert "ftharness provision dynamo" in done.stderr
    assert [verdict for *_, verdict in outcome(file.parent / "out")] == ["pass"]
    assert "was not run" in call(file.parent, "--resume", "out", status=3).stderr


def test_cells_whose_evidence_is_gone(file: Path) -> None:
    """Judged again they are unknown, and whoever goes on runs them anew, and says so; the others are not run again."""
    file.write_text(
        '[matrix]\nscenarios = ["migration/drain"]\nseeds = [1, 2, 3]\nset = {max_tokens = [100], speed = [400]}\n'
    )
    call(file.parent, str(file), "--out", "out", status=0)
    out = file.parent / "out"
    shutil.rmtree(out / "1-migration-drain")
    (out / "3-migration-drain" / "history.jsonl").write_text("")
    check = subprocess.run([*FTHARNESS, "check", str(out)], capture_output=True, text=True, check=False)
    assert (check.returncode, check.stdout.splitlines()[-1]) == (3, "1 pass, 2 unknown")
    assert "3 of 3 cells, 1 of them finished" in call(file.parent, "--resume", "out", "--dry-run", status=0).stderr
    # What it wrote to count cells by is gone, too.
    for name in ("manifest.json", "manifest.slot0", "manifest.slot1"):
        (out / "sweep" / name).write_text("{")
    again = call(file.parent, "--resume", "out", status=0)
    said = again.stderr.splitlines()
    assert [line.startswith("ftharness: ") for line in said] == [True] * 3, again.stderr
    assert "manifest.json is damaged: it is made again, from the cells' records" in said[0]
    assert "seed=1 max_tokens=100 speed=400 was finished, and is to be run anew: nothing of it is left" in said[1]
    assert "seed=3 max_tokens=100 speed=400 was finished, and is to be run anew: the history is empty" in said[2]
    assert [line[:5] for line in again.stdout.splitlines()[:2]] == ["[2/3]", "[3/3]"]
    assert "1 of 3 cells were finished before" in again.stdout
    assert [path.name for path in (out / "sweep" / "interrupted").iterdir()] == ["3-migration-drain"]
    call(out, "--resume", ".", status=0)


def test_a_folder_without_its_plan(file: Path) -> None:
    """What to do is said, and does it: the file is named, or all is begun anew."""
    file.write_text('[matrix]\nscenarios = ["migration/drain"]\nset = {max_tokens = [100], speed = [400]}\n')
    call(file.parent, str(file), "--out", "out", status=0)
    out = file.parent / "out"
    (out / "sweep" / "plan.json").unlink()
    says = "plan.json is missing; name its file, and it is made again:  ftharness sweep FILE --out out"
    assert says in call(file.parent, "--resume", "out", status=2).stderr
    again = call(file.parent, str(file), "--out", "out", status=0)
    assert "plan.json is missing: it is made again, from " in again.stderr
    assert "1 of 1 cells were finished before" in again.stdout
    shutil.rmtree(out / "sweep")
    says = (
        "there is a run in this folder already: take another folder, or, to remove it and begin anew, --force-restart"
    )
    assert says in call(file.parent, str(file), "--out", "out", status=2).stderr
    anew = call(file.parent, str(file), "--out", "out", "--force-restart", status=0)
    assert "[1/1]" in anew.stdout


WRONG = [
    ([], "either the FILE of a sweep, or --resume"),
    (["nothing.toml"], "nothing.toml: there is no such file"),
    (["--resume", "nothing"], "nothing: no sweep was begun here"),
    (["mine.toml", "--only", "migraton/*"], "fits no cell; did you mean migration/drain?"),
    (["mine.toml", "--jobs", "0"], "--jobs"),
    (["mine.toml", "--out", ""], "'--out': is empty"),
    (["--resume", ""], "'--resume': is empty"),
    (["mine.toml", "--out", "mine.toml"], "mine.toml: is a file, and a sweep needs a folder: name another one"),
    (["--resume", "mine.toml"], "mine.toml: is a file, and a sweep needs a folder"),
]


@pytest.mark.parametrize("arguments,says", WRONG, ids=[says for _, says in WRONG])
def test_a_wrong_call_starts_nothing(file: Path, arguments: list[str], says: str) -> None:
    """Status 2, one message, and no folder."""
    done = call(file.parent, *arguments, status=2)
    assert says in done.stderr
    assert [path.name for path in file.parent.iterdir()] == ["mine.toml"]


def test_a_dry_run_prints_the_cells(file: Path) -> None:
    """A name a line, as --only takes them; nothing is made."""
    done = call(file.parent, str(file), "--dry-run", "--out", "out", status=0)
    assert done.stdout.splitlines() == [
        "migration/drain sim vllm max_tokens=200 speed=400",
        "migration/worker_failure sim vllm bug=drop-token speed=400",
        "cancellation/reset sim vllm",
    ]
    assert "3 of 3 cells, 0 of them finished" in done.stderr
    assert not (file.parent / "out").exists()


def test_cells_in_which_a_bug_cannot_show_are_named(file: Path) -> None:
    """And are none of the sweep's; a bug that could show in none of them is refused, as ``run`` refuses it."""
    crossed = '[matrix]\nscenarios = ["migration/drain", "pool/*"]\nbugs = ["", "drop-token"]\n'
    file.write_text(f'{crossed}[[exclude]]\nscenario = "pool/*"\nbug = ""\n')
    done = call(file.parent, "mine.toml", "--dry-run", status=0)
    assert done.stdout.splitlines() == ["migration/drain sim vllm", "migration/drain sim vllm bug=drop-token"]
    assert (
        "drop-token is a bug of the frontend and its workers; without that, and left out: pool/crash_loop,"
        in done.stderr
    )
    file.write_text(crossed.replace("drop-token", "released-lock"))
    done = call(file.parent, "mine.toml", "--out", "out", status=2)
    assert "mine.toml:3: " in done.stderr
    assert "the planted bug released-lock is one of shadow engines, which this scenario does not run" in done.stderr
    assert [path.name for path in file.parent.iterdir()] == ["mine.toml"]
