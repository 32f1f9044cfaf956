"""What is in a checkpoint: a dictionary of embeddings, ids and metadata, as torch writes and reads it.

It is read with ``weights_only``, by us and by anybody: nothing in a file is ever executed. So nothing may get into one that
cannot be read so, which is seen to when it is taken, not when it is too late. torch is imported where it is used: it takes
seconds, and what only counts checkpoints does without it.
"""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING:
    import torch

_SMALL = 1 << 16  # bytes
_DENSE = "torch.strided"
_PLAIN = (str, int, float, bool, type(None))


class Contents(NamedTuple):
    """Of one checkpoint.

    Attributes:
        embeddings: A row for each id.
        sequence_ids: Of the rows.
        metadata: What else is known.
    """

    embeddings: "torch.Tensor"
    sequence_ids: list[str]
    metadata: dict[str, Any]


def taken(embeddings: Any, sequence_ids: Sequence[str], metadata: Mapping[str, Any]) -> Contents:
    """A copy of it all, in this machine's memory: whatever the caller does next does not reach it.

    Raises:
        TypeError: The embeddings are neither a dense tensor nor a numpy array of numbers, the ids are no strings, or the
            metadata holds something that could not be read back without executing it.
        ValueError: The embeddings are not two-dimensional, or are not one for each id; or an id is there twice.
    """
    ids = _strings(sequence_ids)
    plain = _plain(_mapping(metadata), "metadata")
    rows = _rows(embeddings)
    if wrong := mismatch(rows, ids):
        raise ValueError(f"{wrong}; it would not be valid when it is read")
    if len(set(ids)) < len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise ValueError(f"sequence_ids hold {twice!r} more than once; each id is of one row, and comes back once")
    return Contents(rows, ids, plain)


def write(contents: Contents, stream: BinaryIO) -> None:
    """Write it as ``torch.save`` does."""
    import torch  # noqa: PLC0415

    if torch.serialization.get_crc32_options():
        torch.save(contents._asdict(), stream)
        return
    whole = io.BytesIO()  # somebody told torch to write no sums, or wrong ones: small pieces are summed on the way
    torch.save(contents._asdict(), whole)
    stream.writelines(whole.getbuffer()[begin : begin + _SMALL] for begin in range(0, len(whole.getbuffer()), _SMALL))


def read(data: bytes) -> Any:
    """What is in a file, whatever that is.

    Raises:
        Exception: It cannot be read; torch raises what it likes.
    """
    import torch  # noqa: PLC0415

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def read_ids(data: bytes) -> list[str] | None:
    """The ids in a file that may be damaged; None where they are unreadable, too.

    They lie apart from the embeddings, with a checksum of their own that torch checks.
    """
    import torch  # noqa: PLC0415

    try:
        with torch.serialization.skip_data():  # damaged embeddings are not even looked at
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return _strings(found["sequence_ids"])
    except Exception:  # noqa: BLE001 - torch raises what it likes
        return None


def mismatch(embeddings: Any, sequence_ids: Any) -> str:
    """Why they are no rows for these ids; "" where they are."""
    shape = getattr(embeddings, "shape", None)
    if shape is None or not isinstance(sequence_ids, list):
        return f"Embeddings and sequence_ids are {type(embeddings).__name__} and {type(sequence_ids).__name__}"
    if (layout := str(getattr(embeddings, "layout", _DENSE))) != _DENSE:
        return f"Embeddings are {layout}, and must be dense"
    if len(shape) != 2:  # noqa: PLR2004 - rows and columns
        return f"Embeddings must be 2-D, and have the shape {tuple(shape)}"
    if shape[0] != len(sequence_ids):
        return f"Shape mismatch: {shape[0]} embeddings and {len(sequence_ids)} sequence_ids"
    return ""


def _rows(embeddings: Any) -> "torch.Tensor":
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    if isinstance(embeddings, torch.Tensor):
        if embeddings.layout != torch.strided:
            raise TypeError(f"embeddings are {embeddings.layout}; dense ones are needed, as to_dense() makes them")
        host = embeddings.to("cpu")  # a GPU's memory is not to be read by the thread that writes
        if host.requires_grad:
            host = host.detach()
        try:
            # Of a tensor that is on the CPU both are the same memory: without the copy its next change would be written.
            return torch.from_numpy(host.numpy().copy())
        except TypeError:  # bfloat16 and float8, say, which numpy does not know
            return host.clone()
    if isinstance(embeddings, np.ndarray):
        return torch.from_numpy(np.array(embeddings, order="C"))
    raise TypeError(f"embeddings are a {type(embeddings).__name__}; a torch.Tensor or a numpy.ndarray is needed")


def _strings(ids: Any) -> list[str]:
    if isinstance(ids, str | bytes) or not isinstance(ids, Sequence):
        raise TypeError(f"sequence_ids are a {type(ids).__name__}; a list of strings is needed")
    wrong = next((value for value in ids if not isinstance(value, str)), None)
    if wrong is not None or None in ids:
        raise TypeError(f"sequence_ids hold {wrong!r}, a {type(wrong).__name__}; strings are needed")
    return [str(value) for value in ids]  # numpy's strings are strings, but of another type


def _mapping(metadata: Any) -> Mapping[str, Any]:
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata is a {type(metadata).__name__}; a dictionary is needed")
    return metadata


def _plain(value: Any, where: str) -> Any:
    """A copy of what holds only what JSON has, and tuples; numpy's numbers become Python's."""
    if isinstance(value, Mapping):
        return {_key(key, where): _plain(inner, f"{where}[{key!r}]") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(inner, f"{where}[{place}]") for place, inner in enumerate(value))
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "shape", None) == ():
        value = item()
    if type(value) in _PLAIN:
        return value
    raise TypeError(f"{where} is a {type(value).__name__}, which cannot be read back safely; numbers and strings can")


def _key(key: Any, where: str) -> str | int:
    if type(key) in (str, int):
        return key  # type: ignore[no-any-return]
    raise TypeError(f"{where} has the key {key!r}; strings and whole numbers can be read back")
