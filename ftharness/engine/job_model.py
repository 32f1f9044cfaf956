"""What a job computes: for each item a row that follows from the seed and the item alone.

So what was lost, doubled or altered on the way through kills and checkpoints shows, whoever computed it in which attempt. It is
told by digests, which add up: that of a batch, of a checkpoint or of all is the sum of those of its items. This module imports
torch, so whoever only starts the processes that compute does not import it.
"""

import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import torch

from ftharness.engine.job_digest import added
from ftharness.engine.job_log import ids_of

LAYER = 1
_WIDTH = 16
_TOKENS = 33  # as many as ESM-2 has
_DIGITS = 10  # of an item, base 7: tokens 4 to 10


class Model(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """A table of random rows, with ESM-2's face.

    Args:
        seed: Of its weights.
        batch_s: Seconds that a batch takes: what a model of some size would need. It is waited for real, so that what comes
            meanwhile finds the job in the midst of a batch.
    """

    def __init__(self, seed: int, batch_s: float) -> None:
        super().__init__()
        weights = torch.randn(_TOKENS, _WIDTH, generator=torch.Generator().manual_seed(seed))
        self.table = torch.nn.Parameter(weights)
        self._batch_s = batch_s

    def forward(self, tokens: torch.Tensor, repr_layers: list[int]) -> dict[str, Any]:
        """The rows of its tokens, in each layer that is asked for."""
        time.sleep(self._batch_s)
        return {"representations": dict.fromkeys(repr_layers, self.table[tokens])}


def loaded(batches: Sequence[range]) -> Iterator[dict[str, Any]]:
    """The batches as the runner takes them."""
    for items in batches:
        yield {"input_ids": torch.tensor([_tokens(item) for item in items]), "sequence_ids": ids_of(items)}


def digest(ids: Sequence[str], rows: torch.Tensor) -> int:
    """The sum modulo 2^64 of a hash of each item's id and row."""
    values = rows.numpy().astype("<f4")
    each = (
        blake2b(name.encode() + b"\0" + row.tobytes(), digest_size=8).digest()
        for name, row in zip(ids, values, strict=True)
    )
    return added(*(int.from_bytes(one) for one in each))


def _tokens(item: int) -> list[int]:
    return [0, *((item // 7**place) % 7 + 4 for place in range(_DIGITS)), 2]
