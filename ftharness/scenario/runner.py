"""Runs one scenario on one stack: launch, once without the faults, once with them, tear down, judge."""

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

import ftharness
from ftharness.client import Stream
from ftharness.history import History, Leak, Metric, RunFinished, RunPhase, RunStarted
from ftharness.process import Processes, Redactor
from ftharness.scenario.judge import judge
from ftharness.scenario.nemesis import Nemesis
from ftharness.scenario.record import ScenarioRecord
from ftharness.scenario.scenario import Scenario
from ftharness.stack import Plan, RunningStack, Settings, StackFailed, StackKind

_READY_S = 60.0
_SLOTS_S = 1.0


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one scenario: all that is needed to run it again. Stored as ``scenario.json``.

    Attributes:
        scenario: With everything that ``--set`` changed.
        stack: Its name, or the path of its TOML file.
        engine: ``vllm``, ``sglang`` or ``trtllm``; "" is the stack's first.
        bug: A planted bug, or "".
        params: What was set on the command line, as the report shows it.
        sut_python: The interpreter of the system under test; "" is the provisioned one.
    """

    scenario: Scenario
    stack: str
    engine: str = ""
    bug: str = ""
    params: dict[str, Any] = {}
    sut_python: str = ""


async def run_cell(
    cell: Cell, kind: StackKind, folder: Path, *, path: str = ".", say: Callable[[str], None] = lambda _: None
) -> ScenarioRecord:
    """Run it in ``folder`` (made if need be), and judge it.

    Cancelled, it still tears everything down, writes how far it came, and raises CancelledError.

    Raises:
        NotAvailable: What the stack needs is not installed.
        ValueError: The topology does not exist on the stack.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scenario.json").write_bytes(msgspec.json.format(msgspec.json.encode(cell)) + b"\n")
    with History(folder / "history.jsonl") as history:
        await Run(cell, kind, folder, history, say).complete()
        return judge(cell.scenario, history.events, path=path)


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
        self._processes = Processes(history, folder, redactor=self._redactor)
        self._plan: Plan | None = None
        self._outcome = "error"
        self._reason = ""

    async def complete(self) -> None:
        """The whole of it."""
        try:
            await self.launch()
            await self._workload("control")
            await self._workload("fault")
            self.ended("complete")
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
            ValueError: The topology does not exist there.
        """
        cell, scenario = self.cell, self.cell.scenario
        engine = cell.engine or self._kind.engines[0]
        sut_python = Path(cell.sut_python) if cell.sut_python else None
        settings = Settings(engine=engine, folder=self._folder, seed=scenario.seed, bug=cell.bug, sut_python=sut_python)
        version = self._kind.version(sut_python)
        plan = self._plan = self._kind.plan(scenario.topology, settings)
        self.history.append(
            RunStarted(
                source="harness",
                scenario=scenario.name,
                stack=cell.stack,
                engine=engine,
                seed=scenario.seed,
                sut_version=version,
                ftharness=ftharness.__version__,
                python=sys.version.split()[0],
                started_at=datetime.now(UTC).isoformat(timespec="seconds"),
                params={
                    "exact": plan.exact,
                    "seed": scenario.seed,
                    "bug": cell.bug,
                    "behaviour": dict(plan.behaviour),
                    "metrics": {m.event: m.name for launch in plan.launches for m in launch.contract.metrics},
                    "set": cell.params,
                },
            )
        )
        self._phase("launch")
        await self._processes.__aenter__()
        self.stack = RunningStack(
            plan, self.history, self._processes, idle_s=scenario.idle_s, seed=scenario.seed, redactor=self._redactor
        )
        self.nemesis = Nemesis(self.stack, self.history, speed=scenario.topology.speed)
        await self.stack.start(deadline_s=_READY_S)

    def _phase(self, phase: str) -> None:
        self._say(phase)
        self.history.append(RunPhase(source="harness", phase=phase))

    async def _workload(self, phase: str) -> None:
        scenario, control = self.cell.scenario, phase == "control"
        if not control:
            await self.stack.read_metrics()
            self.stack.note_shared_memory()
        self._phase(phase)
        if not control:
            self.nemesis.arm(scenario.faults)
        follow = (lambda _: None) if control else self.nemesis.follow
        try:
            async with asyncio.timeout(scenario.deadline_s):
                await self.stack.client.send_all(scenario.workload, control=control, sent=follow)
        except TimeoutError:
            await self.stack.client.close()
        if not control:
            await self.nemesis.settled(deadline_s=scenario.deadline_s)
            await self.stack.read_metrics()

    def begin_faults(self) -> None:
        """For a test that drives requests itself: all of it is the fault phase."""
        self._phase("fault")

    def follow(self, stream: Stream) -> None:
        """Count a test's own request among those that faults can be aimed at."""
        self.nemesis.follow(stream)

    async def teardown(self) -> None:
        """Heal, look for what is still busy, stop everything, look for what is left, kill that. Safe in every state."""
        if self._plan is None:
            return
        self._phase("teardown")
        try:
            if hasattr(self, "stack"):
                if hasattr(self, "nemesis"):
                    await self.nemesis.heal()
                await self._busy_slots()
                await self.stack.stop(grace_s=self.cell.scenario.stop_grace_s)
        finally:
            self._plan.close()
            await self._processes.__aexit__(None, None, None)
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
            await asyncio.sleep(0.05)  # a metric can only be asked for
        for sample in busy:
            self.history.append(
                Leak(source=sample.source, what="slot", detail=f"{sample.name} = {sample.value:g} with no request left")
            )


async def _shielded(work: Any) -> None:
    """Finish ``work`` though we are being cancelled; a second cancellation does not stop it either."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()
