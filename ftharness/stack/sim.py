"""The stack ``sim``: our frontend, our workers, nothing to install."""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import ftharness
from ftharness.engine import tokens
from ftharness.logs import load_contract
from ftharness.process import Condition, PortReservation, http_ok, listening_socket, log_event
from ftharness.stack.groups import Groups
from ftharness.stack.job import JobPlans
from ftharness.stack.plan import Launch, Plan, Settings, StackKind, has_frontend
from ftharness.stack.sim_jobs import sim_jobs
from ftharness.stack.sim_pool import sim_pool
from ftharness.stack.topology import Topology

MODEL = "ftharness-sim"
#: What a request asks, so that each chunk names the worker that made it.
SERVED_BY = {"nvext": {"extra_fields": ["engine_data"]}}
LAUNCHER = Path(ftharness.__file__).parent / "engine" / "launch.py"


def count_tokens(text: str) -> int:
    """The number of our vocabulary's tokens in a text; 1 for a text that is not made of them."""
    ids = tokens.ids_of(text)
    return 1 if ids is None else len(ids)


def worker_arguments(name: str, topology: Topology, settings: Settings, *, role: str = "aggregated") -> list[str]:
    """What our worker takes on every stack."""
    arguments = ["--name", name, "--engine", settings.engine, "--role", role]
    arguments += ["--speed", f"{topology.speed:g}", "--slots", str(topology.slots)]
    arguments += ["--prefill-tokens-per-s", str(topology.prefill_tokens_per_s)]
    arguments += ["--kv-tokens-per-s", str(topology.kv_tokens_per_s)]
    arguments += ["--drain-s", f"{topology.drain_s:g}", "--seed", str(settings.seed)]
    if topology.standbys:
        arguments += ["--wake-s", f"{topology.wake_s:g}"]
        arguments += [] if topology.fence_s is None else ["--fence-s", f"{topology.fence_s:g}"]
    if settings.bug:
        arguments += ["--bug", settings.bug]
    return [*arguments, *topology.worker_args]


def _serving_nobody(
    launches: list[Launch], ready: Condition, jobs: JobPlans, close: Callable[[], None] = lambda: None
) -> Plan:
    """A stack that has no frontend, and no requests."""
    return Plan(
        launches=launches,
        url="",
        model="",
        ready=ready,
        count=count_tokens,
        exact=True,
        jobs=jobs,
        close=close,
        scratch=bool(launches),  # engines that a planted bug leaves have theirs there
    )


class SimStack(StackKind):
    """Everything ours, and everything real: processes, sockets, signals."""

    name = "sim"
    bugs = True
    programs = ("inference", "leases")

    def version(self, sut_python: Path | None) -> str:
        """The harness's own version: the simulation ships with it."""
        del sut_python  # it runs under the harness's interpreter
        return ftharness.__version__

    def plan(self, topology: Topology, settings: Settings) -> Plan:
        """A frontend on sockets that are bound already, and its workers, started side by side.

        Raises:
            NotApplicable: The topology has no frontend.
        """
        if not topology.serves:
            return self._jobs_only(topology, settings)
        has_frontend(topology, self.name)
        http, plane = listening_socket(), listening_socket()
        http_port, plane_port = http.getsockname()[1], plane.getsockname()[1]
        url = f"http://127.0.0.1:{http_port}"
        contract = load_contract("sim", self.version(None))
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        argv = [sys.executable, "-m", "ftharness.engine.frontend", "--model", MODEL, "--seed", str(settings.seed)]
        argv += ["--http-fd", str(http.fileno()), "--plane-fd", str(plane.fileno())]
        argv += ["--migration-limit", str(topology.migration_limit)]
        if topology.migration_max_seq_len is not None:
            argv += ["--migration-max-seq-len", str(topology.migration_max_seq_len)]
        if topology.strategy:
            argv += ["--strategy", topology.strategy]
        if settings.bug:
            argv += ["--bug", settings.bug]
        frontend = Launch(
            name="frontend",
            role="frontend",
            argv=[*argv, *topology.frontend_args],
            env=env,
            contract=contract,
            pass_fds=(http.fileno(), plane.fileno()),
            ports={"http": http_port, "plane": plane_port},
            metrics_url=url,
        )
        groups = Groups(topology, settings.folder)

        def worker(name: str, role: str = "aggregated") -> Launch:
            return self._worker(name, role, plane_port, topology, settings, env, groups)

        def close() -> None:
            http.close()
            plane.close()

        return Plan(
            launches=[frontend, *(worker(name, role) for name, role in topology.members)],
            url=url,
            model=MODEL,
            ready=http_ok(f"{url}/health", lambda body: len(body.get("instances", ())) == topology.serving),
            count=count_tokens,
            exact=True,
            behaviour={
                "half_close_completes": False,
                "migration_exhausted_stream": 500,
                "migration_exhausted_unary": 500,
            },
            asks=SERVED_BY if groups else {},
            jobs=sim_jobs(settings),
            join=(lambda group: worker(groups.joins(group))) if groups else None,
            close=close,
        )

    def _jobs_only(self, topology: Topology, settings: Settings) -> Plan:
        if topology.pool is None:
            return _serving_nobody([], http_ok(""), sim_jobs(settings))
        # Not a socket that we have bound: a manager that was killed is started again, and needs its port once more.
        with ExitStack() as held:
            port = held.enter_context(PortReservation(held=settings.hold_ports))
            url = f"http://127.0.0.1:{port.port}"
            pool, jobs = sim_pool(topology.pool, settings, port.port), sim_jobs(settings, url)
            return _serving_nobody([pool], http_ok(f"{url}/health"), jobs, held.pop_all().close)

    def _worker(
        self,
        name: str,
        role: str,
        plane_port: int,
        topology: Topology,
        settings: Settings,
        env: dict[str, str],
        groups: Groups,
    ) -> Launch:
        # -I -S: the worker needs the standard library alone, and starts in half the time without site-packages.
        argv = [sys.executable, "-I", "-S", "-u", str(LAUNCHER), "worker", "--plane", f"127.0.0.1:{plane_port}"]
        argv += ["--model", MODEL, *worker_arguments(name, topology, settings, role=role)]
        return Launch(
            name=name,
            role=role,
            argv=argv,
            env=env | groups.told(name),
            contract=load_contract("sim", self.version(None)),
            ready=[log_event("standby" if groups else "ready")],
            status_event="listening",
            group=groups.of(name),
        )
