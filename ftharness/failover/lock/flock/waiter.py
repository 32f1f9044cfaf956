"""Blocks in flock for a process that cannot: its event loop must turn. Run by path: ``PYTHON -I -S waiter.py FD PARENT``.

The descriptor is the parent's own open file, so the lock that is granted here is the parent's. What this process guards
against is a lock that is granted for a parent that cannot serve:

- A parent that ends, takes this process with it: seen by its pidfd, and by the end of the pipe on which it says nothing.
- A parent that has not heard of the lock in time is frozen, or stuck. The lock goes back, to the next that waits.

The parent ends this process by SIGKILL once it knows, and well before the lock would go back; see :mod:`waiting`.
"""

import contextlib
import fcntl
import os
import select
import signal
import sys
import threading
import time

#: Seconds for the parent to hear of the lock, from the moment that is told. It takes less than a millisecond.
HEARD_S = 1.0


def _end_with(parent: int) -> None:
    watched = [0]
    with contextlib.suppress(OSError):  # an old kernel, or a sandbox: the pipe remains
        watched.append(os.pidfd_open(parent))
    if os.getppid() == parent:  # otherwise it ended before we looked
        select.select(watched, [], [])
    os._exit(0)


def main() -> None:
    """Says on the standard output that the lock is there, and waits to be ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent's to answer, which may be in our process group
    fd, parent = int(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(1, b"%20d" % time.monotonic_ns())
    time.sleep(HEARD_S)
    fcntl.flock(fd, fcntl.LOCK_UN)


if __name__ == "__main__":
    main()
