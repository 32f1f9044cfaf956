"""Workers on devices: one process each, none of which takes another with it."""

import logging
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ftharness.coordinator.child import WorkerFn
from ftharness.coordinator.clock import Clock, SystemClock
from ftharness.coordinator.config import RuntimeConfig
from ftharness.coordinator.crew import Crew
from ftharness.coordinator.devices import masks
from ftharness.coordinator.errors import Diagnosis, classify
from ftharness.coordinator.monitor import Finished, Manifest, Monitor
from ftharness.coordinator.reports import Attempt
from ftharness.coordinator.shutdown import EXIT_STATUS, SignalGate
from ftharness.coordinator.worker import Ending, Worker

_log = logging.getLogger("ftharness.coordinator")
_TERMINATE_S = 5.0


class Told:
    """What a coordinator tells while it runs, in the thread that watches; this one is silent."""

    def report(self, report: dict[str, Any]) -> None:
        """A worker said something. It is collected as well."""

    def finished(self, finished: Finished) -> None:
        """An attempt is over, and what to do about it is decided."""

    def signalled(self, came_before: int) -> None:
        """A signal asks for the end, for which so many asked before; workers are told when this returns."""


class GPUProcessCoordinator:
    """Runs a function once for each rank, in a process and on a device of its own, and sees all of them through.

    Processes are spawned, not forked: CUDA does not survive a fork. A worker that fails takes no other with it, as
    ``torch.multiprocessing.spawn`` would have it. When this process is gone, even by SIGKILL, each worker gets SIGTERM.

    Leave it by its ``with`` block, or call :meth:`terminate_all`: what still runs then is ended.

    Args:
        world_size: How many workers: one a device.
        output_dir: The run's folder. Checkpoints are in ``checkpoints`` of it, unless the configuration says where.
        clock: By which to wait; tests hold one (:class:`~ftharness.coordinator.clock.HeldClock`).
        grace_s: Seconds that workers have to write their checkpoints after SIGTERM.
        masked: Each worker sees one device, its own. False: what this process sees; for workers that reserve theirs.
        leave_out_poison: A batch that was given up costs its shard nothing else: the same worker goes on without it, at
            once. False: it goes on elsewhere, if anywhere.
        diagnose: Tells what kind of failure ended an attempt; for who knows more of the work than :func:`classify` does.
        told: Hears what happens.

    Attributes:
        world_size: The same.
        output_dir: The same.
        ctx: The context of multiprocessing.
        workers: By rank, the process that does, or did last, the rank's shard.
        shutdown_requested: Whether SIGTERM came. May be set by hand: what is monitored is then told, and waited for.
        failed_batches: What was given up as poison, as (shard, batch).
        redistributed_work: Which worker got the shard of which: by shard, its new worker.
        failures: Of each shard that was not completed, why.
        finished: All attempts that are over, in order: how each ended, and what was decided.
        ended: By rank, how its worker ended, where :meth:`wait_for_completion` saw it.

    Raises:
        ValueError: No worker, or no grace.
    """

    def __init__(
        self,
        world_size: int,
        output_dir: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        grace_s: float = 30.0,
        masked: bool = True,
        leave_out_poison: bool = False,
        diagnose: Callable[[Ending], Diagnosis] = classify,
        told: Told | None = None,
    ) -> None:
        if world_size < 1:
            raise ValueError(f"world_size = {world_size}: there has to be a worker")
        if not grace_s >= 0:
            raise ValueError(f"grace_s = {grace_s:g}: must be 0 seconds or more")
        self.world_size = world_size
        self.output_dir = Path(output_dir)
        self.ctx = get_context("spawn")
        self.workers: dict[int, SpawnProcess] = {}
        self.shutdown_requested = False
        self.failed_batches: set[tuple[int, int]] = set()
        self.redistributed_work: dict[int, int] = {}
        self.failures: dict[int, str] = {}
        self.clock: Clock = clock or SystemClock()
        self.grace_s = grace_s
        self.leave_out_poison = leave_out_poison
        self.diagnose = diagnose
        self.gate = SignalGate(self._shut_down)
        self.crew = Crew(self.clock, self.gate)
        self._work: tuple[WorkerFn, tuple[Any, ...]] | None = None
        self._masked = masked
        self._masks: Sequence[str | None] = ()
        self._told = told or Told()
        self.finished: list[Finished] = []
        self.ended: dict[int, Ending] = {}

    def spawn_workers(self, worker_fn: WorkerFn, worker_args: tuple[Any, ...] = ()) -> None:
        """Start one worker for each rank.

        Args:
            worker_fn: Called as ``worker_fn(rank, world_size, results_queue, *worker_args)``, in its own process, which sees
                its own device only, from before anything was imported. To be importable there: a function of a module. It
                has done its work when it returns, or exits with 0. What it says by ``results_queue.put`` is for
                :meth:`collect_results`, and for the policies; see :class:`~ftharness.coordinator.reports.Reports`.
            worker_args: The rest; they are pickled.

        Raises:
            RuntimeError: There are workers already.
            ValueError: This process may see fewer devices than there are to be workers.
            OSError: Processes could not be had; those that were started are ended.
        """
        if self._work is not None:
            raise RuntimeError("the workers were spawned already; another run needs another GPUProcessCoordinator")
        self._masks = masks(self.world_size) if self._masked else [None] * self.world_size
        self._work = worker_fn, tuple(worker_args)
        try:
            for rank in range(self.world_size):
                self.start(Attempt(shard=rank, worker=rank))
                _log.info(
                    "worker %d: started, pid %s, device %s", rank, self.workers[rank].pid, self._masks[rank] or "any"
                )
        except BaseException:
            self.terminate_all()
            raise

    def start(self, attempt: Attempt) -> Worker:
        """Start one process, for one attempt at a shard.

        Args:
            attempt: At which, on whose device.

        Raises:
            OSError: No process could be had.
            RuntimeError: There is nothing to do yet: :meth:`spawn_workers` says what.
        """
        worker_fn, args = self._known_work()
        if attempt.number > 1:  # or it would throw away what the first has done
            args = tuple(_resumed(arg) for arg in args)
        with self.gate:
            worker = Worker(
                self.ctx,
                worker_fn,
                self.world_size,
                args,
                attempt=attempt,
                mask=self._masks[attempt.worker],
                on_report=self._heard,
            )
            self.crew.join(worker)
            self.workers[attempt.shard] = worker.process
        return worker

    def _heard(self, report: dict[str, Any]) -> None:
        self.crew.reports.append(report)
        self._told.report(report)

    def note(self, finished: Finished) -> None:
        """An attempt is over."""
        self.finished.append(finished)
        self._told.finished(finished)

    def _known_work(self) -> tuple[WorkerFn, tuple[Any, ...]]:
        if self._work is None:
            raise RuntimeError("what is to be done is not known yet: spawn_workers first")
        return self._work

    def wait_for_completion(self, timeout: float | None = None) -> dict[int, bool]:
        """Wait for all workers' ends, without trying any again.

        Args:
            timeout: Seconds, for all of them together; None: however long it takes.

        Returns:
            By rank, whether it ended with status 0. One that still runs has not, and runs on.
        """
        until = None if timeout is None else self.clock.now() + timeout
        while self.crew.running and (until is None or self.clock.now() < until):
            self.crew.wait(until)
            self._take_ended()
        for worker in self.crew.running:
            _log.warning("worker %d: still runs after %g s", worker.attempt.worker, timeout or 0)
        return {rank: rank in self.ended and self.ended[rank].exitcode == 0 for rank in sorted(self.workers)}

    def _take_ended(self) -> None:
        with self.gate:
            self.crew.listen()
            for worker in self.crew.running:
                if ending := worker.ending():
                    self.ended[worker.attempt.shard] = ending
                    self.crew.leave(worker)

    def monitor_workers_async(
        self, runtime_config: RuntimeConfig, manifest: Manifest | None = None, check_interval: float = 5.0
    ) -> dict[int, bool]:
        """See every shard through: what fails is classified, tried again by its policy, or given to another worker.

        The name is the established one; it returns when all is over. Run it in a thread where there is other work.

        Args:
            runtime_config: The policies.
            manifest: Is told what is complete, failed or in other hands. By this process alone.
            check_interval: Seconds after which :attr:`shutdown_requested` is looked at, at the latest. Exits, reports and
                waits that are over are not polled for.

        Returns:
            By shard, whether all of it was done; :attr:`failures` says why not. Shards that a shutdown interrupted are not
            among them.

        Raises:
            RuntimeError: :meth:`spawn_workers` was not called.
            SystemExit: 143, where :meth:`setup_signal_handlers` was called and SIGTERM came.
            Exception: The manifest could not be written, say. The workers are ended.
        """
        self._known_work()
        try:
            return Monitor(self, runtime_config, manifest, check_interval).run()
        except BaseException:
            self.terminate_all()
            raise

    def collect_results(self) -> list[dict[str, Any]]:
        """What workers reported since the last call, of all attempts, each worker's in its order."""
        with self.gate:
            self.crew.listen()
            reports = self.crew.reports[:]
            self.crew.reports.clear()
        return reports

    def terminate_all(self) -> None:
        """End all workers: SIGTERM to all at once, and after 5 s SIGKILL to whoever is left."""
        with self.gate:
            for worker in self.crew.running:
                worker.ended_by = worker.ended_by or "ended by terminate_all"
            self.crew.tell(signal.SIGTERM)
            self.crew.stop(_TERMINATE_S)
            self._take_ended()

    def setup_signal_handlers(self, *numbers: signal.Signals) -> None:
        """From now on SIGTERM ends the run in order; or these signals do.

        :attr:`shutdown_requested` is set and all workers get SIGTERM, at once; they have :attr:`grace_s` to write their
        checkpoints; then this process exits with 143. A second SIGTERM cuts the grace short.

        Raises:
            ValueError: This is not the main thread.
        """
        self.gate.install(*(numbers or (signal.SIGTERM,)))

    def shut_down(self) -> None:
        """Tell all workers that it is over, and wait until they have written their checkpoints, for the grace at most.

        Two threads may, one for the signal and one that watches: each worker is told once.
        """
        self.shutdown_requested = True
        self.crew.tell(signal.SIGTERM)
        self.crew.stop(self.grace_s)

    def _shut_down(self, came_before: int) -> None:
        self._told.signalled(came_before)
        if came_before:
            self.crew.tell(signal.SIGKILL)
            return  # into the wait for their ends, which is over then
        _log.warning("SIGTERM: %d workers are told, and have %g s", len(self.crew.running), self.grace_s)
        self.shut_down()
        raise SystemExit(EXIT_STATUS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate_all()
        self.gate.uninstall()


def _resumed(arg: Any) -> Any:
    """An argument of the first attempt, for a later one."""
    if isinstance(arg, RuntimeConfig) and arg.force_restart:
        return RuntimeConfig.from_dict({**arg.to_dict(), "force_restart": False})
    return arg
