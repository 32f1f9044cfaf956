"""How often the kernel killed a process for want of memory: what tells such a SIGKILL from any other."""

from pathlib import Path

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def oom_kills(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """So many since this control group, or the machine, was started; 0 where the kernel does not tell.

    Of this process's control group: in version 2 with those below it (``oom_kill`` in ``memory.events``,
    Documentation/admin-guide/cgroup-v2.rst), in version 1 alone (in ``memory.oom_control``, cgroup-v1/memory.rst). Where
    neither is to be seen, of the whole machine (in /proc/vmstat, since Linux 4.13), which counts those of others, too.
    """
    counts = (_count(path) for path in (*_of_group(proc, cgroup), proc / "vmstat"))
    return next((count for count in counts if count is not None), 0)


def _of_group(proc: Path, cgroup: Path) -> list[Path]:
    try:
        lines = [line.split(":", 2) for line in (proc / "self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    two = [cgroup / path.lstrip("/") / "memory.events" for _, names, path in lines if not names]
    one = [
        cgroup / "memory" / path.lstrip("/") / "memory.oom_control"
        for _, names, path in lines
        if "memory" in names.split(",")
    ]
    return two + one


def _count(path: Path) -> int | None:
    try:
        words = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    return next((int(value) for name, value in (pair for pair in words if len(pair) == 2) if name == "oom_kill"), None)  # noqa: PLR2004
