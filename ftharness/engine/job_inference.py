"""The program ``inference``: a row for each item, with checkpoints, in this process alone or by ranks under a coordinator.

Nothing here imports torch, for what each rank's process imports is what its start takes.
"""

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from ftharness.checkpoint import CheckpointManifest
from ftharness.coordinator import (
    Attempt,
    Finished,
    GPUProcessCoordinator,
    Reports,
    RuntimeConfig,
    Told,
    exit_on_sigterm,
)
from ftharness.engine.job_digest import added, shown
from ftharness.engine.job_log import ids_of, say, speak_by_logging
from ftharness.engine.job_settings import JobSettings

if TYPE_CHECKING:
    from ftharness.engine.job_shard import Shard

DONE, FAILED, INCOMPLETE = 0, 1, 3
_FOR_EVER = 1_000_000


def inference(settings: JobSettings) -> int:
    """All items; the exit status."""
    say(
        "job_started",
        items=settings.items,
        batches=sum(len(settings.batches(rank)) for rank in range(settings.shards)),
        ranks=settings.ranks,
        spot_retry_s=settings.spot_retry_s,
        max_retries_transient=settings.max_retries_transient,
        max_retries_poison=settings.max_retries_poison,
    )
    try:
        manifest = CheckpointManifest(settings.checkpoints / "manifest.json")
        manifest.initialize(settings.shards)  # what an earlier life has recorded is kept
        return _by_ranks(settings, manifest) if settings.ranks else _alone(settings, manifest)
    except Exception as error:  # noqa: BLE001 - whatever it was, whoever started it is told
        say("job_failed", error=f"{type(error).__name__}: {error}")
        return FAILED


def _alone(settings: JobSettings, manifest: CheckpointManifest) -> int:
    exit_on_sigterm()
    say("rank_started", rank=0, pid=os.getpid(), attempt=1)
    done = _shard_type()(settings, rank=0).compute()
    manifest.mark_shard_complete(0)
    say("job_finished", items=done.items, digest=shown(done.digest))
    return DONE


def _by_ranks(settings: JobSettings, manifest: CheckpointManifest) -> int:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # it computes on the CPU, whatever the machine has
    config = RuntimeConfig(
        checkpoint_dir=settings.checkpoints,
        checkpoint_seq_threshold=settings.checkpoint_every,
        spot_retry_poll_interval=0.001 if settings.bug == "spot-retried-at-once" else settings.spot_retry_s,
        max_retries_transient=settings.max_retries_transient,
        max_retries_poison=_FOR_EVER if settings.bug == "poison-for-ever" else settings.max_retries_poison,
        enable_elastic_redistribution=settings.bug != "poison-drops-shard",
    )
    with _Coordinator(settings) as coordinator:
        coordinator.setup_signal_handlers()
        coordinator.spawn_workers(_work, (settings,))
        completed = coordinator.monitor_workers_async(config, manifest)
        reports = {one["rank"]: one for one in coordinator.collect_results() if one.get("status") == "complete"}
        failures = dict(coordinator.failures)
    if all(completed.values()):
        items = sum(one["items"] for one in reports.values())
        say("job_finished", items=items, digest=shown(added(*(one["digest"] for one in reports.values()))))
        return DONE
    missing = [name for rank, done in completed.items() if not done for name in _missing(settings, rank, reports)]
    why = "; ".join(f"shard {rank}: {failure}" for rank, failure in sorted(failures.items()))
    say("job_incomplete", missing=missing, why=why)
    return INCOMPLETE


def _shard_type() -> "type[Shard]":
    """:class:`Shard`, whose module imports torch.

    What that makes is there to stay, and a collector that looks at it time and again takes a quarter of the import.
    """
    gc.disable()
    try:
        from ftharness.engine.job_shard import Shard  # noqa: PLC0415 - by who computes alone
    finally:
        gc.freeze()
        gc.enable()
    return Shard


def _missing(settings: JobSettings, rank: int, reports: dict[int, dict[str, Any]]) -> list[str]:
    """The items of a shard that is not complete: those of the batches that were left out, or all."""
    batches = settings.batches(rank)
    left_out = reports[rank]["skipped_batches"] if rank in reports else range(len(batches))
    return [name for batch in left_out for name in ids_of(batches[batch])]


class _Coordinator(GPUProcessCoordinator):
    """Says in the log of each attempt that it begins."""

    def __init__(self, settings: JobSettings) -> None:
        super().__init__(settings.ranks, settings.data, told=_Ends(settings))

    def start(self, attempt: Attempt) -> Any:
        """As the coordinator's own."""
        worker = super().start(attempt)
        say("attempt_started", shard=attempt.shard, worker=attempt.worker, attempt=attempt.number)
        return worker


class _Ends(Told):
    """Says in the log of each attempt how it ended, and what was decided."""

    def __init__(self, settings: JobSettings) -> None:
        self._settings = settings

    def finished(self, finished: Finished) -> None:
        """An attempt is over."""
        attempt, diagnosis, decision = finished.attempt, finished.diagnosis, finished.decision
        given_up = None if decision is None else decision.poisoned
        say(
            "attempt_ended",
            shard=attempt.shard,
            worker=attempt.worker,
            attempt=attempt.number,
            kind=diagnosis.kind if diagnosis else "",
            decision="done" if decision is None else "retry" if decision.retry else "gave_up",
            delay_s=decision.delay_s if decision else 0.0,
            batch="" if diagnosis is None or diagnosis.batch_idx is None else diagnosis.batch_idx,
            reason=f"{decision.reason}; {diagnosis.evidence}" if decision and diagnosis else "",
        )
        if given_up is not None:
            ids = ids_of(self._settings.batches(attempt.shard)[given_up])
            say("batch_given_up", shard=attempt.shard, batch=given_up, ids=ids)


def _work(rank: int, _: int, results_queue: Reports, settings: JobSettings) -> None:
    """One attempt at a rank's items, in its own process."""
    attempt = results_queue.attempt
    if settings.bug == "preempted-as-done":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    else:
        exit_on_sigterm()
    speak_by_logging()
    say("rank_started", rank=rank, pid=os.getpid(), attempt=attempt.number)
    shard_type = _shard_type()

    def at_batch(batch: int) -> None:
        results_queue.put({"status": "running", "batch_idx": batch})

    done = shard_type(settings, rank, attempt.number, attempt.skip_batches, at_batch).compute()
    skipped = sorted(attempt.skip_batches)
    results_queue.put({"rank": rank, "status": "complete", **done._asdict(), "skipped_batches": skipped})
