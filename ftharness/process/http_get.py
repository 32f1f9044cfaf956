"""One GET: what asking a process whether it is ready, or for its metrics, needs."""

import asyncio


class NoAnswer(OSError):  # noqa: N818 - says what is the case
    """There was no whole answer; the message says what there was instead."""


async def http_get(url: str, *, deadline_s: float) -> tuple[int, bytes]:
    """The status and the body of ``GET url``, on a connection of its own; no redirects, no proxies.

    Raises:
        NoAnswer: No connection, it broke, what came is not HTTP, or nothing whole came within ``deadline_s`` seconds.
    """
    import httpx  # noqa: PLC0415 - 75 ms that pass while the processes start

    try:
        # Loading the certificates takes longer than the whole exchange: only where they are needed.
        async with (
            asyncio.timeout(deadline_s),
            httpx.AsyncClient(timeout=None, trust_env=False, verify=url.startswith("https:")) as client,  # noqa: S113 - see above it
        ):
            answer = await client.get(url)
            return answer.status_code, answer.content
    except TimeoutError as error:
        raise NoAnswer(f"no answer within {deadline_s:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoAnswer(f"{type(error).__name__} {error}") from error
