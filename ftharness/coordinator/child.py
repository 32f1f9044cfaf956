"""What runs in a worker's process around the caller's function."""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import Any

from ftharness.coordinator.reports import Reports

#: Signature: ``(rank, world_size, results_queue, *args)``.
WorkerFn = Callable[..., object]


def work(worker_fn: WorkerFn, rank: int, world_size: int, reports: Reports, args: tuple[Any, ...]) -> None:
    """Call the worker's function; an exception that leaves it is reported before the process ends by it, with status 1."""
    # Ctrl-C comes to all processes of a terminal. The coordinator decides what becomes of it, and tells by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # and one that waits, as it was blocked until now, is gone
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, name="end with the coordinator", daemon=True).start()
    try:
        worker_fn(rank, world_size, reports, *args)
    except Exception as error:
        with contextlib.suppress(OSError):  # nobody is there to hear it: the exit status says what is left to say
            reports.put(
                {
                    "rank": rank,
                    "status": "failed",
                    "error": _kind(error),
                    "error_type": type(error).__name__,
                    "error_message": str(error),
                    "batch_idx": getattr(error, "batch_idx", None),
                    "traceback": traceback.format_exc(),
                }
            )
        raise


def exit_on_sigterm() -> None:
    """From now on SIGTERM ends this process in order, with status 143: by SystemExit, so that what is left to write is written.

    What comes after the first is ignored: a machine that is taken away tells each process, and the coordinator tells its
    workers as well. Not what a worker does by itself: one that waits for a GPU would not see it.
    """
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _kind(error: Exception) -> str:
    """What a policy goes by, of an exception.

    By its name: torch's own are not imported here (``torch.OutOfMemoryError``, a RuntimeError; ``torch.AcceleratorError``
    from 2.8 on for what was a RuntimeError ``CUDA error: …`` before).
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"OutOfMemoryError", "MemoryError"} or "out of memory" in str(error).lower():
        return "oom"
    if "AcceleratorError" in names or str(error).startswith("CUDA error"):
        return "cuda_runtime"
    return "exception"


def _end_with_parent() -> None:
    """SIGTERM to this process when its coordinator is gone, however that ended.

    PR_SET_PDEATHSIG would fire at the end of the thread that spawned us, too.
    """
    parent = parent_process()
    if parent is None or parent.pid is None:
        return  # it was called without a coordinator
    try:
        fd = os.pidfd_open(parent.pid)
    except ProcessLookupError:
        fd = -1
    if os.getppid() == parent.pid and fd >= 0:
        wait([fd])
    sys.stderr.write(f"worker {os.getpid()}: the coordinator is gone; SIGTERM to itself\n")
    os.kill(os.getpid(), signal.SIGTERM)
