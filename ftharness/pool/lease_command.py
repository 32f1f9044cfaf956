"""A lease that is held for as long as a command runs."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ftharness.pool.calls import Calls, NotDone, NotReached
from ftharness.pool.lease_keeping import keep, path_of
from ftharness.process.reaping import PR_SET_PDEATHSIG, set_option


class LeaseLost(Exception):  # noqa: N818 - says what is the case
    """The lease ended while the command ran; the message says how."""


async def hold(calls: Calls, lease: dict[str, Any], argv: Sequence[str], say: Callable[[str], None]) -> int:
    """Run a command with a lease, and give the lease back when the command ends.

    The command finds the lease in its environment: ``FTHARNESS_LEASE_URL``, ``_ID``, ``_POOL``, ``_ENGINE`` and ``_MODEL``. When
    the lease ends before it, it is sent SIGTERM, once: what it works on is not its own any more. So it is by the kernel where we
    are killed, and nobody is left to renew the lease.

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
    names = {"URL": "url", "ID": "id", "POOL": "pool_id", "ENGINE": "engine_id", "MODEL": "model_id"}
    environment = os.environ | {f"FTHARNESS_LEASE_{name}": lease[key] for name, key in names.items()}
    lost = ""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, env=environment, preexec_fn=partial(_ends_with, os.getpid())
        )
        with _signals_go_to(process):
            keeping = asyncio.ensure_future(keep(calls, lease, say))
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
                await calls.call("DELETE", *path_of(lease))
    if lost:
        raise LeaseLost(lost)
    return status if status >= 0 else 128 - status


def _ends_with(parent: int) -> None:
    """In the child, before it becomes the command."""
    set_option(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was killed before
        os.kill(os.getpid(), signal.SIGTERM)


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
