"""How often the kernel killed a process for want of memory: what tells such a SIGKILL from any other."""

from pathlib import Path

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def oom_kills(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """So many since the machine, or this control group, was started; 0 where the kernel does not tell.

    Of this process's control group and those below it, where there is one of version 2 (``oom_kill`` in ``memory.events``,
    Documentation/admin-guide/cgroup-v2.rst); otherwise of the whole machine (``oom_kill`` in /proc/vmstat, since Linux 4.13),
    which counts those of others, too.
    """
    own = _of_group(proc, cgroup)
    return own if own is not None else _count(proc / "vmstat") or 0


def _of_group(proc: Path, cgroup: Path) -> int | None:
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return None
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    return None if own is None else _count(cgroup / own / "memory.events")


def _count(path: Path) -> int | None:
    try:
        words = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    return next((int(value) for name, value in (pair for pair in words if len(pair) == 2) if name == "oom_kill"), None)  # noqa: PLR2004
