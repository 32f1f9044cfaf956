"""What this machine can do, and what is missing: ``ftharness doctor``."""

import asyncio
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ftharness.history import History
from ftharness.process import PortReservation, Processes, StartError

_ROOM = 1 << 30


def examine() -> Iterator[tuple[bool, str]]:
    """Each finding: whether it is fine, and what it is, with what to do where it is not."""
    yield sys.version_info >= (3, 11), f"Python {platform.python_version()} (3.11 or newer)"
    pidfd = hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")
    yield pidfd, f"{platform.system()} {platform.release()} (pidfd: Linux 5.4 or newer)"
    if pidfd:
        yield asyncio.run(_guardian())
    yield _loopback()
    free = shutil.disk_usage(Path.cwd()).free
    yield free > _ROOM, f"{free / 1e9:.1f} GB free in {Path.cwd()} (1 GB for reports)"
    from ftharness.stack.provision import provisioned  # noqa: PLC0415 - not needed where the first checks fail

    there = [one.spec for one in provisioned()]
    what = ", ".join(there) if there else "none; `ftharness provision dynamo==1.4.2` makes one"
    yield bool(there), f"systems under test: {what}"


async def _guardian() -> tuple[bool, str]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            async with Processes(History(), Path(folder)) as processes:
                process = await processes.start("probe", [sys.executable, "-S", "-c", "pass"])
                ended = await process.exited(20)
        except (StartError, TimeoutError, OSError) as error:
            return False, f"processes below a guardian: {error}"
    return ended.returncode == 0, "processes below a guardian start, and their end is seen"


def _loopback() -> tuple[bool, str]:
    try:
        with PortReservation() as reserved:
            return True, f"ports on 127.0.0.1 can be reserved (such as {reserved.port})"
    except OSError as error:
        return False, f"ports on 127.0.0.1: {error}"
