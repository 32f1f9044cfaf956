"""One call of a JSON API, on a connection of its own: for many calls at once, of which a general client makes too much work."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from ftharness.client.connection import Connection


async def exchange(
    url: str, method: str, path: str, body: Mapping[str, Any] | None = None, *, within_s: float
) -> tuple[int, Any]:
    """The status of the answer, and its body as data; None where that is no JSON.

    Args:
        url: The server's: ``http://HOST:PORT``.
        method: HTTP's.
        path: With its query.
        body: What goes with it, as JSON.
        within_s: Seconds for all of it.

    Raises:
        OSError: Nobody listens there, the connection broke, what came is not HTTP, or not in time.
    """
    pieces: list[bytes] = []
    sent = b"" if body is None else msgspec.json.encode(body)
    headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if sent else {})
    async with asyncio.timeout(within_s):
        connection = await Connection.open(
            url, method, path, headers=headers, body=sent, on_body=lambda data, _: pieces.append(data)
        )
        try:
            await connection.done
        finally:
            await connection.close()
    assert connection.status is not None, "it is done"
    try:
        return connection.status, msgspec.json.decode(b"".join(pieces))
    except msgspec.DecodeError:
        return connection.status, None
