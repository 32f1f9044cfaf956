"""The first requests to a new engine: they make it warm, and say how fast it is."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import NamedTuple

from ftharness.pool.config import WarmupConfig

#: An engine that has no completions is no worse an engine: it is not measured.
_NO_COMPLETIONS = {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}


class Speed(NamedTuple):
    """What one stream has shown.

    Attributes:
        tokens_per_s: From its first token on; 0: it had no second one.
        first_token_ms: From the request to the first token.
    """

    tokens_per_s: float
    first_token_ms: float


class NotWarm(Exception):  # noqa: N818 - says what is the case
    """A request of the warm-up failed: the engine is not well, whatever its health says."""


async def warm_up(url: str, model_id: str, config: WarmupConfig) -> list[Speed]:
    """Ask an engine for some completions, one after the other.

    Args:
        url: Where it serves.
        model_id: What requests call its model.
        config: How many, of what.

    Returns:
        What each has shown; nothing where the engine has no completions at all.

    Raises:
        NotWarm: One failed, or they took too long together; says what was seen.
    """
    if config.requests == 0:
        return []
    import httpx  # noqa: PLC0415 - 75 ms that pass while the engine starts

    body = {
        "model": model_id,
        "prompt": config.prompt,
        "max_tokens": config.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    what = f"POST {url}/v1/completions"
    speeds: list[Speed] = []
    try:
        async with (
            asyncio.timeout(config.timeout_s),
            httpx.AsyncClient(timeout=None, trust_env=False, verify=False) as client,  # noqa: S113, S501 - see above it; loopback
        ):
            for _ in range(config.requests):
                began = time.monotonic()
                async with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
                    if answer.status_code in _NO_COMPLETIONS:
                        return []
                    if answer.status_code != HTTPStatus.OK:
                        said = (await answer.aread())[:300].decode(errors="replace")
                        raise NotWarm(f"{what}: status {answer.status_code}: {said}")
                    speeds.append(await _measured(answer.aiter_lines(), began, what))
    except TimeoutError:
        raise NotWarm(f"{what}: not over within {config.timeout_s:g} s") from None
    except httpx.HTTPError as error:
        raise NotWarm(f"{what}: {type(error).__name__} {error}") from error
    return speeds


async def _measured(lines: AsyncIterator[str], began: float, what: str) -> Speed:
    tokens, first, last = 0, 0.0, 0.0
    async for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        try:
            chunk = json.loads(data)
        except ValueError:
            raise NotWarm(f"{what}: {data[:100]!r} is not JSON") from None
        if "error" in chunk:
            raise NotWarm(f"{what}: {json.dumps(chunk['error'])[:300]}")
        if any(choice.get("text") for choice in chunk.get("choices", ())):
            last = time.monotonic()
            first = first or last
            tokens += 1
        tokens = (chunk.get("usage") or {}).get("completion_tokens") or tokens
    if not tokens or not first:
        raise NotWarm(f"{what}: it ended without a token")
    return Speed((tokens - 1) / (last - first) if last > first else 0.0, (first - began) * 1000)
