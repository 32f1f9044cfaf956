"""One container of a pod, as a process of the stack: what it says, and how it ends."""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from signal import Signals
from typing import Any, NamedTuple

from ftharness.faults.strike import FaultKind
from ftharness.history import History, LogTruncated, ProcessExited, ProcessSignalled
from ftharness.k8s.api import Api, ApiError
from ftharness.process import Ended, KeptLog
from ftharness.process.process import signal_name

_LAST_WORDS_S = 2.0
_FOLLOW_AGAIN_S = 0.2
_COMPARED = 4096  # bytes by which a log is known to be the one that was read
_SIGNALLED = 128  # a container that was ended by signal n has the exit code 128 + n
_MOST_SIGNALS = 64

Sink = Callable[[bytes, int], None]


class Place(NamedTuple):
    """Where a container runs, and which of those that the kubelet started there.

    Attributes:
        pod: The pod's name.
        uid: The pod's; no other pod ever has it.
        container: Its name in the pod.
        instance: The runtime's id of it: a restarted container has another.
    """

    pod: str
    uid: str
    container: str
    instance: str


def ended_by(terminated: Mapping[str, Any]) -> Ended:
    """How a container ended, of ``state.terminated``.

    The kubelet has one number for both: 128 + n is taken for signal n, as the runtime and our first process mean it.
    """
    number, code = terminated.get("signal"), int(terminated["exitCode"])
    if not number and _SIGNALLED < code <= _SIGNALLED + _MOST_SIGNALS:
        number = code - _SIGNALLED
    return Ended(None, signal_name(int(number))) if number else Ended(code, None)


class ContainerProcess:
    """A container that the kubelet started for us; ``pid`` is in the container's own process ids.

    Attributes:
        name: In the stack.
        role: In the stack.
        place: Where it is.
        fault_kinds: How it is hit where it runs, by the kinds of faults.
        ready: Done when the kubelet first calls it ready.
        frozen: Whether a fault stopped it.
        evidence: What the kubelet said of its end.
        ended_ns: CLOCK_MONOTONIC when that was read; 0 before.
    """

    def __init__(
        self,
        name: str,
        role: str,
        place: Place,
        *,
        api: Api,
        history: History,
        log: KeptLog,
        sink: Sink | None,
        fault_kinds: Mapping[str, FaultKind],
    ) -> None:
        self.name = name
        self.role = role
        self.place = place
        self.pid = 1
        self.ports: dict[str, int] = {}
        self.started_ns = time.monotonic_ns()
        self.fault_kinds = fault_kinds
        self.frozen = False
        self.evidence: dict[str, Any] = {}
        self.ended_ns = 0
        self._api = api
        self._history = history
        self._log = log
        self._sink = sink
        self._received = 0
        self._last = b""
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self._exited: asyncio.Future[Ended] = loop.create_future()
        self._ending: asyncio.Task[None] | None = None
        self._following = loop.create_task(self._follow())

    def __repr__(self) -> str:
        """Its name, place and how it is."""
        return f"<ContainerProcess {self.name} {self.place.pod}/{self.place.container} {self.exit or 'alive'}>"

    @property
    def exit(self) -> Ended | None:
        """How it ended, or None while it lives."""
        return self._exited.result() if self._exited.done() else None

    @property
    def log_path(self) -> Path:
        """Where its output is kept."""
        return self._log.path

    def tail(self, lines: int = 20) -> list[str]:
        """The last lines of its output, without secrets."""
        return self._log.tail(lines)

    def state(self) -> str:
        """T where a fault stopped it, R while it runs, "" when it has ended: more is not told from outside."""
        return "" if self._exited.done() else "T" if self.frozen else "R"

    async def exited(self, deadline_s: float | None = None) -> Ended:
        """Wait until it has ended.

        Raises:
            TimeoutError: It lives on after ``deadline_s`` seconds.
        """
        await asyncio.wait((self._exited,), timeout=deadline_s)
        if not self._exited.done():
            raise TimeoutError(
                f"{self.name} ({self.place.pod}, container {self.place.container}) runs after {deadline_s:g} s"
            )
        return self._exited.result()

    def signalled(self, number: Signals, *, pid: int, reason: str, at: int, tree: bool = False) -> None:
        """Note that a signal was sent to it, at ``at`` (CLOCK_MONOTONIC, ns)."""
        event = ProcessSignalled(source=self.name, pid=pid, signal=number.name, reason=reason, tree=tree)
        self._history.append(event, at=at)

    # What the watch tells.

    def is_ready(self) -> None:
        """The kubelet's probe says so."""
        if not self.ready.done():
            self.ready.set_result(None)

    def has_ended(self, ended: Ended, at: int, evidence: Mapping[str, Any]) -> None:
        """It has; what it said before comes before that in the history, if it comes within 2 s."""
        if self._ending is None:
            self.evidence, self.ended_ns = dict(evidence), at
            self._ending = asyncio.get_running_loop().create_task(self._end(ended, at))

    async def _end(self, ended: Ended, at: int) -> None:
        await asyncio.wait((self._following,), timeout=_LAST_WORDS_S)
        event = ProcessExited(source=self.name, pid=self.pid, returncode=ended.returncode, signal=ended.signal)
        self._history.append(event, at=at)
        self._exited.set_result(ended)

    async def close(self) -> None:
        """No more is to be heard of it."""
        if self._ending is not None:
            await self._ending
        self._following.cancel()
        await asyncio.wait((self._following,))
        self._log.close()

    async def _follow(self) -> None:
        """Its output, from its first byte to its last, each stamped where it is read from the API server."""
        skip = 0
        while True:
            try:
                await self._read(skip)
            except ApiError as error:
                why = str(error)
            else:
                why = "the API server ended it"
            if self._ending is not None or self._exited.done() or not await self._still_runs():
                break
            if not await self._can_resume():
                # What it said between the two is lost, and the history says so.
                self._history.append(LogTruncated(source=self.name, reason=f"its log broke off: {why}"))
                skip = -1
            else:
                skip = self._received
            await asyncio.sleep(_FOLLOW_AGAIN_S)  # a server that refuses would be asked without a pause
        self._take(b"")

    async def _read(self, skip: int) -> None:
        """Follow its log but for the first ``skip`` bytes; -1: from now on."""
        async with self._api.stream("v1", self._log_url, **self._log_options(follow=True, new=skip < 0)) as response:
            async for data in response.aiter_bytes():
                rest, skip = data[max(skip, 0) :], max(skip - len(data), 0)
                if rest:
                    self._take(rest)

    async def _can_resume(self) -> bool:
        """Whether its log still begins with what was read: the kubelet rotates it at some megabytes."""
        begins, last = self._received - len(self._last), bytearray()
        at = 0
        try:
            async with self._api.stream("v1", self._log_url, **self._log_options()) as response:
                async for data in response.aiter_bytes():
                    last += data[max(begins - at, 0) : max(self._received - at, 0)]
                    at += len(data)
        except ApiError:
            return False
        return last == self._last

    @property
    def _log_url(self) -> str:
        return f"pods/{self.place.pod}/log"

    def _log_options(self, *, follow: bool = False, new: bool = False) -> dict[str, str]:
        options = {"container": self.place.container, "follow": "true" if follow else "false"}
        return options | {"tailLines": "0"} if new else options

    def _take(self, data: bytes) -> None:
        at = time.monotonic_ns()
        if self._sink is not None:
            self._sink(data, at)
        if data:
            self._log.feed(data)
            self._received += len(data)
            self._last = (self._last + data)[-_COMPARED:]

    async def _still_runs(self) -> bool:
        """Whether the same container runs on: the end of its log may be read before the end of itself."""
        try:
            pod = await self._api.get("v1", f"pods/{self.place.pod}")
        except ApiError:
            return False
        statuses = pod.get("status", {}).get("containerStatuses", ())
        return pod["metadata"]["uid"] == self.place.uid and any(
            one.get("containerID") == self.place.instance and "running" in one["state"] for one in statuses
        )
