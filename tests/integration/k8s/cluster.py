"""A small Kubernetes API server of the tests' own: real HTTP, watches, logs, exec and port-forward over real websockets.

Behind it stand a stand-in for Dynamo's operator (it makes pods of a DynamoGraphDeployment, with the owners between) and a kubelet
whose containers are real processes. It does not authenticate, check a role (but see ``forbidden``), convert versions, run
webhooks, validate anything, schedule, or know any resource that the driver does not use.
"""

import asyncio
import copy
import json
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import uvicorn
from kubelet import Kubelet
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

TOKEN = "not-a-real-token-0123456789"  # noqa: S105 - what the run must not store
GRAPH, COMPONENT = "nvidia.com/dynamo-graph-deployment-name", "nvidia.com/dynamo-component"
KINDS = {
    "dynamographdeployments": "DynamoGraphDeployment",
    "dynamocomponentdeployments": "DynamoComponentDeployment",
    "deployments": "Deployment",
    "replicasets": "ReplicaSet",
    "services": "Service",
    "pods": "Pod",
}
Object = dict[str, Any]


class Cluster:
    """The server, in a thread and an event loop of its own. A context manager.

    Attributes:
        namespaces: Those that there are.
        calls: Every call so far: method and path.
        objects: By plural, namespace and name.
        forbidden: Calls that are answered 403, as ``("GET", "replicasets")``.
        waiting: By service: the reason for which its containers do not start.
        stuck: Whether pods never end when they are deleted.
        rotated: How many bytes of each log are gone.
        orphans: Whether pods lose their owners: somebody else made them, with our labels.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespaces = {"ftharness", "production"}
        self.calls: list[tuple[str, str]] = []
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.forbidden: set[tuple[str, str]] = set()
        self.waiting: dict[str, str] = {}
        self.stuck = False
        self.rotated = 0
        self.orphans = False
        self.url = ""
        self.failures: list[BaseException | None] = []  # of what it does by itself
        self._events: list[Object] = []
        self._watches: set[asyncio.Queue[Object | None]] = set()
        self._logs: set[asyncio.Event] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = threading.Event()
        self._ended: asyncio.Event
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="cluster")
        self._loop: asyncio.AbstractEventLoop
        self._kubelet: Kubelet

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert not self.failures + self._kubelet.failures

    @property
    def kubeconfig(self) -> Path:
        path = self.folder / "kubeconfig.json"
        names = {"cluster": "tests", "user": "tests", "namespace": "production"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": {"server": self.url}}],
            "users": [{"name": "tests", "user": {"token": TOKEN}}],
            "contexts": [{"name": "tests", "context": names}],
        }
        path.write_text(json.dumps(config))
        return path

    def call(self, work: Callable[[], Any]) -> Any:
        """Do something in the server's loop."""

        async def run() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def names(self, plural: str, namespace: str = "ftharness") -> list[str]:
        return [name for kind, space, name in list(self.objects) if (kind, space) == (plural, namespace)]

    def mutations(self) -> list[tuple[str, str]]:
        """The calls that could change something."""
        return [(m, path) for m, path in self.calls if m != "GET" or path.endswith(("/exec", "/portforward"))]

    def end_watches(self, *, gone: bool = False) -> None:
        """End every watch, as a server does after some minutes; ``gone``: with 410, as it does where that took too long."""

        def end() -> None:
            for queue in self._watches:
                if gone:
                    queue.put_nowait({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}})
                queue.put_nowait(None)

        self.call(end)

    def cut_logs(self) -> None:
        """Break off every log that is followed."""
        self.call(lambda: [event.set() for event in self._logs])

    def put(self, plural: str, name: str, *, namespace: str = "ftharness", **metadata: Any) -> Object:
        """Something that somebody else made."""

        def make() -> Object:
            spec = {"containers": []} if plural == "pods" else {}
            return self._add(plural, namespace, {"metadata": {"name": name, **metadata}, "spec": spec, "status": {}})

        made: Object = self.call(make)
        return made

    # The server.

    async def _main(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._kubelet = Kubelet(self.folder / "kubelet", lambda pod: self._changed("MODIFIED", pod), _now)
        base = "/apis/{group}/{version}/namespaces/{namespace}"
        app = Starlette(
            routes=[
                Route("/version", lambda _: JSONResponse({"gitVersion": "v1.34.0"})),
                WebSocketRoute("/api/v1/namespaces/{namespace}/pods/{name}/exec", self._exec),
                WebSocketRoute("/api/v1/namespaces/{namespace}/pods/{name}/portforward", self._forward),
                Route("/api/v1/namespaces/{namespace}/pods/{name}/log", self._log),
                *(
                    route
                    for start in ("/api/{version}/namespaces/{namespace}", base)
                    for route in (
                        Route(start + "/{plural}", self._many, methods=["GET", "POST"]),
                        Route(start + "/{plural}/{name}", self._one, methods=["GET", "DELETE"]),
                    )
                ),
            ]
        )
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(app, ws="wsproto", http="h11", log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        )
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined] - not the main thread
        async with self._kubelet.processes:
            serving = asyncio.create_task(server.serve(sockets=[sock]))
            self._started.set()
            await self._ended.wait()
            for queue in self._watches:
                queue.put_nowait(None)
            for event in self._logs:
                event.set()
            server.should_exit = True
            await serving
            for task in self._tasks:
                task.cancel()
            await self._kubelet.close()

    def _heard(self, method: str, path: str, plural: str) -> Response | None:
        self.calls.append((method, path))
        if (method, plural) in self.forbidden:
            return _status(403, f"{plural} is forbidden: user tests cannot {method.lower()} it")
        return None

    async def _many(self, request: Request) -> Response:
        plural, namespace = request.path_params["plural"], request.path_params["namespace"]
        if refused := self._heard(request.method, request.url.path, plural):
            return refused
        if plural not in KINDS or namespace not in self.namespaces:
            return _status(404, "the server could not find the requested resource")
        if request.method == "POST":
            made = self._add(plural, namespace, await request.json())
            if plural == "dynamographdeployments":
                self._operate(made)
            return JSONResponse(made, 201)
        selector = request.query_params.get("labelSelector", "")
        if request.query_params.get("watch"):
            since = int(request.query_params["resourceVersion"])
            return StreamingResponse(self._watch(plural, namespace, selector, since), media_type="application/json")
        items = [one for one in self._all(plural, namespace) if _fits(one, selector)]
        return JSONResponse({"metadata": {"resourceVersion": str(len(self._events))}, "items": items})

    async def _one(self, request: Request) -> Response:
        plural, namespace, name = (request.path_params[key] for key in ("plural", "namespace", "name"))
        if refused := self._heard(request.method, request.url.path, plural):
            return refused
        found = self.objects.get((plural, namespace, name))
        if found is None:
            return _status(404, f'{plural} "{name}" not found')
        if request.method == "DELETE":
            options = await request.json()
            if options.get("preconditions", {}).get("uid") != found["metadata"]["uid"]:
                return _status(409, "the UID in the precondition does not match the UID in record")
            self._delete(plural, found)
        return JSONResponse(found)

    async def _watch(self, plural: str, namespace: str, selector: str, since: int) -> AsyncIterator[bytes]:
        queue: asyncio.Queue[Object | None] = asyncio.Queue()
        for event in self._events[since:]:  # what happened between the list and this
            queue.put_nowait(event)
        self._watches.add(queue)
        try:
            yield json.dumps({"type": "BOOKMARK", "object": {"kind": KINDS[plural], "metadata": {}}}).encode() + b"\n"
            while (event := await queue.get()) is not None:
                one = event["object"]
                ours = one.get("kind") == KINDS[plural] and one["metadata"]["namespace"] == namespace
                if event["type"] == "ERROR" or (ours and _fits(one, selector)):
                    yield json.dumps(event).encode() + b"\n"
        finally:
            self._watches.discard(queue)

    async def _log(self, request: Request) -> Response:
        container = self._container(request.path_params["name"], request.query_params["container"])
        self.calls.append(("GET", request.url.path))
        if container is None:
            return _status(404, "container not found")

        async def follow() -> AsyncIterator[bytes]:
            output, cut = container.output, asyncio.Event()
            self._logs.add(cut)
            sent = len(output) if request.query_params.get("tailLines") == "0" else 0
            try:
                if request.query_params["follow"] == "false":
                    yield bytes(output[self.rotated :])
                    return
                while not cut.is_set():
                    if sent < len(output):
                        data = bytes(output[sent:])
                        sent += len(data)
                        yield data
                        continue
                    if container.output is not output or not container.running:
                        return
                    async with container.said:
                        with suppress(TimeoutError):
                            await asyncio.wait_for(container.said.wait(), 0.1)
            finally:
                self._logs.discard(cut)

        return StreamingResponse(follow(), media_type="text/plain")

    async def _exec(self, websocket: WebSocket) -> None:
        self.calls.append(("GET", websocket.url.path))
        container = self._container(websocket.path_params["name"], websocket.query_params["container"])
        if container is None or not container.running:
            await websocket.close()
            return
        await websocket.accept(subprotocol="v4.channel.k8s.io")
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        running = asyncio.ensure_future(
            self._kubelet.execute(
                container, websocket.query_params.getlist("command"), lambda data, _: lines.put_nowait(data)
            )
        )
        running.add_done_callback(lambda _: lines.put_nowait(b""))
        while data := await lines.get():
            await websocket.send_bytes(b"\x01" + data)
        code, ended_by = await running
        status: Object = {"status": "Success"}
        if code != 0:
            number = 137 if code is None else code
            cause = {"reason": "ExitCode", "message": str(number)}
            status = {
                "status": "Failure",
                "message": f"command terminated with exit code {number} ({ended_by})",
                "details": {"causes": [cause]},
            }
        with suppress(WebSocketDisconnect):
            await websocket.send_bytes(b"\x03" + json.dumps(status).encode())
            await websocket.close()

    async def _forward(self, websocket: WebSocket) -> None:
        self.calls.append(("GET", websocket.url.path))
        port = int(websocket.query_params["ports"])
        await websocket.accept()
        for channel in (0, 1):
            await websocket.send_bytes(bytes([channel]) + port.to_bytes(2, "little"))
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            await websocket.send_bytes(b"\x01" + f"error forwarding port {port}: {error}".encode())
            await websocket.close()
            return
        ways = {asyncio.ensure_future(_out(websocket, writer)), asyncio.ensure_future(_in(reader, websocket))}
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
        writer.close()
        with suppress(RuntimeError, WebSocketDisconnect):
            await websocket.close()

    # What a controller does.

    def _operate(self, graph: Object) -> None:
        """Dynamo's operator and Kubernetes' own controllers: a deployment a service, and its pods."""
        namespace, name = graph["metadata"]["namespace"], graph["metadata"]["name"]
        for service, spec in graph["spec"]["services"].items():
            owner = graph
            for plural in ("dynamocomponentdeployments", "deployments", "replicasets"):
                labels = {**spec["labels"], GRAPH: name}
                metadata = {"name": f"{name}-{service.lower()}", "labels": labels, "ownerReferences": [_owner(owner)]}
                owner = self._add(plural, namespace, {"metadata": metadata, "spec": spec})
            for _ in range(spec["replicas"]):
                self._pod(owner, service, spec, name)

    def _pod(self, owner: Object, service: str, spec: Object, graph: str) -> None:
        main = {**spec["extraPodSpec"]["mainContainer"], "env": spec.get("envs", []), "name": "main"}
        containers = [main]
        if spec.get("failover", {}).get("enabled"):
            shared = self.folder / "shared" / uuid.uuid4().hex  # the volume that the two engines have in common
            shared.mkdir(parents=True)
            lock = {"name": "FAILOVER_LOCK_PATH", "value": str(shared / "failover.lock")}
            containers = [
                {**main, "name": f"engine-{i}", "env": [*main["env"], lock, {"name": "ENGINE_ID", "value": str(i)}]}
                for i in (0, 1)
            ]
        metadata = {
            "name": f"{owner['metadata']['name']}-{uuid.uuid4().hex[:5]}",
            "labels": {**spec["extraPodMetadata"]["labels"], GRAPH: graph, COMPONENT: service},
            "ownerReferences": [] if self.orphans else [_owner(owner)],
        }
        grace = spec["extraPodSpec"]["terminationGracePeriodSeconds"]
        body = {"containers": containers, "terminationGracePeriodSeconds": grace}
        pod = self._add("pods", owner["metadata"]["namespace"], {"metadata": metadata, "spec": body, "status": {}})
        if service in self.waiting:
            state = {"waiting": {"reason": self.waiting[service], "message": "Back-off pulling image"}}
            pod["status"] = {
                "phase": "Pending",
                "containerStatuses": [{"name": c["name"], "state": state} for c in containers],
            }
            self._changed("MODIFIED", pod)
        else:
            self._kubelet.runs(pod)

    def _delete(self, plural: str, found: Object) -> None:
        if "deletionTimestamp" in found["metadata"]:
            return
        found["metadata"]["deletionTimestamp"] = _now()
        self._changed("MODIFIED", found)
        self._spawn(self._end_pod(found) if plural == "pods" else self._end_graph(found))

    async def _end_pod(self, pod: Object) -> None:
        if self.stuck:
            return
        await self._kubelet.ends(pod, pod["spec"].get("terminationGracePeriodSeconds", 30))
        await asyncio.sleep(0)  # the containers' last statuses are told before the pod's end
        self._remove("pods", pod)
        owner = next(iter(pod["metadata"].get("ownerReferences", ())), None)
        above = owner and self.objects.get(("replicasets", pod["metadata"]["namespace"], owner["name"]))
        graph = pod["metadata"]["labels"].get(GRAPH, "")
        alive = self.objects.get(("dynamographdeployments", pod["metadata"]["namespace"], graph))
        if above and alive and "deletionTimestamp" not in alive["metadata"]:
            self._pod(above, pod["metadata"]["labels"][COMPONENT], above["spec"], graph)

    async def _end_graph(self, graph: Object) -> None:
        namespace, name = graph["metadata"]["namespace"], graph["metadata"]["name"]
        mine = [pod for pod in self._all("pods", namespace) if pod["metadata"].get("labels", {}).get(GRAPH) == name]
        for pod in mine:
            pod["metadata"].setdefault("deletionTimestamp", _now())
            self._changed("MODIFIED", pod)
        await asyncio.gather(*(self._end_pod(pod) for pod in mine))
        for plural in ("replicasets", "deployments", "dynamocomponentdeployments"):
            for one in self._all(plural, namespace):
                if one["metadata"].get("labels", {}).get(GRAPH) == name:
                    self._remove(plural, one)
        self._remove("dynamographdeployments", graph)

    # Objects.

    def _all(self, plural: str, namespace: str) -> list[Object]:
        return [one for (kind, space, _), one in list(self.objects.items()) if (kind, space) == (plural, namespace)]

    def _add(self, plural: str, namespace: str, given: Object) -> Object:
        made = copy.deepcopy(given)
        made["kind"] = KINDS[plural]
        made["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        self.objects[plural, namespace, made["metadata"]["name"]] = made
        self._changed("ADDED", made)
        return made

    def _remove(self, plural: str, found: Object) -> None:
        if self.objects.pop((plural, found["metadata"]["namespace"], found["metadata"]["name"]), None):
            self._changed("DELETED", found)

    def _changed(self, what: str, found: Object) -> None:
        found["metadata"]["resourceVersion"] = str(len(self._events) + 1)
        self._events.append({"type": what, "object": copy.deepcopy(found)})
        for queue in self._watches:
            queue.put_nowait(self._events[-1])

    def _container(self, pod: str, container: str) -> Any:
        found = next((one for (kind, _, name), one in self.objects.items() if (kind, name) == ("pods", pod)), None)
        return found and self._kubelet.containers.get((found["metadata"]["uid"], container))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            self.failures.append(task.exception())


async def _out(websocket: WebSocket, writer: asyncio.StreamWriter) -> None:
    with suppress(WebSocketDisconnect, OSError):
        while True:
            message = await websocket.receive_bytes()
            writer.write(message[1:])
            await writer.drain()


async def _in(reader: asyncio.StreamReader, websocket: WebSocket) -> None:
    with suppress(WebSocketDisconnect, OSError, RuntimeError):
        while data := await reader.read(1 << 16):
            await websocket.send_bytes(b"\x00" + data)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _owner(one: Object) -> Object:
    return {"kind": one["kind"], "name": one["metadata"]["name"], "uid": one["metadata"]["uid"], "controller": True}


def _fits(one: Object, selector: str) -> bool:
    labels = one["metadata"].get("labels", {})
    return all(
        labels.get(key) == value for key, _, value in (part.partition("=") for part in selector.split(",") if part)
    )


def _status(code: int, message: str) -> JSONResponse:
    return JSONResponse({"kind": "Status", "status": "Failure", "code": code, "message": message}, code)
