"""A stack that runs: its processes, its log events in the history, its client, its metrics."""

import asyncio
import dataclasses
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

from ftharness.client import Client, Stream
from ftharness.faults import ROLE_OF, TURNS, Target
from ftharness.gpu import NoGpus
from ftharness.history import FaultLanded, FaultMissed, FaultRequested, History, Leak, Log, Metric
from ftharness.logs import read_metrics
from ftharness.process import (
    Living,
    NotReady,
    Owner,
    Processes,
    Redactor,
    StartError,
    http_get,
    listening_ports,
    must_live,
    until_ready,
)
from ftharness.process.small_disk import enter_argv, seen_by
from ftharness.stack.holders import Holders
from ftharness.stack.job import DISK, JOB, JobPlan
from ftharness.stack.lives import first_life
from ftharness.stack.plan import Launch, Plan
from ftharness.stack.pool_setup import MANAGER
from ftharness.stack.reading import log_reader
from ftharness.stack.turns import engine_for

_READ_METRICS_S = 2.0
_CLAIM_S = 2.0
_JOINS_S = 30.0
#: Those of processes that serve requests, or stand by to, are none of these.
_NO_WORKERS = ("frontend", JOB, DISK, MANAGER)


_PORT_TAKEN = re.compile(r"address already in use|EADDRINUSE|(?:os )?error 98\b|errno 98\b", re.IGNORECASE)


class StackFailed(Exception):  # noqa: N818 - says what happened
    """The stack did not start; the message says which process, why, and its last lines."""

    @property
    def port_taken(self) -> bool:
        """Whether it says that a port was in use."""
        return _PORT_TAKEN.search(str(self)) is not None


class RunningStack:
    """The processes of a plan, started and owned. Made by :meth:`start`; ended by :meth:`stop`.

    Attributes:
        plan: What was launched.
        client: Sends requests to its frontend.
        processes: Everything that was started.
        holders: Who has which request.
    """

    def __init__(
        self, plan: Plan, history: History, processes: Owner[Living], *, idle_s: float, seed: int, redactor: Redactor
    ) -> None:
        self.plan = plan
        self.processes = processes
        self._history = history
        self._redactor = redactor
        self._scratch: Path | None = None
        self._began = time.time()
        self._launches = {launch.name: launch for launch in plan.launches}
        self._roles = {launch.name: launch.role for launch in plan.launches}
        self.holders = Holders(history, self._roles)
        self._mapped: dict[Path, str] = {}
        self.client = Client(
            history,
            plan.url,
            plan.model,
            count=plan.count,
            idle_s=idle_s,
            seed=seed,
            redact=redactor.text,
            asks=plan.asks,
            named_in=plan.named_in,
        )

    async def start(self, *, deadline_s: float) -> None:
        """Start all processes, and wait until each, and then the whole, is ready.

        Raises:
            StackFailed: One could not be started, died, or was not ready in time; or others have the GPUs.
        """
        try:
            if self.plan.scratch:
                self._scratch = Path(tempfile.mkdtemp(prefix="ft-"))  # a short path: engines put their sockets there
                if isinstance(self.processes, Processes):
                    self.processes.remove_at_end(self._scratch)
            if self.plan.devices is not None:
                await self.plan.devices.before()
            await self._start_all(deadline_s)
        except (StartError, NotReady, NoGpus) as error:
            raise StackFailed(str(error)) from error
        except BaseExceptionGroup as group_error:
            failures, rest = group_error.split((StartError, NotReady))
            if rest is not None or failures is None:
                raise
            # The same failure ends the body of the group and a task of it.
            raise StackFailed("\n".join(dict.fromkeys(str(e) for e in failures.exceptions))) from group_error

    async def _start_all(self, deadline_s: float) -> None:
        watches: list[asyncio.Task[None]] = []

        async def start(launch: Launch) -> None:
            process = await self._start(launch, deadline_s)
            # Once it is ready it has to live until all are: without it the others may wait in vain.
            watches.append(group.create_task(must_live(process)))

        async with asyncio.TaskGroup() as group:
            try:
                await asyncio.gather(*(group.create_task(start(launch)) for launch in self.plan.launches))
            finally:
                self.plan.close()
            if not self.plan.launches:  # only jobs, which are started in their phase
                return
            first = self.processes[self.plan.launches[0].name]
            await until_ready(first, self.plan.ready, history=self._history, deadline_s=deadline_s)
            for watch in watches:
                watch.cancel()

    async def _start(self, launch: Launch, deadline_s: float) -> Living:
        for path in launch.fresh:
            path.unlink(missing_ok=True)
        for path, text in launch.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        process = await self.processes.start(
            launch.name,
            [*(enter_argv(self[launch.inside].pid) if launch.inside else ()), *launch.argv],
            env=self._environment(launch),
            cwd=launch.cwd,
            role=launch.role,
            pass_fds=launch.pass_fds,
            ports=launch.ports,
            sink=log_reader(self._history, launch.name, launch.contract, self._redactor.text),
        )
        await until_ready(process, *launch.ready, history=self._history, deadline_s=deadline_s)
        return process

    def _environment(self, launch: Launch) -> Mapping[str, str]:
        own = {} if self._scratch is None else {"TMPDIR": str(self._scratch)}
        if self.plan.devices is None:
            return {**launch.env, **own}
        return {**launch.env, **own, **self.plan.devices.variables(first_life(launch.name), launch.group)}

    async def begin(self, plan: JobPlan, *, deadline_s: float) -> Living:
        """Start a job; returns when it says that it has begun, or has ended.

        Raises:
            StackFailed: It could not be started, or what it needs could not.
        """
        assert plan.job.data is not None, "it is what a job is about"
        plan.job.data.mkdir(parents=True)
        for launch in (plan.disk, plan.job):
            if launch is None:
                continue
            self._launches[launch.name] = launch
            self._roles[launch.name] = launch.role
            try:
                await self._start(launch, deadline_s)
            except StartError as error:
                raise StackFailed(str(error)) from error
            except NotReady as error:
                if launch.role == DISK:
                    raise StackFailed(str(error)) from error
                # A job that ends early, or is slow to say that it has begun, is for the oracles to judge.
        return self[plan.job.name]

    def lives(self, name: str) -> list[Living]:
        """The process of that name, and what restarts made of it, in order; those that were started."""
        return [one for one in self.processes if first_life(one.name) == name]

    def data_of(self, name: str) -> Path | None:
        """The folder where a process keeps what it may not lose, as it is reached from here; None where it has none."""
        launch = self._launches.get(name)
        if launch is None or launch.data is None:
            return None
        return seen_by(self[launch.inside].pid, launch.data) if launch.inside else launch.data

    async def join(self, beside: str, *, deadline_s: float = _JOINS_S) -> Living:
        """Start one more shadow engine of the group of the process ``beside``; returns when it waits for the lock.

        Raises:
            LookupError: That process is in no group.
            StartError: It could not be started.
            NotReady: It did not come so far within ``deadline_s`` seconds.
        """
        group = self._launches[beside].group if beside in self._launches else ""
        if self.plan.join is None or not group:
            raise LookupError(
                f"{beside} shares no lock: aggregated(standbys=1) makes groups of engines that one can join"
            )
        launch = self.plan.join(group)
        self._launches[launch.name] = launch
        self._roles[launch.name] = launch.role
        return await self._start(launch, deadline_s)

    async def restart(self, name: str) -> Living:
        """Start a process again that has ended, with the same command on the same ports; returns when it is ready.

        Its name is that of the one that ended, and the number of its life: ``worker-1.2``.

        Raises:
            LookupError: There is no such process, it lives again, or it had its sockets from us, who have closed them.
            StartError: It could not be started.
            NotReady: It did not become ready in the time that the whole stack has.
        """
        first = first_life(self[name].name)
        before, deadline_s = self._launches[name], max(self.plan.ready_s, _JOINS_S)
        if before.pass_fds:
            raise LookupError(f"{name} was given its listening sockets, which are closed: it cannot be started again")
        again = [one for one in self._launches if one.startswith(f"{first}.")]
        if again and not self._ended(again[-1]):
            raise LookupError(f"{name} lives again, as {again[-1]}: there is nothing to start again")
        # One that has no word for its own readiness is ready when the whole is, as at the start.
        ready = before.ready or [self.plan.ready]
        launch = dataclasses.replace(before, name=f"{first}.{len(again) + 2}", ready=ready)
        self._launches[launch.name] = launch
        self._roles[launch.name] = launch.role
        try:
            return await self._start(launch, deadline_s)
        except StartError:
            del self._launches[launch.name]  # that was no life
            raise

    def _ended(self, name: str) -> bool:
        """Whether it was started, and has ended; one that is on its way has not."""
        return any(process.name == name and process.exit is not None for process in self.processes)

    @property
    def workers(self) -> list[Living]:
        """The workers, also those that have ended, in the plan's order; then those that joined."""
        started = {process.name: process for process in self.processes}
        workers = (one.name for one in self._launches.values() if one.role not in _NO_WORKERS)
        return [started[name] for name in workers if name in started]

    @property
    def frontend(self) -> Living:
        """The frontend; the only process of a stack that has no other.

        Raises:
            LookupError: Nobody serves requests.
        """
        serving = [process for process in self.processes if process.role not in (JOB, DISK, MANAGER)]
        if not serving:
            raise LookupError("nobody in this stack serves requests: there are only jobs, and what they need")
        return next((process for process in serving if process.role == "frontend"), serving[0])

    def __getitem__(self, name: str) -> Living:
        """The process of that name.

        Raises:
            LookupError: There is none; names those that there are.
        """
        try:
            return self.processes[name]
        except KeyError:
            names = ", ".join(self._launches)
            raise LookupError(f"no process {name!r} in this stack; there are {names}") from None

    def serving(self, request: Stream | str) -> Living:
        """The worker that works for the request now, or did so last; see :class:`ftharness.stack.holders.Holders`.

        Raises:
            LookupError: No worker said that it has it.
        """
        request_id = request if isinstance(request, str) else request.id
        name = self.holders.now(request_id)
        if name is None:
            raise LookupError(f"no worker's log says that it received request {request_id}")
        return self.processes[name]

    async def find_serving(self, request: Stream | str) -> Living:
        """The same, where the line that says it may still be on its way.

        Raises:
            LookupError: No worker said it within 2 s.
        """
        request_id = request if isinstance(request, str) else request.id
        await self._said(lambda: self.holders.now(request_id), f"a worker that says it has request {request_id}")
        return self.serving(request)

    async def _said(self, by: Callable[[], str | None], what: str) -> str | None:
        """The worker that a line names, which may still be on its way; None where it does not come within 2 s."""
        if by() is None:
            with suppress(TimeoutError):
                await self._history.wait_for(
                    lambda event: isinstance(event, Log) and by() is not None,
                    deadline_s=_CLAIM_S,
                    what=what,
                    past=False,
                )
        return by()

    async def _in_role(self, target: Target, role: str, request: Stream) -> Living:
        """The worker of that role that took the request last."""
        what = f"{target}: a {role} worker that says it has request {request.index}"
        name = await self._said(lambda: self.holders.of_role(request.id, role), what)
        if name is None:
            raise LookupError(f"{target}: no {role} worker's log says that it received request {request.index}")
        return self.processes[name]

    async def _another(self, request: Stream) -> Living:
        """The first living worker of the serving one's role that the request has never been on."""
        serving, had = await self.find_serving(request), self.holders.ever(request.id)
        role = self._launches[serving.name].role
        peers = [worker for worker in self.workers if self._launches[worker.name].role == role]
        others = [worker for worker in peers if worker.name not in had and worker.exit is None]
        if not others:
            told = ", ".join(
                f"{one.name}: {'had it' if one.name in had else 'ended'}" for one in peers if one is not serving
            )
            raise LookupError(
                f"no {role} worker beside {serving.name} is alive that request {request.index} was not on; "
                f"{told or 'there is no other'}"
            )
        return others[0]

    async def resolve(self, target: Target, request: Stream | None) -> list[Living]:
        """The processes that a target means now.

        Args:
            target: Whom.
            request: The one at the target's place in the workload; None where it has not been sent.

        Raises:
            LookupError: There is none; says why.
        """
        if target.role == "named":
            return [self[target.name]]
        if target.role == "frontend":
            return [self.frontend]
        if target.role == "hit":
            return [await self._hit(target)]
        if target.role in TURNS:
            group = f"worker-{target.group}"
            members = [worker for worker in self.workers if self._launches[worker.name].group == group]
            return [engine_for(target, members, self._history)]
        if target.role == "every_worker":  # of those that are left; where none is, each misses and says why
            return [worker for worker in self.workers if worker.exit is None] or self.workers
        if request is None:
            raise LookupError(f"{target}: request {target.request} had not been sent")
        # The worker logged the request before its tokens came, but that line may still be in the pipe.
        if target.role in ROLE_OF:
            return [await self._in_role(target, ROLE_OF[target.role], request)]
        return [await (self.find_serving(request) if target.role == "serving" else self._another(request))]

    async def _hit(self, target: Target) -> Living:
        """The process that another fault hit; of a ``restart`` the one that it started.

        One that has been asked for may be about to say that it landed: its target's end, which is the proof, may be what this
        one waited for.
        """
        fault_id = f"fault-{target.fault + 1}"
        asked = next(self._history.select(FaultRequested, id=fault_id), None)
        if asked:
            with suppress(TimeoutError):
                await self._history.wait_for(
                    lambda event: isinstance(event, FaultLanded | FaultMissed) and event.id == fault_id,
                    deadline_s=_CLAIM_S,
                    what=f"{target}: what became of it",
                )
        landed = next(self._history.select(FaultLanded, id=fault_id), None)
        name = landed.source if landed else ""
        if landed and asked and asked.fault == "restart":
            name = str(landed.evidence.get("started", name))
        if name not in self._launches:
            raise LookupError(f"{target}: {fault_id} has hit no process")
        return self.processes[name]

    async def read_metrics(self) -> None:
        """Read ``/metrics`` of every process that serves it and lives, into the history."""
        await asyncio.gather(*(self._read_metrics(launch) for launch in self._launches.values()))

    async def _read_metrics(self, launch: Launch) -> None:
        url, wanted = self._metrics_url(launch), {spec.name for spec in launch.contract.metrics}
        if not url or not wanted:
            return
        process = self.processes[launch.name]
        if process.exit is not None or process.state() == "T":  # a frozen one would only time out
            return
        try:
            status, body = await http_get(f"{url}/metrics", deadline_s=_READ_METRICS_S)
            at = time.monotonic_ns()
            samples = list(read_metrics(body.decode(errors="replace"))) if status == HTTPStatus.OK else []
        except (OSError, ValueError):
            return  # frozen, draining, dying, or no metrics: what is missing is missing, and the oracles say so
        else:
            for sample in samples:
                if sample.name in wanted:
                    self._history.append(
                        Metric(source=launch.name, name=sample.name, value=sample.value, labels=sample.labels), at=at
                    )

    def _metrics_url(self, launch: Launch) -> str:
        if launch.metrics_url or not launch.status_event:
            return launch.metrics_url
        said = next(self._history.select(Log, source=launch.name, event=launch.status_event), None)
        return f"http://127.0.0.1:{said.captures['port']}" if said else ""

    def _remove(self, path: Path) -> None:
        """Give back memory that nobody uses any more: a file of our processes', if it was made since they are there."""
        with suppress(OSError):
            if path.stat().st_ctime >= self._began:
                path.unlink()

    def note_shared_memory(self) -> None:
        """Remember which files in /dev/shm each of our processes has mapped, to see later whether they outlive it."""
        for name, paths in self.processes.shared_memory().items():
            for path in paths:  # whose it was when it was first seen: others may have it from there
                self._mapped.setdefault(path, name)

    async def stop(self, *, grace_s: float) -> None:
        """Stop everything, see what is left, record that as leaks, and kill it. Then its GPUs are anybody's."""
        try:
            await self._stop(grace_s)
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Remove what its processes had to themselves, and let others have its GPUs; all of them have ended."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        if self.plan.devices is not None:
            self.plan.devices.close()

    async def _stop(self, grace_s: float) -> None:
        await self.client.close()
        for entry in self.plan.expired():  # now, while there is somebody who should have removed it
            self._history.append(Leak(source=self.frontend.name, what="discovery", detail=entry))
        self.note_shared_memory()
        await self.processes.stop(*self.processes, grace_s=grace_s)
        survivors = await self.processes.survivors(self.plan.settle_s)
        devices = self.plan.devices
        held = devices.held({survivor.pid for survivor in survivors}) if devices else []
        for survivor in survivors:
            command = " ".join(survivor.argv)[:300]
            holds = "".join(f", holding {one}" for one in held if one.pid == survivor.pid)
            used = f"{survivor.cpu_s:.1f} s of CPU in {survivor.waited_s:.1f} s"
            detail = f"{command} (state {survivor.state}, {used}){holds}"
            self._history.append(Leak(source=survivor.name, what="process", pid=survivor.pid, detail=detail))
        # Of those alone: a port that is free again is anybody's.
        open_ports = listening_ports(survivor.pid for survivor in survivors)
        for process in self.processes:
            for what, port in process.ports.items():
                if port in open_ports:
                    detail = f"127.0.0.1:{port} ({what}) is still listened on"
                    self._history.append(Leak(source=process.name, what="port", detail=detail))
        left = [path for path in sorted(self._mapped) if path.exists()]
        for path in left:
            self._history.append(Leak(source=self._mapped[path], what="shm", detail=str(path)))
        await self.processes.kill_survivors()
        for path in left:
            self._remove(path)
        for kept in await devices.after() if devices else ():
            self._history.append(Leak(source="harness", what="gpu_memory", detail=str(kept)))
