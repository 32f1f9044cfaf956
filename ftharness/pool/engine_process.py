"""One engine's process, as the manager has it: through its shim."""

import asyncio
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from ftharness.failover.identity import Identity
from ftharness.pool.shim_wire import put, said, take_alone
from ftharness.pool.slot import Slot, SlotHeld
from ftharness.process.pidfd import wait_status
from ftharness.process.process import Ended

_END_S = 10.0
_LINES = 200
_LONGEST_LINE = 16 * 1024  # bytes
_A_TURN = 16  # messages of one shim that are read before others have their turn


class Exit(NamedTuple):
    """How an engine ended.

    Attributes:
        how: The wait status, as far as the kernel tells.
        at_ns: CLOCK_MONOTONIC when the manager saw it.
    """

    how: Ended
    at_ns: int


#: Gets each line of the output, without its end, as text.
OnLine = Callable[[str], None]


class EngineProcess:
    """An engine's process and all that it started. Made by :mod:`ftharness.pool.engine_start`.

    Attributes:
        slot: Where it runs.
        pid: Its process id.
        identity: Which process that is.
        about: What the manager that started it noted.
        ended: Done when the kernel says that it has ended: CLOCK_MONOTONIC in ns. How, its shim says a little later.
        exited: How it ended. Done before :attr:`alone`.
        alone: Done when it and all that it started are gone, and its slot is free.
        missed: Bytes of output that nobody took in time; the log file has them.
    """

    def __init__(self, slot: Slot, link: socket.socket, hello: dict[str, Any], pidfd: int, on_line: OnLine) -> None:
        self.slot = slot
        self.identity = Identity(*hello["engine"])
        self.pid = self.identity.pid
        self.about: dict[str, Any] = hello["about"]
        self.missed = 0
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self.alone: asyncio.Future[None] = loop.create_future()
        self._link: socket.socket | None = link
        self._pidfd = pidfd
        self._over = False  # the shim has said that nothing is left
        self._on_line = on_line
        self._partial = bytearray()
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._sweeping: asyncio.Task[None] | None = None
        loop.add_reader(link, self._hear)
        if hello["status"] is not None:
            self._has_exited(Ended.of(hello["status"]))
        else:
            loop.add_reader(pidfd, self._notice)
        if hello["alone"]:
            self._over = True
            self._tell(do="done")

    def __repr__(self) -> str:
        """Its slot, pid and how it is."""
        return f"<EngineProcess {self.slot.engine_id} pid={self.pid} {self.exit.how if self.exit else 'alive'}>"

    @property
    def process(self) -> tuple[int, int]:
        """Its pid and start time: which process of this boot it is."""
        return self.identity.pid, self.identity.started

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, by the kernel's word as it is now: nobody may have heard of it yet."""
        if self.ended.done() or self._pidfd < 0:
            return self.ended.done()
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it lives."""
        return self.exited.result() if self.exited.done() else None

    def tail(self, lines: int = 20) -> list[str]:
        """The last lines of its output."""
        return [*self._lines][-lines:]

    def signal(self, number: signal.Signals, *, tree: bool = False) -> None:
        """Send it a signal, or with ``tree`` what it started as well; nothing happens when it is gone."""
        self._tell(do="signal", number=int(number), tree=tree)

    def kill(self) -> None:
        """Kill it and everything that it started; :attr:`alone` tells when they are gone."""
        self._tell(do="end")

    def survive(self, *, yes: bool) -> None:
        """Say whether it is to outlive this manager."""
        self._tell(do="survive", yes=yes)

    async def stop(self, grace_s: float) -> Ended:
        """Ask it to end (SIGTERM), and kill it with all that it started when the grace, in seconds, is over.

        Returns:
            How it ended, when nothing of it is left.

        Raises:
            SlotHeld: Something is left, and the kernel does not let it be killed.
        """
        self.signal(signal.SIGCONT, tree=True)  # one that is stopped does not act on SIGTERM
        self.signal(signal.SIGTERM)
        await asyncio.wait((self.exited,), timeout=grace_s)
        if not self.exited.done():
            self.kill()
        return (await self.gone()).how

    async def gone(self) -> Exit:
        """Wait until nothing of it is left, once it has ended or was told to.

        Raises:
            SlotHeld: Something is left, and the kernel does not let it be killed.
        """
        done, _ = await asyncio.wait((self.alone,), timeout=_END_S)
        if not done:  # its shim may be frozen
            await self.slot.evict()
            done, _ = await asyncio.wait((self.alone,), timeout=_END_S)
        if not done:
            raise SlotHeld(
                f"{self.slot.engine_id} (pid {self.pid}), or what it started, lives {_END_S:g} s after SIGKILL"
            )
        await self.alone
        return await self.exited

    def close(self) -> None:
        """Let it go: it lives on where it is to survive, and is killed by its shim where it is not."""
        self._hang_up()
        self._stop_noticing()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._sweeping is not None:
            self._sweeping.cancel()

    # What the shim says.

    def _hear(self) -> None:
        for _ in range(_A_TURN):
            if self._link is None:
                return
            try:
                message = take_alone(self._link)
            except BlockingIOError:
                return
            if message is None:
                self._shim_has_ended()
            elif isinstance(message, bytes):
                self._take_output(message)
            else:
                self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        match message["say"]:
            case "exited":
                self._has_exited(Ended.of(message["status"]))
            case "alone":
                self._over = True
                self._tell(do="done")  # upon which the shim lets the slot go, and ends
            case "missed":
                self.missed += message["bytes"]
            case "unkept":
                self._on_line(f"[ftharness] its output is not kept: {message['why']}")
            case _:
                pass

    def _take_output(self, data: bytes) -> None:
        *lines, rest = (self._partial + data).split(b"\n")
        while len(rest) > _LONGEST_LINE:
            lines.append(rest[:_LONGEST_LINE])
            rest = rest[_LONGEST_LINE:]
        self._partial = rest
        for line in lines:
            self._one_line(line)

    def _one_line(self, line: bytes | bytearray) -> None:
        text = line[:_LONGEST_LINE].decode(errors="replace").rstrip("\r")
        self._lines.append(text)
        self._on_line(text)

    def _notice(self) -> None:
        """The kernel says, by the pidfd, that it has ended."""
        self._stop_noticing()
        self.ended.set_result(time.monotonic_ns())

    def _has_exited(self, how: Ended) -> None:
        if self.exited.done():
            return
        self._stop_noticing()
        if self._partial:
            self._one_line(self._partial)
            self._partial = bytearray()
        if not self.ended.done():  # its shim was faster
            self.ended.set_result(time.monotonic_ns())
        self.exited.set_result(Exit(how, self.ended.result()))

    def _shim_has_ended(self) -> None:
        """In order, or it was killed: then the kernel kills its engine, and nobody but we looks after what that had started."""
        self._hang_up()
        if self._over:
            self.alone.set_result(None)
        elif self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        try:
            await self.slot.sweep()  # which also sees the engine's own process end
        except SlotHeld as error:
            self.alone.set_exception(error)
            self.alone.exception()  # that nobody waits for it is no error of its own
            return
        status = wait_status(self._pidfd)
        self._has_exited(Ended(None, None) if status is None else Ended.of(status))
        self.alone.set_result(None)

    def _tell(self, **words: object) -> None:
        if self._link is not None:
            put(self._link, said(**words))

    def _hang_up(self) -> None:
        if self._link is not None:
            asyncio.get_running_loop().remove_reader(self._link)
            self._link.close()
            self._link = None

    def _stop_noticing(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
