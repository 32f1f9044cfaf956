"""A tiny model, made here, that real engines serve: seeded weights, no downloads, and no torch to make it.

A random model of the usual scale soon repeats a few tokens, and a stream of those hides every lost, repeated or altered
one. This one's greedy answers are varied and go by all of the context. With 2 layers 293 of vLLM's first 300 tokens are
distinct, with 24 layers 283, and a context that lacks one token is continued otherwise within a token or two:

- Embeddings, and what all layers together add to them, have the same weight, however many layers there are; the deeper
  model would otherwise forget which token it is at.
- Queries and keys are twice as large as the rest, so that attention is on few places, and on others after each token.
- Only whole words can be said. Bytes and the end of a text have logits of 0, so text and tokens say the same, and an
  answer is as long as was asked for.

Weights come from SHAKE-256, a byte each, as quantiles of a normal distribution: the same on every machine and in every
release of Python.
"""

import hashlib
import json
import math
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import ftharness
from ftharness.engine import tokens
from ftharness.stack.provision_errors import ProvisionError
from ftharness.stack.provision_place import cache_folder

_TOKENIZER = Path(ftharness.__file__).parent / "engine" / "model"
_COPIED = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
_FORM = 1  # of the weights: another one has another folder

_HIDDEN = 128
_HEADS = 4  # 32 numbers each: vLLM's attention on a CPU dies of fewer
_KV_HEADS = 2
_INNER = 256
_CONTEXT = 32_768
#: How large what the layers add is, all together, beside the embeddings' 1.
_BRANCH = 1.5
#: How much larger queries and keys are than what keeps the size of their input.
_SHARP = 2.0


class Weight(NamedTuple):
    """A tensor.

    Attributes:
        name: As transformers calls it.
        shape: Of the tensor.
        scale: The standard deviation of its numbers; 0 for one that is all ones.
        rows: How many of its rows are not zero; None is all.
    """

    name: str
    shape: tuple[int, ...]
    scale: float
    rows: int | None = None


def make_tiny_model(layers: int, seed: int, say: Callable[[str], None]) -> Path:
    """Make the model, unless it is there; returns its folder, which is complete whenever it exists.

    Args:
        layers: How deep it is: 2 are fast, 24 make streams that last.
        seed: Of the weights.
        say: Is told what is done.

    Raises:
        ProvisionError: It cannot be written.
    """
    folder = models_folder() / f"tiny-{layers}-layers-seed-{seed}-form-{_FORM}"
    if folder.is_dir():
        say(f"{folder.name} is there: {folder}")
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
        try:
            _write(made, layers, seed)
            made.chmod(0o755)
            made.rename(folder)
        except OSError:
            shutil.rmtree(made, ignore_errors=True)
            if not folder.is_dir():  # somebody else may have been first: theirs is the same
                raise
    except OSError as error:
        raise ProvisionError(f"cannot make {folder}: {error.strerror or error} ({error.filename or folder})") from error
    say(f"{folder.name} is made: {folder}")
    return folder


def models_folder() -> Path:
    """Where models lie."""
    return cache_folder() / "models"


def tiny_models() -> list[Path]:
    """Those that were made."""
    return sorted(models_folder().glob("tiny-*"))


def _write(folder: Path, layers: int, seed: int) -> None:
    for name in _COPIED:
        shutil.copyfile(_TOKENIZER / name, folder / name)
    (folder / "config.json").write_text(json.dumps(_config(layers), indent=2) + "\n", encoding="utf-8")
    weights = list(_weights(layers))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for weight in weights:
        begin, end = end, end + 2 * math.prod(weight.shape)
        header[weight.name] = {"dtype": "BF16", "shape": weight.shape, "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for weight in weights:
            file.write(_numbers(weight, seed))
        file.flush()
        os.fsync(file.fileno())  # the folder's name says that it is complete


def _config(layers: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _vocabulary(),
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HIDDEN // _HEADS,
        "max_position_embeddings": _CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "bos_token_id": tokens.EOS,
        "eos_token_id": tokens.EOS,
        "pad_token_id": tokens.EOS + 1,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def _vocabulary() -> int:
    return tokens.EOS + len(tokens.SPECIALS)


def _weights(layers: int) -> Iterator[Weight]:
    keeps = 1 / math.sqrt(_HIDDEN)  # the size of what it is applied to
    adds = _BRANCH / math.sqrt(layers)
    width = _HIDDEN // _HEADS
    yield Weight("model.embed_tokens.weight", (_vocabulary(), _HIDDEN), 1.0)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield Weight(f"{at}.input_layernorm.weight", (_HIDDEN,), 0)
        yield Weight(f"{at}.self_attn.q_proj.weight", (_HEADS * width, _HIDDEN), _SHARP * keeps)
        yield Weight(f"{at}.self_attn.k_proj.weight", (_KV_HEADS * width, _HIDDEN), _SHARP * keeps)
        yield Weight(f"{at}.self_attn.v_proj.weight", (_KV_HEADS * width, _HIDDEN), keeps)
        yield Weight(f"{at}.self_attn.o_proj.weight", (_HIDDEN, _HEADS * width), adds * keeps)
        yield Weight(f"{at}.post_attention_layernorm.weight", (_HIDDEN,), 0)
        yield Weight(f"{at}.mlp.gate_proj.weight", (_INNER, _HIDDEN), keeps)
        yield Weight(f"{at}.mlp.up_proj.weight", (_INNER, _HIDDEN), keeps)
        yield Weight(f"{at}.mlp.down_proj.weight", (_HIDDEN, _INNER), adds / math.sqrt(_INNER))
    yield Weight("model.norm.weight", (_HIDDEN,), 0)
    yield Weight("lm_head.weight", (_vocabulary(), _HIDDEN), keeps, rows=tokens.FIRST_BYTE)


_QUANTILES = [NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)]
_SPREAD = math.sqrt(sum(value * value for value in _QUANTILES) / 256)


def _numbers(weight: Weight, seed: int) -> bytes:
    """Its numbers as bfloat16, which is the upper half of a float."""
    count = math.prod(weight.shape)
    if not weight.scale:
        return struct.pack("<f", 1.0)[2:] * count
    halves = [struct.pack("<f", value / _SPREAD * weight.scale)[2:] for value in _QUANTILES]
    rows = weight.shape[0] if weight.rows is None else weight.rows
    some = rows * count // weight.shape[0]
    drawn = hashlib.shake_256(f"{seed}/{weight.name}".encode()).digest(some)
    numbers = bytearray(2 * count)
    numbers[0 : 2 * some : 2] = drawn.translate(bytes(half[0] for half in halves))
    numbers[1 : 2 * some : 2] = drawn.translate(bytes(half[1] for half in halves))
    return bytes(numbers)
