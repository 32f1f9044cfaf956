"""Processes of a launch profile: their ports, cores and GPUs, and the command that starts each."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ftharness.logs import load_contract
from ftharness.placeholders import filled
from ftharness.process import Condition, PortReservation, http_ok, log_event
from ftharness.stack.interpreters import Interpreter
from ftharness.stack.plan import Launch, NotAvailable, Settings
from ftharness.stack.profiles import Profile, RoleOf
from ftharness.stack.topology import Topology

_MB = 1 << 20


class Servers:
    """The processes of one profile in one stack.

    Args:
        profile: How each is launched.
        interpreter: What runs them.
        topology: Of the stack.
        settings: Of the run.
        model: The folder of the model.
        served: Its name in requests.
        env: Variables of the stack's, over the interpreter's; the profile's own come last.

    Attributes:
        version: Of the system under test.
    """

    def __init__(
        self,
        profile: Profile,
        interpreter: Interpreter,
        topology: Topology,
        settings: Settings,
        *,
        model: str,
        served: str,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.profile = profile
        self.version = interpreter.version
        self._topology = topology
        self._settings = settings
        self._env = interpreter.env | dict(env or {})
        self._reserved: list[PortReservation] = []
        self._count = 0
        self._words = {
            "python": str(interpreter.python),
            "bin": str(interpreter.python.parent),
            "model": model,
            "served": served,
            "gpus": str(profile.resources.gpus),
            "slots": str(topology.slots),
            "drain_s": str(math.ceil(topology.drain_s)),
            "run": str(settings.folder.absolute()),
        }

    def launch(self, name: str, role: str, *, more: Sequence[str] = ()) -> Launch:
        """One more of them, on ports of its own.

        Args:
            name: Unique in the stack.
            role: Of the process.
            more: The end of its command line.

        Raises:
            LookupError: The profile names something that there is not.
        """
        profile, place = self.profile, self._count
        self._count += 1
        ports = {port: self._port() for port in profile.ports}
        cores = sorted(os.sched_getaffinity(0))
        words = self._words | {f"port.{port}": str(number) for port, number in ports.items()}
        words |= {"name": name, "place": str(place), "core": str(cores[place % len(cores)])}
        extra = profile.role.get(role, RoleOf())
        own = {key: filled(value, words) for key, value in (profile.env | extra.environment).items()}
        env = self._env | own
        ready: list[Condition] = []
        if profile.ready.http:
            ready.append(http_ok(filled(profile.ready.http, words)))
        if profile.ready.log:
            ready.append(log_event(profile.ready.log))
        by_log = bool(profile.metrics) and ":" not in profile.metrics
        argv = [*profile.command, *extra.arguments]
        return Launch(
            name=name,
            role=role,
            argv=[*(filled(word, words) for word in argv), *more],
            env=env,
            contract=load_contract(profile.contract, self.version),
            ready=ready,
            ports=ports,
            fresh=[Path(filled(path, words)) for path in profile.fresh],
            cwd=self._settings.folder.absolute(),  # python -m looks for modules where it is; there are none
            status_event=profile.metrics if by_log else "",
            metrics_url="" if by_log else filled(profile.metrics, words),
        )

    def _port(self) -> int:
        reserved = PortReservation(held=self._settings.hold_ports)
        self._reserved.append(reserved)
        return reserved.port

    def close(self) -> None:
        """Let go of the ports that were held for them."""
        for reserved in self._reserved:
            reserved.close()


def has_memory(count: int, profile: Profile) -> None:
    """Whether this machine has the memory for so many of them: a machine that swaps shows nothing.

    Raises:
        NotAvailable: It has not, at the moment.
    """
    needed = count * profile.resources.memory_mb
    available = _available_mb()
    if available is not None and needed > available:
        raise NotAvailable(
            f"{count} of {profile.what} need {needed / 1000:.1f} GB of memory; {available / 1000:.1f} GB are available"
        )


def _available_mb() -> float | None:
    """MemAvailable of /proc/meminfo (proc(5)), in MB; None where the kernel does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    return None if kib is None else kib * 1024 / _MB
