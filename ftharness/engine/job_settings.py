"""What a job of inference is told, and how its items are divided: the same for the job and for each of its ranks."""

import math
from pathlib import Path
from typing import NamedTuple


class JobSettings(NamedTuple):
    """What there is to be done, and how.

    Attributes:
        name: Of the process.
        data: The folder that the job keeps its checkpoints in.
        seed: Of the model's weights.
        bug: A planted bug's name, or nothing.
        items: How many there are to be done.
        batch: Items that are computed at once.
        checkpoint_every: Items after which a checkpoint is due, at the end of a batch.
        ranks: Processes that share the items; 0: the job's own does all.
        batch_ms: How long a batch takes, in milliseconds: what a model of some size would need, and this one does not.
        spot_retry_s: Seconds until a preempted rank is tried again.
        max_retries_transient: How often a rank is tried again after failures that pass.
        max_retries_poison: With so many strikes on one batch the batch is given up.
    """

    name: str
    data: Path
    seed: int = 0
    bug: str = ""
    items: int = 400
    batch: int = 10
    checkpoint_every: int = 50
    ranks: int = 0
    batch_ms: float = 20.0
    spot_retry_s: float = 0.5
    max_retries_transient: int = 3
    max_retries_poison: int = 2

    @property
    def checkpoints(self) -> Path:
        """The folder of all shards."""
        return self.data / "checkpoints"

    @property
    def shards(self) -> int:
        """How many shards there are: the checkpoints of each are in a folder of its own."""
        return max(1, self.ranks)

    def shard(self, rank: int) -> range:
        """The items of a rank: as many as of any other, give or take one."""
        return range(rank * self.items // self.shards, (rank + 1) * self.items // self.shards)

    def batches(self, rank: int) -> list[range]:
        """A rank's items in batches, of which the last may be smaller."""
        mine = self.shard(rank)
        return [mine[begin : begin + self.batch] for begin in range(0, len(mine), self.batch)]

    def most_checkpoints(self, rank: int) -> int:
        """How many checkpoints there can be of a rank's items: none holds less than a batch."""
        return math.ceil(len(self.shard(rank)) / self.batch)
