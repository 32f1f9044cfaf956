"""What is run in an engine's container to hit a process there, and to see that it was hit.

It goes whole into ``exec`` (``python3 -c``), runs under the container's own Python, and imports the standard library only. A
container has process ids of its own, and nothing but what it started: whose a process is needs no search. Each line that it
prints is one JSON object, the first just before the signal is sent.

Arguments: the signal's name; ``main`` or ``engine``; whether its children too ("tree" or ""); the engine's pid as its log
named it, or 0.
"""

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any

INIT = b"ftharness-init"
ENDS_WITHIN_S, CHANGES_WITHIN_S = 10.0, 2.0


def say(**what: Any) -> None:
    """One line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def read(pid: int, name: str) -> bytes:
    """A file of /proc/PID; nothing where it is gone."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123 - pathlib costs 10 ms
            return file.read()
    except OSError:
        return b""


def stat(pid: int) -> tuple[str, int]:
    """State and start time; ("", 0) when it is gone."""
    fields = read(pid, "stat").rpartition(b")")[2].split()
    return (fields[0].decode(), int(fields[19])) if fields else ("", 0)


def children(pid: int) -> list[int]:
    """Whoever a thread of it started, but for us."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - the same
    except OSError:
        return []
    found = {int(word) for thread in threads for word in read(pid, f"task/{thread}/children").split()}
    return sorted(found - {os.getpid()})


def below(pid: int) -> list[int]:
    """Its children, and theirs."""
    found = children(pid)
    for one in found:
        found += children(one)
    return found


def signals(pid: int, *sets: str) -> int:
    """The union of some of its sets of signals, of /proc/PID/status."""
    lines = dict(line.split(":\t", 1) for line in read(pid, "status").decode().splitlines() if ":\t" in line)
    union = 0
    for name in sets:
        union |= int(lines.get(name, "0"), 16)
    return union


def disposition(pid: int, number: int) -> str:
    """What the process does with a signal."""
    if signals(pid, "SigIgn") >> (number - 1) & 1:
        return "ignored"
    return "handled" if signals(pid, "SigCgt") >> (number - 1) & 1 else "default"


def target(which: str, hint: int) -> int:
    """The container's main process, or the engine below it; 0 where there is none."""
    main = 1
    if INIT in read(1, "cmdline").split(b"\0"):
        main = next(iter(children(1)), 0)
    if which == "main" or not main:
        return main
    return hint if hint in below(main) else next(iter(children(main)), 0)


def happened(name: str, pid: int, fd: int) -> dict[str, Any]:
    """What can be seen of it afterwards."""
    if name == "SIGKILL":
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return {"ended": bool(poll.poll(ENDS_WITHIN_S * 1000))}
    number, deadline = getattr(signal, name), time.monotonic() + CHANGES_WITHIN_S
    while True:
        state, pending = stat(pid)[0], bool(signals(pid, "SigPnd", "ShdPnd") >> (number - 1) & 1)
        as_meant = {"SIGSTOP": state == "T", "SIGCONT": state != "T"}.get(name, not pending)
        if as_meant or not state or time.monotonic() > deadline:
            return {"state": state, "pending": pending}
        time.sleep(0.001)  # the kernel tells these only when asked


def hit(name: str, which: str, tree: str, hint: int) -> None:
    """Hit it, and say so."""
    number, pid = getattr(signal, name), target(which, hint)
    state, started = stat(pid) if pid else ("", 0)
    if state in ("", "Z"):
        return say(missed=f"there is no {which} process in this container")
    if pid == 1 and name in ("SIGKILL", "SIGSTOP"):
        return say(missed=f"it is process 1 of its container, to which the kernel delivers no {name} from inside")
    fd = os.pidfd_open(pid)
    if stat(pid)[1] != started:
        return say(missed=f"process {pid} ended before it could be hit")
    command = read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace")[:200]
    rest = below(pid) if tree else []  # before: what loses its parent is below it no more
    say(sending=name, pid=pid, before=state, disposition=disposition(pid, number), command=command)
    signal.pidfd_send_signal(fd, number)
    for one in rest:
        with suppress(ProcessLookupError):
            os.kill(one, number)
    return say(**happened(name, pid, fd))


if __name__ == "__main__":
    hit(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
