"""The guard: everything that changes the cluster goes through here, and nothing passes that is not this run's.

Three things must hold of whatever is touched, each read from the cluster at that moment and not remembered: it is in the one
namespace, it has this run's labels, and the chain of its owners ends at the deployment that this run applied (by its uid, which
is never given twice). What cannot be read cannot be shown to be ours, and is refused.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from ftharness.k8s import names
from ftharness.k8s.api import NOT_FOUND, Api, ApiError
from ftharness.k8s.schema import check_manifest

#: What stands between a pod and its deployment, by kind: where the API server has it.
OWNERS = {
    "ReplicaSet": ("apps/v1", "replicasets"),
    "Deployment": ("apps/v1", "deployments"),
    "StatefulSet": ("apps/v1", "statefulsets"),
    "LeaderWorkerSet": ("leaderworkerset.x-k8s.io/v1", "leaderworkersets"),
    "PodClique": ("grove.io/v1alpha1", "podcliques"),
    "PodCliqueScalingGroup": ("grove.io/v1alpha1", "podcliquescalinggroups"),
    "PodCliqueSet": ("grove.io/v1alpha1", "podcliquesets"),
    "DynamoComponentDeployment": (names.GROUP_VERSION, "dynamocomponentdeployments"),
    names.KIND: (names.GROUP_VERSION, names.PLURAL),
}
_EXEC = "v4.channel.k8s.io"


class Refused(Exception):  # noqa: N818 - says what the guard did
    """Something was not touched, for it is not this run's; the message says what, and which of the conditions fails."""


class Guard:
    """Applies one deployment, and lets through what concerns it alone.

    Args:
        api: Of the one namespace.
        run: The run's name.
    """

    def __init__(self, api: Api, run: str) -> None:
        self._api = api
        self._run = run
        self._uid = ""
        self._shown: set[str] = set()  # uids of pods that were shown to be ours

    @property
    def name(self) -> str:
        """The deployment's name."""
        return names.deployment_name(self._run)

    @property
    def applied(self) -> bool:
        """Whether there is, or was, a deployment of its own."""
        return bool(self._uid)

    @property
    def selector(self) -> str:
        """The labels by which its pods are watched."""
        return f"{names.RUN}={self._run},{names.GRAPH}={self.name}"

    async def apply(self, manifest: Mapping[str, Any]) -> None:
        """Create the deployment. One that is there already is not ours, and is not changed.

        Raises:
            Refused: It is no deployment of this run in this namespace.
            ManifestError: It does not fit the CRD.
            ApiError: The API server refused it.
        """
        check_manifest(manifest)
        self._check_place(manifest)
        if manifest["metadata"]["name"] != self.name:
            raise Refused(f"not applied: the deployment is named {manifest['metadata']['name']}, not {self.name}")
        try:
            created = await self._api.send("POST", names.GROUP_VERSION, names.PLURAL, manifest)
        except ApiError as error:
            if error.status is None:  # it may have been made, though nobody heard of it
                await self._adopt()
            raise
        self._uid = created["metadata"]["uid"]

    async def _adopt(self) -> None:
        """What has our name, and the label of this run, which nobody else can know: it is ours, to be deleted."""
        with suppress(ApiError, Refused):
            found = await self._api.get(names.GROUP_VERSION, f"{names.PLURAL}/{self.name}")
            self._check_place(found)
            self._uid = found["metadata"]["uid"]

    async def delete_deployment(self) -> bool:
        """Have the deployment deleted, with all that it owns; False where there is none any more.

        Raises:
            Refused: What has its name now is not what was applied.
            ApiError: The API server refused it.
        """
        if not self._uid:
            return False
        try:
            found = await self._api.get(names.GROUP_VERSION, f"{names.PLURAL}/{self.name}")
        except ApiError as error:
            if error.status == NOT_FOUND:
                return False
            raise
        self._check_place(found)
        if found["metadata"]["uid"] != self._uid:
            raise Refused(f"not deleted: the deployment {self.name} is another one than this run applied")
        # In the foreground: its pods go first, so that what is left can be seen as long as it is there.
        await self._delete(names.GROUP_VERSION, f"{names.PLURAL}/{self.name}", found, propagationPolicy="Foreground")
        return True

    async def delete_pod(self, name: str, uid: str) -> None:
        """Have a pod of the deployment deleted, with the grace that its own spec gives it.

        Raises:
            Refused: It is not this run's, or not the pod of that uid.
            ApiError: The API server refused it.
        """
        await self._delete("v1", f"pods/{name}", await self._own_pod(name, uid))

    @asynccontextmanager
    async def exec(self, pod: str, uid: str, container: str, command: list[str]) -> AsyncIterator[Any]:
        """A websocket to a command that runs in a container of the deployment.

        Raises:
            Refused: The pod is not this run's.
            ApiError: The API server refused it.
        """
        await self._own_pod(pod, uid)
        params = {"command": command, "container": container, "stdout": "true", "stderr": "true", "stdin": "false"}
        async with self._api.websocket(f"pods/{pod}/exec", params, _EXEC) as socket:
            yield socket

    @asynccontextmanager
    async def forward(self, pod: str, uid: str, port: int) -> AsyncIterator[Any]:
        """A websocket to a port of a pod of the deployment.

        Whose the pod is, is asked once: it changes nothing there, and asking takes longer than many a first token.

        Raises:
            Refused: The pod is not this run's.
            ApiError: The API server refused it.
        """
        if uid not in self._shown:
            await self._own_pod(pod, uid)
        async with self._api.websocket(f"pods/{pod}/portforward", {"ports": str(port)}) as socket:
            yield socket

    async def _delete(self, version: str, url: str, found: Mapping[str, Any], **options: str) -> None:
        # The precondition closes the gap between look and deed: the API server compares the uid as it deletes.
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": found["metadata"]["uid"]},
            **options,
        }
        await self._api.send("DELETE", version, url, body)

    async def _own_pod(self, name: str, uid: str) -> dict[str, Any]:
        """The pod, once all three conditions have been seen to hold."""
        pod = await self._api.get("v1", f"pods/{name}")
        self._check_place(pod)
        if pod["metadata"]["uid"] != uid:
            raise Refused(f"not touched: the pod {name} is another one than the run knows by that name")
        await self._check_owner(pod)
        self._shown.add(uid)
        return pod

    def _check_place(self, found: Mapping[str, Any]) -> None:
        metadata = found["metadata"]
        what = f"{found.get('kind', 'Pod')} {metadata.get('name')}"
        if metadata.get("namespace") != self._api.namespace:
            raise Refused(
                f"not touched: {what} is in the namespace {metadata.get('namespace')!r}, and the run's is {self._api.namespace!r}"
            )
        # A pod has the label of the run, and not always the other: the operator may say that it is managed by itself.
        wanted = {names.RUN: self._run}
        if found.get("kind") == names.KIND:
            wanted[names.MANAGED_BY] = names.US
        labels = metadata.get("labels") or {}
        for key, value in wanted.items():
            if labels.get(key) != value:
                raise Refused(f"not touched: {what} has the label {key} = {labels.get(key)!r}, not {value!r}")

    async def _check_owner(self, found: Mapping[str, Any]) -> None:
        """Walk up the controllers to the deployment that was applied."""
        what = f"Pod {found['metadata']['name']}"
        seen = [what]
        while True:
            owner = next((one for one in found["metadata"].get("ownerReferences", ()) if one.get("controller")), None)
            if owner is None:
                raise Refused(f"not touched: {what} does not belong to {self.name} (its owners: {' < '.join(seen)})")
            seen.append(f"{owner['kind']} {owner['name']}")
            if owner["kind"] == names.KIND:
                if owner["uid"] != self._uid or not self._uid:
                    raise Refused(f"not touched: {what} belongs to another deployment, {owner['name']}")
                return
            if owner["kind"] not in OWNERS or len(seen) > len(OWNERS):
                raise Refused(f"not touched: {what} is owned by something unknown: {' < '.join(seen)}")
            version, plural = OWNERS[owner["kind"]]
            try:
                found = await self._api.get(version, f"{plural}/{owner['name']}")
            except ApiError as error:
                raise Refused(
                    f"not touched: whose {what} is cannot be seen: {error}; the role needs `get` on {plural}"
                ) from error
            if found["metadata"]["uid"] != owner["uid"]:
                raise Refused(f"not touched: the owner of {what} is gone: {' < '.join(seen)}")
