"""The very scenario that runs on this machine, on a cluster."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import TOKEN, Cluster
from typer.testing import CliRunner

from ftharness.cli import app
from ftharness.history import FaultLanded, Leak, Log, ProcessExited, ProcessStarted, read_history

StackFile = Callable[..., Path]


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


def test_a_shadow_takes_over_on_a_cluster(cluster: Cluster, stack_file: StackFile, tmp_path: Path) -> None:
    """failover/shadow_takeover: two engines in a pod, one lock; and the killed one's container joins as a new shadow."""
    status, said = run(stack_file(gpus=1), tmp_path / "run", "failover/shadow_takeover")
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
