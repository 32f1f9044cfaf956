"""A topology as a DynamoGraphDeployment: the manifest, and which container is which process of the stack."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ftharness.k8s import names
from ftharness.k8s.deployment import Deployment
from ftharness.k8s.schema import check_manifest
from ftharness.stack import NotApplicable, Topology
from ftharness.stack.plan import has_strategy

#: By this argument a container's first process is known as ours.
INIT_MARK = "ftharness-init"
_INIT = Path(__file__).with_name("first_process.py")
_FRONTEND = "Frontend"
_SERVICES = {"aggregated": "Worker", "prefill": "PrefillWorker", "decode": "DecodeWorker"}
_STRATEGY = "frontend_routed"  # the released frontend asks a prefill worker, then a decode worker

_MOST_MOVES = 2**32 - 1  # it is a u32 in the frontend


class Slot(NamedTuple):
    """A container that is to run: a process of the stack.

    Attributes:
        name: As it stands in the history.
        role: In the stack.
        service: Of the deployment.
        replica: Which of the service's pods, from 0, in the order in which they are seen.
        container: In that pod.
    """

    name: str
    role: str
    service: str
    replica: int
    container: str


class Rendered(NamedTuple):
    """What is to be applied, and what will then run."""

    manifest: dict[str, Any]
    slots: list[Slot]


def render(topology: Topology, deployment: Deployment, *, engine: str, run: str) -> Rendered:
    """The manifest of a topology, valid by the schema of its CRD.

    Args:
        topology: What is deployed. What a real engine does not take (its speed, its slots) is left out.
        deployment: Where and as what.
        engine: ``vllm``, ``sglang`` or ``trtllm``.
        run: The run's name: a label on everything, and part of the deployment's name.

    Raises:
        NotApplicable: The topology does not exist there.
        ManifestError: A value does not fit the CRD; names the field.
        ValueError: The run's name cannot be one.
    """
    has_strategy(topology, "k8s", _STRATEGY)
    if topology.standbys > 1:
        raise NotApplicable(
            f"standbys = {topology.standbys} does not exist on k8s: its CRD has one shadow for each engine"
        )
    if topology.migration_limit > _MOST_MOVES:
        raise NotApplicable(
            f"migration_limit = {topology.migration_limit} does not exist on k8s: Dynamo's is at most {_MOST_MOVES}"
        )
    if topology.standbys:  # the topology says the same as the deployment may
        deployment = msgspec.structs.replace(deployment, failover=True)
    labels = {names.MANAGED_BY: names.US, names.RUN: names.checked_run(run)}
    services: dict[str, Any] = {_FRONTEND: _frontend(topology, deployment, engine, labels)}
    counts = {"aggregated": topology.workers, "prefill": topology.prefill, "decode": topology.decode}
    for role, count in counts.items():
        if count:
            services[_SERVICES[role]] = _worker(role, count, topology, deployment, engine, labels)
    metadata: dict[str, Any] = {
        "name": names.deployment_name(run),
        "namespace": deployment.namespace,
        "labels": labels,
    }
    if deployment.failover:
        metadata["annotations"] = {names.DISCOVERY_MODE: "container"}
    manifest = {
        "apiVersion": names.GROUP_VERSION,
        "kind": names.KIND,
        "metadata": metadata,
        "spec": {"backendFramework": engine, "services": services},
    }
    check_manifest(manifest)
    return Rendered(manifest, _slots(topology, failover=deployment.failover))


def _slots(topology: Topology, *, failover: bool) -> list[Slot]:
    """With failover the second engine of a worker's pod is its standby, by whose names groups of engines are known."""
    slots = [Slot("frontend", "frontend", _FRONTEND, 0, names.MAIN)]
    for name, role in msgspec.structs.replace(topology, standbys=0, heartbeat_s=None, fence_s=None).members:
        replica = int(name.rpartition("-")[2]) - 1
        first, second = names.ENGINES
        slots.append(Slot(name, role, _SERVICES[role], replica, first if failover else names.MAIN))
        if failover:
            kind = "standby" if role == "aggregated" else f"standby-{role}"
            slots.append(Slot(f"{kind}-{replica + 1}", role, _SERVICES[role], replica, second))
    return slots


def _frontend(topology: Topology, deployment: Deployment, engine: str, labels: dict[str, str]) -> dict[str, Any]:
    arguments = ["--migration-limit", str(topology.migration_limit)]
    if topology.migration_max_seq_len is not None:
        arguments += ["--migration-max-seq-len", str(topology.migration_max_seq_len)]
    command = deployment.frontend_command or ["python3", "-m", "dynamo.frontend"]
    if deployment.frontend_command:
        arguments = []  # a command of the user's own takes what the user gives it
    return _service(
        deployment,
        labels,
        kind="frontend",
        replicas=1,
        image=deployment.frontend_image or deployment.image_of(engine),
        command=command,
        arguments=[*arguments, *deployment.frontend_args, *topology.frontend_args],
    )


def _worker(
    role: str, count: int, topology: Topology, deployment: Deployment, engine: str, labels: dict[str, str]
) -> dict[str, Any]:
    arguments: list[str] = []
    if not deployment.worker_command:
        arguments += ["--model-path" if engine != "vllm" else "--model", deployment.model]
        if deployment.gpus > 1:
            arguments += [_TENSOR_PARALLEL[engine], str(deployment.gpus)]
        if role != "aggregated":
            arguments += ["--disaggregation-mode", role]
        if deployment.failover:
            arguments += ["--load-format", "gms"]
    service = _service(
        deployment,
        labels,
        kind="worker",
        replicas=count,
        image=deployment.image_of(engine),
        command=deployment.worker_command or ["python3", "-m", f"dynamo.{engine}"],
        arguments=[*arguments, *deployment.worker_args, *topology.worker_args],
    )
    if role != "aggregated":
        service["subComponentType"] = role
    resources = {"cpu": deployment.cpu, "memory": deployment.memory}
    asked = {key: value for key, value in resources.items() if value}
    if asked or deployment.gpus:
        gpus = {"gpu": str(deployment.gpus)} if deployment.gpus else {}
        service["resources"] = {"requests": asked | gpus, "limits": gpus} if gpus else {"requests": asked}
    if deployment.failover:
        service |= {"gpuMemoryService": {"enabled": True}, "failover": {"enabled": True}}
    return service


_TENSOR_PARALLEL = {"vllm": "--tensor-parallel-size", "sglang": "--tp", "trtllm": "--tensor-parallel-size"}


def _service(
    deployment: Deployment,
    labels: dict[str, str],
    *,
    kind: str,
    replicas: int,
    image: str,
    command: Sequence[str],
    arguments: Sequence[str],
) -> dict[str, Any]:
    container: dict[str, Any] = {"image": image, "command": [*_first(deployment), *command]}
    if arguments:
        container["args"] = list(arguments)
    service: dict[str, Any] = {"componentType": kind, "replicas": replicas}
    if deployment.secret:
        service["envFromSecret"] = deployment.secret
    if deployment.environment:
        service["envs"] = [{"name": key, "value": value} for key, value in deployment.environment.items()]
    # By the one the operator labels what it makes of the service, by the other the pods.
    service |= {"labels": labels, "extraPodMetadata": {"labels": labels}}
    service["extraPodSpec"] = {
        "terminationGracePeriodSeconds": deployment.termination_grace_s,
        "mainContainer": container,
    }
    return service


def _first(deployment: Deployment) -> list[str]:
    return ["python3", "-c", _INIT.read_text(encoding="utf-8"), INIT_MARK] if deployment.init else []
