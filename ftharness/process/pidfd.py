"""How a process that is not our child ended, by its pidfd."""

import fcntl
import struct

# linux/pidfd.h: ioctl PIDFD_GET_INFO on a struct pidfd_info of 64 bytes; PIDFD_INFO_EXIT is told from Linux 6.15 on.
_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11
_INFO_EXIT = 1 << 3


def wait_status(pidfd: int) -> int | None:
    """The wait status of the process behind ``pidfd``; None where it lives, or this kernel does not tell."""
    info = bytearray(64)
    struct.pack_into("Q", info, 0, _INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:
        return None
    (mask,) = struct.unpack_from("Q", info, 0)
    if not mask & _INFO_EXIT:
        return None
    (status,) = struct.unpack_from("i", info, 60)
    return int(status)
