"""Jobs as part of a scenario: what hits them, what becomes of one that does not end, what is refused."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftharness.client import completion
from ftharness.faults import Fault, fill_disk, freeze, kill, named, restart
from ftharness.history import ProcessExited, ProcessStarted, read_history
from ftharness.pytest_plugin import Ft
from ftharness.scenario import Scenario, Trigger, job_completes, on_exit, on_log, results_exact
from ftharness.scenario.runner import not_for
from ftharness.scenario.scenario import with_params
from ftharness.scenario.words import check_words
from ftharness.stack import Job, NotAvailable, Settings, aggregated, find_stack, inference, jobs_only, sim_jobs

JOB = inference(items=20, batch=10, checkpoint_every=10, batch_ms=1)


def scenario(*faults: tuple[Trigger, Fault], job: Job = JOB, **more: Any) -> Scenario:
    injections = [trigger.inject(fault) for trigger, fault in faults]
    expect = [job_completes(), results_exact()]
    given = {"topology": jobs_only(), "workload": [], "jobs": [job], "faults": injections, "expect": expect, **more}
    return Scenario(name="jobs/test", **given)


def test_one_that_does_not_end_fails(ft: Ft) -> None:
    """It is ended when its phase is over, and by nobody's mercy a pass: frozen at its begin, it has done nothing."""
    one = scenario((on_log("job_started", source="job-1"), freeze(named("job-1"))), deadline_s=15)
    record = ft.run(one, stack="sim", check=False)
    assert record.verdict == "fail"
    assert "job-1 had not ended when its phase was over" in record.reason


def test_requests_and_a_job_side_by_side(ft: Ft) -> None:
    """The job is started again by the trigger of its end; the requests are answered meanwhile."""
    one = scenario(
        (on_log("job_resumed", source="job-1"), kill(named("job-1"))),
        (on_exit("job-1"), restart()),
        topology=aggregated(workers=1),
        workload=[completion(max_tokens=20)],
    )
    record = ft.run(one, stack="sim", check=False)
    assert (record.verdict, record.reason) == ("pass", "")
    assert record.tokens.received == 20
    events = read_history(ft.folder / record.path / "history.jsonl")
    started = [event.source for event in events if isinstance(event, ProcessStarted) and event.role == "job"]
    assert started == ["control-job-1", "job-1", "job-1.2"]


def test_what_no_job_has_is_refused_before_anything_starts(ft: Ft) -> None:
    """Here the job's disk is everybody's. Nothing is left that would look like a run."""
    one = scenario((on_log("job_started", source="job-1"), fill_disk(named("job-1"))))
    with pytest.raises(LookupError, match=r"has no disk of its own; inference\(disk_mb=4\) gives it one"):
        ft.run(one, stack="sim")
    assert not list(ft.folder.rglob("history.jsonl"))


@pytest.mark.parametrize(
    "args,why",
    [
        ({"item": 20}, "unrecognized arguments: --item 20"),
        ({"items": 0}, "argument --items: 0 is less than 1"),
        ({"ranks": 1000}, "argument --ranks: 1000 is more than 64"),
        ({"spot_retry_s": -1}, "argument --spot-retry-s: -1: must be 0 or more, and finite"),
    ],
)
def test_an_argument_that_the_program_does_not_take(tmp_path: Path, args: dict[str, Any], why: str) -> None:
    """It is refused before anything starts."""
    settings = Settings(engine="", folder=tmp_path, jobs=[inference(**args)])
    with pytest.raises(ValueError, match=f"the job control-job-1, inference: {why}"):
        find_stack("sim").plan(jobs_only(), settings)


def test_a_control_that_fails_tests_nothing(ft: Ft) -> None:
    """Nor is the job run once more, with the faults."""
    readonly = scenario(job=inference(items=20, batch=10, checkpoint_every=10, batch_ms=1, disk_mb=1))
    one = with_params(readonly, {"items": "40000", "batch": "10000", "checkpoint_every": "10000"})
    record = ft.run(one, stack="sim", check=False)
    assert record.verdict == "unknown"
    assert "the run without the fault did not pass: control-job-1: exit status 1" in record.reason
    events = read_history(ft.folder / record.path / "history.jsonl")
    assert {event.source for event in events if isinstance(event, ProcessStarted)} == {
        "control-disk-1",
        "control-job-1",
    }


def test_ctrl_c_ends_the_job(
    tmp_path: Path, until: Callable[..., None], all_gone: Callable[[list[int], float], bool]
) -> None:
    """The run is torn down and readable, and nothing of the job is left."""
    argv = [sys.executable, "-m", "ftharness", "run", "checkpoint/kill_and_resume", "--out", str(tmp_path / "run")]
    run = subprocess.Popen([*argv, "--set", "batch_ms=5000"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    history = tmp_path / "run" / "history.jsonl"
    until(lambda: history.exists() and b'"event":"batch_started"' in history.read_bytes(), run)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=30)
    assert run.returncode == 130, said.decode()
    events = read_history(history)
    pids = [event.pid for event in events if isinstance(event, ProcessStarted)]
    assert any(isinstance(event, ProcessExited) and event.source == "control-job-1" for event in events)
    assert all_gone(pids, 2.0)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["verdict"] == "unknown"


def test_what_no_stack_could_run_is_refused() -> None:
    """Before anything starts."""
    with pytest.raises(ValueError, match="nothing runs without a job"):
        scenario(jobs=[])
    with pytest.raises(ValueError, match="nobody is there to serve the workload's requests"):
        scenario(workload=[completion()])
    with pytest.raises(ValueError, match="disk_mb = 0: must be at least 1"):
        inference(disk_mb=0)
    with pytest.raises(ValueError, match="has nothing named 'itemz' to set; did you mean items"):
        with_params(scenario(), {"itemz": "1"})
    assert with_params(scenario(), {"items": "7", "disk_mb": "3"}).jobs == [
        inference(items=7, batch=10, checkpoint_every=10, batch_ms=1, disk_mb=3)
    ]


def test_a_job_that_a_stack_does_not_have() -> None:
    """It is not applicable there, and says what there is."""
    sim, vllm = find_stack("sim"), find_stack("vllm")
    assert not_for(scenario(job=Job(program="training")), sim) == (
        "it is about the job 'training', which sim does not have; there is inference, leases"
    )
    assert not_for(scenario(), vllm) == "it is about the job 'inference', which vllm does not have"


def test_what_a_line_does_not_say(tmp_path: Path) -> None:
    """A trigger that asks for it would never fire."""
    one = scenario((on_log("checkpoint_committed", captures={"chekpoint": "1"}), restart(named("job-1"))))
    plan = find_stack("sim").plan(one.topology, Settings(engine="", folder=tmp_path, jobs=one.jobs))
    with pytest.raises(LookupError, match="do not say 'chekpoint'; did you mean checkpoint"):
        check_words(one, plan)
    with pytest.raises(ValueError, match="of which process"):
        on_exit("")


def test_a_name_of_no_job(tmp_path: Path) -> None:
    """It would never be seen."""
    one = scenario((on_exit("job-2"), restart(named("job-2"))))
    plan = find_stack("sim").plan(one.topology, Settings(engine="", folder=tmp_path, jobs=one.jobs))
    with pytest.raises(LookupError, match="the stack has no process 'job-2'; did you mean job-1"):
        check_words(one, plan)


def test_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said how to get it."""
    monkeypatch.setattr(sim_jobs, "find_spec", lambda _: None)
    with pytest.raises(NotAvailable, match=r"pip install 'ftharness\[torch\]'"):
        find_stack("sim").plan(jobs_only(), Settings(engine="", folder=tmp_path, jobs=[JOB]))
