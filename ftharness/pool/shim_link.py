"""The shim's end of the link to its manager: who that is at the moment, what it is told, and how the next one comes.

A manager that is gone costs nothing but what it would have been told. Standard library only: the shim runs it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from ftharness.pool.shim_wire import OUTPUT_BYTES, put, reachable, said, take_alone
from ftharness.pool.shim_wire import output as output_message

#: In a slot's folder: where the shim waits for a manager.
SOCKET = "shim.sock"


class ManagerLink:
    """The link to whoever is the manager now.

    Args:
        link: The socket to the manager that started us.
        manager: The pid of that.
        obey: Gets each order.
        lost: Called when the manager is gone.
        came: Called when another one has come: it is to be told all from the beginning.
    """

    def __init__(
        self,
        link: socket.socket,
        manager: int,
        *,
        obey: Callable[[dict[str, Any]], None],
        lost: Callable[[], None],
        came: Callable[[], None],
    ) -> None:
        self._link: socket.socket | None = link
        self._manager_fd = _pidfd_of_parent(manager)
        self._listener: socket.socket | None = None
        self._outbox: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._missed = 0  # bytes of output
        self._obey, self._lost, self._came = obey, lost, came

    @property
    def is_there(self) -> bool:
        """Whether a manager listens."""
        return self._link is not None

    @property
    def starter_lives(self) -> bool:
        """Whether the manager that started us was still there when we looked."""
        return self._manager_fd >= 0

    def listen(self, folder: str) -> None:
        """Wait for the next manager at a socket in the slot's folder; the slot is ours.

        Raises:
            OSError: It cannot be bound there.
        """
        descriptor, path = reachable(folder, SOCKET)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108 - a dead shim's: this one has the lock
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._listener.settimeout(0)
            self._listener.bind(path)
            self._listener.listen(4)
        finally:
            os.close(descriptor)

    # What is said.

    def say(self, what: str, *, fds: tuple[int, ...] = (), **words: object) -> None:
        """Tell the manager, if there is one, now or when it takes it."""
        if self._link is None:
            return
        self._outbox.append((said(say=what, **words), fds))
        self._flush()

    def pass_on(self, data: bytes) -> None:
        """A piece of the engine's output; what the manager does not take now it misses, and is told so."""
        if self._link is None:
            return
        for start in range(0, len(data), OUTPUT_BYTES):
            piece = data[start : start + OUTPUT_BYTES]
            if self._missed and not self._outbox and put(self._link, said(say="missed", bytes=self._missed)):
                self._missed = 0
            if self._missed or self._outbox or not put(self._link, output_message(piece)):
                self._missed += len(piece)

    def end_of_output(self) -> None:
        """No output comes any more: what was missed of it is told."""
        if self._missed:
            self.say("missed", bytes=self._missed)
            self._missed = 0

    def _flush(self) -> None:
        while self._link is not None and self._outbox and put(self._link, *self._outbox[0]):
            self._outbox.popleft()

    # What is heard.

    def watch(self, poll: select.poll, *, life: bool) -> None:
        """Register what can be heard; with ``life`` the end of the manager's process, too."""
        if self._link is not None:
            poll.register(self._link, select.POLLIN | (select.POLLOUT if self._outbox else 0))
        if life and self._manager_fd >= 0:
            poll.register(self._manager_fd, select.POLLIN)
        if self._listener is not None:
            poll.register(self._listener, select.POLLIN)

    def hear(self, ready: dict[int, int]) -> None:
        """Act on what the poll has found."""
        if self._manager_fd in ready:
            os.close(self._manager_fd)
            self._manager_fd = -1
            self._lose()
        if self._link is not None and self._link.fileno() in ready:
            self._take(ready[self._link.fileno()])
        if self._listener is not None and self._listener.fileno() in ready:
            self._accept()

    def _take(self, events: int) -> None:
        assert self._link is not None
        if events & select.POLLOUT:
            self._flush()
        if not events & ~select.POLLOUT:
            return
        try:
            message = take_alone(self._link)
        except BlockingIOError:
            return
        if message is None:
            self._lose()
        elif isinstance(message, dict):
            self._obey(message)

    def _lose(self) -> None:
        self._become(None)
        self._lost()

    def _accept(self) -> None:
        """A manager has come: the last one counts, since only one at a time holds the state folder."""
        assert self._listener is not None
        try:
            link, _ = self._listener.accept()
        except OSError:
            return
        pid, user, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user not in (0, os.geteuid()):
            link.close()
            return
        self._become(link)
        if self._manager_fd >= 0:
            os.close(self._manager_fd)
        try:
            self._manager_fd = os.pidfd_open(pid)
        except OSError:
            self._manager_fd = -1
        self._came()

    def _become(self, link: socket.socket | None) -> None:
        if self._link is not None:
            self._link.close()
        self._link = link
        self._outbox.clear()
        self._missed = 0


def _pidfd_of_parent(manager: int) -> int:
    """The pidfd of whoever started us; -1 where it is gone."""
    try:
        fd = os.pidfd_open(manager)
    except ProcessLookupError:
        return -1
    if os.getppid() != manager:
        os.close(fd)
        return -1
    return fd
