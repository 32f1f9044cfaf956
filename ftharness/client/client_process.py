"""The client process: ``PYTHON -I -S client_process.py LINK_FD HOST PORT``.

It owns a TCP connection, and passes bytes: those of the link to the server, those of the server to the link, each read in a
frame with the time at which it was read. So what it had read is known, whenever it is killed. When the link ends, it does.

Standard library only, and not the package: it is to be there within 20 ms.
"""

import contextlib
import select
import socket
import struct
import sys
import time

#: CLOCK_MONOTONIC in ns, then the length of what follows: bytes of the server. 0: the server closed; negative: an errno.
FRAME = struct.Struct("<qq")
_READ = 1 << 16


def main(link: socket.socket, host: str, port: int) -> None:
    """Connect, say from which port, and pass bytes until either side has ended."""
    try:
        server = socket.create_connection((host, port))
        _say(link, str(server.getsockname()[1]).encode())
        _pass_bytes(link, server)
    except OSError as error:
        with contextlib.suppress(OSError):  # it may be the link that is broken
            link.sendall(FRAME.pack(time.monotonic_ns(), -(error.errno or 1)))


def _pass_bytes(link: socket.socket, server: socket.socket) -> None:
    """Both ways.

    Raises:
        OSError: The connection to the server is broken.
    """
    while True:
        readable, _, _ = select.select([link, server], [], [])
        if link in readable:
            data = link.recv(_READ)
            if not data:
                return
            server.sendall(data)
        if server in readable:
            data = server.recv(_READ)
            _say(link, data)
            if not data:
                return


def _say(link: socket.socket, data: bytes) -> None:
    link.sendall(FRAME.pack(time.monotonic_ns(), len(data)) + data)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3]))
