"""Which process it is: a pid comes back, its start time in the same boot does not."""

import os
from pathlib import Path
from typing import NamedTuple

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: Fields of /proc/PID/stat after the command's closing bracket: the start time is the 22nd of all (proc(5)).
_STARTED_AFTER_COMMAND = 19


class Identity(NamedTuple):
    """A process, for as long as the machine is up.

    Attributes:
        pid: As the process itself sees it; another pid namespace has other numbers.
        started: Clock ticks from the boot to its start; 0 where the system does not tell.
        boot_id: Of the boot in which it runs; "" where the system does not tell.
        namespace: Of the pid, as the kernel numbers them; 0 where the system does not tell.
    """

    pid: int
    started: int
    boot_id: str
    namespace: int

    @property
    def here(self) -> bool:
        """Whether its pid means the same process to us, if it lives: the same boot, the same pid namespace."""
        return bool(self.boot_id) and (self.boot_id, self.namespace) == (boot_id(), _namespace())

    @property
    def lives(self) -> bool:
        """Whether that process, and not another that got its number, is there. Only of one that is :attr:`here`."""
        return _started(self.pid) == self.started != 0


def myself() -> Identity:
    """This process."""
    return identity_of(os.getpid())


def identity_of(pid: int) -> Identity:
    """The process that has that number here, now."""
    return Identity(pid, _started(pid), boot_id(), _namespace())


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by a signal or a debugger."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:
        return False


def boot_id() -> str:
    """This boot's; "" where the system does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - a magic link: its inode is the number
    except OSError:
        return 0


def _started(pid: int) -> int:
    """0 where there is no such process, or a zombie: one that has ended and was not waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[_STARTED_AFTER_COMMAND])
