"""What an engine may do: as whom it runs, and that neither it nor what it starts ever gains more.

:func:`privileges` is asked by the manager, which knows users' names; what it answers is plain data, and :func:`apply` does it in
the engine's own process, between fork and exec. Standard library only: the shim runs it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

# Options of prctl(2), linux/prctl.h.
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h: sets of 64 bits, as two of 32
_MOST_CAPABILITIES = 64

_libc = ctypes.CDLL(None, use_errno=True)


class PrivilegesError(ValueError):
    """It cannot be started as that user; the message says what can be done."""


class Privileges(NamedTuple):
    """As whom a process runs. It has no capabilities, and no program that it runs gives it any (no_new_privs).

    Attributes:
        uid: The user's number; None: whoever starts it.
        gid: Of its main group.
        groups: Of its others.
    """

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"uid": self.uid, "gid": self.gid, "groups": list(self.groups)}


def privileges(user: str) -> Privileges:
    """What it takes to run as a user.

    Args:
        user: A name or a number; "": whoever we are.

    Raises:
        PrivilegesError: There is no such user, or we are not root and somebody else.
    """
    if not user:
        return Privileges()
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise PrivilegesError(
            f"user {user!r}: there is none on this machine; `useradd --system {user}` makes one"
        ) from None
    if entry.pw_uid == os.geteuid():
        return Privileges()
    if os.geteuid() != 0:
        raise PrivilegesError(
            f"user {user!r}: only root can start an engine as somebody else, and the manager runs as number {os.geteuid()}"
        )
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Privileges(entry.pw_uid, entry.pw_gid, groups)


def advisory(user: str) -> str:
    """What to say of a pool whose engines would run as root; "" where they do not.

    Raises:
        PrivilegesError: As :func:`privileges`.
    """
    its = privileges(user)
    if os.geteuid() == 0 and its.uid in (None, 0):
        return "its engines run as root, without capabilities: set user to one that has nothing else"
    return ""


def make_workdir(path: Path, its: Privileges) -> None:
    """An engine's own folder, which nobody else can read; one that is there is made so.

    Raises:
        PrivilegesError: It cannot be reached by the user that the engine runs as; says at which folder it ends.
        OSError: It cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if its.uid is not None and its.gid is not None:
        os.chown(path, its.uid, its.gid, follow_symlinks=False)
        for folder in path.absolute().parents:
            if not _may_pass(folder.stat(), its):
                raise PrivilegesError(
                    f"{path}: user number {its.uid} cannot pass {folder}; `chmod o+x {folder}`, or set workdir to another place"
                )
    path.chmod(0o700)


def apply(plain: Mapping[str, Any]) -> None:
    """Become what :meth:`Privileges.plain` says. There is no way back.

    Raises:
        OSError: The kernel does not do it: the program may not be run then.
    """
    _drop_bounding_set()  # first, for it takes a capability that goes with the user
    if plain["uid"] is not None:
        os.setgroups(plain["groups"])
        os.setresgid(plain["gid"], plain["gid"], plain["gid"])
        os.setresuid(plain["uid"], plain["uid"], plain["uid"])
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _drop_bounding_set() -> None:
    """Root's programs have what is in it, whatever else was dropped; nobody but root can shrink it, and nobody else needs to."""
    for number in range(_MOST_CAPABILITIES):
        held = _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0)
        if held < 0:  # more than this kernel has
            return
        if held and _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            if ctypes.get_errno() == errno.EPERM and os.geteuid() != 0:
                return
            raise _error(f"drop capability {number}")


def _drop_capabilities() -> None:
    """Permitted, effective and inheritable ones: capset(2), to less than there was, which everybody may."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise _error("capset")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise _error(f"prctl({option})")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def _may_pass(folder: os.stat_result, its: Privileges) -> bool:
    """Whether its user may go through a folder: the x of owner, group or others, whichever applies first."""
    if folder.st_uid == its.uid:
        return bool(folder.st_mode & stat.S_IXUSR)
    if folder.st_gid in (its.gid, *its.groups):
        return bool(folder.st_mode & stat.S_IXGRP)
    return bool(folder.st_mode & stat.S_IXOTH)
