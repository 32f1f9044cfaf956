"""One look at an engine's health: a GET on a connection of its own, so that an engine that accepts no more is seen, too.

By hand: it is asked for as long as the engine lives, and a whole HTTP client takes eight times the CPU for a status.
"""

import asyncio
import errno
import re
from urllib.parse import urlsplit

_OK = 200
_HEAD_BYTES = _BODY_BYTES = 16 * 1024
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_STATUS = re.compile(rb"HTTP/[0-9.]+ ([0-9]{3})\s")


class CannotLook(Exception):  # noqa: N818 - says what is the case
    """Nothing was asked, for want of something on our side; it says nothing of the engine."""


async def look(url: str, timeout_s: float) -> str:
    """Ask ``url`` (http) whether the engine is well.

    Args:
        url: Of the request.
        timeout_s: Seconds for all of it.

    Returns:
        "" where it answers 200; else what was seen.

    Raises:
        CannotLook: We have too many files open, or no memory.
    """
    try:
        async with asyncio.timeout(timeout_s):
            status = await _status(url)
    except TimeoutError:
        return f"GET {url}: no answer within {timeout_s:g} s"
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _OURS:
            raise CannotLook(f"cannot ask {url}: {error.strerror}") from error
        return f"GET {url}: {error}"
    return "" if status == _OK else f"GET {url}: status {status}"


async def _status(url: str) -> int:
    """The status of the answer.

    Raises:
        OSError: There is no connection, or it broke.
        EOFError: It was closed before the answer was whole.
        ValueError: What came is not HTTP.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    reader, writer = await asyncio.open_connection(host, port, limit=_HEAD_BYTES)
    try:
        target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        line = await reader.readline()
        status = _STATUS.match(line)
        if status is None:
            raise ValueError(
                f"the answer begins with {line[:40]!r}, and is not HTTP" if line else "it was closed at once"
            )
        length = 0
        while (header := await reader.readline()).strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if length > 0:  # taken, so that the engine is not told that we went away
            await reader.readexactly(min(length, _BODY_BYTES))
        return int(status[1])
    finally:
        writer.close()
