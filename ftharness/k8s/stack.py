"""The stack ``k8s``: a topology applied to a cluster as a DynamoGraphDeployment."""

import asyncio
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ftharness.history import History
from ftharness.k8s.api import Api
from ftharness.k8s.container import ContainerProcess, Sink
from ftharness.k8s.deployment import ENGINES, Deployment, read_deployment
from ftharness.k8s.names import ENGINES as ENGINE_CONTAINERS
from ftharness.k8s.names import new_run
from ftharness.k8s.needs import needed
from ftharness.k8s.pods import Applied, Pods
from ftharness.k8s.render import Rendered, Slot, render
from ftharness.logs import Contract, load_contract, read_contract
from ftharness.process import Condition, Living, Owner, PortReservation, Redactor, http_ok, log_event
from ftharness.stack import Launch, Plan, Settings, StackKind, Topology
from ftharness.stack.groups import group_of
from ftharness.stack.reading import log_reader
from ftharness.stack.sim import SERVED_BY, count_tokens

_FAILOVER = Path(__file__).with_name("vllm-failover.toml")


class _ContainerReady:
    """The kubelet's own probe, as the manifest or the operator has it, says yes."""

    def __str__(self) -> str:
        return "its container to be ready, as the kubelet says"

    async def met(self, process: Living, history: History) -> None:
        """Return once it is so."""
        del history
        assert isinstance(process, ContainerProcess)
        await asyncio.shield(process.ready)


class _KubeletJoins:
    """In place of ``Plan.join``: nothing of ours starts a shadow there, and one joins all the same.

    Attributes:
        refused: Why ``start_standby`` is none there, and what to write instead.
    """

    refused = (
        "start_standby does not exist on k8s: the kubelet restarts the container of an engine that was lost by itself, and "
        "that one joins as the next shadow (standby-2). Run failover/shadow_takeover there, or this scenario without its "
        "start_standby"
    )

    def __call__(self, group: str) -> Launch:
        """Nobody gets one.

        Raises:
            LookupError: Always; says why.
        """
        del group
        raise LookupError(self.refused)


class K8sStack(StackKind):
    """Whatever a DynamoGraphDeployment names, on a cluster that the kubeconfig leads to.

    Args:
        path: A stack's file with ``kind = "k8s"``; None: the defaults.

    Raises:
        TomlError: The file is wrong; says where.
    """

    name = "k8s"
    needs = "a cluster with Dynamo's operator, and the extra k8s"
    engines: Sequence[str] = tuple(ENGINES)

    def __init__(self, path: Path | None = None) -> None:
        self.deployment = read_deployment(path) if path else Deployment()
        self._path = path
        self._run = ""
        self._rendered: Rendered | None = None
        self._contracts: dict[str, Contract] = {}

    def version(self, sut_python: Path | None) -> str:
        """Of what the workers run: as said, or their image's tag.

        Raises:
            NotAvailable: The extra is not installed, or no cluster can be reached.
        """
        del sut_python  # what runs is in the image
        needed("kr8s")
        needed("jsonschema")
        _reached(self.deployment.kubeconfig, self.deployment.context, self.deployment.namespace)
        return self.deployment.version_of(self.engines[0])

    def plan(self, topology: Topology, settings: Settings) -> Plan:
        """A manifest, and the containers that the operator makes of it; nothing is applied yet.

        Raises:
            NotApplicable: The topology does not exist there.
            ManifestError: It does not fit the CRD.
        """
        deployment, engine = self.deployment, settings.engine
        version = deployment.version_of(engine)
        self._run = new_run()
        self._rendered = render(topology, deployment, engine=engine, run=self._run)
        failover = any(slot.container in ENGINE_CONTAINERS for slot in self._rendered.slots)
        of_frontend = self._contract(deployment.frontend_contract, version)
        if failover and engine == "vllm" and not deployment.contract:
            of_worker = read_contract(_FAILOVER, version)
        else:
            of_worker = self._contract(deployment.contract or engine, version)
        http = PortReservation(held=settings.hold_ports)
        url = f"http://127.0.0.1:{http.port}"
        launches = []
        for slot in self._rendered.slots:
            frontend = slot.role == "frontend"
            contract = self._contracts[slot.name] = of_frontend if frontend else of_worker
            ready: list[Condition] = [_ContainerReady()]
            group = "" if frontend else group_of(slot.name, topology.workers if topology.standbys else 0)
            if group and "standby" in contract.events:  # all engines of a group say it before they run for the lock
                ready.append(log_event("standby"))
            launches.append(
                Launch(
                    name=slot.name,
                    role=slot.role,
                    argv=[],
                    env={},
                    contract=contract,
                    ready=ready,
                    group=group,
                    ports={"http": http.port} if frontend else {},
                    metrics_url=url if frontend else "",
                )
            )
        model = deployment.model
        return Plan(
            launches=launches,
            url=url,
            model=model,
            ready=http_ok(f"{url}/v1/models", lambda body: model in [one["id"] for one in body["data"]]),
            count=count_tokens,  # for our own engine in an image; any other text counts as one
            exact=False,
            behaviour=deployment.behaviour,
            asks=SERVED_BY if topology.standbys else {},
            join=_KubeletJoins() if topology.standbys else None,
            close=http.close,
        )

    def _contract(self, name: str, version: str) -> Contract:
        """A file beside the stack's own, or the name of one that ships."""
        if self._path and name.endswith(".toml"):
            return read_contract(self._path.parent / name, version)
        return load_contract(name, version)

    def owner(self, history: History, folder: Path, redactor: Redactor) -> Owner[Living]:
        """The deployment's pods, which are none of this machine's processes."""

        def applied() -> Applied:
            assert self._rendered is not None

            def sink_of(slot: str, name: str) -> Sink:
                return log_reader(history, name, self._contracts[slot], redactor.text)

            taken = {slot.name for slot in self._rendered.slots}
            standbys = sum(
                slot.name.startswith("standby-") and slot.role == "aggregated" for slot in self._rendered.slots
            )

            def successor(slot: Slot, count: int) -> str:
                if not standbys or slot.role != "aggregated":
                    return f"{slot.name}.{count}"
                number = slot.replica + 1
                while (name := f"standby-{number}") in taken:
                    number += standbys
                taken.add(name)
                return name

            return Applied(self._run, self._rendered, successor, sink_of)

        return Pods(self.deployment, applied, history, folder, redactor)


@cache
def _reached(kubeconfig: str, context: str, namespace: str) -> None:
    """Connect, once a process; in a thread of its own, for the caller may be in an event loop or not."""
    failures: list[BaseException] = []

    async def connect() -> None:
        api = await Api.connect(Deployment(kubeconfig=kubeconfig, context=context, namespace=namespace))
        await api.close()

    def run() -> None:
        try:
            asyncio.run(connect())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            failures.append(error)

    thread = threading.Thread(target=run, name="ftharness-k8s-connect", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
