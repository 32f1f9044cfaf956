"""Runs one scenario on one stack: launch, once without the faults, once with them, tear down, judge."""

import asyncio
import dataclasses
import gc
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

import ftharness
from ftharness.client import Request, Stream
from ftharness.history import History, Leak, Metric, RunFinished, RunPhase, RunRetried, RunStarted
from ftharness.process import Redactor
from ftharness.scenario.by_test import ByTest
from ftharness.scenario.judge import judge, pending
from ftharness.scenario.nemesis import Nemesis
from ftharness.scenario.oracles.reference import rests_on_tokens, samples
from ftharness.scenario.record import CELL_FILE, HISTORY_FILE, IN_PART, KNOWN, Annotation, ScenarioRecord
from ftharness.scenario.resubmit import interrupted, note_tokens, resubmit
from ftharness.scenario.scenario import Scenario, check_arguments
from ftharness.scenario.words import check_words
from ftharness.stack import NotApplicable, Plan, RunningStack, Settings, StackFailed, StackKind
from ftharness.stack.job import JobPlan

_SLOTS_S = 1.0
# What an oracle says is still to come gets so long; looked at whenever something happens, and every so often beside that,
# for a metric can only be asked for.
_PENDING_S = 10.0
_LOOK_S = 0.05


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one scenario: all that is needed to run it again. Stored as ``scenario.json``.

    Attributes:
        scenario: With everything that ``--set`` changed.
        stack: Its name, or the path of its TOML file.
        engine: ``vllm``, ``sglang`` or ``trtllm``; "" is the stack's first.
        bug: A planted bug, or "".
        params: What was set on the command line, as the report shows it.
        sut_python: The interpreter of the system under test; "" is the provisioned one.
        redacted: Whether secrets among its arguments were left out when it was stored, so that it cannot be run again.
        by_test: The test that drove it, and that alone can drive it again; None where the scenario says all.
    """

    scenario: Scenario
    stack: str
    engine: str = ""
    bug: str = ""
    params: dict[str, Any] = {}
    sut_python: str = ""
    redacted: bool = False
    by_test: ByTest | None = None


async def run_cell(
    cell: Cell, kind: StackKind, folder: Path, *, path: str = ".", say: Callable[[str], None] = lambda _: None
) -> ScenarioRecord:
    """Run it in ``folder`` (made if need be), and judge it.

    Cancelled, it still tears everything down, writes how far it came, and raises CancelledError. Of one that cannot be begun
    no run is left.

    Raises:
        NotAvailable: What the stack needs is not installed.
        LookupError: A name in the scenario means nothing on this stack.
        OSError: The folder cannot be written.
    """
    keep_cell(cell, folder)
    with History(folder / HISTORY_FILE) as history:
        try:
            await Run(cell, kind, folder, history, say).complete()
        except Exception:
            if not history.events:  # nothing was begun: nothing is left that would look like a run
                for name in (HISTORY_FILE, CELL_FILE):
                    (folder / name).unlink(missing_ok=True)
                if path != ".":
                    with suppress(OSError):  # there is more in it, which is not ours
                        folder.rmdir()
            raise
        return kept(judge(cell.scenario, history.events, path=path), history)


def kept(record: ScenarioRecord, history: History) -> ScenarioRecord:
    """The record; no pass, and not excused, where its history could not be written: nobody could look at what it rests on."""
    history.flush()
    error = history.write_error
    if error is None:
        return record
    lost = f"the history could not be written: {history.path}: {error.strerror}"
    if record.verdict == "pass":
        return msgspec.structs.replace(record, verdict="unknown", reason=f"everything held, but {lost}")
    notes = [
        Annotation(kind=IN_PART, reason=f"{note.reason}; {lost}") if note.kind == KNOWN else note
        for note in record.annotations
    ]
    return msgspec.structs.replace(record, annotations=notes)


def keep_cell(cell: Cell, folder: Path) -> None:
    """Write ``scenario.json`` into ``folder``, made if need be; without the secrets among the arguments.

    Raises:
        OSError: It cannot be written.
    """
    redactor = Redactor()
    redactor.learn_arguments([*cell.scenario.topology.frontend_args, *cell.scenario.topology.worker_args])
    whole = msgspec.json.encode(cell)
    clean = redactor.data(whole)
    if clean != whole:
        clean = redactor.data(msgspec.json.encode(msgspec.structs.replace(cell, redacted=True)))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CELL_FILE).write_bytes(msgspec.json.format(clean) + b"\n")


def not_for(scenario: Scenario, kind: StackKind) -> str:
    """Why a scenario means nothing on a stack, whatever it launches there; "" where it does."""
    if scenario.stacks and kind.name not in scenario.stacks:
        return f"it is about {', '.join(scenario.stacks)}: on {kind.name} it would say nothing"
    if unknown := [job.program for job in scenario.jobs if job.program not in kind.programs]:
        there_is = f"; there is {', '.join(kind.programs)}" if kind.programs else ""
        return f"it is about the job {unknown[0]!r}, which {kind.name} does not have{there_is}"
    if not kind.moves and any(expect.oracle in ("migrated", "not_migrated") for expect in scenario.expect):
        return f"it is about requests that move to another worker, which they do not do on {kind.name}"
    return ""


class Run:
    """A stack that is launched for a scenario or for a test, with its history and its nemesis.

    Attributes:
        history: Of this run.
        stack: Once :meth:`launch` has returned.
        nemesis: The same.
    """

    stack: RunningStack
    nemesis: Nemesis

    def __init__(self, cell: Cell, kind: StackKind, folder: Path, history: History, say: Callable[[str], None]) -> None:
        self.cell = cell
        self.history = history
        self._kind = kind
        self._folder = folder
        self._say = say
        self._redactor = Redactor()
        self._processes = kind.owner(history, folder, self._redactor)
        self._plan: Plan | None = None
        self._sent = 0
        self._outcome = "error"
        self._reason = ""

    async def complete(self) -> None:
        """The whole of it."""
        try:
            await self.launch()
            await self._workload("control")
            if self._control_jobs_passed():  # else they would only fail once more
                if self._needs_reference() and self.cell.scenario.faults:
                    await self._workload("repeat")
                await self._workload("fault")
                if self._needs_reference():
                    await self._cut()
            self.ended("complete")
        except NotApplicable as error:
            self.ended("not_applicable", str(error))
        except StackFailed as error:
            self.ended("stack_failed", f"the stack did not start: {error}")
        except asyncio.CancelledError:
            self.ended("interrupted", "interrupted")
            raise
        except Exception as error:
            self.ended("error", f"the harness failed: {type(error).__name__}: {error}")
            raise
        finally:
            await _shielded(self.teardown())

    def ended(self, outcome: str, reason: str = "") -> None:
        """Note how the run ended; written when it has been torn down."""
        self._outcome, self._reason = outcome, reason

    async def launch(self) -> None:
        """Start the stack.

        Raises:
            StackFailed: It did not become ready.
            NotAvailable: What it needs is not installed.
            NotApplicable: The topology does not exist there.
            LookupError: A name in the scenario means nothing on this stack.
        """
        _spare_the_collector()
        cell, scenario = self.cell, self.cell.scenario
        engine = cell.engine or (self._kind.engines[0] if scenario.topology.serves else "")
        sut_python = Path(cell.sut_python) if cell.sut_python else None
        settings = Settings(
            engine=engine,
            folder=self._folder,
            seed=scenario.seed,
            bug=cell.bug,
            sut_python=sut_python,
            jobs=scenario.jobs,
        )
        version = self._kind.version(sut_python)
        try:
            self._is_for(self._kind)
            plan = self._plan = self._kind.plan(scenario.topology, settings)
        except NotApplicable:
            self._begins(engine, version, {})
            raise
        try:
            check_words(scenario, plan)
        except LookupError:
            self._plan = None  # nothing is started
            plan.close()
            raise
        for one in (*plan.launches, *plan.jobs.launches):
            self._redactor.learn_arguments(one.argv)
        metrics = {m.event: m.name for launch in plan.launches for m in launch.contract.metrics}
        about: dict[str, Any] = {"exact": plan.exact, "behaviour": dict(plan.behaviour), "metrics": metrics}
        if plan.greedy:
            about["greedy"] = True
            about["tokens_told"] = plan.ids is not None  # so each token is counted as one
        if scenario.topology.standbys:  # the names of the processes tell who is in which
            about["groups"] = scenario.topology.workers
        if scenario.topology.pool is not None:  # the policies that what a manager does is judged by
            about["pool"] = msgspec.to_builtins(scenario.topology.pool.manager)
        if plan.exact and not any(one.startswith("--speed") for one in scenario.topology.worker_args):
            about["speed"] = scenario.topology.speed
        self._begins(engine, version, about)
        self._phase("launch")
        await self._processes.__aenter__()
        try:
            await self._start(plan)
        except StackFailed as error:
            if not error.port_taken or not any(launch.ports for launch in plan.launches):
                raise
            await self._processes.kill_survivors()
            self.stack.let_go()
            self.history.append(RunRetried(source="harness", reason=str(error)))
            again = self._plan = self._kind.plan(scenario.topology, dataclasses.replace(settings, hold_ports=False))
            await self._start(again)

    def _is_for(self, kind: StackKind) -> None:
        if why := not_for(self.cell.scenario, kind):
            raise NotApplicable(why)

    def _begins(self, engine: str, version: str, about: dict[str, Any]) -> None:
        cell, scenario = self.cell, self.cell.scenario
        given = {key: self._clean(value) for key, value in cell.params.items()}
        self.history.append(
            RunStarted(
                source="harness",
                scenario=scenario.name,
                stack=self._kind.name,
                engine=engine,
                seed=scenario.seed,
                sut_version=version,
                ftharness=ftharness.__version__,
                python=sys.version.split()[0],
                started_at=datetime.now(UTC).isoformat(timespec="seconds"),
                params={**about, "seed": scenario.seed, "bug": cell.bug, "set": given},
            )
        )

    async def _start(self, plan: Plan) -> None:
        scenario = self.cell.scenario
        self.stack = RunningStack(
            plan, self.history, self._processes, idle_s=scenario.idle_s, seed=scenario.seed, redactor=self._redactor
        )
        self.nemesis = Nemesis(self.stack, self.history, speed=scenario.topology.speed)
        await self.stack.start(deadline_s=max(scenario.ready_s, plan.ready_s))

    def _clean(self, value: Any) -> Any:
        return self._redactor.text(value) if isinstance(value, str) else value

    def _phase(self, phase: str) -> None:
        self._say(phase)
        self.history.append(RunPhase(source="harness", phase=phase))

    async def _workload(self, phase: str) -> None:
        scenario, control = self.cell.scenario, phase != "fault"
        check = "repeat" if phase == "repeat" else ""
        if not control:
            await self.stack.read_metrics()
            self.stack.note_shared_memory()
        self._phase(phase)
        if not control:
            self.nemesis.arm(scenario.faults)
        follow = (lambda _: None) if control else self.nemesis.follow
        try:
            async with asyncio.timeout(scenario.deadline_s):
                await asyncio.gather(
                    self.stack.client.send_all(scenario.workload, control=control, check=check, sent=follow),
                    *(self._job(plan) for plan in self._jobs(phase)),
                )
        except TimeoutError:
            await self.stack.client.close(hang=f"it had not ended when the phase's {scenario.deadline_s:g} s were over")
            late = [life for plan in self._jobs(phase) for life in self.stack.lives(plan.job.name) if life.exit is None]
            await self.stack.processes.stop(*late, grace_s=scenario.stop_grace_s)
        if not control:
            await self.nemesis.settled(deadline_s=scenario.deadline_s)
            await self._settled(scenario)

    def _jobs(self, phase: str) -> Sequence[JobPlan]:
        return {"control": self.stack.plan.jobs.control, "fault": self.stack.plan.jobs.fault}.get(phase, ())

    def _control_jobs_passed(self) -> bool:
        ends = [self.stack[plan.job.name].exit for plan in self._jobs("control")]
        return all(end is not None and end.returncode == 0 for end in ends)

    async def _job(self, plan: JobPlan) -> None:
        """Run a job to its end, and to that of the last life that the faults give it."""
        life = await self.stack.begin(plan, deadline_s=max(self.cell.scenario.ready_s, self.stack.plan.ready_s))
        while True:
            await life.exited()
            await self.nemesis.quiet()  # what its end has set off may start it again
            last = self.stack.lives(plan.job.name)[-1]
            if last is life:
                return
            life = last

    def _needs_reference(self) -> bool:
        """Whether the run without the fault is what answers are compared with, token by token."""
        scenario, plan = self.cell.scenario, self.stack.plan
        expected = plan.greedy and rests_on_tokens(scenario.expected_of(plan.behaviour))
        return expected and not all(samples(request.body(plan.model, plan.asks)) for request in scenario.workload)

    async def _cut(self) -> None:
        """Ask, on what still serves, whether answers go on as they did when they are cut where the fault was."""
        scenario, plan = self.cell.scenario, self.stack.plan
        note_tokens(self.history, plan)
        if interrupted(self.history):
            self._phase("cut")
            await resubmit(self.stack.client, self.history, plan, scenario.workload, deadline_s=scenario.deadline_s)
            note_tokens(self.history, plan)

    async def _settled(self, scenario: Scenario) -> None:
        """Read the metrics, and wait for what the expectations say is still to come."""
        await self.stack.read_metrics()
        expects = scenario.expected_of(self.stack.plan.behaviour)
        happened = asyncio.Event()
        unsubscribe = self.history.subscribe(lambda event: None if isinstance(event, Metric) else happened.set())
        deadline = time.monotonic() + _PENDING_S
        try:
            while (expects := pending(expects, self.history.events)) and time.monotonic() < deadline:
                with suppress(TimeoutError):
                    await asyncio.wait_for(happened.wait(), _LOOK_S)
                happened.clear()
                await self.stack.read_metrics()
        finally:
            unsubscribe()

    # For a test that drives requests itself: all of it is the fault phase.

    async def begin_faults(self) -> None:
        """The stack is ready for the test."""
        await self.stack.read_metrics()
        self._phase("fault")

    async def send(self, request: Request) -> Stream:
        """Send a request of the test's own; faults can be aimed at it by its place among those."""
        index, self._sent = self._sent, self._sent + 1  # before it is sent: others may be sent meanwhile
        return await self.stack.client.send(request, index=index, sent=self.nemesis.follow)

    async def judged(self, scenario: Scenario) -> ScenarioRecord:
        """What the expectations of ``scenario`` say of the run so far.

        Raises:
            LookupError: A name in them means nothing on this stack; names the nearest.
            ValueError: An argument is none that the oracle takes.
        """
        check_arguments(scenario, sent=self._sent)
        check_words(scenario, self.stack.plan, by_test=True)
        await self._settled(scenario)
        return judge(scenario, self.history.events, ongoing=True)

    def ended_well(self) -> None:
        """Nothing else has ended it: the test has come to its end."""
        if not self._reason:
            self._outcome = "complete"

    async def teardown(self) -> None:
        """Heal, look for what is still busy, stop everything, look for what is left, kill that. Safe in every state."""
        if self._plan is None:  # nothing was started
            if self._outcome == "not_applicable":
                self._over()
            return
        self._phase("teardown")
        try:
            if hasattr(self, "stack"):
                if hasattr(self, "nemesis"):
                    await self.nemesis.heal()
                await self._busy_slots()
                await self.stack.stop(grace_s=max(self.cell.scenario.stop_grace_s, self._plan.stop_s))
        finally:
            self._plan.close()
            await self._processes.__aexit__(None, None, None)
            self._over()

    def _over(self) -> None:
        self.history.append(RunFinished(source="harness", outcome=self._outcome, reason=self._reason))

    async def _busy_slots(self) -> None:
        """A slot that stays busy though no request is left is a leak; give it a moment to be freed."""
        assert self._plan is not None
        names = {m.name for launch in self._plan.launches for m in launch.contract.metrics if m.event == "slots_busy"}
        if not names or self._outcome != "complete":
            return
        await self.stack.client.close()
        deadline = time.monotonic() + _SLOTS_S
        while True:
            seen = len(self.history.events)
            await self.stack.read_metrics()
            busy = [
                event
                for event in self.history.events[seen:]
                if isinstance(event, Metric) and event.name in names and event.value > 0
            ]
            if not busy or time.monotonic() > deadline:
                break
            await asyncio.sleep(_LOOK_S)  # a metric can only be asked for
        for sample in busy:
            self.history.append(
                Leak(source=sample.source, what="slot", detail=f"{sample.name} = {sample.value:g} with no request left")
            )


@cache
def _spare_the_collector() -> None:
    """Take what a process holds when it begins its first run out of the collector's sight, once.

    A whole collection looks at all of it: 0.2 s with the modules of a test session such as our own, and several times that on a
    busy machine, in which no event is seen and no fault is timed.
    """
    gc.collect()
    gc.freeze()


async def _shielded(work: Any) -> None:
    """Finish ``work`` though we are being cancelled; a second cancellation does not stop it either."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()
