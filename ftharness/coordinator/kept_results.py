"""The results of a shard on their way into its checkpoints."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftharness.checkpoint import AsyncCheckpointWriter, CheckpointTrigger
from ftharness.checkpoint.shard import checkpoint_file

if TYPE_CHECKING:
    import torch


class KeptResults:
    """Gathers whole batches, and writes a checkpoint of them when it is time.

    A sequence that comes in two batches, as samplers pad the last ones, is in a checkpoint once, as it came first.

    Args:
        folder: The shard's.
        next_idx: Of the first checkpoint that is to be written.
        trigger: Says when it is time.
        writer: Writes them.
        metadata: Goes into each.
    """

    def __init__(
        self,
        folder: Path,
        next_idx: int,
        trigger: CheckpointTrigger,
        writer: AsyncCheckpointWriter,
        metadata: Mapping[str, Any],
    ) -> None:
        self._folder = folder
        self._next_idx = next_idx
        self._trigger = trigger
        self._writer = writer
        self._metadata = metadata
        self._batches: list[tuple[list[str], torch.Tensor]] = []

    # SystemExit may come between any two lines, by SIGTERM. So a batch is gathered by one operation, and let go of only when it
    # is the writer's: to have it in two checkpoints costs nothing, to have it in none costs its computation.

    def add(self, ids: list[str], rows: "torch.Tensor") -> None:
        """A batch is done; a checkpoint is written behind it, where it is time.

        The rows are copied: they are the caller's as well, who may change them before the checkpoint is due.
        """
        self._batches.append((list(ids), rows.clone()))
        due, reason = self._trigger.should_checkpoint(len(ids))
        if due:
            self.write(str(reason))

    def write(self, reason: str) -> None:
        """Write what has been gathered; nothing happens where nothing was.

        Args:
            reason: Why now; it is in the metadata as ``trigger_reason``.
        """
        if not self._batches:
            return
        import torch  # noqa: PLC0415

        ids = [name for names, _ in self._batches for name in names]
        rows = torch.cat([rows for _, rows in self._batches])
        places = {name: place for place, name in reversed(list(enumerate(ids)))}
        if len(places) < len(ids):
            first = sorted(places.values())
            ids, rows = [ids[place] for place in first], rows[first]
        self._writer.write_checkpoint_async(
            self._folder / checkpoint_file(self._next_idx),
            rows,
            ids,
            {
                **self._metadata,
                "batch_idx": self._next_idx,
                "num_sequences": len(ids),
                "timestamp": datetime.now(UTC).isoformat(),
                "trigger_reason": reason,
            },
        )
        self._next_idx, self._batches = self._next_idx + 1, []
        self._trigger.reset()
