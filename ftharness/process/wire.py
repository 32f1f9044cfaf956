"""What the harness and its guardian say to each other over their SEQPACKET socket.

To the guardian goes ``remove FOLDER``, the folder's path in hexadecimal, which it removes when all has ended; or the number of a
request, with file descriptors: the launch (in a memfd, since a message is limited
to some 200 KB and an environment is not), the write end of the output pipe, and what the program itself is to get. Back
come reports, each a line of ASCII words:

    started REQUEST PID KEEPER      with two pidfds, the process's and the keeper's
    failed REQUEST ERRNO STAGE      of ``fork``, ``fds``, ``cwd``, ``program``
    exited REQUEST PID STATUS       the wait status; request 0: an orphan whose keeper died before it
    alone REQUEST                   the process and all its descendants are gone

Standard library only: the guardian reads it too.
"""

from __future__ import annotations

import os
import socket

MESSAGE_BYTES = 1024
REMOVE = "remove"
# The kernel's limit for one message is 253, two of which are ours.
PASS_FDS_LIMIT = 250
_INT_BYTES = 4


class Launch:
    """What to run.

    Attributes:
        argv: The program and its arguments.
        environment: All of it, each ``NAME=value``.
        cwd: The folder to start in.
        fds: The numbers under which the program gets the descriptors that are passed to it.
    """

    __slots__ = ("argv", "cwd", "environment", "fds")

    def __init__(self, argv: list[bytes], environment: list[bytes], cwd: bytes, fds: list[int]) -> None:
        self.argv = argv
        self.environment = environment
        self.cwd = cwd
        self.fds = fds

    def memfd(self) -> int:
        """A new descriptor of a memory file that holds this."""
        numbers = [b"%d" % fd for fd in self.fds]
        words = [self.cwd, b"%d" % len(numbers), *numbers, b"%d" % len(self.argv), *self.argv, *self.environment]
        fd = os.memfd_create("ftharness-launch", os.MFD_CLOEXEC)
        data = memoryview(b"\0".join(words))
        while data:
            data = data[os.write(fd, data) :]
        return fd

    @classmethod
    def read(cls, fd: int) -> Launch:
        """What :meth:`memfd` wrote."""
        data, size = bytearray(), os.fstat(fd).st_size
        while len(data) < size:
            data += os.pread(fd, size - len(data), len(data))
        cwd, count, *words = bytes(data).split(b"\0")
        fds, words = words[: int(count)], words[int(count) :]
        count, *words = words
        return cls(words[: int(count)], words[int(count) :], cwd, [int(fd) for fd in fds])


def send(link: socket.socket, *words: object, fds: tuple[int, ...] = ()) -> None:
    """Send one message; nothing happens when nobody is there to read it."""
    message = " ".join(str(word) for word in words).encode()
    try:  # noqa: SIM105 - contextlib costs the guardian its start
        socket.send_fds(link, [message], fds)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the other side is gone, which both notice by other means


def receive(link: socket.socket) -> tuple[list[str], list[int], bool]:
    """One message's words, its descriptors, and whether some of these were lost because we have too many open.

    No words: the other side has closed, and no more will come.
    """
    try:
        # Not socket.recv_fds, which forgets its flags (Python 3.11 to 3.13): every program would inherit what comes here.
        room = socket.CMSG_LEN((PASS_FDS_LIMIT + 2) * _INT_BYTES)
        message, ancillary, flags, _ = link.recvmsg(MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return [], [], False
    fds = [fd for _, _, data in ancillary for fd in memoryview(data[: len(data) // _INT_BYTES * _INT_BYTES]).cast("i")]
    return message.decode().split(), fds, bool(flags & socket.MSG_CTRUNC)
