"""The watch over all shards: from an exit to the next attempt, on the same device or on another."""

import logging
import signal
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ftharness.coordinator.config import RuntimeConfig
from ftharness.coordinator.errors import Diagnosis
from ftharness.coordinator.policy import Decision, RetryPolicy
from ftharness.coordinator.reports import Attempt
from ftharness.coordinator.worker import Ending, Worker

if TYPE_CHECKING:
    from ftharness.coordinator.coordinator import GPUProcessCoordinator

_log = logging.getLogger("ftharness.coordinator")


class Manifest(Protocol):
    """What a run's manifest is told; :class:`ftharness.checkpoint.CheckpointManifest` is one."""

    def mark_shard_complete(self, rank: int) -> object:
        """All of a shard is done."""

    def mark_shard_failed(self, rank: int, error: str) -> object:
        """A shard was given up, by this worker at least."""

    def reassign_shard(self, shard_rank: int, new_assigned_rank: int) -> object:
        """A shard is in another worker's hands."""


class Finished(NamedTuple):
    """An attempt that is over.

    Attributes:
        attempt: Which.
        at: When, on the coordinator's clock, in seconds.
        exitcode: As of :class:`multiprocessing.Process`; None: it could not be started.
        diagnosis: What failed; None where it succeeded.
        decision: What was done about it; None where it succeeded.
    """

    attempt: Attempt
    at: float
    exitcode: int | None
    diagnosis: Diagnosis | None = None
    decision: Decision | None = None


class Shard:
    """One rank's work, and how it stands.

    Attributes:
        rank: Whose it was at first.
        worker: On whose device it is tried.
        attempt: The last one.
        failed_as: How it failed.
        poisoned: Batches that were given up.
        policy: Decides whether to try again there.
        due: When the next attempt is, on the clock; None: it runs, waits for a device, or is over.
        deadline: When the attempt that runs is too long; None: never.
    """

    def __init__(self, rank: int, config: RuntimeConfig) -> None:
        self.rank = self.worker = rank
        self.attempt = Attempt(rank, rank)
        self.failed_as = ""
        self.poisoned: frozenset[int] = frozenset()
        self.policy = RetryPolicy(config)
        self.due: float | None = None
        self.deadline: float | None = None


class Monitor:
    """Runs until every shard is complete, or failed for good.

    Args:
        coordinator: Whose workers.
        config: The policies.
        manifest: Is told.
        check_interval: Seconds between two looks at the flag of a shutdown, at most.
    """

    def __init__(
        self,
        coordinator: "GPUProcessCoordinator",
        config: RuntimeConfig,
        manifest: Manifest | None,
        check_interval: float,
    ) -> None:
        self._all = coordinator
        self._config = config
        self._manifest = manifest
        self._check_interval = check_interval
        self._folder = config.checkpoint_dir or coordinator.output_dir / "checkpoints"
        self._shards = {rank: Shard(rank, config) for rank in coordinator.workers}
        self._open = dict(self._shards)
        self._homeless: list[Shard] = []  # given up by their own workers, in wait for another's device
        self._unfit: set[int] = set()  # workers whose own shard was given up for the device's sake, maybe
        self._done: dict[int, bool] = {}
        for worker in coordinator.crew.running:
            self._shards[worker.attempt.shard].deadline = self._from_now(config.timeout_per_attempt)
        for rank, ending in coordinator.ended.items():  # before anybody watched
            self._ended(self._shards[rank], ending)

    def run(self) -> dict[int, bool]:
        """See it through. By shard, whether all of it was done."""
        everything = self._all
        while self._open and not everything.shutdown_requested:
            with everything.gate:
                if everything.shutdown_requested:  # while another thread had its turn
                    break
                everything.crew.listen()
                self._take_ended()
                self._start_due()
                self._end_overdue()
                self._place()
            if self._open:
                everything.crew.wait(self._next())
        if self._open:
            everything.shut_down()
        return dict(sorted(self._done.items()))

    def _next(self) -> float:
        """When to look again, if nothing happens."""
        times = [time for shard in self._open.values() for time in (shard.due, shard.deadline) if time is not None]
        return min([*times, self._all.clock.now() + self._check_interval])

    def _from_now(self, seconds: float | None) -> float | None:
        return None if seconds is None else self._all.clock.now() + seconds

    def _take_ended(self) -> None:
        for worker in self._all.crew.running:
            if ending := worker.ending():
                self._all.crew.leave(worker)
                self._ended(self._shards[worker.attempt.shard], ending)

    def _ended(self, shard: Shard, ending: Ending) -> None:
        shard.deadline = None
        if not ending.succeeded:
            self._failed(shard, ending)
            return
        self._all.note(Finished(shard.attempt, self._all.clock.now(), ending.exitcode))
        if skipped := ending.skipped_batches:
            self._over(shard, f"batches {sorted(skipped)} were left out as poison; all others are done")
        else:
            self._over(shard, "")

    def _failed(self, shard: Shard, ending: Ending) -> None:
        diagnosis = self._all.diagnose(ending)
        decision = shard.policy.decide(diagnosis)
        now = self._all.clock.now()
        self._all.note(Finished(shard.attempt, now, ending.exitcode, diagnosis, decision))
        shard.failed_as = diagnosis.kind
        level = logging.WARNING if decision.retry else logging.ERROR
        _log.log(
            level,
            "shard %d on worker %d: %s (%s); %s",
            shard.rank,
            shard.worker,
            diagnosis.kind,
            diagnosis.evidence,
            decision.reason,
        )
        if decision.retry:
            shard.due = now + decision.delay_s
        else:
            self._give_up(shard, diagnosis, decision)

    def _give_up(self, shard: Shard, diagnosis: Diagnosis, decision: Decision) -> None:
        """On this device; of a batch that is left out, that batch alone. The first time there is another device."""
        another = decision.poisoned not in shard.poisoned
        if decision.poisoned is not None:
            shard.poisoned |= {decision.poisoned}
            self._all.failed_batches.add((shard.rank, decision.poisoned))
        elif shard.worker == shard.rank:
            self._unfit.add(shard.worker)
        reason = f"{decision.reason}; {diagnosis.evidence}"
        if decision.poisoned is not None and another and self._all.leave_out_poison:
            shard.due = self._all.clock.now()
        elif shard.worker == shard.rank and self._config.enable_elastic_redistribution:
            if self._manifest is not None:
                self._manifest.mark_shard_failed(shard.rank, reason)
            self._all.failures[shard.rank] = reason
            self._homeless.append(shard)
        elif decision.poisoned is not None and another and self._config.enable_elastic_redistribution:
            shard.due = self._all.clock.now()  # the others can be done without this one, too
        else:
            self._over(shard, reason)

    def _over(self, shard: Shard, failure: str) -> None:
        del self._open[shard.rank]
        self._done[shard.rank] = not failure
        if failure:
            self._all.failures[shard.rank] = failure
            _log.error("shard %d: failed: %s", shard.rank, failure)
        else:
            self._all.failures.pop(shard.rank, None)
            _log.info("shard %d: complete, by worker %d, attempt %d", shard.rank, shard.worker, shard.attempt.number)
        if self._manifest is None:
            return
        if failure:
            self._manifest.mark_shard_failed(shard.rank, failure)
        else:
            self._manifest.mark_shard_complete(shard.rank)

    def _place(self) -> None:
        """Give shards that lost their worker to others, each of which has one at a time: its memory is one device's."""
        for shard in list(self._homeless):
            able = [rank for rank in self._shards if rank != shard.rank and rank not in self._unfit]
            free = [rank for rank in able if self._is_free(rank)]
            if free:
                self._homeless.remove(shard)
                self._move(shard, free[0])
            elif not able:
                self._homeless.remove(shard)
                self._over(shard, f"{self._all.failures[shard.rank]}; there is no other worker to give it to")

    def _is_free(self, rank: int) -> bool:
        return all(shard.worker != rank or shard in self._homeless for shard in self._open.values())

    def _move(self, shard: Shard, rank: int) -> None:
        _log.warning("shard %d: what is left of it goes to worker %d", shard.rank, rank)
        shard.worker = rank
        shard.policy = RetryPolicy(self._config)
        self._all.redistributed_work[shard.rank] = rank
        if self._manifest is not None:
            self._manifest.reassign_shard(shard.rank, rank)
        self._start(shard)

    def _start_due(self) -> None:
        for shard in list(self._open.values()):
            if shard.due is not None and shard.due <= self._all.clock.now():
                self._start(shard)

    def _start(self, shard: Shard) -> None:
        shard.due = None
        if self._config.enable_checkpointing:
            # Each worker imports this module, with the package, and none of them needs what checkpoints need.
            from ftharness.coordinator.folder import validate_checkpoint_dir  # noqa: PLC0415

            check = validate_checkpoint_dir(self._folder, shard.rank)
            if not check.usable:
                self._over(shard, check.reason)
                return
        number = shard.attempt.number + 1
        shard.attempt = Attempt(shard.rank, shard.worker, number, shard.failed_as, shard.poisoned)
        try:
            self._all.start(shard.attempt)
        except OSError as error:  # no process to be had, now
            self._failed(shard, Ending(None, ended_by=f"could not be started: {error}"))
            return
        shard.deadline = self._from_now(self._config.timeout_per_attempt)

    def _end_overdue(self) -> None:
        """SIGTERM to whoever takes too long; SIGKILL when the grace is over, too."""
        now = self._all.clock.now()
        for worker in self._all.crew.running:
            shard = self._shards[worker.attempt.shard]
            if shard.deadline is not None and shard.deadline <= now:
                self._end(worker)
                shard.deadline = now + self._all.grace_s

    def _end(self, worker: Worker) -> None:
        first = not worker.ended_by
        worker.ended_by = f"took longer than {self._config.timeout_per_attempt:g} s, and was ended"
        worker.signal(signal.SIGTERM if first else signal.SIGKILL)
