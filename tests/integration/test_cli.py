"""The command line as a user meets it: a real process, its status, what it says, and what it leaves."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftharness.history import read_history
from ftharness.process.process_table import below, read_table

FTHARNESS = [sys.executable, "-m", "ftharness"]
DONE_S = 60

Call = Callable[..., "subprocess.CompletedProcess[str]"]
Until = Callable[..., None]
AllGone = Callable[[list[int], float], bool]
Running = tuple["subprocess.Popen[str]", Path]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Run ``ftharness`` with these arguments in an empty folder."""

    def run(*arguments: str, status: int, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*FTHARNESS, *arguments],
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=DONE_S,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


WRONG = [
    (["run", "migraton/worker_failure"], "did you mean migration/worker_failure?"),
    (["run", "migraton/*"], "no scenarios 'migraton/*'; did you mean migration/*?"),
    (["run", "mine.py"], "no scenario file mine.py"),
    (["run", "migration/drain", "--stack", "simm"], "did you mean sim?"),
    (["run", "migration/drain", "--stack", "./mine.toml"], "mine.toml: there is no such file"),
    (["run", "migration/drain", "--engine", "vlm"], "did you mean vllm?"),
    (["run", "migration/drain", "--bug", "drop-tokn"], "did you mean drop-token?"),
    (["run", "migration/drain", "--bug", "flat-backoff"], "those that can show in it are drop-token, "),
    (["run", "checkpoint/*", "--bug", "poison-for-ever"], "is one of the ranks of a job, which this scenario does not"),
    (["run", "migration/drain", "--set", "max_token=3"], "did you mean max_tokens?"),
    (["run", "migration/drain", "--set", "workers=0"], "workers = 0: must be at least 1"),
    (["run", "migration/drain", "--set", "workers=100000"], "workers = 100000: at most 64"),
    (["run", "migration/drain", "--set", "idle_s=0"], "idle_s = 0: must be more than 0"),
    (["run", "migration/drain", "--set", "token=0"], "token = 0: tokens are counted from 1"),
    (["run", "migration/drain", "--set", "max_tokens=0"], "max_tokens = 0: must be at least 1"),
    (["run", "migration/drain", "--set", "stop_grace_s=-1"], "stop_grace_s = -1: must not be less than 0"),
    (["run", "migration/drain", "--set", "workers"], "it is KEY=VALUE"),
    (["run", "migration/drain", "--set", "profile=cpu"], "profile=cpu: the stack sim launches no engine"),
    (["run", "migration/drain", "--out", "/proc/nothing"], "/proc/nothing: No such file"),
    (["run", "migration/drain", "--repeat", "0"], "--repeat"),
    (["run", "migration/drain", "--out", ""], "'--out': is empty"),
    (["run", "migration/drain", "--engine", ""], "'--engine': is empty"),
    (["run"], "Missing argument"),
    (["rnu"], "Did you mean 'run'?"),
    (["check", "nothing"], "nothing: there is no such folder"),
    (["replay", "nothing"], "nothing: there is no such folder"),
    (["report", "nothing"], "nothing does not exist"),
    (["provision", "dynmo==1.4.2"], "did you mean dynamo?"),
    (["provision", "dynamo==x"], "'x' is not a version"),
    (["contract", "check", "--stack", "simm"], "did you mean sim?"),
    (["contract", "check", "--engine", "vlm"], "did you mean vllm?"),
    (["contract", "check", "--engine", "all"], "has no engine 'all'"),
]


@pytest.mark.parametrize("arguments,says", WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_wrong_call_is_told_what_is_wrong(call: Call, tmp_path: Path, arguments: list[str], says: str) -> None:
    """Status 2, one message with the nearest name, nothing started and no folder left."""
    done = call(*arguments, status=2)
    assert says in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


BROKEN_FILES = {
    "syntax.py": ("x = (\n", r"syntax\.py:1: SyntaxError"),
    "import.py": ("\nimport nothing_of_that_name\n", r"import\.py:2: ModuleNotFoundError"),
    "value.py": (
        """from ftharness.scenario import Scenario
from ftharness.stack import aggregated
x = Scenario(name='a', topology=aggregated(workers=0), workload=[])
""",
        r"value\.py:3: ValueError: workers = 0",
    ),
    "fault.py": (
        """from ftharness.faults import Fault, serving
from ftharness.scenario import Scenario, at
x = Scenario(name='a', workload=[], faults=[at(0).inject(Fault(kind='kil', target=serving))])
""",
        r"no fault kind 'kil'; did you mean kill\?",
    ),
    "oracle.py": (
        """from ftharness.scenario import Expect, Scenario
x = Scenario(name='a', workload=[], expect=[Expect(oracle='tokens_exat')])
""",
        r"no oracle 'tokens_exat'; did you mean tokens_exact\?",
    ),
    "empty.py": ("x = 1\n", r"empty\.py: no Scenario"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_scenario_file_is_told_its_line(call: Call, tmp_path: Path, name: str) -> None:
    """File and line, as an editor takes them."""
    text, says = BROKEN_FILES[name]
    (tmp_path / name).write_text(text)
    assert re.search(says, call("run", name, status=2).stderr)


@pytest.mark.parametrize(
    "seconds,status,verdict", [(120.0, 2, "pass"), (0.01, 1, "fail")], ids=["the others pass", "one fails"]
)
def test_one_that_cannot_be_begun_costs_the_others_nothing(
    call: Call, tmp_path: Path, seconds: float, status: int, verdict: str
) -> None:
    """It is named on standard error and leaves no folder; a failure that was seen is not lost in the status."""
    (tmp_path / "both.py").write_text(f"""from ftharness.client import completion
from ftharness.faults import kill, named
from ftharness.scenario import Scenario, at
nobody = Scenario(name="a/nobody", workload=[completion()], faults=[at(0).inject(kill(named("worker-9")))])
real = Scenario(name="a/real", workload=[completion(max_tokens=8)], deadline_s={seconds})
""")
    done = call("run", "both.py", "--out", "run", status=status)
    assert re.search(r"^ftharness: a/nobody was not run: .*worker-9", done.stderr, re.MULTILINE)
    assert f"1 {verdict} of 2" in done.stdout
    assert [path.name for path in (tmp_path / "run").iterdir() if path.is_dir()] == ["2-a-real"]
    assert (tmp_path / "run" / "junit.xml").exists()


def test_a_missing_dynamo_says_how_to_get_it(call: Call, tmp_path: Path) -> None:
    """Status 3, the command that provisions it, and nothing started."""
    done = call("run", "migration/drain", "--stack", "dynamo-sim", status=3, FTHARNESS_CACHE=str(tmp_path / "cache"))
    assert "ftharness provision dynamo==1.4.2" in done.stderr
    assert not (tmp_path / "reports").exists()


def test_a_missing_interpreter_is_named(call: Call) -> None:
    """A path that leads nowhere is said before anything starts."""
    assert "/nowhere/python" in call("run", "migration/drain", "--sut-python", "/nowhere/python", status=2).stderr


def test_a_worker_that_dies_at_its_start_is_quoted(call: Call, tmp_path: Path) -> None:
    """Status 3 (it tested nothing), its last lines, soon, and a run folder that can be read."""
    began = time.monotonic()
    done = call("run", "migration/drain", "--set", 'worker_args=["--nope"]', "--out", "run", status=3)
    assert "unrecognized arguments: --nope" in done.stdout
    assert time.monotonic() - began < 20
    assert _run(tmp_path / "run")["verdict"] == "unknown"
    assert (tmp_path / "run" / "report.html").exists()


def test_a_frontend_that_dies_at_its_start_is_noticed(call: Call) -> None:
    """Nobody waits for the workers, which would wait for it in vain."""
    began = time.monotonic()
    done = call("run", "migration/drain", "--set", 'frontend_args=["--port", "x"]', status=3)
    assert "invalid int value: 'x'" in done.stdout
    assert time.monotonic() - began < 20


def test_a_run_leaves_every_file_and_can_be_judged_again(call: Call, tmp_path: Path) -> None:
    """Run, check, report, replay and compare of one scenario; the verdict stays."""
    done = call("run", "migration/worker_failure", "--engine", "sglang", "--seed", "7", "--out", "run", status=0)
    assert "260 tokens exact" in done.stdout
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"history.jsonl", "run.json", "junit.xml", "report.html", "trace.json", "scenario.json", "logs"}
    record = _run(folder)
    assert (record["seed"], record["verdict"]) == (7, "pass")
    (scenario,) = record["scenarios"]
    assert scenario["tokens"] == {"expected": 260, "received": 260, "lost": 0, "duplicated": 0, "altered": 0}
    assert scenario["faults"][0]["recovery"]["first_token_ms"] > 0
    assert call("check", "run", status=0).stdout.startswith("✓ migration/worker_failure")
    (folder / "report.html").unlink()
    call("report", "run", status=0)
    assert (folder / "report.html").exists()
    call("replay", "run", "--out", "again", status=0)
    assert _run(tmp_path / "again")["seed"] == 7
    call("compare", "run", "again", status=0)


def test_a_failure_is_a_small_story(call: Call, tmp_path: Path) -> None:
    """What was asked, what was injected and the proof, what each party did, the log lines, and where the run is."""
    said = call("run", "migration/worker_failure", "--bug", "drop-token", "--out", "run", status=1).stdout
    for part in ("✗ tokens_exact(): ", "1 lost", "wait status SIGKILL", "migration started", "run/report.html"):
        assert part in said
    assert len(said.splitlines()) < 30
    assert call("check", "run", status=1).stdout.splitlines()[0] == said.splitlines()[0]


def test_a_planted_bug_is_named(call: Call, tmp_path: Path) -> None:
    """A pass with a bug that shows elsewhere is none of the stack without it; so in the line, and in the report."""
    bug = "bug drop-token (migration/worker_failure is there to reveal it)"
    said = call("run", "migration/drain", "--set", "max_tokens=100", "--bug", "drop-token", "--out", "run", status=0)
    assert said.stdout.splitlines()[0].endswith(f"  {bug}")
    assert call("check", "run", status=0).stdout.splitlines()[0] == said.stdout.splitlines()[0]
    assert "planted bug" in (tmp_path / "run" / "report.html").read_text()
    failed = call("run", "migration/worker_failure", "--bug", "drop-token", status=1).stdout.splitlines()
    assert failed[0].endswith("  bug drop-token")


TWO = """
from ftharness.client import completion
from ftharness.scenario import Scenario
from ftharness.stack import aggregated

several = [
    Scenario(name=f"two/{count}", topology=aggregated(workers=1, standbys=count), workload=[completion(max_tokens=5)])
    for count in (0, 1)
]
"""


def test_of_several_those_that_cannot_have_the_bug_are_left_out(call: Call, tmp_path: Path) -> None:
    """And named: what they came to would be no word on it."""
    (tmp_path / "two.py").write_text(TWO)
    said = call("run", "two.py", "--bug", "released-lock", "--out", "run", status=0)
    assert "released-lock is a bug of shadow engines; without that, and left out: two/0\n" in said.stderr
    assert [one["name"] for one in _run(tmp_path / "run")["scenarios"]] == ["two/1"]


def test_a_fault_that_never_fires_is_unknown(call: Call) -> None:
    """Status 3: the run passed, but what it was made for was not tested."""
    said = call("run", "migration/drain", "--set", "token=100000", status=3).stdout
    assert "never fired: the trigger's moment did not come" in said


def test_repeats_and_engines_have_an_entry_each(call: Call, tmp_path: Path) -> None:
    """Two engines twice: four entries in one run.json, each with files of its own."""
    arguments = ("--engine", "vllm,trtllm", "--repeat", "2", "--set", "max_tokens=100", "--out", "run")
    said = call("run", "migration/drain", *arguments, status=0).stdout
    assert "4 pass" in said
    scenarios = _run(tmp_path / "run")["scenarios"]
    assert [one["engine"] for one in scenarios] == ["vllm", "trtllm"] * 2
    assert all((tmp_path / "run" / one["path"] / "history.jsonl").exists() for one in scenarios)
    assert len({one["path"] for one in scenarios}) == 4
    part = f"run/{scenarios[0]['path']}"
    assert f"{part} is a part of the run run, whose run.json" in call("report", part, status=0).stderr


def test_a_folder_with_a_run_is_not_written_over(call: Call, tmp_path: Path) -> None:
    """A second run into the same folder is refused, and the first stays."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert "there is a run in this folder already" in call("run", "migration/drain", "--out", "run", status=2).stderr
    assert (tmp_path / "run" / "run.json").read_text() == "{}"


@pytest.mark.parametrize("end", ["| head -c 0", ">/dev/full", ">&-", "2>&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize("bug,status", [("", 0), ("drop-token", 1)])
def test_an_output_that_nobody_reads_costs_no_run(tmp_path: Path, end: str, bug: str, status: int) -> None:
    """The run goes on, its report is whole, and the status is the verdict's; a full disk is said on standard error."""
    call = shlex.join([*FTHARNESS, "run", "migration/worker_failure", f"--bug={bug}", "--out=run"])
    done = subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; {call} {end}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DONE_S,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert done.stderr == (
        "ftharness: standard output: No space left on device: not everything is there; the exit status stands\n"
        if "full" in end
        else ""
    )
    assert _run(tmp_path / "run")["verdict"] == ("fail" if bug else "pass")
    assert (tmp_path / "run" / "report.html").exists()
    assert read_history(tmp_path / "run" / "history.jsonl")[-1].kind == "run.finished"


@pytest.mark.parametrize("command", ["list", "doctor", "--help"])
def test_a_full_output_is_no_traceback(command: str) -> None:
    """It is said in one line."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*FTHARNESS, command], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("ftharness: standard output: No space left on device")
    assert "Traceback" not in done.stderr


def test_the_list_of_bugs_has_a_line_each(call: Call) -> None:
    """Name, scenario, oracle, then a sentence; and the same as JSON."""
    lines = call("list", "--bugs", status=0).stdout.splitlines()
    assert all(re.fullmatch(r"[\w-]+  \w+/\w+  \w+  [A-Z].*\.", line) for line in lines)
    found = json.loads(call("list", "--bugs", "--json", status=0).stdout)
    assert [bug["name"] for bug in found] == [line.split()[0] for line in lines]
    assert len(json.loads(call("list", "--json", status=0).stdout)) == len(call("list", status=0).stdout.splitlines())


def test_contract_check_names_what_it_saw(call: Call) -> None:
    """Each event of the contract, seen or not; all that the three requests must show was seen."""
    said = call("contract", "check", status=0).stdout
    assert re.search(r"seen \d+x +migration_started +frontend: ", said)
    assert re.search(r"seen \d+x +request_aborted +worker-\d: ", said)
    assert "MISSING" not in said


def test_contract_check_asks_what_is_answered(call: Call) -> None:
    """A server that has only chats is asked for these."""
    stack = Path(__file__).parents[2] / "examples" / "fakellm" / "stack.toml"
    said = call("contract", "check", "--stack", str(stack), status=0).stdout
    assert re.search(r"seen 3x +request_received +server: ", said)
    assert "MISSING" not in said


def test_secrets_are_in_no_file_of_a_run(call: Call, tmp_path: Path) -> None:
    """A token in the environment and a key among the arguments, printed by a worker, are stored as ***."""
    token, key = "hf_" + "a1B2" * 8, "s3cret-key-of-mine"
    arguments = ("--set", f'worker_args=["--api-key={key}"]', "--out", "run")
    call("run", "migration/drain", *arguments, status=3, HF_TOKEN=token)
    stored = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(b"***" in path.read_bytes() for path in stored)
    for path in stored:
        assert token.encode() not in path.read_bytes(), path
        assert key.encode() not in path.read_bytes(), path
    assert "secrets among its arguments were not stored" in call("replay", "run", status=2).stderr


# What happens to a run that is ended from outside.


@pytest.fixture
def running(tmp_path: Path, until: Until) -> Iterator[Running]:
    """A run in its own session, in the middle of its fault phase, whose request has 40 s to go."""
    folder = tmp_path / "run"
    argv = [
        *FTHARNESS,
        "run",
        "migration/drain",
        "--set",
        "max_tokens=8000",
        "--set",
        "grace_s=60",
        "--out",
        str(folder),
    ]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            until(lambda: b'"kind":"request.chunk"' in _read(folder / "history.jsonl"), process)
            yield process, folder
        finally:
            if process.poll() is None:
                process.kill()


def test_a_second_run_into_the_same_folder_is_refused(running: Running, call: Call) -> None:
    """While the first is being written: two histories in one file would be none."""
    _, folder = running
    assert "another run is being written" in call("run", "migration/drain", "--out", str(folder), status=2).stderr


def test_an_interrupt_while_it_still_imports_is_no_traceback() -> None:
    """The interpreter says what it imports, so that the moment is known."""
    argv = [sys.executable, "-X", "importtime", "-m", "ftharness", "list"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if " typer." in line:  # a part of what the command line needs; the whole is not yet there
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert "Traceback" not in rest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_first_interrupt_tears_down_and_reports(running: Running, all_gone: AllGone, number: signal.Signals) -> None:
    """Status 130; everything is stopped in order, the history has its end, and there is a report."""
    process, folder = running
    ours = [process.pid, *(entry.pid for entry in below(process.pid, read_table()))]
    process.send_signal(number)
    assert process.wait(60) == 130
    assert all_gone(ours, 2.0)
    end = read_history(folder / "history.jsonl")[-1]
    assert (end.kind, getattr(end, "outcome", "")) == ("run.finished", "interrupted")
    assert _run(folder)["verdict"] == "unknown"
    assert (folder / "report.html").exists()


def test_a_killed_harness_leaves_nothing_alive(running: Running, call: Call, all_gone: AllGone) -> None:
    """SIGKILL: within 2 s no process of the run is left, and what it wrote can be judged and shown."""
    process, folder = running
    ours = [entry.pid for entry in below(process.pid, read_table())]
    assert len(ours) >= 8  # the guardian, three keepers, a frontend, two workers and their engines
    process.kill()
    assert all_gone(ours, 2.0), [entry.name for entry in read_table().values() if entry.pid in ours]
    assert "the harness was ended before the run was" in call("check", str(folder), status=3).stdout
    call("report", str(folder), status=0)
    assert (folder / "report.html").exists()


def _run(folder: Path) -> dict[str, object]:
    record: dict[str, object] = json.loads((folder / "run.json").read_text())
    return record


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
