"""Planted bugs of a job that take more than a line: a word that comes before the deed, and damage that is mended."""

from collections.abc import Sequence

import torch

from ftharness.checkpoint import Resumed, validate_checkpoint_pt
from ftharness.checkpoint.contents import read_ids, taken
from ftharness.checkpoint.shard import batches, commit_checkpoint, shard_folder
from ftharness.checkpoint.storage import DISK
from ftharness.engine.job_log import say
from ftharness.engine.job_settings import JobSettings

#: Those that do not wait for a checkpoint before they say that it is committed, and what they wait for instead.
EARLY = {"committed-before-written": "begins", "ignore-full-disk": "computed"}


class Early:
    """Says of each checkpoint that it is committed, too early: when its last batch begins, or when it is to be written.

    Args:
        settings: The job's; where it has none of these bugs, nothing is said.
        rank: Which shard.
    """

    def __init__(self, settings: JobSettings, rank: int) -> None:
        self._when = EARLY.get(settings.bug, "")
        self._every = settings.checkpoint_every
        self._left = len(settings.shard(rank))
        self._rank = rank
        self._next = 0
        self._ids: list[str] = []

    def resumed(self, resumed: Resumed) -> None:
        """The first of them is this one."""
        self._next = resumed.resume_batch_idx
        self._left -= len(resumed.ids)

    def begins(self, ids: Sequence[str]) -> None:
        """A batch begins."""
        self._come("begins", ids)

    def computed(self, ids: Sequence[str]) -> None:
        """A batch is computed."""
        self._come("computed", ids)

    def _come(self, when: str, ids: Sequence[str]) -> None:
        if when != self._when:
            return
        self._ids += ids
        self._left -= len(ids)
        if len(self._ids) >= self._every or not self._left:
            say("checkpoint_committed", rank=self._rank, checkpoint=self._next, ids=self._ids)
            self._next, self._ids = self._next + 1, []


def mend(settings: JobSettings, rank: int) -> None:
    """Take each damaged checkpoint whose ids can still be read for a good one; what cannot be read of it counts as zeros."""
    for number, path in batches(DISK, shard_folder(settings.checkpoints, rank)).items():
        ids = read_ids(path.read_bytes()) if path.exists() else None
        if validate_checkpoint_pt(path)[0] or ids is None:
            continue
        width = torch.load(path.with_name("batch_00000.pt"), weights_only=True)["embeddings"].shape[1]
        commit_checkpoint(DISK, path, taken(torch.zeros(len(ids), width), ids, {"batch_idx": number}))
