"""Bring your own: a TOML file of commands, readiness, roles, ports, environment and contract is a stack."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from ftharness.client.client import one_a_chunk
from ftharness.logs import Contract, TomlError, load_contract, read_contract, read_toml
from ftharness.logs.toml_file import line_of
from ftharness.placeholders import filled
from ftharness.process import Condition, PortReservation, http_ok, log_event
from ftharness.stack.plan import Launch, NotAvailable, Plan, Settings, StackKind, has_no_standbys
from ftharness.stack.topology import Topology
from ftharness.suggest import nearest

_ROLES = ("frontend", "aggregated", "prefill", "decode")


class _Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    http: str = ""
    log: str = ""


class _Process(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    command: list[str]
    role: str = "aggregated"
    count: int | Literal["workers", "prefill", "decode"] = 1
    cwd: str = "."
    environment: dict[str, str] = {}
    ports: list[str] = []
    ready: _Ready = _Ready()
    metrics: str = ""
    contract: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    url: str
    model: str
    process: list[_Process]
    version: str = ""
    contract: str = "sim"
    ready: str = "/v1/models"
    engines: tuple[str, ...] = ()
    behaviour: dict[str, Any] = {}


class CustomStack(StackKind):
    """The stack that a file describes; ``docs/writing-a-stack.md`` shows one.

    Args:
        path: The file.

    Raises:
        TomlError: It is wrong; says where.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = read_toml(path, _File)
        self._text = path.read_text(encoding="utf-8")
        self.name = self._file.name
        # A file that names no engines is one itself: reports must not say that it is a vLLM.
        self.engines: Sequence[str] = self._file.engines or (self._file.name,)
        if not self._file.process:
            raise self._wrong(".process", "a stack needs at least one [[process]]")
        names = [process.name for process in self._file.process]
        for place, process in enumerate(self._file.process):
            where = f".process[{place}]"
            if process.name in names[:place]:
                raise self._wrong(f"{where}.name", f"a second process is named {process.name!r}")
            if not process.command:
                raise self._wrong(f"{where}.command", f"{process.name} has no command")
            if process.role not in _ROLES:
                raise self._wrong(f"{where}.role", f"no role {process.role!r}; {nearest(process.role, _ROLES)}")
        if not any(process.role == "frontend" for process in self._file.process) and len(names) > 1:
            raise self._wrong(".process", 'of several processes one has role = "frontend": the one behind url')

    def version(self, sut_python: Path | None) -> str:
        """As the file says."""
        del sut_python
        return self._file.version

    def plan(self, topology: Topology, settings: Settings) -> Plan:
        """Its processes, with ports of their own.

        Raises:
            TomlError: A placeholder is not known.
            NotAvailable: The interpreter that was named is not there.
            NotApplicable: The topology has shadow engines.
            ValueError: The topology has only workers of kinds that this stack has not.
        """
        has_no_standbys(topology, self.name, "a stack of your own has the processes that its file names")
        python = settings.sut_python or Path(sys.executable)
        if not python.exists():
            raise NotAvailable(f"there is no interpreter {python}")
        copies = self._copies(topology)
        reserved = {
            f"{name}.port.{port}": PortReservation(held=settings.hold_ports)
            for name, _, p in copies
            for port in p.ports
        }
        known: dict[str, str] = {key: str(one.port) for key, one in reserved.items()}
        known |= {
            "python": str(python),
            "folder": str(self.path.parent.resolve()),
            "run": str(settings.folder.resolve()),
            "seed": str(settings.seed),
            "engine": settings.engine,
            "model": self._file.model,
            "speed": f"{topology.speed:g}",
            "workers": str(topology.workers),
            "migration_limit": str(topology.migration_limit),
            "drain_s": f"{topology.drain_s:g}",
        }
        try:
            url = self._filled(self._file.url, known, ".url")
            launches = [
                self._launch(place, name, index, known, topology) for place, (name, index, _) in enumerate(copies)
            ]
        except BaseException:
            for one in reserved.values():
                one.close()
            raise

        def close() -> None:
            for one in reserved.values():
                one.close()

        return Plan(
            launches=launches,
            url=url.rstrip("/"),
            model=self._filled(self._file.model, known, ".model"),
            ready=http_ok(url.rstrip("/") + self._file.ready),
            count=one_a_chunk,
            exact=False,
            behaviour=self._file.behaviour,
            close=close,
        )

    def _copies(self, topology: Topology) -> list[tuple[str, int, _Process]]:
        """Each process that is to run, by its name, with the place of its table and itself."""
        copies: list[tuple[str, int, _Process]] = []
        for place, process in enumerate(self._file.process):
            count = getattr(topology, process.count) if isinstance(process.count, str) else process.count
            alone = process.count == 1
            copies += [(process.name if alone else f"{process.name}-{i + 1}", place, process) for i in range(count)]
        kinds = [str(process.count) for process in self._file.process if process.role != "frontend"]
        if kinds and all(process.role == "frontend" for _, _, process in copies):
            raise ValueError(
                f"the stack {self.name} has no worker in this topology: their counts are {', '.join(kinds)}"
            )
        return copies

    def _launch(self, copy: int, name: str, place: int, known: Mapping[str, str], topology: Topology) -> Launch:
        process = self._file.process[place]
        own = {key.removeprefix(f"{name}."): value for key, value in known.items() if key.startswith(f"{name}.port.")}
        words = {**known, **own, "name": name, "index": str(copy)}
        where = f".process[{place}]"

        def fill(text: str, key: str) -> str:
            return self._filled(text, words, f"{where}.{key}")

        conditions: list[Condition] = []
        if process.ready.http:
            conditions.append(http_ok(fill(process.ready.http, "ready")))
        if process.ready.log:
            conditions.append(log_event(process.ready.log))
        extra = topology.frontend_args if process.role == "frontend" else topology.worker_args
        return Launch(
            name=name,
            role=process.role,
            argv=[*(fill(word, "command") for word in process.command), *extra],
            env={**os.environ, **{key: fill(value, "environment") for key, value in process.environment.items()}},
            contract=self._contract(process.contract or self._file.contract),
            ready=conditions,
            ports={port: int(words[f"port.{port}"]) for port in process.ports},
            cwd=self.path.parent / process.cwd,
            metrics_url=fill(process.metrics, "metrics").removesuffix("/metrics") if process.metrics else "",
        )

    def _contract(self, name: str) -> Contract:
        """A file beside this one, or the name of one that ships."""
        if name.endswith(".toml") or "/" in name:
            return read_contract(self.path.parent / name, self._file.version)
        return load_contract(name, self._file.version)

    def _filled(self, text: str, words: Mapping[str, str], where: str) -> str:
        try:
            return filled(text, words)
        except LookupError as error:
            raise self._wrong(where, str(error)) from None

    def _wrong(self, where: str, what: str) -> TomlError:
        return TomlError(f"{self.path}:{line_of(self._text, where)}: {what}")
