"""The stacks ``vllm``, ``sglang`` and ``smg``: real engine servers, alone, behind our frontend, or behind a real gateway."""

import dataclasses
import os
import sys
from abc import abstractmethod
from pathlib import Path
from typing import Any

import msgspec
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from ftharness.logs import load_contract
from ftharness.process import Condition, http_ok, listening_socket
from ftharness.stack.gpus import default_device, gpus_for
from ftharness.stack.interpreters import interpreter_for
from ftharness.stack.plan import Launch, NotAvailable, Plan, Settings, StackKind, has_no_standbys, has_strategy
from ftharness.stack.profiles import Profile, find_profile
from ftharness.stack.served_model import ServedModel, model_folder, served_model
from ftharness.stack.servers import Servers, has_memory
from ftharness.stack.sim import SimStack
from ftharness.stack.topology import Topology

#: The model's name in requests.
SERVED = "tiny"
#: Every answer is the one that the engine thinks most likely: the same request has the same answer.
GREEDY = {"temperature": 0}


def engine_profile(stack: str, engine: str, topology: Topology) -> Profile:
    """The launch profile of the engines of a stack.

    Raises:
        LookupError: There is none of that name; names those that there are.
        TomlError: The file is wrong; says where.
        NotAvailable: None was named, and there is none for this machine, which has no GPU.
    """
    try:
        return find_profile(topology.profile, stack, engine, default_device())
    except LookupError as error:
        if topology.profile:
            raise
        raise NotAvailable(f"this machine has no GPU that can be used, and there is {error}") from error


def checked(topology: Topology, stack: str, engine: str) -> Topology:
    """The topology with its profile and model named by their whole paths.

    Raises:
        LookupError: There is no such profile.
        TomlError: The profile's file is wrong; says where.
        ValueError: There is no such model.
    """
    if topology.profile:
        engine_profile(stack, engine, topology)
    whole = {"profile": str(Path(topology.profile).absolute())} if topology.profile.endswith(".toml") else {}
    if topology.model:
        whole["model"] = str(model_folder(topology.model))
    return msgspec.structs.replace(topology, **whole)


def engine_version(stack: str, engine: str, sut_python: Path | None) -> str:
    """The version of a stack's system, whichever profile runs it.

    Raises:
        NotAvailable: It is not installed.
    """
    if sut_python is not None:
        return interpreter_for(engine_profile(stack, engine, Topology()), sut_python).version
    try:  # for GPUs nothing is provisioned; which device it will be, only a topology says
        return interpreter_for(engine_profile(stack, engine, Topology(profile="cpu")), None).version
    except NotAvailable:
        interpreter_for(engine_profile(stack, engine, Topology()), None)  # what is missing where the engine would run
        raise


def untried(topology: Topology, stack: str, engine: str, sut_python: Path | None) -> str:
    """What to say where the engine's version is none of those that its profile names; "" where it is, or cannot be told."""
    try:
        profile = engine_profile(stack, engine, topology)
        version = interpreter_for(profile, sut_python).version
        if SpecifierSet(profile.versions).contains(Version(version), prereleases=True):
            return ""
    except (NotAvailable, InvalidVersion):  # whoever plans it says what is missing
        return ""
    named = Path(topology.profile).name if topology.profile.endswith(".toml") else f"the profile of {profile.what},"
    return f"{named} is for {profile.package} {profile.versions}; this is {version}, which is tried all the same"


class _ServersStack(StackKind):
    """Engine servers that speak HTTP, and what may stand before them."""

    needs = "the engine, in an environment of its own"
    profiles = True

    def checked(self, topology: Topology, engine: str) -> Topology:
        """Refuses a profile and a model that there is not."""
        return checked(topology, self._engines_stack(engine), engine)

    def untried(self, topology: Topology, engine: str, sut_python: Path | None) -> str:
        """The engine's version, where its profile does not name it."""
        python = sut_python if self._python_is_the_engines else None
        return untried(topology, self._engines_stack(engine), engine, python)

    def version(self, sut_python: Path | None) -> str:
        """The version of what the stack is named for.

        Raises:
            NotAvailable: It is not installed.
        """
        return engine_version(self.name, self.engines[0], sut_python)

    def plan(self, topology: Topology, settings: Settings) -> Plan:
        """The servers, started side by side, and their frontend, unless there is none.

        Raises:
            NotAvailable: What it needs is not installed here, or the machine has not the memory, or the GPUs.
            NotApplicable: The topology does not exist on this stack.
        """
        has_strategy(topology, self.name)
        has_no_standbys(topology, self.name, "its servers share no lock")
        model = served_model(topology)
        profile = self._engines_profile(topology, settings)
        sut_python = settings.sut_python if self._python_is_the_engines else None
        interpreter = interpreter_for(profile, sut_python)
        has_memory(topology.workers, profile)
        devices = gpus_for(profile, topology, settings.folder)
        servers = Servers(profile, interpreter, topology, settings, model=str(model.folder), served=SERVED)
        try:
            workers = [servers.launch(name, role, more=topology.worker_args) for name, role in topology.members]
            if not topology.frontend:
                plan = self._alone(workers[0], servers, model)
            else:
                plan = self._behind_a_frontend(workers, servers, topology, settings, model)
        except BaseException:
            servers.close()
            raise
        return dataclasses.replace(plan, devices=devices)

    _python_is_the_engines = True  # what --sut-python names

    def _engines_stack(self, engine: str) -> str:
        """Whose launch profiles its engines have."""
        del engine
        return self.name

    def _engines_profile(self, topology: Topology, settings: Settings) -> Profile:
        return engine_profile(self._engines_stack(settings.engine), settings.engine, topology)

    def _alone(self, server: Launch, servers: Servers, model: ServedModel) -> Plan:
        url = f"http://127.0.0.1:{server.ports['http']}"
        ready = http_ok(f"{url}/health")
        return Plan(
            launches=[server],
            url=url,
            ready=ready,
            close=servers.close,
            model=SERVED,
            **of_engines(model, servers.profile),
        )

    @abstractmethod
    def _behind_a_frontend(
        self, workers: list[Launch], servers: Servers, topology: Topology, settings: Settings, model: ServedModel
    ) -> Plan: ...


def knows_all(url: str, workers: int) -> Condition:
    """The gateway at ``url`` may send requests to so many workers.

    It calls itself ready with its first one, and looks only every 30 s for those that were not up when it looked (1.13.0).
    """
    return http_ok(f"{url}/readiness", lambda body: body["healthy_workers"] == workers)


def of_engines(model: ServedModel, profile: Profile) -> dict[str, Any]:
    """What a plan says of real engines, whatever stands before them."""
    return {
        "count": model.count,
        "exact": False,
        "greedy": True,
        "ids": model.ids,
        "asks": GREEDY,
        "named_in": profile.named_in,
        "scratch": True,
        "ready_s": profile.ready_s,
        "stop_s": profile.stop_s,
        "settle_s": profile.settle_s,
    }


class _GatewayStack(_ServersStack):
    """Our frontend before them: a request whose server is lost goes on at another one, with the tokens that it has."""

    def _behind_a_frontend(
        self, workers: list[Launch], servers: Servers, topology: Topology, settings: Settings, model: ServedModel
    ) -> Plan:
        http = listening_socket()
        port = http.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        argv = [sys.executable, "-m", "ftharness.engine.gateway", "--model", SERVED, "--dialect", settings.engine]
        argv += ["--http-fd", str(http.fileno()), "--migration-limit", str(topology.migration_limit)]
        if topology.migration_max_seq_len is not None:
            argv += ["--migration-max-seq-len", str(topology.migration_max_seq_len)]
        for worker in workers:
            argv += ["--worker", f"{worker.name}=http://127.0.0.1:{worker.ports['http']}"]
        frontend = Launch(
            name="frontend",
            role="frontend",
            argv=[*argv, *topology.frontend_args],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            contract=load_contract("sim", SimStack().version(None)),
            pass_fds=(http.fileno(),),
            ports={"http": port},
            metrics_url=url,
        )

        def close() -> None:
            http.close()
            servers.close()

        return Plan(
            launches=[frontend, *workers],
            url=url,
            ready=http_ok(f"{url}/health", lambda body: len(body.get("instances", ())) == topology.workers),
            behaviour={
                "graceful_shutdown_migrates": True,
                "half_close_completes": False,
                "migration_exhausted_stream": 500,
                "migration_exhausted_unary": 500,
            },
            close=close,
            model=SERVED,
            **of_engines(model, servers.profile),
        )


class VllmStack(_GatewayStack):
    """Real ``vllm serve`` processes."""

    name = "vllm"
    engines = ("vllm",)
    needs = "vLLM, in an environment of its own"


class SglangStack(_GatewayStack):
    """Real SGLang servers."""

    name = "sglang"
    engines = ("sglang",)
    needs = "SGLang, in an environment of its own"


class SmgStack(_ServersStack):
    """The SGLang model gateway before real servers of vLLM or SGLang. ``--sut-python`` is the gateway's."""

    name = "smg"
    engines = ("vllm", "sglang")
    needs = "smg, and the engine, each in an environment of its own"
    moves = False  # before its first byte it is tried elsewhere, in mid-stream it is lost
    _python_is_the_engines = False

    def version(self, sut_python: Path | None) -> str:
        """The version of the gateway.

        Raises:
            NotAvailable: It is not installed.
        """
        return interpreter_for(self._gateways_profile(), sut_python).version

    def _gateways_profile(self) -> Profile:
        return find_profile("cpu", self.name, "", "cpu")  # it needs no GPU, wherever its engines are

    def _engines_stack(self, engine: str) -> str:
        return engine

    def _behind_a_frontend(
        self, workers: list[Launch], servers: Servers, topology: Topology, settings: Settings, model: ServedModel
    ) -> Plan:
        profile = self._gateways_profile()
        interpreter = interpreter_for(profile, settings.sut_python)
        gateways = Servers(profile, interpreter, topology, settings, model=str(model.folder), served=SERVED)
        urls = [f"http://127.0.0.1:{worker.ports['http']}" for worker in workers]
        frontend = gateways.launch("frontend", "frontend", more=["--worker-urls", *urls, *topology.frontend_args])
        url = f"http://127.0.0.1:{frontend.ports['http']}"

        def close() -> None:
            gateways.close()
            servers.close()

        return Plan(
            launches=[frontend, *workers],
            url=url,
            ready=knows_all(url, topology.workers),
            behaviour={"half_close_completes": False, "health_tells_of_workers": False},
            close=close,
            model=SERVED,
            **of_engines(model, servers.profile),
        )
