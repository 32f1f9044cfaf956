"""The first process of an engine's container: it passes signals on, reaps orphans, and ends as the engine did.

It stands whole in the manifest (``python3 -c``), runs under the container's own Python, and imports the standard library only.
"""

import os
import signal
import sys


def run(argv: list[str]) -> int:
    """Run ``argv`` below us; its exit status, or 128 + n for signal n."""
    child = os.fork()
    if not child:
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is meant
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda n, _: os.kill(child, n))
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(run(sys.argv[2:]))
