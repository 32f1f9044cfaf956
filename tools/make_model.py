"""Makes the model folder that Dynamo's frontend loads: a config and a tokenizer, no weights.

    .venv/bin/python tools/make_model.py [FOLDER]

What is made follows from ``ftharness.engine.tokens`` alone, so that the real frontend turns a prompt into the ids that
``tokens.encode`` gives, and ids into the text that ``tokens.decode`` gives. A test compares the shipped files with
what this makes.
"""

import json
import sys
from pathlib import Path
from typing import Any

from ftharness.engine import tokens

MODEL = Path(__file__).resolve().parent.parent / "ftharness" / "engine" / "model"

#: As much context as a migration of the longest stream needs; the frontend refuses a request beyond it.
CONTEXT = 131_072

#: The same as ``tokens.chat_prompt``. A content is a string, nothing, or a list of parts.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% elif message['content'] %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{{ 'assistant:' }}"
)


def byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary.

    Bytes that are visible in Latin-1 stand for themselves; the others take the characters from U+0100 on, in order
    (the convention that GPT-2 began, which every byte-level tokenizer file follows).
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(0x100 + hidden.index(byte)) for byte in range(256)]


def tokenizer() -> dict[str, Any]:
    """A byte-level BPE without merges: text becomes single bytes, always; only the engine utters whole words.

    Nothing is an added token: an added token is matched inside the text, and a prompt that spells ``<|eos|>`` would
    not be bytes then. The specials are there so that the ids that the configs name exist.
    """
    of_byte = byte_characters()
    vocabulary = {
        "".join(of_byte[byte] for byte in word.encode()): token_id for token_id, word in enumerate(tokens.VOCABULARY)
    }
    vocabulary |= {character: tokens.FIRST_BYTE + byte for byte, character in enumerate(of_byte)}
    vocabulary |= {special: tokens.EOS + place for place, special in enumerate(tokens.SPECIALS)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def files() -> dict[str, str]:
    """Every file of the folder, name to text."""
    pad = tokens.EOS + tokens.SPECIALS.index("<|pad|>")
    size = tokens.EOS + len(tokens.SPECIALS)
    config = {
        # An architecture that every frontend knows; its sizes are small because the mocker computes KV bytes from them.
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokens.EOS,
        "eos_token_id": tokens.EOS,
        "pad_token_id": pad,
        "torch_dtype": "bfloat16",
    }
    generation = {"bos_token_id": tokens.EOS, "eos_token_id": tokens.EOS, "pad_token_id": pad}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": tokens.SPECIALS[0],
        "eos_token": tokens.SPECIALS[0],
        "pad_token": "<|pad|>",
        "model_max_length": CONTEXT,
        "chat_template": CHAT_TEMPLATE,
    }
    return {
        "config.json": json.dumps(config, indent=2) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
        "tokenizer.json": json.dumps(tokenizer(), ensure_ascii=False, separators=(",", ":")) + "\n",
        "tokenizer_config.json": json.dumps(tokenizer_config, indent=2) + "\n",
    }


def main() -> None:
    """Writes the folder."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
        print(f"{folder / name}: {len(text.encode())} bytes")


if __name__ == "__main__":
    main()
