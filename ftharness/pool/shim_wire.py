"""What a manager and an engine's shim say to each other, over one SEQPACKET socket on this machine.

A message is one JSON object, or a piece of the engine's output behind the letter ``o``. The shim says

    {"say": "hello", …}        who it and its engine are, and what became of it so far; with the engine's pidfd
    {"say": "failed", "stage", "errno", "why"}      the engine was not started
    {"say": "exited", "status", "at_ns"}     the wait status, and CLOCK_MONOTONIC when the shim had it
    {"say": "alone"}           the engine and everything that it started are gone
    {"say": "missed", "bytes"} so much output was not passed on, for nobody took it; the log file has it
    {"say": "unkept", "why"}   output cannot be written to the log file; it is still passed on

and is told

    {"do": "signal", "number", "tree"}     to the engine, or with ``tree`` to what it started as well
    {"do": "end"}                          kill everything
    {"do": "survive", "yes"}               whether the engine is to outlive its manager
    {"do": "done"}                         the manager knows that all is over; the shim ends

Standard library only: the shim reads it too.
"""

from __future__ import annotations

import json
import os
import socket
import struct

#: The most output in one message; a socket's buffer takes some of these (net.core.wmem_default, 208 KiB).
OUTPUT_BYTES = 16 * 1024
_MESSAGE_BYTES = 64 * 1024
_FDS = 4
_OUTPUT = b"o"
_INT_BYTES = 4

#: A message as it is read: an object, or a piece of output.
Message = dict[str, object] | bytes


def said(**words: object) -> bytes:
    """An object as it goes over the socket."""
    return json.dumps(words, separators=(",", ":")).encode()


def output(data: bytes) -> bytes:
    """A piece of output as it goes over the socket; at most :data:`OUTPUT_BYTES`."""
    return _OUTPUT + data


def put(link: socket.socket, message: bytes, fds: tuple[int, ...] = ()) -> bool:
    """Send one message without waiting.

    Returns:
        False where the other side does not take it now. Where the other side is gone it is True: that is seen when reading.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    try:
        # Not socket.send_fds, which forgets its flags (Python 3.11 to 3.13), and would wait.
        link.sendmsg([message], rights, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def take(link: socket.socket) -> tuple[Message | None, list[int]]:
    """One message and its descriptors, without waiting; None: the other side is gone.

    Raises:
        BlockingIOError: There is none now.
    """
    try:
        # Not socket.recv_fds, which forgets its flags (Python 3.11 to 3.13): every program would inherit what comes here.
        room = socket.CMSG_LEN(_FDS * _INT_BYTES)
        message, ancillary, _, _ = link.recvmsg(_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
    except BlockingIOError:
        raise
    except OSError:
        return None, []
    fds = [fd for _, _, data in ancillary for fd in memoryview(data[: len(data) // _INT_BYTES * _INT_BYTES]).cast("i")]
    if not message:
        return None, fds
    if message.startswith(_OUTPUT):
        return message[1:], fds
    return json.loads(message), fds


def take_alone(link: socket.socket) -> Message | None:
    """The same, for a side that is sent no descriptors: such as come all the same are closed."""
    message, fds = take(link)
    for fd in fds:
        os.close(fd)
    return message


def reachable(folder: str, name: str) -> tuple[int, str]:
    """A short path of a socket in a folder, for ``bind`` and ``connect``, which take no more than 107 bytes.

    Returns:
        A descriptor of the folder, to be closed after the call, and the path.

    Raises:
        OSError: There is no such folder.
    """
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return fd, f"/proc/self/fd/{fd}/{name}"
