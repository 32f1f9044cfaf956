"""A lease that is held for as long as a command runs."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ftharness.pool.calls import Calls, NotDone, NotReached

#: Shorter than the shortest time to live needs, and long enough that a manager that is away is not asked all the time.
_AGAIN_S = 0.2
_LONGEST_WAIT_MS = 30_000


class LeaseLost(Exception):  # noqa: N818 - says what is the case
    """The lease ended while the command ran; the message says how."""


async def hold(calls: Calls, lease: dict[str, Any], argv: Sequence[str], say: Callable[[str], None]) -> int:
    """Run a command with a lease, and give the lease back when the command ends.

    The command finds the lease in its environment: ``FTHARNESS_LEASE_URL``, ``_ID``, ``_POOL`` and ``_ENGINE``. When the lease
    ends before it, it is sent SIGTERM, once: what it works on is not its own any more.

    Args:
        calls: Of the manager.
        lease: As it was granted.
        argv: The command.
        say: Told what happens meanwhile.

    Returns:
        The command's status; 128 and the signal's number, where one ended it.

    Raises:
        LeaseLost: The lease ended first.
        OSError: The command cannot be started.
    """
    names = {"URL": "url", "ID": "id", "POOL": "pool_id", "ENGINE": "engine_id"}
    environment = os.environ | {f"FTHARNESS_LEASE_{name}": lease[key] for name, key in names.items()}
    lost = ""
    try:
        process = await asyncio.create_subprocess_exec(*argv, env=environment)
        with _signals_go_to(process):
            keeping = asyncio.ensure_future(_keep(calls, lease, say))
            ended = asyncio.ensure_future(process.wait())
            await asyncio.wait({keeping, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                lost = keeping.result()
                say(f"{lost}; the command is told to end")
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            keeping.cancel()
            await asyncio.wait((keeping,))
            status = await ended
    finally:
        if not lost:
            with contextlib.suppress(NotReached, NotDone):
                await calls.call("DELETE", *_path(lease))
    if lost:
        raise LeaseLost(lost)
    return status if status >= 0 else 128 - status


async def _keep(calls: Calls, lease: dict[str, Any], say: Callable[[str], None]) -> str:
    """Renew it in time, until it is over; returns how it ended."""
    ttl_ms = lease["expires_ms"] - lease["granted_ms"]
    until = time.monotonic() + ttl_ms / 1000
    # The answer is put off until the lease is over, or has to be renewed.
    wait_ms = max(1, min(ttl_ms // 3, _LONGEST_WAIT_MS))
    away = False
    while True:
        try:
            now = await calls.call("GET", *_path(lease), wait_ms=wait_ms)
            if now["state"] != "held":
                return f"lease {lease['id']} was {now['state']}: {now['reason']}"
            asked = time.monotonic()
            await calls.call("PATCH", *_path(lease), body={"ttl_ms": ttl_ms})
            until, away = asked + ttl_ms / 1000, False
        except (NotDone, NotReached) as error:
            if isinstance(error, NotDone) and error.code != "not_kept":  # a full disk may be emptied
                return str(error)
            if not away:
                say(f"{error}; trying again until the lease's time is over")
            away = True
            if time.monotonic() > until:
                return f"lease {lease['id']} could not be renewed in time"
            await asyncio.sleep(_AGAIN_S)


def _path(lease: dict[str, Any]) -> tuple[str, ...]:
    return "v1", "pools", lease["pool_id"], "leases", lease["id"]


def _at_a_terminal() -> bool:
    """Whether a terminal's Ctrl-C goes to us, and so to our command: wherever its and our input comes from."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


@contextlib.contextmanager
def _signals_go_to(process: asyncio.subprocess.Process) -> Iterator[None]:
    """What is meant to end us ends the command; then we give the lease back, and end with its status."""
    loop = asyncio.get_running_loop()

    def pass_on(number: signal.Signals) -> None:
        # At a terminal both get its Ctrl-C, and a second one means more than the first to many programs.
        if number != signal.SIGINT or not _at_a_terminal():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, pass_on, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
