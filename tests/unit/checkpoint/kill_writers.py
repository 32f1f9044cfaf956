"""Kills writers at random moments, and looks at what they left; writes what it saw as JSON.

A process of its own, with one thread, so that it may fork: a writer is there in a millisecond, and so hundreds can be killed.

    python kill_writers.py manifest|checkpoints FOLDER SEED KILLS
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ftharness.checkpoint import AsyncCheckpointWriter, CheckpointManifest, resume_from_checkpoints

_ALIVE_S = 0.05  # a writer is killed within this time
_OTHERS = 2
_EACH = 3


def forked(work: Callable[[Callable[[], object]], object]) -> tuple[int, int]:
    """A process that does some work, and says each time that a part of it was acknowledged: its pid, and where it says so."""
    heard, said = os.pipe()
    pid = os.fork()
    if pid:
        os.close(said)
        return pid, heard
    status = 1
    try:
        os.close(heard)
        work(lambda: os.write(said, b"."))
        status = 0
    finally:
        os._exit(status)


def acknowledged(heard: int) -> int:
    """How often it said so before it ended."""
    count = 0
    while said := os.read(heard, 1 << 16):
        count += len(said)
    os.close(heard)
    return count


def kill_manifest_writers(folder: Path, chance: random.Random, kills: int) -> dict[str, int]:
    """One writer that is killed among others that are not: what they were told is there is, and is there once."""
    path = folder / "manifest.json"
    world = CheckpointManifest(path)
    world.initialize(1 + _OTHERS)
    for rank in range(1 + _OTHERS):
        (folder / f"shard_{rank}").mkdir()
        (folder / f"shard_{rank}" / "any.pt").touch()
    known = seen = in_flight = 0

    def update(rank: int, first: int, count: int) -> Callable[[Callable[[], object]], None]:
        def work(acknowledge: Callable[[], object]) -> None:
            mine = CheckpointManifest(path)
            for batch in range(first, first + count):
                mine.update_shard_checkpoint(rank, batch, 1, "any.pt")
                acknowledge()

        return work

    for number in range(kills):
        victim, heard = forked(update(0, known, 10_000))
        others = [forked(update(rank, _EACH * number, _EACH)) for rank in range(1, 1 + _OTHERS)]
        time.sleep(chance.uniform(0, _ALIVE_S))  # the random moment
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        told = acknowledged(heard)
        json.loads(path.read_text())
        for other, ear in others:
            assert os.waitpid(other, 0)[1] == 0, "one that was not killed failed"
            assert acknowledged(ear) == _EACH
        shards = [world.get_shard_status(rank) or {} for rank in range(1 + _OTHERS)]
        batches = [[record["batch_idx"] for record in shard["checkpoints"]] for shard in shards]
        assert batches[0] in (list(range(known + told)), list(range(known + told + 1))), (known, told, batches[0][-3:])
        for rank in range(1, 1 + _OTHERS):
            assert batches[rank] == list(range(_EACH * (number + 1))), (rank, number, batches[rank])
            assert shards[rank]["total_sequences"] == _EACH * (number + 1)
        seen += told
        in_flight += len(batches[0]) - known - told
        known = len(batches[0])
        if known > 60:  # a small file is written often
            world.initialize(1 + _OTHERS, anew=True)
            known = 0
            for rank in range(1, 1 + _OTHERS):
                for batch in range(_EACH * (number + 1)):
                    world.update_shard_checkpoint(rank, batch, 1, "any.pt")
    left = sorted(name.name for name in folder.iterdir() if name.name.endswith(".tmp"))
    CheckpointManifest(path).mark_shard_complete(0)
    assert not list(folder.glob("*.tmp")), "orphans stay"
    return {"kills": kills, "acknowledged": seen, "in_flight": in_flight, "orphans": len(left)}


def kill_checkpoint_writers(folder: Path, chance: random.Random, kills: int) -> dict[str, int]:
    """A writer of a shard, killed and resumed: all batches that it was told are committed come back, each once, exactly."""
    import numpy as np  # noqa: PLC0415 - the other test does without
    import torch  # noqa: PLC0415, F401 - before the forks, which is what takes long

    manifest = CheckpointManifest(folder / "manifest.json")
    manifest.initialize(1)
    known = seen = in_flight = 0

    def rows(batch: int) -> "np.ndarray":  # type: ignore[type-arg]
        return np.full((3, 200), float(batch), dtype="float32")

    def write(first: int) -> Callable[[Callable[[], object]], None]:
        def work(acknowledge: Callable[[], object]) -> None:
            with AsyncCheckpointWriter(manifest=manifest, rank=0) as writer:
                for batch in range(first, first + 10_000):
                    ids = [f"{batch}.{number}" for number in range(3)]
                    path = folder / "shard_0" / f"batch_{batch:05d}.pt"
                    writer.write_checkpoint_async(path, rows(batch), ids, {"batch_idx": batch}).result()
                    acknowledge()

        return work

    for _ in range(kills):
        victim, heard = forked(write(known))
        time.sleep(chance.uniform(0, 2 * _ALIVE_S))  # the random moment
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        told = acknowledged(heard)
        found = resume_from_checkpoints(folder, 0, manifest=manifest)
        assert known + told <= found.resume_batch_idx <= known + told + 1, (known, told, found.resume_batch_idx)
        assert found.ids == [f"{batch}.{number}" for batch in range(found.resume_batch_idx) for number in range(3)]
        if found.embeddings is not None:
            assert (found.embeddings == np.concatenate([rows(batch) for batch in range(found.resume_batch_idx)])).all()
        shard = manifest.get_shard_status(0) or {}
        assert shard["last_checkpoint_batch"] == found.resume_batch_idx - 1
        assert not list((folder / "shard_0").glob("*.tmp")), "orphans stay"
        seen += told
        in_flight += found.resume_batch_idx - known - told
        known = found.resume_batch_idx
        if known > 30:
            resume_from_checkpoints(folder, 0, force_restart=True, manifest=manifest)
            known = 0
    return {"kills": kills, "acknowledged": seen, "in_flight": in_flight}


if __name__ == "__main__":
    kind, where, seed, count = sys.argv[1:]
    run = {"manifest": kill_manifest_writers, "checkpoints": kill_checkpoint_writers}[kind]
    chance = random.Random(int(seed))  # noqa: S311 - moments to kill at are no secret
    sys.stdout.write(json.dumps(run(Path(where), chance, int(count))))
