"""A connection that a client process of its own has, so that the client can be killed as a user's is."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self, cast

from ftharness.client.client_process import FRAME
from ftharness.client.connection import (
    CannotLeave,
    ClientLeft,
    Connection,
    ConnectionBroken,
    Left,
    checked_url,
    request_bytes,
)
from ftharness.client.response import Body
from ftharness.process import Ended

_PROGRAM = Path(__file__).with_name("client_process.py")
_END_S = 5.0


class ClientProcess:
    """A child of ours that passes bytes between a server and its link; it ends with its link, and so with us.

    Attributes:
        link: Our end of its link; to be handed to a transport.
        ended: How it ended.
    """

    def __init__(self, host: str, port: int) -> None:
        self.link, theirs = socket.socketpair()
        argv = [sys.executable, "-I", "-S", str(_PROGRAM), str(theirs.fileno()), host, str(port)]
        with theirs:
            # A session of its own: a Ctrl-C is for us to decide about.
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Ended] = loop.create_future()
        self._pidfd = os.pidfd_open(self._process.pid)
        loop.add_reader(self._pidfd, self._notice)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, by its pidfd."""
        if not self.ended.done():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def gone(self) -> Ended:
        """Wait until it has ended, which it does once its link is closed; killed, where it does not within 5 s."""
        await asyncio.wait((self.ended,), timeout=_END_S)
        self.kill()
        return await asyncio.shield(self.ended)

    def _notice(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._process.wait()
        ended = Ended(code, None) if code >= 0 else Ended(None, signal.Signals(-code).name)
        self.ended.set_result(ended)


class ConnectionApart(Connection):
    """One exchange on a connection that a client process has; we have the bytes that it has read, and when it did."""

    def __init__(self, on_body: Body, process: ClientProcess) -> None:
        super().__init__(on_body)
        self._process = process
        self._frames = b""
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(
        cls, url: str, method: str, path: str, *, headers: Mapping[str, str], body: bytes, on_body: Body
    ) -> Self:
        """Start the client process, have it connect and send.

        Raises:
            OSError: Nobody listens there, or no process can be started.
        """
        parts = checked_url(url)
        host, port = parts.hostname or "", parts.port or 80
        process = ClientProcess(host, port)
        loop = asyncio.get_running_loop()
        try:
            transport, connection = await loop.create_connection(lambda: cls(on_body, process), sock=process.link)
        except BaseException:
            process.link.close()
            await process.gone()
            raise
        try:
            await connection._port  # noqa: SLF001 - its own class
        except BaseException:
            await connection.close()
            raise
        transport.write(request_bytes(parts, method, path, headers, body))
        return connection

    async def leave(self, how: str = "closed the connection", *, reset: bool = False) -> Left | None:
        """End the client process in order; its end is the connection's. None: it was over before.

        Raises:
            CannotLeave: A reset was asked for, which is not in that process's power.
        """
        if reset:
            raise CannotLeave("the request was sent by a process of its own, which can be killed, but resets nothing")
        return await self._end_process(how, kill=False)

    async def half_close(self) -> Left | None:
        """Not to be had.

        Raises:
            CannotLeave: Always.
        """
        raise CannotLeave("the request was sent by a process of its own, which can be killed, but not half close")

    async def kill(self) -> Left | None:
        """SIGKILL to the client process: the kernel closes its connection. None: it was over before."""
        return await self._end_process("was killed", kill=True)

    async def close(self) -> None:
        """Let go of it, and have the process end."""
        await super().close()
        await self._process.gone()

    async def _end_process(self, how: str, *, kill: bool) -> Left | None:
        if self._over:
            return None
        assert self._transport is not None
        self._leaving = Left(time.monotonic_ns(), how, {})
        if kill:
            self._process.kill()
        else:
            self._transport.close()
        # Whoever is called off meanwhile has ended it all the same.
        return await asyncio.shield(asyncio.create_task(self._ended(self._leaving, kill=kill)))

    async def _ended(self, leaving: Left, *, kill: bool) -> Left | None:
        ended = await self._process.gone()
        await asyncio.shield(self._closed)  # what it had read is in the link still, and is read first: it may be all
        if kill and ended.signal != "SIGKILL":
            self._end(ConnectionBroken(f"the client process ended by itself: {ended}"))
        if self.done.done():
            return None
        evidence = {"local_port": self._port.result(), "pid": self._process.pid, "wait_status": str(ended)}
        # The kernel closed its socket between the signal and its end; whatever it had read, it had read before.
        left = Left(max(leaving.at, self.read_ns), leaving.how, evidence)
        self._end(ClientLeft(left))
        return left

    def data_received(self, data: bytes) -> None:
        """Frames of the client process."""
        self._frames += data
        while len(self._frames) >= FRAME.size:
            at, length = cast("tuple[int, int]", FRAME.unpack_from(self._frames))
            end = FRAME.size + max(length, 0)
            if len(self._frames) < end:
                return
            payload, self._frames = self._frames[FRAME.size : end], self._frames[end:]
            self._frame(at, length, payload)

    def connection_lost(self, exc: Exception | None) -> None:
        """The link is closed: by us, or because the process has ended."""
        del exc
        self._closed.set_result(time.monotonic_ns())
        if not self._leaving:
            self._end(ConnectionBroken("the client process ended by itself"))
        if not self._port.done():
            self._port.set_exception(ConnectionBroken("the client process ended before it was connected"))

    def _frame(self, at: int, length: int, payload: bytes) -> None:
        error = OSError(-length, os.strerror(-length)) if length < 0 else None
        if self._port.done():
            if payload:
                self._take(payload, at)
            elif not self._leaving:
                self._server_left(error, at)
        elif error is None:
            self._port.set_result(int(payload))
        else:
            self._port.set_exception(error)
