"""Inference over the batches of a shard, with checkpoints between them: what was done is not done again."""

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ftharness.checkpoint import (
    AsyncCheckpointWriter,
    CheckpointError,
    CheckpointManifest,
    CheckpointTrigger,
    Resumed,
    resume_from_checkpoints,
)
from ftharness.checkpoint.shard import batches, shard_folder
from ftharness.checkpoint.storage import DISK
from ftharness.coordinator.embedding import embeddings_of
from ftharness.coordinator.kept_results import KeptResults

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("ftharness.coordinator")
#: The ``batch_idx`` of what was recovered: of no batch of this run.
RECOVERED = -1
_EMERGENCY_S = 600.0


class InferenceResult(NamedTuple):
    """Of one batch.

    Attributes:
        sequence_ids: Which.
        embeddings: A float32 row for each, in this machine's memory.
        batch_idx: Of the batch, counted from 0 as the loader gives them, whatever is left out; -1: recovered from checkpoints.
    """

    sequence_ids: list[str]
    embeddings: "torch.Tensor"
    batch_idx: int


class AsyncInferenceRunner:
    """Runs a model over batches; checkpoints are written meanwhile, of whole batches.

    Needs torch (``ftharness[torch]``).

    Args:
        model: See :func:`~ftharness.coordinator.embedding.embeddings_of`; on its device already.
        device: Where it is.
        enable_streams: On a GPU, what is in pinned memory is copied there without waiting for it.
        checkpoint_dir: The folder of all shards; None: no checkpoints.
        rank: Which shard: ``shard_<rank>`` in it.
        checkpoint_seq_threshold: Sequences after which one is due.
        checkpoint_time_threshold: Seconds after which one is.
        manifest: Is told of each that is committed.
        input_fingerprint: Tells this input from another; "": not compared.
        model_config_hash: The same of the model; "": made of its parameters' type and number.
        layer: Of the model, from which the embeddings are.

    Raises:
        ValueError: A rank below 0, or a threshold that is not positive.
    """

    def __init__(
        self,
        model: Any,
        device: "torch.device | str" = "cpu",
        enable_streams: bool = True,  # noqa: FBT001, FBT002 - the field's signature
        *,
        checkpoint_dir: Path | None = None,
        rank: int = 0,
        checkpoint_seq_threshold: int = 10000,
        checkpoint_time_threshold: float = 300.0,
        manifest: CheckpointManifest | None = None,
        input_fingerprint: str = "",
        model_config_hash: str = "",
        layer: int = 36,
    ) -> None:
        if rank < 0:
            raise ValueError(f"rank = {rank}: must be 0 or more")
        self.model = model
        self.device = device
        self.rank = rank
        self.checkpoint_dir = None if checkpoint_dir is None else Path(checkpoint_dir)
        self.manifest = manifest
        self._non_blocking = enable_streams and str(device).startswith("cuda")
        self._seq_threshold = checkpoint_seq_threshold
        self._time_threshold_s = checkpoint_time_threshold
        self._layer = layer
        self._metadata = {
            "input_fingerprint": input_fingerprint,
            "model_config_hash": model_config_hash or _config_hash(model),
        }
        self._trigger()  # or it would be told of a wrong threshold when the model has run already

    def run(
        self,
        dataloader: Iterable[Mapping[str, Any]],
        progress_callback: Callable[[int, int], object] | None = None,
        force_restart: bool = False,  # noqa: FBT001, FBT002 - the field's signature
        *,
        skip_batches: Collection[int] = (),
        before_batch: Callable[[int], object] | None = None,
        on_resumed: Callable[[Resumed], object] | None = None,
    ) -> Generator[InferenceResult, None, None]:
        """What earlier runs have done, then the rest, batch by batch.

        A sequence that was recovered is not given again, and a batch of only such ones not computed. Whatever ends this,
        an exception, SystemExit, or a caller that wants no more, what was computed is in a checkpoint when it has ended.

        Args:
            dataloader: Batches; where its ``collate_fn`` has ``flush()``, also those that this holds back.
            progress_callback: Is given each batch's number and how many sequences it has, after it.
            force_restart: Remove all checkpoints of the shard first, and begin anew.
            skip_batches: Those to leave out: poison.
            before_batch: Is given each batch's number before it is loaded: whoever reports it, and crashes then, has told where.
            on_resumed: Is given what the checkpoints hold, and what of them is damaged, before anything else is done.

        Raises:
            ValueError: A batch without ``sequence_ids``, with more or fewer of them than rows, or with one of them twice.
            CheckpointError: The checkpoints there are of another model or input; or some could not be written, after all
                results were given.
            Exception: What the model or the loader raises, with ``batch_idx`` as an attribute.
        """
        self.model.eval()
        if self.checkpoint_dir is None:
            numbered = _numbered(dataloader, before_batch)
            yield from self._computed(numbered, progress_callback, frozenset(), skip_batches, None)
            return
        if not force_restart:
            self._refuse_others(self.checkpoint_dir)
        resumed = resume_from_checkpoints(self.checkpoint_dir, self.rank, force_restart, self.manifest)
        if on_resumed is not None:
            on_resumed(resumed)
        if resumed.corrupted_ids:
            _log.warning("shard %d: %d sequences are computed again", self.rank, len(resumed.corrupted_ids))
        with AsyncCheckpointWriter(manifest=self.manifest, rank=self.rank) as writer:
            folder = shard_folder(self.checkpoint_dir, self.rank)
            kept = KeptResults(folder, resumed.resume_batch_idx, self._trigger(), writer, self._metadata)
            try:
                if resumed.ids:
                    yield InferenceResult(resumed.ids, _tensor(resumed.embeddings), RECOVERED)
                numbered, done = _numbered(dataloader, before_batch), frozenset(resumed.ids)
                yield from self._computed(numbered, progress_callback, done, skip_batches, kept)
                kept.write("final")
            except BaseException:
                kept.write("interrupted")
                raise

    def _computed(
        self,
        numbered: Iterable[tuple[int, Mapping[str, Any]]],
        progress_callback: Callable[[int, int], object] | None,
        done: frozenset[str],
        skip: Collection[int],
        kept: KeptResults | None,
    ) -> Iterator[InferenceResult]:
        for batch_idx, batch in numbered:
            if batch_idx in skip:
                _log.warning("shard %d: batch %d is left out", self.rank, batch_idx)
                continue
            if "sequence_ids" not in batch:
                raise ValueError(f"batch {batch_idx} has no sequence_ids: nobody could tell what its results are of")
            ids = list(batch["sequence_ids"])
            with _at(batch_idx):
                _refuse_twice(batch_idx, ids)
            new = [place for place, name in enumerate(ids) if name not in done]
            if not new:
                continue
            with _at(batch_idx):
                rows = embeddings_of(self.model, self._moved(batch), self._layer)
                if len(rows) != len(ids):
                    raise ValueError(f"batch {batch_idx}: {len(ids)} sequence_ids, and the model has {len(rows)} rows")
            if len(new) < len(ids):
                ids, rows = [ids[place] for place in new], rows[new]
            if kept is not None:
                kept.add(ids, rows)
            if progress_callback is not None:
                progress_callback(batch_idx, len(ids))
            yield InferenceResult(ids, rows, batch_idx)

    def _moved(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        import torch  # noqa: PLC0415

        return {
            key: value.to(self.device, non_blocking=self._non_blocking) if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()
        }

    def _trigger(self) -> CheckpointTrigger:
        emergency_s = max(_EMERGENCY_S, 2 * self._time_threshold_s)
        return CheckpointTrigger(self._seq_threshold, self._time_threshold_s, emergency_s)

    def _refuse_others(self, checkpoint_dir: Path) -> None:
        """Results of two models are no one result."""
        for path in batches(DISK, shard_folder(checkpoint_dir, self.rank)).values():
            metadata = _metadata_of(path)
            for what, now in self._metadata.items():
                then = metadata.get(what)
                if then and now and then != now:
                    raise CheckpointError(
                        f"{path} is of another run: its {what} is {then}, this run's is {now}. "
                        "Take another folder, or begin anew with force_restart=True"
                    )


def _metadata_of(path: Path) -> dict[str, Any]:
    """A checkpoint's metadata, without its embeddings; empty where it cannot be read, which resuming will say."""
    import torch  # noqa: PLC0415

    with contextlib.suppress(Exception), torch.serialization.skip_data():
        metadata = torch.load(path, map_location="cpu", weights_only=True)["metadata"]
        return dict(metadata)
    return {}


def _refuse_twice(batch_idx: int, ids: list[str]) -> None:
    if len(set(ids)) < len(ids):
        twice = next(name for name, times in Counter(ids).items() if times > 1)
        raise ValueError(f"batch {batch_idx} has the sequence {twice!r} twice: nobody could tell its results apart")


@contextlib.contextmanager
def _at(batch_idx: int) -> Iterator[None]:
    """Whoever decides about another try has to know which batch it was."""
    try:
        yield
    except Exception as error:
        error.batch_idx = batch_idx  # type: ignore[attr-defined]
        raise


def _numbered(
    dataloader: Iterable[Mapping[str, Any]], before_batch: Callable[[int], object] | None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    all_of_it = _all_of(dataloader)
    for batch_idx in count():
        if before_batch is not None:
            before_batch(batch_idx)
        with _at(batch_idx):
            batch = next(all_of_it, None)
        if batch is None:
            return
        yield batch_idx, batch


def _all_of(dataloader: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    yield from dataloader
    flush = getattr(getattr(dataloader, "collate_fn", None), "flush", None)
    if flush is not None:
        yield from flush()


def _config_hash(model: Any) -> str:
    """Of the types and numbers of a model's parameters: it tells two architectures apart, not two trainings of one."""
    shapes = [(str(one.dtype), tuple(one.shape)) for one in model.parameters()]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]


def _tensor(rows: Any) -> "torch.Tensor":
    import torch  # noqa: PLC0415

    return rows if isinstance(rows, torch.Tensor) else torch.from_numpy(rows)
