"""The stacks ``dynamo-sim`` and ``dynamo-mocker``: the released Dynamo, with our engine or with its own mock of one.

Both are the real frontend, router and runtime, as ``pip install ai-dynamo`` gives them, on a machine without a GPU. On
``dynamo-sim`` the workers are our deterministic engine behind Dynamo's Python worker API, so every token is known; on
``dynamo-mocker`` they are ``python -m dynamo.mocker``, whose tokens are random.
"""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ftharness
from ftharness.logs import load_contract
from ftharness.process import PortReservation, log_event
from ftharness.stack.dynamo_behaviour import documented
from ftharness.stack.dynamo_discovery import expired, new_store
from ftharness.stack.dynamo_environment import dynamo_environment
from ftharness.stack.dynamo_ready import Serves
from ftharness.stack.groups import Groups
from ftharness.stack.plan import (
    Launch,
    NotAvailable,
    Plan,
    Settings,
    StackKind,
    has_frontend,
    has_no_standbys,
    has_strategy,
)
from ftharness.stack.provision import DEFAULT, find_interpreter, provisioned, sut_version
from ftharness.stack.sim import LAUNCHER, SERVED_BY, count_tokens, worker_arguments
from ftharness.stack.topology import Topology

MODEL = Path(ftharness.__file__).parent / "engine" / "model"
#: Tokens a second of a stream of the mocker's at ``--speedup-ratio 1``, of each engine: 159 to 174, as measured.
MOCKER_SPEED = 165.0
#: In the releases known here the frontend asks a prefill worker, then a decode worker; these do not ask each other.
_STRATEGIES = ("frontend_routed",)
#: KV blocks of the mocker. Its default is 16,384; as sglang, whose blocks hold one token, it never begins a longer prompt.
_MOCKER_BLOCKS = 1 << 20


def interpreter(sut_python: Path | None) -> Path:
    """The interpreter that was asked for, the default release's, or the newest provisioned one's.

    Raises:
        NotAvailable: There is none; says how to get it.
    """
    if sut_python is not None:
        return sut_python.absolute()
    found = find_interpreter(DEFAULT) or next((one.python for one in provisioned()), None)
    if found is None:
        raise NotAvailable(f"Dynamo is not installed here; `ftharness provision {DEFAULT}` does it, or --sut-python")
    return found


class Release(NamedTuple):
    """What runs, and where.

    Attributes:
        python: The interpreter.
        version: Of ai-dynamo.
        env: The variables of every process.
        folder: The run's.
    """

    python: str
    version: str
    env: dict[str, str]
    folder: Path


class Workers(NamedTuple):
    """The workers of a stack that is planned.

    Attributes:
        launch: Makes the launch of the one of that name and role.
        close: Lets go of what was held for them.
    """

    launch: Callable[[str, str], Launch]
    close: Callable[[], None] = lambda: None


class DynamoKind(StackKind):
    """What all of them have in common: the frontend, and how a stack keeps to itself."""

    needs = "ai-dynamo from PyPI, in an environment of its own"

    def version(self, sut_python: Path | None) -> str:
        """The version of ai-dynamo.

        Raises:
            NotAvailable: There is none.
        """
        return sut_version(interpreter(sut_python))

    def plan(self, topology: Topology, settings: Settings) -> Plan:
        """A frontend, and its workers, started side by side.

        Raises:
            NotAvailable: There is no Dynamo.
            NotApplicable: The topology does not exist on this stack.
        """
        has_frontend(topology, self.name)
        self._has_strategy(topology, settings)
        folder = settings.folder.absolute()
        store = new_store(folder)
        release = self._release(topology, settings, store)
        groups = Groups(topology, folder)
        workers = self._workers(release, topology, settings, groups)
        http = PortReservation(held=settings.hold_ports)
        url = f"http://127.0.0.1:{http.port}"
        model = self._model(topology)
        frontend = Launch(
            name="frontend",
            role="frontend",
            argv=[release.python, "-m", "dynamo.frontend", *_frontend_arguments(topology, http.port)],
            env=release.env,
            contract=load_contract("dynamo", release.version),
            ports={"http": http.port},
            cwd=folder,  # python -m looks for modules where it is; there are none
            metrics_url=url,
        )

        def close() -> None:
            http.close()
            workers.close()

        plan = Plan(
            launches=[frontend, *(workers.launch(name, role) for name, role in topology.members)],
            url=url,
            model=model,
            ready=Serves(url, model, topology.serving, exactly=bool(groups)),
            count=count_tokens,
            exact=False,
            behaviour=documented(self.name, release.version),
            asks=SERVED_BY if groups else {},
            join=(lambda group: workers.launch(groups.joins(group), "aggregated")) if groups else None,
            expired=lambda: expired(store),
            close=close,
        )
        return dataclasses.replace(plan, **self._answers(topology, settings))

    def _has_strategy(self, topology: Topology, settings: Settings) -> None:
        """Whether its workers can be apart as the topology says.

        Raises:
            NotApplicable: They cannot.
        """
        del settings
        has_strategy(topology, self.name, *_STRATEGIES)

    def _release(self, topology: Topology, settings: Settings, store: Path) -> Release:
        """What runs; ``store`` is its discovery.

        Raises:
            NotAvailable: It is not installed.
        """
        del topology
        python = interpreter(settings.sut_python)
        return Release(str(python), sut_version(python), dynamo_environment(store), settings.folder.absolute())

    def _model(self, topology: Topology) -> str:
        """The folder of the model, which is its name in requests, too."""
        del topology
        return str(MODEL)

    def _answers(self, topology: Topology, settings: Settings) -> dict[str, Any]:
        """What the plan says of the engines' answers."""
        del topology, settings
        return {}

    @abstractmethod
    def _workers(self, release: Release, topology: Topology, settings: Settings, groups: Groups) -> Workers: ...


def _frontend_arguments(topology: Topology, port: int) -> list[str]:
    arguments = ["--http-host", "127.0.0.1", "--http-port", str(port)]
    arguments += ["--migration-limit", str(topology.migration_limit)]
    if topology.migration_max_seq_len is not None:
        arguments += ["--migration-max-seq-len", str(topology.migration_max_seq_len)]
    return [*arguments, *topology.frontend_args]


class DynamoSimStack(DynamoKind):
    """Dynamo's frontend and runtime, and our engine behind Dynamo's Python worker API."""

    name = "dynamo-sim"

    def _answers(self, topology: Topology, settings: Settings) -> dict[str, Any]:
        del topology, settings
        return {"exact": True}

    def _workers(self, release: Release, topology: Topology, settings: Settings, groups: Groups) -> Workers:
        argv = [release.python, "-u", str(LAUNCHER), "dynamo_worker", "--model-path", str(MODEL)]

        def worker(name: str, role: str) -> Launch:
            return Launch(
                name=name,
                role=role,
                argv=[*argv, *worker_arguments(name, topology, settings, role=role)],
                env=release.env | groups.told(name),
                contract=load_contract("dynamo-sim", release.version),
                ready=[log_event("standby" if groups else "ready")],
                status_event="listening",
                cwd=release.folder,
                group=groups.of(name),
            )

        return Workers(worker)


class DynamoMockerStack(DynamoKind):
    """Dynamo's frontend and runtime, and Dynamo's mock of an engine."""

    name = "dynamo-mocker"

    def plan(self, topology: Topology, settings: Settings) -> Plan:
        """The same, without shadow engines."""
        has_no_standbys(topology, self.name, "the mocker has no shadow mode")
        return super().plan(topology, settings)

    def _workers(self, release: Release, topology: Topology, settings: Settings, groups: Groups) -> Workers:
        del groups
        argv = [release.python, "-m", "dynamo.mocker", "--model-path", str(MODEL), "--engine-type", settings.engine]
        argv += ["--speedup-ratio", f"{topology.speed / MOCKER_SPEED:.4g}", "--max-num-seqs", str(topology.slots)]
        argv += ["--num-gpu-blocks-override", str(_MOCKER_BLOCKS)]
        # Otherwise a prompt has no prefill any more when the run without the fault has sent it before.
        argv += ["--no-enable-prefix-caching"]
        env = {
            "DYN_SYSTEM_PORT": "0",  # any: its log says which
            "DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS": str(max(1, math.ceil(topology.drain_s))),
        }

        def worker(name: str, role: str) -> Launch:
            mode = ["--disaggregation-mode", "agg" if role == "aggregated" else role]
            return Launch(
                name=name,
                role=role,
                argv=[*argv, *mode, *topology.worker_args],
                env=release.env | env,
                contract=load_contract("dynamo-mocker", release.version),
                status_event="listening",
                cwd=release.folder,
            )

        return Workers(worker)
