"""The kernel's process table: who lives, and whose child it is.

Standard library only: the guardian reads it too.
"""

from __future__ import annotations

import os
import signal
import time

#: For a process in the midst of its exec to be through; it takes microseconds, and on a busy machine the wait for a core.
_EXEC_S = 1.0
#: Fields of /proc/PID/stat after the command's closing bracket: the 23rd and the 51st of all (proc(5)).
_VSIZE, _ENV_END = 20, 48


class Entry:
    """One process as ``/proc/PID/stat`` shows it.

    Attributes:
        pid: Its number; another process may get it once this one is reaped.
        name: The first 15 bytes of the program's name, which any program can change.
        state: R, S, D, T (stopped), t (traced), Z (a zombie), …
        ppid: Its parent, which is the next living subreaper above once the parent died.
        start_time: Clock ticks from boot to its start. Together with ``pid`` it names one process and no other.
        cpu_ticks: Clock ticks of CPU that it has used.
    """

    __slots__ = ("cpu_ticks", "name", "pid", "ppid", "start_time", "state")

    def __init__(self, pid: int, stat: bytes) -> None:
        # The name stands in parentheses and may hold any byte, parentheses and blanks too: only the last ) is the end.
        name, rest = stat.split(b"(", 1)[1].rsplit(b")", 1)
        fields = rest.split(None, 20)
        self.pid = pid
        self.name = os.fsdecode(name)
        self.state = fields[0].decode()
        self.ppid = int(fields[1])
        self.cpu_ticks = int(fields[11]) + int(fields[12])
        self.start_time = int(fields[19])

    @property
    def identity(self) -> tuple[int, int]:
        """What names this process and no other, also when its number is used again."""
        return self.pid, self.start_time


def read_entry(pid: int) -> Entry | None:
    """The process ``pid``, or None when there is none."""
    try:
        # Not open(): a scan reads hundreds of these, and this is three times as fast.
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        return Entry(pid, os.read(fd, 4096))
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)


def read_table() -> dict[int, Entry]:
    """Every process that this one can see, by pid; about 10 µs each."""
    found = (read_entry(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - see above
    return {entry.pid: entry for entry in found if entry is not None}


def below(pid: int, table: dict[int, Entry]) -> list[Entry]:
    """All descendants of ``pid``, parents before their children."""
    children: dict[int, list[Entry]] = {}
    for entry in table.values():
        children.setdefault(entry.ppid, []).append(entry)
    found = list(children.get(pid, ()))
    for entry in found:  # it grows while we walk it
        found.extend(children.get(entry.pid, ()))
    return found


def send_signal(entry: Entry, number: signal.Signals) -> bool:
    """Signal exactly the process that ``entry`` describes; False when it is gone.

    Between the reading of the table and the signal the pid may have passed to a stranger: the pidfd holds on to one
    process, and the start time says whether it is still the one that was read.
    """
    try:
        pidfd = os.pidfd_open(entry.pid)
    except ProcessLookupError:
        return False
    try:
        now = read_entry(entry.pid)
        if now is None or now.start_time != entry.start_time:
            return False
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    else:
        return True
    finally:
        os.close(pidfd)


def command_line(entry: Entry) -> list[str]:
    """The arguments of ``entry`` as they are now; ``[name]`` where there are none (a zombie has lost them)."""
    words = (_proc(entry.pid, "cmdline") or b"").rstrip(b"\0").split(b"\0")
    return [os.fsdecode(word) for word in words] if words != [b""] else [f"[{entry.name}]"]


def tagged(tag: str, table: dict[int, Entry]) -> list[Entry]:
    """The processes whose environment, as it was at their exec, holds ``tag`` at the start of a variable."""
    wanted = b"\0" + os.fsencode(tag)
    return [entry for entry in table.values() if wanted in b"\0" + _environment(entry.pid)]


def _environment(pid: int) -> bytes:
    """As it was at its exec; b"" of another user's process, or of one that is gone.

    In the midst of an exec the kernel has the new memory in place and not yet where in it the variables lie: for that instant
    there seem to be none. Whoever took that for an answer would leave a process alive.
    """
    until = time.monotonic() + _EXEC_S
    there = False
    while (environment := _proc(pid, "environ")) == b"" and not there and time.monotonic() < until:
        fields = (_proc(pid, "stat") or b"").rpartition(b")")[2].split()
        if (
            len(fields) <= _ENV_END or fields[_VSIZE] == b"0"
        ):  # gone; a zombie or a thread of the kernel: it has no memory
            return b""
        there = fields[_ENV_END] != b"0"
        if not there:
            time.sleep(0.0005)
    return environment or b""


def _proc(pid: int, name: str) -> bytes | None:
    """A file of a process's own folder; None where it cannot be read."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123 - pathlib costs the guardian 8 ms at its start
            return file.read()
    except OSError:
        return None
