"""A command in a container, by the websocket that ``exec`` is: each line of its output with the time of its read."""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from ftharness.k8s.container import Place
from ftharness.k8s.guard import Guard
from ftharness.k8s.needs import needed

_STDOUT, _STDERR, _ERROR = 1, 2, 3

#: Gets a line of its standard output, and CLOCK_MONOTONIC (ns) of the read.
Line = Callable[[bytes, int], None]


async def run_in(guard: Guard, place: Place, command: list[str], line: Line) -> str:
    """Run it to its end.

    Returns:
        "" where it ended well; else what went wrong. That the connection broke may be the command's own doing: what is
        killed takes its container with it, and the command that killed it.

    Raises:
        Refused: The pod is not this run's.
        ApiError: The API server refused it.
    """
    held, complaint = b"", b""
    async with guard.exec(place.pod, place.uid, place.container, command) as socket:
        while True:
            try:
                message = await socket.receive_bytes()
            except needed("httpx_ws").HTTPXWSException as error:
                return f"its connection broke: {type(error).__name__} {error}".strip()
            at, channel, data = time.monotonic_ns(), message[0], message[1:]
            if channel == _STDOUT:
                *lines, held = (held + data).split(b"\n")
                for one in lines:
                    line(one, at)
            elif channel == _STDERR:
                complaint += data
            elif channel == _ERROR:
                return _outcome(msgspec.json.decode(data), complaint)


def _outcome(status: dict[str, Any], complaint: bytes) -> str:
    if status.get("status") == "Success":
        return ""
    said = complaint.decode(errors="replace").strip().splitlines()[-1:]
    return "; ".join([str(status.get("message")), *said])
