"""Nothing outside the run's own deployment is ever touched: each way to try is refused, and the cluster hears of none."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster

from ftharness.k8s import names
from ftharness.k8s.api import Api, ApiError
from ftharness.k8s.container import Place
from ftharness.k8s.deployment import Deployment
from ftharness.k8s.exec import run_in
from ftharness.k8s.guard import Guard, Refused
from ftharness.k8s.render import render
from ftharness.k8s.schema import ManifestError
from ftharness.stack import aggregated

OURS = {names.RUN: "r1", names.GRAPH: "ft-r1", names.MANAGED_BY: names.US}


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """The API server; here its pods need not be processes."""
    with Cluster(tmp_path) as one:
        yield one


@pytest.fixture
async def guard(server: Cluster) -> AsyncIterator[Guard]:
    """Of the run r1, whose deployment is applied, and whose images cannot be pulled: nothing runs."""
    server.waiting = {"Frontend": "ErrImagePull", "Worker": "ErrImagePull"}
    api = await Api.connect(Deployment(kubeconfig=str(server.kubeconfig)))
    one = Guard(api, "r1")
    await one.apply(manifest())
    yield one
    await api.close()


def manifest(**deployment: Any) -> dict[str, Any]:
    return render(aggregated(workers=1), Deployment(**deployment), engine="vllm", run="r1").manifest


def pod_of(server: Cluster, service: str = "Worker") -> dict[str, Any]:
    pods = [server.objects["pods", "ftharness", name] for name in server.names("pods")]
    return next(pod for pod in pods if pod["metadata"]["labels"].get(names.COMPONENT) == service)


def controller(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": found["kind"],
        "name": found["metadata"]["name"],
        "uid": found["metadata"]["uid"],
        "controller": True,
    }


async def tries_all(guard: Guard, server: Cluster, pod: dict[str, Any], why: str) -> None:
    """Delete, exec and forward: each is refused for that reason, and none reaches the server."""
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    before = len(server.mutations())
    with pytest.raises(Refused, match=why):
        await guard.delete_pod(name, uid)
    with pytest.raises(Refused, match=why):
        await run_in(guard, Place(name, uid, "main", ""), ["kill", "-9", "1"], lambda *_: None)
    with pytest.raises(Refused, match=why):
        async with guard.forward(name, uid, 80):
            pass
    assert server.mutations()[before:] == []
    assert "deletionTimestamp" not in pod["metadata"]


async def test_its_own_pod_is_let_through(guard: Guard, server: Cluster) -> None:
    """The rest of these tests would hold for a guard that refuses everything."""
    pod = pod_of(server)
    await guard.delete_pod(pod["metadata"]["name"], pod["metadata"]["uid"])
    assert server.mutations()[-1] == ("DELETE", f"/api/v1/namespaces/ftharness/pods/{pod['metadata']['name']}")


async def test_a_pod_without_the_runs_label(guard: Guard, server: Cluster) -> None:
    """Somebody else's, in the same namespace."""
    other = server.put("pods", "other", labels={"app": "postgres"})
    await tries_all(guard, server, other, "Pod other has the label ftharness/run = None, not 'r1'")


async def test_a_pod_of_another_run_of_ours(guard: Guard, server: Cluster) -> None:
    """Two runs in one namespace know nothing of each other."""
    other = server.put("pods", "other", labels={**OURS, names.RUN: "r2"})
    await tries_all(guard, server, other, "has the label ftharness/run = 'r2', not 'r1'")


async def test_a_pod_that_only_bears_our_labels(guard: Guard, server: Cluster) -> None:
    """Labels can be copied, owners' uids cannot."""
    alone = server.put("pods", "alone", labels=OURS)
    await tries_all(guard, server, alone, "Pod alone does not belong to ft-r1 .its owners: Pod alone")


async def test_a_pod_that_another_deployment_owns(guard: Guard, server: Cluster) -> None:
    """Even one of the same name, as it was before it was made anew."""
    graph = server.put("dynamographdeployments", "ft-r2", labels=OURS)
    other = server.put("pods", "other", labels=OURS, ownerReferences=[controller(graph)])
    await tries_all(guard, server, other, "belongs to another deployment, ft-r2")


async def test_a_pod_whose_owner_was_replaced(guard: Guard, server: Cluster) -> None:
    """A name is not an identity."""
    pod = pod_of(server)
    owner = server.objects["replicasets", "ftharness", "ft-r1-worker"]
    owner["metadata"]["uid"] = "another"
    await tries_all(guard, server, pod, "the owner of Pod ft-r1-worker-.* is gone")


async def test_a_pod_that_something_unknown_owns(guard: Guard, server: Cluster) -> None:
    """What is not understood is not touched."""
    owner = {"kind": "Job", "name": "backup", "uid": "x", "controller": True}
    other = server.put("pods", "other", labels=OURS, ownerReferences=[owner])
    await tries_all(guard, server, other, "owned by something unknown: Pod other < Job backup")


async def test_a_pod_whose_owners_may_not_be_read(guard: Guard, server: Cluster) -> None:
    """It says which permission is missing."""
    server.forbidden.add(("GET", "replicasets"))
    await tries_all(guard, server, pod_of(server), "cannot be seen.*403.*the role needs `get` on replicasets")


async def test_a_pod_that_was_replaced(guard: Guard, server: Cluster) -> None:
    """The pod of that name is another than the run knows."""
    pod = pod_of(server)
    before = len(server.mutations())
    with pytest.raises(Refused, match="is another one than the run knows by that name"):
        await guard.delete_pod(pod["metadata"]["name"], "an-older-uid")
    assert server.mutations()[before:] == []


async def test_a_pod_in_another_namespace_cannot_even_be_named(guard: Guard, server: Cluster) -> None:
    """Every path that is asked begins with the run's namespace."""
    graph = server.objects["dynamographdeployments", "ftharness", "ft-r1"]
    other = server.put("pods", "other", namespace="production", labels=OURS, ownerReferences=[controller(graph)])
    with pytest.raises(ApiError, match='pods "other" not found'):
        await guard.delete_pod("other", other["metadata"]["uid"])
    assert all("/namespaces/ftharness/" in path for _, path in server.calls)
    assert "deletionTimestamp" not in other["metadata"]


async def test_an_answer_from_another_namespace_is_refused(guard: Guard, server: Cluster) -> None:
    """Whatever the server says: planted, a pod that claims to be elsewhere."""
    pod = pod_of(server)
    pod["metadata"]["namespace"] = "production"
    await tries_all(guard, server, pod, "is in the namespace 'production', and the run's is 'ftharness'")


async def test_what_would_be_applied_is_checked_too(guard: Guard, server: Cluster) -> None:
    """Another namespace, another run, another name; and what does not fit the CRD."""
    before = len(server.mutations())
    for changed, why in (
        (manifest(namespace="production"), "is in the namespace 'production'"),
        (render(aggregated(), Deployment(), engine="vllm", run="r2").manifest, "has the label ftharness/run = 'r2'"),
        (
            manifest() | {"metadata": {**manifest()["metadata"], "name": "vllm"}},
            "the deployment is named vllm, not ft-r1",
        ),
    ):
        with pytest.raises(Refused, match=why):
            await guard.apply(changed)
    with pytest.raises(ManifestError, match="kind"):
        await guard.apply(manifest() | {"kind": "Namespace"})
    assert server.mutations()[before:] == []


async def test_a_deployment_that_took_its_name_is_not_deleted(guard: Guard, server: Cluster) -> None:
    """Ours was deleted by somebody, who made another of that name."""
    server.objects["dynamographdeployments", "ftharness", "ft-r1"]["metadata"]["uid"] = "another"
    before = len(server.mutations())
    with pytest.raises(Refused, match="is another one than this run applied"):
        await guard.delete_deployment()
    assert server.mutations()[before:] == []


async def test_a_deployment_that_was_there_before_is_not_changed(guard: Guard, server: Cluster) -> None:
    """A guard that applied nothing deletes nothing."""
    assert await Guard(guard._api, "r1").delete_deployment() is False
    assert server.names("dynamographdeployments") == ["ft-r1"]


async def test_a_deletion_names_the_uid_that_it_means(
    guard: Guard, server: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between look and deed the pod is replaced: the server compares, and refuses."""
    pod = pod_of(server)
    real = Api.send

    async def late(self: Api, *arguments: Any) -> Any:
        pod["metadata"]["uid"] = "the-next-one"
        return await real(self, *arguments)

    monkeypatch.setattr(Api, "send", late)
    with pytest.raises(ApiError, match="409 the UID in the precondition does not match"):
        await guard.delete_pod(pod["metadata"]["name"], pod["metadata"]["uid"])
    assert "deletionTimestamp" not in pod["metadata"]


async def test_a_deployment_whose_making_was_not_heard_of_is_deleted(
    server: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the answer to the POST is lost. By its run's label it is known as ours."""
    real = Api.send

    async def unheard(self: Api, method: str, *arguments: Any) -> Any:
        await real(self, method, *arguments)
        if method == "POST":
            raise ApiError("the connection broke")
        return {}

    monkeypatch.setattr(Api, "send", unheard)
    server.waiting = {"Frontend": "ErrImagePull", "Worker": "ErrImagePull"}
    api = await Api.connect(Deployment(kubeconfig=str(server.kubeconfig)))
    one = Guard(api, "r1")
    with pytest.raises(ApiError, match="the connection broke"):
        await one.apply(manifest())
    assert await one.delete_deployment() is True
    await api.close()
