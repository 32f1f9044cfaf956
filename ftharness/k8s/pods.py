"""Who owns the processes of a deployment: applies it, knows its containers as they come and go, and deletes it."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from signal import SIGTERM
from types import TracebackType
from typing import NamedTuple, Self

from ftharness.history import History, LogTruncated, ProcessStarted
from ftharness.k8s.api import NOT_FOUND, Api, ApiError
from ftharness.k8s.container import ContainerProcess, Place, Sink
from ftharness.k8s.deployment import Deployment
from ftharness.k8s.faults import kinds_for
from ftharness.k8s.forward import Forward
from ftharness.k8s.guard import Guard, Refused
from ftharness.k8s.leaks import leak, leaks
from ftharness.k8s.render import Rendered, Slot
from ftharness.k8s.schema import ManifestError
from ftharness.k8s.seats import Seat, Seats
from ftharness.k8s.watch import PodWatch
from ftharness.process import KeptLog, LogBudget, Redactor, StartError, Survivor
from ftharness.stack import NotAvailable

_LOG_LIMIT = 1 << 30
_DELETED_WITHIN_S = 30.0  # beyond the grace of the pods


class Applied(NamedTuple):
    """What is to run, and how it is heard.

    Attributes:
        run: The run's name.
        rendered: The manifest and its containers.
        successor: The name of the next process in a slot, by the slot and how many came after its first.
        sink_of: Makes what takes the output of a process, by the name of its slot and its own.
    """

    run: str
    rendered: Rendered
    successor: Callable[[Slot, int], str]
    sink_of: Callable[[str, str], Sink]


class Pods:
    """Starts a deployment's containers, and is the end of them: the like of :class:`ftharness.process.Processes`.

    A container that the kubelet restarts, or whose pod is replaced, is another process: after ``worker-1`` comes ``worker-1.1``;
    of engines that share a lock it joins as one more standby, with the next of their names.

    When the harness is killed by SIGKILL nobody deletes the deployment: no guardian of ours runs in the cluster.

    Args:
        deployment: Where.
        applied: What, at the moment when the first container is asked for.
        history: Where starts, signals and exits go.
        folder: Logs go to ``logs/NAME.log`` in it.
        redactor: Keeps secrets out of them.
    """

    def __init__(
        self,
        deployment: Deployment,
        applied: Callable[[], Applied],
        history: History,
        folder: Path,
        redactor: Redactor,
    ) -> None:
        self._deployment = deployment
        self._ask = applied
        self._history = history
        self._logs = folder / "logs"
        self._redactor = redactor
        self._budget = LogBudget(_LOG_LIMIT)
        self._by_name: dict[str, ContainerProcess] = {}
        self._applying = asyncio.Lock()
        self._seats: Seats | None = None
        self._guard: Guard | None = None
        self._watching: asyncio.Task[None] | None = None
        self._making: asyncio.Task[None] | None = None
        self._forward: Forward | None = None

    async def __aenter__(self) -> Self:
        """Make the folder of the logs; the cluster is asked when the first container is."""
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete what is left of the deployment."""
        await self.kill_survivors()

    def __iter__(self) -> Iterator[ContainerProcess]:
        """Every container, also those that have ended, in the order in which they were started."""
        return iter(tuple(self._by_name.values()))

    def __getitem__(self, name: str) -> ContainerProcess:
        """The container of that name."""
        return self._by_name[name]

    async def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        role: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        ports: Mapping[str, int] | None = None,
        sink: Sink | None = None,
    ) -> ContainerProcess:
        """Apply the deployment, if that is not done yet, and wait until the container of that name runs.

        What it runs and where the manifest says: the rest is what processes of this machine need.

        Raises:
            StartError: The cluster refused it, or the container does not run; says what was seen.
        """
        del argv, role, env, cwd, pass_fds
        async with self._applying:
            if self._seats is None:
                await self._apply()
            assert self._seats is not None
        seats = self._seats
        seat = seats.take(name, sink)
        process = await self._running(seats, seat)
        if ports:
            await self._open(seat, dict(ports), process)
        return process

    async def _apply(self) -> None:
        applied = self._ask()
        try:
            api = await Api.connect(self._deployment)
        except NotAvailable as error:
            raise StartError(f"cannot apply the deployment: {error}") from error
        self._api, self._guard = api, Guard(api, applied.run)
        guard = self._guard
        seats = self._seats = Seats(applied.rendered.slots, lambda *found: self._begins(applied, guard, *found))
        # Not cut short with us: it may be made by now, and who deletes it has to know its uid.
        self._making = asyncio.get_running_loop().create_task(guard.apply(applied.rendered.manifest))
        try:
            await asyncio.shield(self._making)
        except (ApiError, Refused, ManifestError) as error:
            await self._delete(self._deployment.termination_grace_s + _DELETED_WITHIN_S)
            hint = ""
            if isinstance(error, ApiError) and error.status == NOT_FOUND:
                hint = f"; has the namespace {self._deployment.namespace}, and the cluster Dynamo's operator?"
            raise StartError(f"cannot apply the deployment: {error}{hint}") from error
        self._watching = asyncio.get_running_loop().create_task(PodWatch(api, guard.selector, seats.seen).run())
        self._watching.add_done_callback(lambda _: seats.changed.set())

    async def _running(self, seats: Seats, seat: Seat) -> ContainerProcess:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._deployment.start_s
        while seat.now is None:
            if trouble := self._trouble(seats, seat):
                raise StartError(f"cannot start {seat.slot.name}: {trouble}")
            seats.changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await seats.changed.wait()
            except TimeoutError:
                raise StartError(
                    f"{seat.slot.name} (container {seat.slot.container} of a pod of {seat.slot.service}) does not run "
                    f"after {self._deployment.start_s:g} s; {self._there_is(seats, seat)}"
                ) from None
        return seat.now

    def _trouble(self, seats: Seats, seat: Seat) -> str:
        """Why waiting for it is in vain; "" where it may still come."""
        assert self._watching is not None
        if self._watching.done():
            error = None if self._watching.cancelled() else self._watching.exception()
            return f"its pods are not watched any more: {error or 'the run ends'}"
        return seats.hopeless(seat)

    def _there_is(self, seats: Seats, seat: Seat) -> str:
        assert self._guard is not None
        return seats.pods_of(seat) or (
            f"no pod has the labels {self._guard.selector}: `kubectl describe dgd {self._guard.name}` says what the operator "
            "makes of it"
        )

    def _begins(
        self, applied: Applied, guard: Guard, seat: Seat, place: Place, argv: Sequence[str], at: int
    ) -> ContainerProcess:
        """A container runs in a seat."""
        name, sink = seat.slot.name, seat.sink
        if name in self._by_name:
            seat.successors += 1
            name = applied.successor(seat.slot, seat.successors)
            sink = applied.sink_of(seat.slot.name, name)

        def truncated(why: str, kept: int) -> None:
            self._history.append(LogTruncated(source=name, reason=why, kept=kept))

        log = KeptLog(self._logs / f"{name}.log", self._redactor, self._budget, truncated)
        process = ContainerProcess(
            name,
            seat.slot.role,
            place,
            api=self._api,
            history=self._history,
            log=log,
            sink=sink,
            fault_kinds=kinds_for(guard),
        )
        self._by_name[name] = process
        started = ProcessStarted(source=name, pid=process.pid, role=process.role, argv=self._redactor.argv(argv))
        self._history.append(started, at=at)
        return process

    async def _open(self, seat: Seat, ports: dict[str, int], process: ContainerProcess) -> None:
        assert self._guard is not None
        process.ports = ports
        self._forward = Forward(self._guard, lambda: seat.now.place if seat.now else None, self._deployment.port)
        try:
            await self._forward.start(next(iter(ports.values())))
        except OSError as error:
            raise StartError(
                f"cannot listen on 127.0.0.1:{next(iter(ports.values()))} for {seat.slot.name}: {error}"
            ) from error

    # The end.

    async def stop(self, *processes: ContainerProcess, grace_s: float) -> None:
        """Delete the deployment, and wait until its pods are gone; what is left then is a leak."""
        at = time.monotonic_ns()
        for process in processes:
            if process.exit is None:
                process.signalled(SIGTERM, pid=process.pid, reason="teardown", at=at)
        await self._delete(max(grace_s, self._deployment.termination_grace_s) + _DELETED_WITHIN_S)

    async def survivors(self, settle_s: float) -> list[Survivor]:
        """None: what a container leaves behind ends with it, and what the cluster has left was noted as a leak."""
        del settle_s
        return []

    def shared_memory(self) -> dict[str, set[Path]]:
        """None of this machine's."""
        return {}

    async def kill_survivors(self) -> None:
        """Delete the deployment, where that was not done."""
        await self._delete(self._deployment.termination_grace_s + _DELETED_WITHIN_S)

    async def _delete(self, deadline_s: float) -> None:
        guard, self._guard = self._guard, None
        seats, self._seats = self._seats, None
        if guard is None or seats is None:
            return
        seats.closed = True
        if self._making is not None:
            await asyncio.wait((self._making,))
            self._making.exception()  # whoever waited for it was told, or was cut short
            self._making = None
        if self._forward is not None:
            await self._forward.stop()
            self._forward = None
        try:
            if guard.applied:
                await self._remove(guard, seats, deadline_s)
        except (ApiError, Refused) as error:
            where = f"the deployment {guard.name} in namespace {self._deployment.namespace}"
            self._history.append(leak(f"{where} could not be deleted: {error}"))
        finally:
            if self._watching is not None:
                self._watching.cancel()
                await asyncio.wait((self._watching,))
                self._watching = None
            for process in self:
                await process.close()
            await self._api.close()

    async def _remove(self, guard: Guard, seats: Seats, deadline_s: float) -> None:
        if self._watching is None:  # it was cut short: nobody has seen its pods so far
            watch = PodWatch(self._api, guard.selector, seats.seen)
            await watch.look()
            self._watching = asyncio.get_running_loop().create_task(watch.run())
        await guard.delete_deployment()
        await self._emptied(seats, deadline_s)
        async for left in leaks(self._api, guard):
            self._history.append(left)

    async def _emptied(self, seats: Seats, deadline_s: float) -> None:
        """Wait until no pod is left, or the time is up."""
        try:
            async with asyncio.timeout(deadline_s):
                while seats.pods and self._watching is not None and not self._watching.done():
                    seats.changed.clear()
                    await seats.changed.wait()
        except TimeoutError:
            return
