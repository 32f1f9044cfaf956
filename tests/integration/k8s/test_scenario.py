"""The very scenario that runs on this machine, on a cluster."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import TOKEN, Cluster
from typer.testing import CliRunner

from ftharness.cli import app
from ftharness.history import FaultLanded, Leak, Log, ProcessExited, ProcessStarted, read_history

StackFile = Callable[..., Path]


def run_apart(stack: Path, folder: Path, name: str) -> tuple[int, str]:
    """In a process of its own, as it is used: here it would share its interpreter with the cluster, and see tokens late."""
    argv = [sys.executable, "-m", "ftharness", "run", name, "--stack", str(stack), "--out", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)
    return done.returncode, done.stdout + done.stderr


def run(stack: Path | str, folder: Path, name: str = "migration/worker_failure") -> tuple[int, str]:
    result = CliRunner().invoke(app, ["run", name, "--stack", str(stack), "--out", str(folder)])
    return result.exit_code, result.output


def test_a_scenario_runs_on_a_cluster(cluster: Cluster, stack_file: StackFile, tmp_path: Path) -> None:
    """Applied, followed, killed inside its container, migrated, deleted; every oracle passes, none left out."""
    status, said = run(stack_file(), tmp_path / "run")
    assert status == 0, said
    events = read_history(tmp_path / "run" / "history.jsonl")
    (landed,) = [event for event in events if isinstance(event, FaultLanded)]
    evidence = {"wait_status": "SIGKILL", "exitCode": 137, "reason": "Error", "disposition": "default"}
    assert evidence.items() <= landed.evidence.items()
    assert landed.evidence["request"] == "was running"
    started = [event.source for event in events if isinstance(event, ProcessStarted)]
    assert (
        {"frontend", "worker-1", "worker-2", f"{landed.source}.1"} >= {*started} >= {"frontend", "worker-1", "worker-2"}
    )
    exits = {event.source: event.signal for event in events if isinstance(event, ProcessExited)}
    assert exits[landed.source] == "SIGKILL"
    # What each container says is an event of its own source, and is kept whole.
    for name in ("frontend", "worker-1", "worker-2"):
        assert any(isinstance(event, Log) and event.source == name for event in events)
        assert (tmp_path / "run" / "logs" / f"{name}.log").stat().st_size
    assert not [event for event in events if isinstance(event, Leak)]
    assert cluster.objects == {}


# The shipped scenario's load is over in 1.6 s, its shadow awake in 20 ms. Here an exec takes longer than the one on a busy
# machine, and what the dead engine said comes through two more hands, later than what the next one says.
TAKEOVER = """
from msgspec.structs import replace
from ftharness.scenario.library import find


def slower(shipped):
    expect = [replace(e, args=e.args | {"ms": 5_000}) if "ms" in e.args else e for e in shipped.expect]
    workload = [replace(shipped.workload[0], at_s=place * 0.2) for place in range(40)]
    return replace(shipped, name="k8s/shadow_takeover", workload=workload, expect=expect)


takeover = slower(*find(["failover/shadow_takeover"]))
"""


def test_a_shadow_takes_over_on_a_cluster(cluster: Cluster, stack_file: StackFile, tmp_path: Path) -> None:
    """failover/shadow_takeover: two engines in a pod, one lock; and the killed one's container joins as a new shadow."""
    (tmp_path / "takeover.py").write_text(TAKEOVER)
    stack = stack_file(gpus=1, worker_args=["--wake-s", "0.5"])
    status, said = run_apart(stack, tmp_path / "run", str(tmp_path / "takeover.py"))
    assert status == 0, said
    events = read_history(tmp_path / "run" / "history.jsonl")
    (landed,) = [event for event in events if isinstance(event, FaultLanded)]
    served = [event.source for event in events if isinstance(event, Log) and event.event == "lock_acquired"]
    assert served[0] == landed.source
    assert {*served} == {"worker-1", "standby-1"}
    assert [event.source for event in events if isinstance(event, Log) and event.event == "standby"][-1] == "standby-2"


def test_the_clusters_credentials_are_not_stored(cluster: Cluster, stack_file: StackFile, tmp_path: Path) -> None:
    """Neither in the history, nor in what was run; and a replay needs none: the kubeconfig is named, not copied."""
    path = stack_file(environment={"HF_TOKEN": "hf_" + "a" * 30})
    run(path, tmp_path / "run")
    kept = [one for one in (tmp_path / "run").rglob("*") if one.is_file()]
    assert kept
    for one in kept:
        data = one.read_bytes()
        assert TOKEN.encode() not in data, one
        assert b"hf_aaaaaaaaaa" not in data, one


@pytest.mark.parametrize("when", ["launch", "fault"])
def test_an_interrupted_run_deletes_its_deployment(
    cluster: Cluster, stack_file: StackFile, tmp_path: Path, when: str, until: Callable[..., None]
) -> None:
    """A Ctrl-C while it starts, and while it runs: everything is gone, and the run is readable."""
    history = tmp_path / "run" / "history.jsonl"
    argv = [sys.executable, "-m", "ftharness", "run", "migration/worker_failure", "--stack", str(stack_file())]
    with subprocess.Popen([*argv, "--out", str(tmp_path / "run")], stderr=subprocess.DEVNULL) as process:
        if when == "launch":
            until(lambda: bool(cluster.names("pods")), process)
        else:
            until(lambda: history.exists() and '"phase":"fault"' in history.read_text(), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 130
    assert cluster.objects == {}
    assert [event.kind for event in read_history(history)][-1] == "run.finished"


def test_a_run_says_which_pods_are_left(cluster: Cluster, stack_file: StackFile, tmp_path: Path, shorter: None) -> None:
    """Planted: pods that do not end when they are deleted. What is there then is read from the cluster, and is a leak."""
    cluster.stuck = True
    status, said = run(stack_file(termination_grace_s=0), tmp_path / "run")
    leaks = [event for event in read_history(tmp_path / "run" / "history.jsonl") if isinstance(event, Leak)]
    assert status == 1, said
    assert [leak.what for leak in leaks] == ["cluster"] * len(leaks)
    text = "\n".join(leak.detail for leak in leaks)
    assert "pods/ft-" in text
    assert "is being deleted since" in text


def test_an_image_that_cannot_be_pulled_ends_the_launch(
    cluster: Cluster, stack_file: StackFile, tmp_path: Path
) -> None:
    """At once, and with the kubelet's own reason; nothing was tested, and nothing is left."""
    cluster.waiting["Worker"] = "ImagePullBackOff"
    status, said = run(stack_file(), tmp_path / "run")
    assert status == 3
    assert "ImagePullBackOff: Back-off pulling image" in said
    assert cluster.objects == {}


def test_a_container_that_never_runs_ends_the_launch(cluster: Cluster, stack_file: StackFile, tmp_path: Path) -> None:
    """When its time is up, with what its pods wait for."""
    cluster.waiting["Worker"] = "ContainerCreating"
    status, said = run(stack_file(start_s=1.0), tmp_path / "run")
    assert status == 3
    assert "does not run after 1 s" in said
    assert "is Pending (ContainerCreating)" in said


def test_a_namespace_that_is_not_there_ends_the_launch(cluster: Cluster, stack_file: StackFile, tmp_path: Path) -> None:
    """It says what was asked, and what may be missing."""
    status, said = run(stack_file(namespace="nowhere"), tmp_path / "run")
    assert status == 3
    assert "POST dynamographdeployments in namespace nowhere: 404" in said
    assert "has the namespace nowhere, and the cluster Dynamo's operator?" in said


def test_pods_that_may_not_be_watched_end_the_launch(cluster: Cluster, stack_file: StackFile, tmp_path: Path) -> None:
    """A role that lacks a verb is no reason to wait."""
    cluster.forbidden.add(("GET", "pods"))
    status, said = run(stack_file(), tmp_path / "run")
    assert status == 3
    assert "its pods are not watched any more: GET pods in namespace ftharness: 403" in said
    assert cluster.names("dynamographdeployments") == []


def test_without_a_cluster_it_is_not_available(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Status 3, with what was tried and what to try; nothing is left that would look like a run."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    status, said = run("k8s", tmp_path / "run")
    assert status == 3
    assert "no Kubernetes cluster can be reached (tried $KUBECONFIG, ~/.kube/config" in said
    assert "`kubectl version` has to work first" in said
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As any stack that needs something."""
    monkeypatch.setitem(__import__("sys").modules, "kr8s", None)
    status, said = run("k8s", tmp_path / "run")
    assert (status, "pip install 'ftharness[k8s]'" in said) == (3, True)
