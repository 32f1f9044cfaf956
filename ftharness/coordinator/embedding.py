"""From a batch to a row for each of its sequences."""

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ENDS = 2  # tokens of a sequence that are none of its own: one at its begin, one at its end


class PoisonedBatchError(RuntimeError):
    """What a model made of a batch is no number: it will make the same of it again."""


def embeddings_of(model: Any, batch: Mapping[str, Any], layer: int) -> "torch.Tensor":
    """One float32 row for each sequence: the mean over its own tokens, in what the model has at a layer.

    Args:
        model: As ESM-2's: called with ``input_ids`` and ``repr_layers`` it returns ``{"representations": {layer: …}}``; with
            packed batches, its ``forward_packed`` is, with ``cu_seqlens`` and ``max_seqlen`` as well.
        batch: ``input_ids`` and ``sequence_ids``. Packed: one row of tokens, and ``cu_seqlens``, where each sequence begins and
            the last one ends. Otherwise a row a sequence, with ``attention_mask`` where they differ in length. Each sequence
            has a token of its own at its begin and one at its end.
        layer: Which.

    Raises:
        PoisonedBatchError: There is an infinite number in it, or none at all.
    """
    import torch  # noqa: PLC0415 - the extra is needed where it is used

    tokens, packed = batch["input_ids"], batch.get("cu_seqlens")
    with torch.no_grad():
        if packed is not None:
            out = model.forward_packed(
                input_ids=tokens, cu_seqlens=packed, max_seqlen=batch["max_seqlen"], repr_layers=[layer]
            )
            rows = _of_packed(out["representations"][layer], packed.tolist())
        else:
            tokens = tokens if tokens.dim() > 1 else tokens.unsqueeze(0)
            out = model.forward(tokens, repr_layers=[layer])
            rows = _of_padded(out["representations"][layer], batch.get("attention_mask"))
        rows = rows.float().cpu()
    if not bool(torch.isfinite(rows).all()):
        bad = [
            name for name, row in zip(batch["sequence_ids"], rows, strict=True) if not bool(torch.isfinite(row).all())
        ]
        raise PoisonedBatchError(
            f"what the model made of {', '.join(map(str, bad[:5]))} is not finite: poison, or too few bits"
        )
    return rows


def _of_packed(states: "torch.Tensor", begins: list[int]) -> "torch.Tensor":
    import torch  # noqa: PLC0415

    return torch.stack([_mean(states[begin:end]) for begin, end in pairwise(begins)])


def _of_padded(states: "torch.Tensor", mask: "torch.Tensor | None") -> "torch.Tensor":
    import torch  # noqa: PLC0415

    if mask is None:
        return torch.stack([_mean(row) for row in states])
    return torch.stack([_mean(row[its.bool()]) for row, its in zip(states, mask, strict=True)])


def _mean(tokens: "torch.Tensor") -> "torch.Tensor":
    """In float32: a sum of half as many bits loses what is small. Of an empty sequence, that of its two ends."""
    own = tokens[1:-1] if len(tokens) > _ENDS else tokens
    return own.float().mean(dim=0)
