"""What a handler is whoever asks it: an engine child, the parts of requests that it runs, its peers, and its page of metrics."""

import argparse
import asyncio
import json
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ftharness.engine.dialects import HandlerLog
from ftharness.engine.engine_child import EngineChild, EngineDied, Made
from ftharness.engine.link import Link
from ftharness.engine.parts import Bench, Message, Part
from ftharness.engine.peers import Peers
from ftharness.engine.settings import EngineSettings
from ftharness.engine.status import Counters, metrics_text

if TYPE_CHECKING:
    from ftharness.engine.shadow import Shadow


def in_shadow_mode() -> bool:
    """Whether this process is told to be one of several engines beside a failover lock."""
    return bool(os.environ.get("FAILOVER_LOCK_PATH"))


def _shadow_of(arguments: argparse.Namespace, model: str) -> "Shadow | None":
    if not in_shadow_mode():
        return None
    from ftharness.engine.shadow import Shadow  # noqa: PLC0415  10 ms of a worker's start, for those that need it

    return Shadow(arguments, model=model)


class Handler(ABC):
    """The handler process: our own frontend's worker, and Dynamo's, are one each."""

    def __init__(self, arguments: argparse.Namespace, settings: EngineSettings, *, model: str) -> None:
        self._name: str = arguments.name
        self._model = model
        self._role: str = arguments.role
        self._drain_s: float = arguments.drain_s
        self._status_port: int = arguments.status_port
        self._settings = settings
        self._log = HandlerLog(settings.engine, self._role)
        self._counters = Counters()
        self._peers = Peers(self._name, self._on_message, self._on_peer_lost)
        self._parts: dict[str, Part] = {}
        self._shadow = _shadow_of(arguments, model)
        self._engine: EngineChild
        self._bench: Bench
        self._loop = asyncio.get_running_loop()

    async def _start_engine(self) -> bool:
        """Starts the engine child, and lays out what the parts share; whether it lives, and otherwise says that it died."""
        try:
            self._engine = await EngineChild.start(
                self._settings, on_tokens=self._on_tokens, on_phase=self._on_phase, on_kv=self._on_kv
            )
        except EngineDied as death:
            self._log.engine_died(str(death))
            return False
        self._log.engine_started(self._engine.pid)
        self._bench = Bench(
            name=self._name,
            parts=self._parts,
            engine=self._engine,
            log=self._log,
            counters=self._counters,
            peers=self._peers,
            ended=self._on_ended,
            bug=self._settings.bug,
        )
        return True

    @abstractmethod
    def _on_message(self, link: Link, message: Message) -> None: ...

    @abstractmethod
    def _on_tokens(self, batch: list[Made]) -> None: ...

    @abstractmethod
    def _on_ended(self, part: Part, in_order: bool) -> None: ...  # noqa: FBT001  a callback

    def _on_lost(self, link: Link, reason: str) -> None:
        """The frontend's connection, or a peer's, is gone: each part knows what it is to it."""
        for part in list(self._parts.values()):
            part.on_lost(link, reason)

    def _on_peer_lost(self, link: Link, reason: str) -> None:
        self._log.peer_lost(link.name, reason)
        self._on_lost(link, reason)

    def _on_phase(self, key: str, phase: str) -> None:
        if key in self._parts:
            self._parts[key].on_phase(phase)

    def _on_kv(self, key: str, state: int) -> None:
        if key in self._parts:
            self._parts[key].on_kv(state)

    async def _metrics(self) -> tuple[int, str, str]:
        try:
            status = await self._engine.status()
        except (TimeoutError, EngineDied) as error:
            return 503, "text/plain", f"{error}\n"
        labels = {"worker": self._name, "model": self._model, "dynamo_endpoint": "generate"}
        text = metrics_text(status, self._counters, labels)
        if self._shadow is not None:
            text += self._shadow.metrics.text()
        return 200, "text/plain; version=0.0.4", text

    def _health_page(self, status: str) -> tuple[int, str, str]:
        """Healthy is who serves, and who waits in shadow mode for its turn; a probe is not to kill it for that."""
        healthy = status in ("ready", "standby")
        body: dict[str, object] = {"status": status, "worker": self._name, "role": self._role}
        body["running"] = len(self._parts)
        if self._shadow is not None:
            body["engine_id"] = self._shadow.engine_id
        return (200 if healthy else 503), "application/json", json.dumps(body) + "\n"
