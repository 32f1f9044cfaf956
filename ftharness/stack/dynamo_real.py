"""The stack ``dynamo``: the released Dynamo with its own workers of real engines, as a launch profile says."""

import dataclasses
from pathlib import Path
from typing import Any

from ftharness.stack.dynamo import DynamoKind, Release, Workers
from ftharness.stack.dynamo_environment import dynamo_environment
from ftharness.stack.gpus import gpus_for
from ftharness.stack.groups import Groups
from ftharness.stack.interpreters import Interpreter, interpreter_for
from ftharness.stack.plan import Plan, Settings, has_no_standbys, has_strategy
from ftharness.stack.real import checked, engine_profile, engine_version, of_engines, untried
from ftharness.stack.served_model import served_model
from ftharness.stack.servers import Servers, has_memory
from ftharness.stack.topology import Topology


class DynamoStack(DynamoKind):
    """Dynamo's frontend and runtime, and ``dynamo.vllm``, ``dynamo.sglang`` or ``dynamo.trtllm``."""

    name = "dynamo"
    needs = "ai-dynamo and the engine, in an environment of their own"
    profiles = True

    def checked(self, topology: Topology, engine: str) -> Topology:
        """Refuses a profile and a model that there is not."""
        return checked(topology, self.name, engine)

    def untried(self, topology: Topology, engine: str, sut_python: Path | None) -> str:
        """Dynamo's version, where the engine's profile does not name it."""
        return untried(topology, self.name, engine, sut_python)

    def version(self, sut_python: Path | None) -> str:
        """The version of ai-dynamo.

        Raises:
            NotAvailable: There is none with an engine.
        """
        return engine_version(self.name, self.engines[0], sut_python)

    def plan(self, topology: Topology, settings: Settings) -> Plan:
        """The same, of real engines.

        Raises:
            NotAvailable: There is no Dynamo with that engine, or the machine has not the memory, or the GPUs.
            NotApplicable: The topology does not exist on this stack.
        """
        has_no_standbys(topology, self.name, "no launch profile starts shadow engines yet")
        profile = engine_profile(self.name, settings.engine, topology)
        has_memory(topology.serving, profile)
        devices = gpus_for(profile, topology, settings.folder)
        return dataclasses.replace(super().plan(topology, settings), devices=devices)

    def _has_strategy(self, topology: Topology, settings: Settings) -> None:
        profile = engine_profile(self.name, settings.engine, topology)
        has_strategy(topology, f"{self.name} with {profile.what}", *profile.strategies)

    def _release(self, topology: Topology, settings: Settings, store: Path) -> Release:
        profile = engine_profile(self.name, settings.engine, topology)
        python, env, version = interpreter_for(profile, settings.sut_python)
        return Release(str(python), version, dynamo_environment(store, env), settings.folder.absolute())

    def _model(self, topology: Topology) -> str:
        return str(served_model(topology).folder)

    def _answers(self, topology: Topology, settings: Settings) -> dict[str, Any]:
        return of_engines(served_model(topology), engine_profile(self.name, settings.engine, topology))

    def _workers(self, release: Release, topology: Topology, settings: Settings, groups: Groups) -> Workers:
        del groups
        profile = engine_profile(self.name, settings.engine, topology)
        interpreter = Interpreter(Path(release.python), release.env, release.version)
        model = self._model(topology)
        servers = Servers(profile, interpreter, topology, settings, model=model, served=model)
        return Workers(lambda name, role: servers.launch(name, role, more=topology.worker_args), servers.close)
