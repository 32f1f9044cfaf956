"""One shard of a job's inference, from its last checkpoint to its end; every step of it is told in the log."""

import contextlib
from collections.abc import Callable, Collection
from typing import NamedTuple

import torch

from ftharness.checkpoint import CheckpointManifest, Resumed
from ftharness.checkpoint.shard import shard_folder
from ftharness.coordinator import AsyncInferenceRunner
from ftharness.engine import job_bugs
from ftharness.engine.job_digest import added, shown
from ftharness.engine.job_log import ids_of, say
from ftharness.engine.job_model import LAYER, Model, digest, loaded
from ftharness.engine.job_settings import JobSettings

#: Whoever has to know at which batch a shard is, before it begins.
AtBatch = Callable[[int], object]


class ShardDone(NamedTuple):
    """What came of a shard: how many items, and their digest."""

    items: int
    digest: int


class TellingManifest(CheckpointManifest):
    """Says of each checkpoint that it is committed, with its ids, once it is: it, its marker, and its record here."""

    def __init__(self, settings: JobSettings) -> None:
        super().__init__(settings.checkpoints / "manifest.json")
        self._bug = settings.bug

    def update_shard_checkpoint(
        self, rank: int, batch_idx: int, num_sequences: int, checkpoint_file: str, sequence_range: str = ""
    ) -> None:
        """As the manifest's own."""
        super().update_shard_checkpoint(rank, batch_idx, num_sequences, checkpoint_file, sequence_range)
        if self._bug in job_bugs.EARLY:
            return
        path = shard_folder(self.manifest_path.parent, rank) / checkpoint_file
        ids = torch.load(path, weights_only=True)["sequence_ids"]
        say("checkpoint_committed", rank=rank, checkpoint=batch_idx, ids=ids)


class Shard:
    """One attempt at a shard.

    Args:
        settings: The job's.
        rank: Which shard.
        attempt: The number of this attempt at it, from 1.
        skip: Batches to leave out: poison.
        at_batch: Is told of each batch before it begins.
    """

    def __init__(
        self,
        settings: JobSettings,
        rank: int,
        attempt: int = 1,
        skip: Collection[int] = (),
        at_batch: AtBatch = lambda _: None,
    ) -> None:
        self._settings = settings
        self._rank = rank
        self._attempt = attempt
        self._skip = set(skip)
        self._at_batch = at_batch
        self._batches = settings.batches(rank)
        self._recovered: frozenset[str] = frozenset()
        self._early = job_bugs.Early(settings, rank)

    def compute(self) -> ShardDone:
        """All of it that is not in checkpoints, which come first.

        Raises:
            CheckpointError: Those there are are of another job; or some could not be written, after all was computed.
        """
        settings, rank = self._settings, self._rank
        torch.set_num_threads(1)  # as many ranks as there are processors, and more
        if settings.bug == "trust-corrupted":
            job_bugs.mend(settings, rank)
        runner = AsyncInferenceRunner(
            Model(settings.seed, settings.batch_ms / 1000),
            checkpoint_dir=settings.checkpoints,
            rank=rank,
            checkpoint_seq_threshold=settings.checkpoint_every,
            manifest=TellingManifest(settings),
            input_fingerprint=f"{settings.items} items, seed {settings.seed}",
            layer=LAYER,
        )
        results = runner.run(
            loaded(self._batches),
            self._computed,
            force_restart=settings.bug == "forget-checkpoints",
            skip_batches=self._skip,
            before_batch=self._begins,
            on_resumed=self._resumed,
        )
        count = total = 0
        with contextlib.closing(results):
            for result in results:
                for _ in range(2 if settings.bug == "recover-twice" and result.batch_idx < 0 else 1):
                    ours = digest(result.sequence_ids, result.embeddings)
                    self._say("result", batch=result.batch_idx, ids=result.sequence_ids, digest=shown(ours))
                    count, total = count + len(result.sequence_ids), added(total, ours)
        return ShardDone(count, total)

    def _resumed(self, resumed: Resumed) -> None:
        self._recovered = frozenset(resumed.ids)
        self._early.resumed(resumed)
        found = {"recovered": resumed.ids, "corrupted": resumed.corrupted_ids, "next": resumed.resume_batch_idx}
        self._say("job_resumed", **found)
        if self._settings.bug == "crash-on-resume" and resumed.ids:
            raise RuntimeError(f"shard {self._rank} has {len(resumed.ids)} items already")
        if self._settings.bug == "skip-a-batch-on-resume" and resumed.ids:
            self._skip.add(next((batch for batch in range(len(self._batches)) if self._new(batch)), -1))

    def _begins(self, batch: int) -> None:
        """Called of every number, also of batches that need no computing, and of the one after the last."""
        ids = self._new(batch)
        if not ids:
            return
        self._at_batch(batch)
        self._say("batch_started", batch=batch, ids=ids)
        self._early.begins(ids)

    def _computed(self, batch: int, _: int) -> None:
        ids = self._new(batch)
        self._say("batch_computed", batch=batch, ids=ids)
        self._early.computed(ids)

    def _new(self, batch: int) -> list[str]:
        if batch in self._skip or batch >= len(self._batches):
            return []
        return [name for name in ids_of(self._batches[batch]) if name not in self._recovered]

    def _say(self, event: str, **fields: object) -> None:
        say(event, rank=self._rank, attempt=self._attempt, **fields)
