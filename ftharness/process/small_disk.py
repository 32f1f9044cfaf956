"""A small disk that some processes have for themselves: a tmpfs over a folder, in a mount namespace. Needs no root.

One process holds it (``hold``), and is its life: with it, and those that came in, the namespace ends, and the disk. Others are
started in its view of the disks (``enter``). What is on it is copied into the folder below when the holder is told to end, so
that it can be read afterwards. Run by path, with the standard library alone; see unshare(2), setns(2) and tmpfs(5).
"""

import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path

_NEWNS, _NEWUSER = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER of <sched.h>
_NOSUID, _NODEV, _REC, _PRIVATE = 2, 4, 0x4000, 1 << 18  # MS_… of <sys/mount.h>
#: What the holder says when the disk is there.
READY = "small disk ready"
_CANNOT = 3  # its exit status where this machine does not let us


def hold_argv(folder: Path, size_mb: int) -> list[str]:
    """The command of the process that holds a disk of that size, in MiB, over a folder that is there."""
    return [sys.executable, "-I", "-S", "-u", __file__, "hold", str(folder), str(size_mb)]


def enter_argv(pid: int) -> list[str]:
    """What a command is put behind, to be run in the view of the holder with that pid."""
    return [sys.executable, "-I", "-S", __file__, "enter", str(pid)]


def seen_by(pid: int, path: Path) -> Path:
    """How a path of the disk is reached from outside, while its holder lives: proc(5), /proc/PID/root."""
    return Path(f"/proc/{pid}/root") / path.absolute().relative_to("/")


def _hold(folder: str, size_mb: str) -> int:
    # Before anything is said: the default of a SIGTERM at the begin is as good an end.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _unshare()
        _call("mount", b"none", b"/", None, _REC | _PRIVATE, None)  # what is mounted here is seen nowhere else
        options = f"size={size_mb}m,mode=0755".encode()
        _call("mount", b"none", os.fsencode(folder), b"tmpfs", _NOSUID | _NODEV, options)
    except OSError as error:
        sys.stdout.write(f"no small disk: {error}\n")
        return _CANNOT
    sys.stdout.write(f"{READY}\n")
    signal.sigwait([signal.SIGTERM])
    shutil.copytree(folder, f"/proc/self/fd/{below}", dirs_exist_ok=True)
    return 0


def _unshare() -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        _call("unshare", _NEWUSER | _NEWNS)
    except OSError:
        if uid != 0:
            raise
        _call("unshare", _NEWNS)  # where namespaces of users are forbidden, root may do without
        return
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")


def _enter(pid: str, argv: list[str]) -> int:
    here = Path.cwd()
    spaces = [(kind, f"/proc/{pid}/ns/{name}") for kind, name in ((_NEWUSER, "user"), (_NEWNS, "mnt"))]
    # All are opened first: from inside the one, the other may be out of reach.
    opened = [
        (kind, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        for kind, path in spaces
        if Path(path).readlink() != Path("/proc/self/ns", Path(path).name).readlink()
    ]
    for kind, fd in opened:
        _call("setns", fd, kind)
    os.chdir(here)  # as it is seen from there
    os.execvp(argv[0], argv)  # noqa: S606 - a list of arguments, of our own caller's


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def main(arguments: list[str]) -> int:
    """``hold FOLDER SIZE_MB`` or ``enter PID COMMAND…``."""
    if arguments[0] == "hold":
        return _hold(*arguments[1:])
    return _enter(arguments[1], arguments[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
