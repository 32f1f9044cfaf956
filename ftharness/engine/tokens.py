"""Tokens: the vocabulary, and the chain that makes the next one from all before it.

A generated token is a hash of the seed and of every id before it. So a worker that is given (prompt + tokens so far)
goes on exactly as the one before would have, and a token that was lost, doubled or altered on the way changes
everything after it, as it would with a real model.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WORDS = 8192
BYTES = 256
#: The id of byte ``b`` is ``FIRST_BYTE + b``: prompts are made of these.
FIRST_BYTE = WORDS
#: What ends a text or fills a gap; they follow the bytes, in this order, and have no text.
SPECIALS = ("<|eos|>", "<|pad|>", "<|unk|>")
EOS = FIRST_BYTE + BYTES

_CONSONANTS = "bdfghjklmnprstvz"
_VOWELS = "aeio"
_ENDS = ("", "n")


def _word(token_id: int) -> str:
    """Two syllables and an end from the 13 bits of the id: ``0 -> " baba"``, ``8191 -> " zozon"``."""
    end, rest = token_id & 1, token_id >> 1
    second, first = rest & 63, rest >> 6
    syllables = (_CONSONANTS[part >> 2] + _VOWELS[part & 3] for part in (first, second))
    return f" {''.join(syllables)}{_ENDS[end]}"


#: The text of each id below ``WORDS``: unique, lower case, with its space before it.
VOCABULARY: tuple[str, ...] = tuple(map(_word, range(WORDS)))
_ID_OF = {word[1:]: token_id for token_id, word in enumerate(VOCABULARY)}

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = 0xBF58476D1CE4E5B9
_OUT = 0x94D049BB133111EB


class Chain:
    """The hash of (seed, all ids so far). For a given id each step is a bijection, so two contexts stay apart.

    Attributes:
        state: The hash: all that the next id depends on.
    """

    __slots__ = ("state",)

    def __init__(self, seed: int, ids: Iterable[int]) -> None:
        state = (seed * _GOLDEN + _OUT) & _MASK
        state = ((state ^ (state >> 30)) * _MIX) & _MASK
        for token_id in ids:
            state = (state + (token_id + 1) * _GOLDEN) & _MASK
            state = ((state ^ (state >> 30)) * _MIX) & _MASK
            state ^= state >> 27
        self.state = state

    @classmethod
    def resume(cls, state: int) -> "Chain":
        """The chain that another process has brought as far as ``state``: what a KV cache is to a real model."""
        chain = cls.__new__(cls)
        chain.state = state
        return chain

    def take(self, n: int) -> list[int]:
        """The next ``n`` ids, each appended before the one after it is made."""
        state, taken = self.state, []
        for _ in range(n):
            token_id = ((state * _OUT) & _MASK) >> 51
            taken.append(token_id)
            state = (state + (token_id + 1) * _GOLDEN) & _MASK
            state = ((state ^ (state >> 30)) * _MIX) & _MASK
            state ^= state >> 27
        self.state = state
        return taken

    def next(self) -> int:
        """The next id; it is part of the context from then on."""
        return self.take(1)[0]


def generate(seed: int, prompt_ids: Iterable[int], n: int) -> list[int]:
    """What the engine answers: the ``n`` ids that follow the prompt."""
    return Chain(seed, prompt_ids).take(n)


def choice_seed(seed: int, index: int) -> int:
    """The seed of choice ``index`` of a request with ``n > 1``: the one place where this is decided."""
    return seed + index


def encode(text: str) -> list[int]:
    """A text's ids: one per byte of its UTF-8 form."""
    return [FIRST_BYTE + byte for byte in text.encode("utf-8", "surrogatepass")]


def decode(ids: Iterable[int]) -> str:
    """The ids' text. Bytes that are not UTF-8 come out as U+FFFD; specials have no text.

    Raises:
        ValueError: An id outside the vocabulary.
    """
    raw = bytearray()
    for token_id in ids:
        if 0 <= token_id < WORDS:
            raw += VOCABULARY[token_id].encode()
        elif token_id < FIRST_BYTE + BYTES and token_id >= 0:
            raw.append(token_id - FIRST_BYTE)
        elif not EOS <= token_id < EOS + len(SPECIALS):
            raise ValueError(f"token id {token_id} is outside the vocabulary of {EOS + len(SPECIALS)}")
    return raw.decode("utf-8", "replace")


def ids_of(text: str) -> list[int] | None:
    """A generated text back to its ids, however many tokens one chunk merged; None if it is not ours."""
    if not text:
        return []
    if text[0] != " ":
        return None
    try:
        return [_ID_OF[word] for word in text[1:].split(" ")]
    except KeyError:
        return None


def chat_prompt(messages: Sequence[Mapping[str, Any]]) -> str:
    """The prompt of a conversation: the template of the model folder, in Python.

    A message's content is a string, nothing, or a list of parts of type ``text``.
    """
    lines = []
    for message in messages:
        content = message.get("content") or ""
        if not isinstance(content, str):
            content = "".join(part["text"] for part in content)
        lines.append(f"{message['role']}: {content}\n")
    return "".join(lines) + "assistant:"


def logprob(token_id: int) -> float:
    """The log probability that the engine reports for an id: made up, below zero, and always the same."""
    return -((token_id * 37) % 400 + 1) / 100
