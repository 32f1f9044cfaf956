"""A small real model, its batches, and the workers that run it: functions of a module, so that a spawned process finds them."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ftharness.checkpoint import CheckpointManifest
from ftharness.coordinator import AsyncInferenceRunner, Reports, exit_on_sigterm

LAYER = 36
WIDTH = 16
LENGTH = 12  # tokens, with the two at the ends


class Model(torch.nn.Module):
    """As ESM-2's to whoever calls it; the same weights each time."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.table = torch.nn.Parameter(torch.randn(33, width, generator=generator))

    def forward(self, tokens: torch.Tensor, repr_layers: list[int]) -> dict[str, Any]:
        return {"representations": dict.fromkeys(repr_layers, self.table[tokens])}

    def forward_packed(
        self, input_ids: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int, repr_layers: list[int]
    ) -> dict[str, Any]:
        assert cu_seqlens[-1] == len(input_ids)
        assert max_seqlen == LENGTH
        return self.forward(input_ids, repr_layers)


class Batches:
    """``count`` batches of ``size`` sequences, each of which is made of its own number."""

    collate_fn = None

    def __init__(self, count: int, size: int = 10, *, packed: bool = True, begin: int = 0) -> None:
        self.count, self.size, self.packed, self.begin = count, size, packed, begin

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in range(self.count):
            numbers = range(self.begin + batch * self.size, self.begin + (batch + 1) * self.size)
            tokens = torch.stack([tokens_of(number) for number in numbers])
            names = [f"seq{number}" for number in numbers]
            if self.packed:
                ends = torch.arange(0, tokens.numel() + 1, LENGTH, dtype=torch.int32)
                yield {
                    "input_ids": tokens.flatten(),
                    "sequence_ids": names,
                    "cu_seqlens": ends,
                    "max_seqlen": LENGTH,
                }
            else:
                yield {"input_ids": tokens, "sequence_ids": names}


def tokens_of(number: int) -> torch.Tensor:
    digits = [(number // 7**place) % 7 + 4 for place in range(LENGTH - 2)]
    return torch.tensor([0, *digits, 2])


def row_of(name: str) -> torch.Tensor:
    """What the model makes of a sequence, computed by itself."""
    return Model().table[tokens_of(int(name.removeprefix("seq")))[1:-1]].mean(dim=0).detach()


def infers(
    rank: int,
    world_size: int,
    results_queue: Reports,
    checkpoint_dir: str,
    batches: int,
    threshold: int,
    kills: int = 0,
    poison: tuple[int, int] = (-1, -1),
) -> None:
    """A shard's inference: it says how far it is, at last what it has.

    It gets ``kills`` SIGKILLs from elsewhere, and lives until then. ``poison``: of a rank, the batch that crashes it.
    """
    torch.set_num_threads(1)
    attempt = results_queue.attempt
    exit_on_sigterm()
    manifest = CheckpointManifest(Path(checkpoint_dir, "manifest.json"))
    recorded = manifest.get_shard_status(rank)
    runner = AsyncInferenceRunner(
        Model(), checkpoint_dir=Path(checkpoint_dir), rank=rank, checkpoint_seq_threshold=threshold, manifest=manifest
    )
    skip = attempt.skip_batches

    def begins(batch: int) -> None:
        results_queue.put({"status": "running", "batch_idx": batch})
        if (rank, batch) == poison and batch not in skip:
            os.kill(os.getpid(), signal.SIGSEGV)

    loader = Batches(batches, begin=rank * 1_000_000)
    names: list[str] = []
    rows: list[torch.Tensor] = []
    recovered = 0
    with contextlib.closing(runner.run(loader, skip_batches=skip, before_batch=begins)) as results:
        for result in results:
            recovered += len(result.sequence_ids) if result.batch_idx < 0 else 0
            names += result.sequence_ids
            rows.append(result.embeddings)
    results_queue.put({"status": "running", "all_computed": True})
    if attempt.number <= kills:
        time.sleep(600)
    results_queue.put(
        {
            "rank": rank,
            "status": "complete",
            "names": names,
            "rows": torch.cat(rows).numpy(),
            "recovered": recovered,
            "recorded": recorded["total_sequences"] if recorded else 0,
            "worker": attempt.worker,
            "skipped_batches": sorted(skip),
        }
    )
