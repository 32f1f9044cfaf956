"""Ports on loopback that nobody else gets."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_LISTEN = "0A"  # the state's number in /proc/net/tcp


def listening_socket() -> socket.socket:
    """A socket bound to a free port of 127.0.0.1, to hand to a process by its descriptor.

    It is bound, and so nobody else's; connections are refused until the process listens.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


class PortReservation:
    """A port number for a program that must be told one, held until that program binds it.

    A connection of ours to ourselves is left in TIME_WAIT on it: for a minute the kernel gives the port to nobody who asks
    for any, while a program that names it and sets SO_REUSEADDR, as servers do, gets it. A program without that option
    fails to bind, and so does one that comes after another that named the same port: then the launch is tried once more,
    with other ports, and the history says so.

    Args:
        held: False for the second try: the number alone, which a program without SO_REUSEADDR can bind as well.

    Attributes:
        port: The number.
    """

    def __init__(self, *, held: bool = True) -> None:
        self._client: socket.socket | None = None
        with listening_socket() as server:
            self.port: int = server.getsockname()[1]
            if held:
                server.listen(1)
                self._client = socket.create_connection(server.getsockname())
                accepted, _ = server.accept()
                # Whoever closes first is the one that waits: it must be the side that has the port.
                accepted.close()
                self._client.recv(1)

    def __enter__(self) -> Self:
        """The reservation stands."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close our end; the kernel's minute goes on."""
        self.close()

    def close(self) -> None:
        """Close our end; the kernel's minute goes on."""
        if self._client is not None:
            self._client.close()


def listening_ports(pids: Iterable[int]) -> set[int]:
    """Every TCP port on which one of these processes listens."""
    sockets = {inode for pid in pids for inode in _sockets(pid)}
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
            if state == _LISTEN and inode in sockets:
                found.add(int(local.rpartition(":")[2], 16))
    return found


def _sockets(pid: int) -> Iterator[str]:
    """The inodes of a process's sockets; none where it is gone, or not ours to look at."""
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    yield target[8:-1]
