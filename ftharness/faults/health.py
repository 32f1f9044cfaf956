"""The fault ``check_health``, which is none: a look at what a process says of itself while it is broken."""

import time
from typing import Any

from ftharness.faults.kinds import HEALTH_PATH, HEALTH_S
from ftharness.faults.strike import Strike
from ftharness.process.http_get import NoAnswer, http_get


async def check_health(strike: Strike) -> None:
    """``GET /health``; the evidence is the status, or that there was no answer: both are one."""
    process = strike.process
    port = process.ports.get("http")
    if port is None:
        strike.missed(f"{process.name} has no HTTP port of its own that is known")
        return
    path, within_s = strike.args.get("path", HEALTH_PATH), float(strike.args.get("within_s", HEALTH_S))
    if not (path.startswith("/") and within_s > 0):  # a test's: in a scenario it is refused before
        strike.missed(f"GET {path!r} within {within_s:g} s cannot be asked: a path begins with /, and takes its time")
        return
    at = time.monotonic_ns()
    said: dict[str, Any]
    try:
        status, _ = await http_get(f"http://127.0.0.1:{port}{path}", deadline_s=within_s)
        said = {"status": status}
    except NoAnswer as error:
        said = {"status": "none", "error": str(error)}
    took_ms = round((time.monotonic_ns() - at) / 1e6, 1)
    strike.landed(at=at, path=path, took_ms=took_ms, **said)
