"""What hits a pool manager's engines by their slots, what is asked of it, and the job that leases: where these do not succeed."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ftharness.faults import ask, count_engines, end_job, freeze_engine, kill_engine, named
from ftharness.history import FaultLanded, FaultMissed, FaultRequested, Leak, Log, ProcessStarted, read_history
from ftharness.pool.config import PoolConfig
from ftharness.process import listening_socket
from ftharness.pytest_plugin import Ft
from ftharness.scenario import Scenario, after_fault, job_completes, on_log
from ftharness.stack import leases, pooled

MANAGER = named("pool")
TRIES = [
    (kill_engine(MANAGER, engine="main-2"), "pool has no engine main-2 child process"),
    (freeze_engine(MANAGER, engine="other-1"), "pool has no engine child process in the slot other-1"),
    (ask(MANAGER, "GET", "/v1/pools/mian/health"), "GET /v1/pools/mian/health was answered with 404, not 200"),
    (ask(MANAGER, "POST", "/v1/pools/main/resume"), "POST /v1/pools/main/resume was answered with 202, not 200"),
    (
        ask(MANAGER, "POST", "/v1/pools/main/drain", {"deadline_ms": 9000}, status=202, within_s=0.2),
        "POST /v1/pools/main/drain did not come to its end within 0.2 s",
    ),
    (ask(named("job-1"), "GET", "/health"), "job-1 has no HTTP port of its own that is known"),
]


def test_what_does_not_succeed_misses_and_says_why(ft: Ft) -> None:
    """And what does is told: an answer, the processes in the slots, the end of the job."""
    faults = [after_fault(0).inject(fault) for fault, _ in TRIES]
    one = Scenario(
        name="pool/test",
        topology=pooled(PoolConfig(id="main", engine="sim", args=["--engine-child"], slots_per_engine=1)),
        workload=[],
        jobs=[leases(count=1, concurrency=1, hold_ms=1500, until_told=True)],
        faults=[
            on_log("lease_got", source="job-1").inject(ask(MANAGER, "GET", "/v1/capabilities")),
            after_fault(0).inject(count_engines(MANAGER)),
            *faults[:4],
            after_fault(0, delay_s=0.6).inject(TRIES[4][0]),
            *faults[5:],
            after_fault(0, delay_s=1.2).inject(end_job(named("job-1"))),
        ],
        expect=[job_completes()],
        deadline_s=20,
    )
    record = ft.run(one, stack="sim", check=False)
    events = read_history(ft.folder / record.path / "history.jsonl")
    missed = {e.id: e.reason for e in events if isinstance(e, FaultMissed)}
    asked = [e.id for e in events if isinstance(e, FaultRequested)]
    assert len(asked) == len(one.faults)
    for place, (_, why) in enumerate(TRIES):
        assert missed.pop(f"fault-{place + 3}").startswith(why)
    assert missed == {}
    landed = [e.evidence for e in events if isinstance(e, FaultLanded)]
    (engine,) = [e.captures["pid"] for e in events if isinstance(e, Log) and e.event == "engine_started"]
    assert landed[0]["asked"] == "GET /v1/capabilities"
    assert landed[1] == {"engines": {"main-1": [int(engine)]}}, "its child is no other engine"
    assert landed[2]["told"] == "to end"
    assert record.verdict == "unknown"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_engines_that_outlive_their_manager_do_not_outlive_the_harness(
    tmp_path: Path,
    number: signal.Signals,
    until: Callable[..., None],
    all_gone: Callable[[list[int], float], bool],
) -> None:
    """Interrupted, it ends them and says that they were left; killed, its guardian ends them. Nobody waits for a manager."""
    argv = [sys.executable, "-m", "ftharness", "run", "pool/manager_killed_adopted", "--out", str(tmp_path / "run")]
    run = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    history = tmp_path / "run" / "history.jsonl"
    until(lambda: history.exists() and b'"event":"engine_adopted"' in history.read_bytes(), run)
    run.send_signal(number)
    said, _ = run.communicate(timeout=30)
    events = read_history(history)
    pids = [event.pid for event in events if isinstance(event, ProcessStarted)]
    pids += [int(e.captures["pid"]) for e in events if isinstance(e, Log) and e.event == "engine_started"]
    assert len(pids) >= 6, said.decode()
    assert all_gone(pids, 2.0)
    if number == signal.SIGINT:
        assert run.returncode == 130
        assert {event.what for event in events if isinstance(event, Leak)} == {"process"}


def job(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "ftharness.engine.job", "leases", "--name", "job-1", "--data", "/nowhere"]
    return subprocess.run([*argv, *words], capture_output=True, text=True, timeout=30, check=False)


def test_a_job_whose_manager_does_not_answer_fails(tmp_path: Path) -> None:
    """It is asked again until its patience is at its end; what it says is an event of its contract."""
    with listening_socket() as nobody:  # bound, and nobody listens there
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        done = job("--url", url, "--patience-s", "0.2", "--concurrency", "2")
    assert done.returncode == 1
    said = done.stdout.splitlines()
    assert [line.split()[1] for line in said] == ["job_started", "manager_lost", "job_failed"]
    assert "ManagerLost: no answer within 0.2 s" in said[-1]


@pytest.mark.parametrize("words", [["--gather", "maybe"], ["--count", "0"], []])
def test_arguments_that_it_does_not_have(words: list[str]) -> None:
    """It says so, and ends with 2."""
    done = job(*words, *(["--url", "http://127.0.0.1:1"] if words else []))
    assert (done.returncode, "usage:" in done.stderr) == (2, True)
