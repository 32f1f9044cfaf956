"""A container, as far as the tests need one: process ids of its own, and /proc that shows them. Ends as its first process did.

As runc means it: exit code 128 + n where process 1 was ended by signal n. Standard library; run as root.
"""

import ctypes
import os
import signal
import sys

NEW_MOUNTS, NEW_PIDS = 0x00020000, 0x20000000
PRIVATE = 0x40000 | 0x4000  # MS_PRIVATE | MS_REC: what is mounted here is not seen outside
DEATH_SIGNAL = 1
libc = ctypes.CDLL(None, use_errno=True)


def must(result: int, what: str) -> None:
    if result:
        sys.exit(f"runc.py: {what}: {os.strerror(ctypes.get_errno())}")


must(libc.unshare(NEW_MOUNTS | NEW_PIDS), "unshare")
child = os.fork()
if not child:
    libc.prctl(DEATH_SIGNAL, signal.SIGKILL)
    must(libc.mount(b"none", b"/", None, PRIVATE, None), "make mounts private")
    must(libc.mount(b"proc", b"/proc", b"proc", 0, None), "mount /proc")
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - no shell is meant
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
os._exit(code if code >= 0 else 128 - code)
