"""Start, ready, stop: one process through ``Processes`` beside a bare ``Popen`` with a pidfd.

The child is the same: it says that it is ready, and ends on SIGTERM. Ours has a keeper above it, its output in a log
without secrets, and every step in the history. The guardian is started once a run; it has a figure of its own.
"""

import asyncio
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _figures import Figures, median

from ftharness.history import History
from ftharness.process import Processes

CHILD = [sys.executable, "-I", "-c", "import signal; print('ready', flush=True); signal.pause()"]


def _bare() -> float:
    began = time.perf_counter()
    with subprocess.Popen(CHILD, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        pidfd = os.pidfd_open(child.pid)
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        select.select([pidfd], [], [])
        child.wait()
        took = time.perf_counter() - began
        os.close(pidfd)
    return took


async def _ours(processes: Processes) -> float:
    ready = asyncio.get_running_loop().create_future()

    def sink(data: bytes, at: int) -> None:
        del at
        if data == b"ready\n":
            ready.set_result(None)

    began = time.perf_counter()
    process = await processes.start("child", CHILD, sink=sink)
    await ready
    await processes.stop(process, grace_s=5)
    return time.perf_counter() - began


async def _measure(repeats: int, folder: Path) -> tuple[list[float], list[float], float, float]:
    ours: list[float] = []
    bare: list[float] = []
    with History(folder / "history.jsonl") as history:
        began = time.perf_counter()
        async with Processes(history, folder) as processes:
            await _ours(processes)  # which waits for the guardian
            first = time.perf_counter() - began
            for repeat in range(repeats):
                if repeat % 2:
                    ours.append(await _ours(processes))
                    bare.append(_bare())
                else:
                    bare.append(_bare())
                    ours.append(await _ours(processes))
            began = time.perf_counter()
        return ours, bare, first, time.perf_counter() - began


def main() -> None:
    figures = Figures(__doc__)
    repeats = 20 if figures.quick else 100
    with tempfile.TemporaryDirectory() as folder:
        ours, bare, first, end = asyncio.run(_measure(repeats, Path(folder)))
    figures.tell(
        "process/start_ready_stop",
        median(ours) * 1000,
        "ms",
        n=repeats,
        bound="ratio <= 1.3",
        peer="Popen and pidfd",
        peer_value=median(bare) * 1000,
    )
    figures.tell("process/guardian_once_a_run", (first - median(ours) + end) * 1000, "ms", n=1)
    figures.end()


if __name__ == "__main__":
    main()
