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


#: Whether it is fine; None where it is not here, and nobody has to have it.
Fine = bool | None


def examine() -> Iterator[tuple[Fine, str]]:
    """Each finding: whether it is fine, and what it is, with what to do where it is not."""
    yield sys.version_info >= (3, 11), f"Python {platform.python_version()} (3.11 or newer)"
    pidfd = hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")
    yield pidfd, f"{platform.system()} {platform.release()} (pidfd: Linux 5.4 or newer)"
    if pidfd:
        yield asyncio.run(_guardian())
    yield _loopback()
    free = shutil.disk_usage(Path.cwd()).free
    yield free > _ROOM, f"{free / 1e9:.1f} GB free in {Path.cwd()} (1 GB for reports)"
    yield from _gpus()
    yield from _provisioned()
    yield from _stacks()


def _gpus() -> Iterator[tuple[Fine, str]]:
    """Each GPU that a run could reserve; a machine without one is none that is broken."""
    from ftharness.gpu import inventory, visible  # noqa: PLC0415 - as below

    there = inventory()
    if not there.gpus:
        yield None, f"GPU: none, and engines run on the CPU: {there.reason}"
    seen = visible(there.devices, os.environ.get("CUDA_VISIBLE_DEVICES"))
    for gpu in there.gpus:
        if gpu.divided and not gpu.partitions:
            yield False, f"{gpu}; divided (MIG is on) into no partition: `nvidia-smi mig -cgi` makes some"
        for one in gpu.partitions if gpu.divided else (gpu,):
            hidden = "" if one in seen else "; hidden by CUDA_VISIBLE_DEVICES"
            yield None if hidden else True, f"{one}{hidden}"


def _provisioned() -> Iterator[tuple[bool, str]]:
    """Each environment and model, with what can run on it."""
    # Not needed where the first checks fail.
    from ftharness.registry import installed  # noqa: PLC0415
    from ftharness.stack.provision import environments, unfinished  # noqa: PLC0415
    from ftharness.stack.provision_model import tiny_models  # noqa: PLC0415

    found = environments()
    if not found:
        yield False, "systems under test: none; `ftharness provision dynamo==1.4.2` makes one"
    for one in found:
        stacks = [stack for stack in one.recipe.stacks if stack in installed("ftharness.stacks")]
        runs = f"--stack {', '.join(stacks)}" if stacks else "no stack yet, by hand (docs/real-engines.md)"
        yield True, f"{one.spec}: {one.recipe.serves}; {runs}; {one.python}"
    for spec in unfinished():
        yield (
            False,
            f"{spec}: begun and not complete; `ftharness provision {spec}` goes on, or waits for whoever makes it",
        )
    for model in tiny_models():
        yield True, f"{model.name}: a model for real engines; {model}"


def _stacks() -> Iterator[tuple[Fine, str]]:
    """Each stack, and which scenarios could run on it now."""
    from ftharness.runs_where import runs_where  # noqa: PLC0415 - as above

    for one in runs_where():
        named = f"--stack {one.stack}" + (f" ({one.version})" if one.version else "")
        runs = f" runs {', '.join(one.scenarios)}" if one.scenarios else ""
        lacks = f"{'; not ' if runs else ': '}{one.missing}" if one.missing else ""
        yield not one.missing, f"{named}{runs}{lacks}"


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
