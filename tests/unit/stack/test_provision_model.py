"""The tiny model: the same bytes everywhere, complete whenever its folder is there, and of a form that engines load."""

import hashlib
import json
import math
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftharness.engine import tokens
from ftharness.stack.provision import ProvisionError
from ftharness.stack.provision_model import make_tiny_model, tiny_models

# Of what was measured with vLLM: other weights may be as good, but they are to be measured, and to have another form.
MEASURED = {
    2: "f250e9c6a43f32841d406e5310e8fcb2033416ab19731867a8514831ec79346c",
    24: "2fcd74c7116228288669bdb36c92dfba58b22a21a1fb35ba9b7b54dd595f7200",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of the test's own."""
    monkeypatch.setenv("FTHARNESS_CACHE", str(tmp_path))


def quiet(_: str) -> None:
    """Nobody is told."""


def read(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The header of its weights, and the weights."""
    content = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + size]), content[8 + size :]


@pytest.mark.parametrize("layers", MEASURED)
def test_the_weights_are_those_that_were_measured(layers: int) -> None:
    """On every machine, with every Python, to the last bit."""
    made = (make_tiny_model(layers, 0, quiet) / "model.safetensors").read_bytes()
    assert hashlib.sha256(made).hexdigest() == MEASURED[layers]


def test_the_seed_and_the_depth_make_another_model() -> None:
    """Each in a folder of its own, and what is there is not made again."""
    folders = [make_tiny_model(2, 0, quiet), make_tiny_model(2, 1, quiet), make_tiny_model(3, 0, quiet)]
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 3
    assert tiny_models() == sorted(folders)
    before = (folders[0] / "model.safetensors").stat().st_mtime_ns
    said: list[str] = []
    assert make_tiny_model(2, 0, said.append) == folders[0]
    assert "is there" in said[0]
    assert (folders[0] / "model.safetensors").stat().st_mtime_ns == before


def test_the_file_is_what_its_header_says() -> None:
    """Tensors one after the other, without a gap, each of the size of its shape, aligned to 8 bytes."""
    folder = make_tiny_model(2, 0, quiet)
    header, weights = read(folder)
    header.pop("__metadata__")
    end = 0
    for tensor in header.values():
        assert tensor["dtype"] == "BF16"
        assert tensor["data_offsets"] == [end, end + 2 * math.prod(tensor["shape"])]
        end = tensor["data_offsets"][1]
    assert end == len(weights)
    config = json.loads((folder / "config.json").read_text())
    assert header["lm_head.weight"]["shape"] == [config["vocab_size"], config["hidden_size"]]
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert config["vocab_size"] == max(vocabulary.values()) + 1


def test_only_whole_words_can_be_said() -> None:
    """The rows of bytes and of the end of a text are zero, and no row of a word is."""
    header, weights = read(make_tiny_model(2, 0, quiet))
    begin, end = header["lm_head.weight"]["data_offsets"]
    row = 2 * header["lm_head.weight"]["shape"][1]
    rows = [weights[at : at + row] for at in range(begin, end, row)]
    assert not any(any(numbers) for numbers in rows[tokens.FIRST_BYTE :])
    assert all(any(numbers) for numbers in rows[: tokens.FIRST_BYTE])


def test_weights_have_the_size_that_keeps_their_input() -> None:
    """Mean 0; embeddings of 1; queries twice what keeps the size; the layers' parts the smaller, the more there are."""

    def spread(layers: int, name: str) -> float:
        header, weights = read(make_tiny_model(layers, 0, quiet))
        begin, end = header[name]["data_offsets"]
        numbers = [struct.unpack("<f", b"\0\0" + weights[at : at + 2])[0] for at in range(begin, end, 2)]
        assert abs(sum(numbers) / len(numbers)) < 0.05
        return math.sqrt(sum(number * number for number in numbers) / len(numbers))

    assert spread(2, "model.embed_tokens.weight") == pytest.approx(1, rel=0.02)
    assert spread(2, "model.layers.1.self_attn.q_proj.weight") == pytest.approx(2 / math.sqrt(128), rel=0.02)
    shallow, deep = (spread(layers, "model.layers.1.mlp.down_proj.weight") for layers in (2, 8))
    assert shallow / deep == pytest.approx(2, rel=0.02)


def test_one_that_is_killed_leaves_no_folder_that_looks_made(tmp_path: Path) -> None:
    """The folder has its name when all is in it, and not before."""
    code = (
        "import signal, ftharness.stack.provision_model as m\n"
        "def wait(_):\n    print('all but its name', flush=True)\n    signal.pause()\n"
        "m.os.fsync = wait\n"
        "m.make_tiny_model(2, 0, print)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as making:
        assert making.stdout is not None
        try:
            assert making.stdout.readline() == "all but its name\n"
            assert tiny_models() == []
        finally:
            making.send_signal(signal.SIGKILL)
    assert tiny_models() == []
    assert make_tiny_model(2, 0, quiet).is_dir()


def test_a_cache_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder stands in the message."""
    monkeypatch.setenv("FTHARNESS_CACHE", "/proc/nothing")
    with pytest.raises(ProvisionError, match=r"cannot make /proc/nothing/models/tiny-2-layers-seed-0-form-1: "):
        make_tiny_model(2, 0, quiet)


def test_what_cannot_be_finished_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up leaves nothing of it."""

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("ftharness.stack.provision_model.os.fsync", full)
    with pytest.raises(ProvisionError, match="No space left on device"):
        make_tiny_model(2, 0, quiet)
    assert list((tmp_path / "models").iterdir()) == []
