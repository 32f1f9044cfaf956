"""One GET, as asking a process whether it is ready needs it.

The general clients take 0.3 s to be imported and made, which would be a tenth of a scenario; and this is asked while the
processes that it asks for need the machine to start.
"""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


class ConnectError(OSError):
    """Nobody accepts connections there."""


async def http_get(url: str, *, deadline_s: float) -> tuple[int, bytes]:
    """The status and the body of ``GET url``, on a connection of its own; no redirects, no proxies.

    Raises:
        ConnectError: There is no connection to be had.
        OSError: It broke. A ``TimeoutError``, which is one: no answer within ``deadline_s`` seconds.
        EOFError: It ended before the answer did.
        ValueError: What came is not HTTP, or ``url`` is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or parts.hostname is None:
        raise ValueError(f"{url}: not http://HOST[:PORT]/PATH")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    async with asyncio.timeout(deadline_s):
        try:
            reader, writer = await asyncio.open_connection(
                parts.hostname, parts.port or _PORTS[parts.scheme], ssl=parts.scheme == "https" or None
            )
        except OSError as error:
            raise ConnectError(str(error)) from error
        try:
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()
            )
            return await _answer(reader)
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError as error:
        raise ValueError("no end of the headers") from error
    first, *lines = head.split("\r\n")
    if not first.startswith("HTTP/1."):
        raise ValueError(f"not HTTP: {first[:80]!r}")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(first.split()[1])
    if "chunked" in fields.get("transfer-encoding", "").lower():
        return status, b"".join([chunk async for chunk in _chunks(reader)])
    length = fields.get("content-length")
    return status, await (reader.read() if length is None else reader.readexactly(int(length)))


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]
