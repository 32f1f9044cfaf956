"""What the tests of the stack ``k8s`` share: a cluster of their own, and a stack's file for it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cluster import Cluster

from ftharness.k8s import pods
from ftharness.k8s.deployment import Deployment
from ftharness.process import PortReservation
from ftharness.stack.sim import LAUNCHER, MODEL


def _can_make_containers() -> bool:
    if os.geteuid():
        return False
    probe = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster, with nothing in it."""
    if not _can_make_containers():
        pytest.skip("containers with process ids of their own need root and CAP_SYS_ADMIN")
    with Cluster(tmp_path) as one:
        yield one


# A worker's name is its pod's; of two engines in a pod one is the worker, the other its standby, as the harness calls them.
NAME = "$(case ${ENGINE_ID-} in 0) echo worker-1;; 1) echo standby-1;; *) echo $HOSTNAME;; esac)"
Deploy = Callable[..., Deployment]


@pytest.fixture
def deployment(cluster: Cluster) -> Deploy:
    """Our simulated stack as containers: the real frontend and workers, by the commands that the manifest names."""

    def make(**fields: Any) -> Deployment:
        with PortReservation() as http, PortReservation() as plane:
            frontend = [sys.executable, "-m", "ftharness.engine.frontend", "--model", MODEL, "--seed", "0"]
            frontend += ["--port", str(http.port), "--plane-port", str(plane.port), "--migration-limit", "3"]
            worker = [sys.executable, "-I", "-S", "-u", str(LAUNCHER), "worker", "--plane", f"127.0.0.1:{plane.port}"]
            worker += ["--model", MODEL, "--engine", "vllm", "--speed", "200", "--seed", "0"]
            given: dict[str, Any] = {
                "kubeconfig": str(cluster.kubeconfig),
                "image": "ftharness/sim:0.1.0",
                "model": MODEL,
                "gpus": 0,
                "frontend_command": frontend,
                "worker_command": ["sh", "-c", f'exec "$@" --name "{NAME}"', "sh", *worker],
                "contract": "sim",
                "frontend_contract": "sim",
                "port": http.port,
                "termination_grace_s": 5,
                "start_s": 30.0,
            }
            return Deployment(**given | fields)

    return make


def _toml(value: Any) -> str:
    """A JSON text of these types is a TOML one, but for a table."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


@pytest.fixture
def stack_file(deployment: Deploy, tmp_path: Path) -> Callable[..., Path]:
    """The same as a stack's file."""

    def write(**fields: Any) -> Path:
        path = tmp_path / "cluster.toml"
        given = msgspec.to_builtins(deployment(**fields))
        path.write_text("\n".join(f"{key} = {_toml(value)}" for key, value in given.items()))
        return path

    return write


@pytest.fixture
def shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods that are not gone soon are left."""
    monkeypatch.setattr(pods, "_DELETED_WITHIN_S", 0.5)
