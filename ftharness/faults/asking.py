"""The faults ``ask`` and ``count_engines``, which are none: what an operator asks of a process, and who is in its slots."""

import asyncio
import time
from collections import defaultdict
from http import HTTPStatus
from typing import Any

from ftharness.faults.kinds import ASK_S
from ftharness.faults.strike import Strike
from ftharness.process import Entry
from ftharness.process.process_table import read_table

#: What a pool's engine, and all that it starts, has in its environment: ``NAME=OWNER/SLOT/``.
_TAG = "FTHARNESS_POOL_ENGINE"
_WAIT_MS = 5_000


async def ask(strike: Strike) -> None:
    """A call of the process's own API; the evidence is the answer, and what the operation came to that it began."""
    import httpx  # noqa: PLC0415 - 75 ms that others need not spend

    process, args = strike.process, strike.args
    port = process.ports.get("http")
    if port is None:
        strike.missed(f"{process.name} has no HTTP port of its own that is known")
        return
    call = f"{args['method']} {args['path']}"
    within_s = float(args.get("within_s", ASK_S))
    at = time.monotonic_ns()
    try:
        async with (
            asyncio.timeout(within_s),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None, trust_env=False) as client,  # noqa: S113 - see above
        ):
            answer = await client.request(args["method"], args["path"], json=args.get("body"))
            if answer.status_code != args["status"]:
                strike.missed(
                    f"{call} was answered with {answer.status_code}, not {args['status']}: {answer.text[:300]}"
                )
                return
            said = {"status": answer.status_code}
            if answer.status_code == HTTPStatus.ACCEPTED:
                said |= await _operation(client, answer.headers["Location"])
    except TimeoutError:
        strike.missed(f"{call} did not come to its end within {within_s:g} s")
    except httpx.HTTPError as error:
        strike.missed(f"{call} was not answered: {type(error).__name__} {error}")
    else:
        strike.landed(at=at, asked=call, took_ms=round((time.monotonic_ns() - at) / 1e6, 1), **said)


async def _operation(client: Any, location: str) -> dict[str, Any]:
    """How what was begun ends; the answer is put off until it has, or for some seconds."""
    while True:
        told = (await client.get(location, params={"wait_ms": _WAIT_MS})).json()
        if told["state"] != "running":
            error = {"error": told["error"]} if told["error"] else {}
            return {"operation": told["kind"], "came_to": told["state"], "detail": told["detail"], **error}


async def count_engines(strike: Strike) -> None:
    """The processes in each slot, found below the manager and below its earlier lives by the mark that slots leave."""
    at = time.monotonic_ns()
    slots: defaultdict[str, list[int]] = defaultdict(list)
    table = read_table()
    for process in (strike.process, *strike.earlier):
        for entry in process.descendants():
            slot = _slot_of(entry)
            parent = table.get(entry.ppid)
            # What an engine has started has its mark, and is no other engine.
            if slot and not (parent is not None and _slot_of(parent) == slot):
                slots[slot].append(entry.pid)
    strike.landed(at=at, engines={slot: sorted(pids) for slot, pids in sorted(slots.items())})


def _slot_of(entry: Entry) -> str:
    """The slot whose mark a process has; "" where it has none, or is gone."""
    try:
        with open(f"/proc/{entry.pid}/environ", "rb") as file:  # noqa: PTH123 - a page that the kernel writes
            variables = file.read().split(b"\0")
    except OSError:
        return ""
    mark = next((one for one in variables if one.startswith(f"{_TAG}=".encode())), b"")
    return mark.decode(errors="replace").rstrip("/").rpartition("/")[2]
