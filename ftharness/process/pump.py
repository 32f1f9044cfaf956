"""The output of one process: read as it comes, stamped, given to the contract, and kept without secrets."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ftharness.process.redact import RedactedStream, Redactor

#: Gets each piece as it was read, and CLOCK_MONOTONIC (ns) of that read; an empty one is the end.
Sink = Callable[[bytes, int], None]

_READ = 1 << 20
_TAIL = 16 * 1024


class LogBudget:
    """How many bytes of logs one run may keep, over all its processes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._left = limit

    def take(self, size: int) -> int:
        """How many of ``size`` bytes may be kept."""
        granted = min(size, self._left)
        self._left -= granted
        return granted


class Pump:
    """Reads one pipe until every process that could write to it is gone.

    A log that cannot be kept (a full disk, the run's limit) is said once by ``truncated``; reading goes on, for a process
    whose output nobody takes stops after 64 KB.

    Args:
        path: The log file; made anew or added to.
        redactor: What is kept goes through it.
        budget: The run's limit.
        sink: Gets the bytes before they are kept.
        truncated: Gets the reason, and how many bytes were kept.
    """

    def __init__(
        self,
        path: Path,
        redactor: Redactor,
        budget: LogBudget,
        sink: Sink | None,
        truncated: Callable[[str, int], None],
    ) -> None:
        self.path = path
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stream = RedactedStream(redactor)
        self._budget = budget
        self._sink = sink
        self._truncated = truncated
        self._kept = 0
        self._tail = bytearray()
        self._file: BinaryIO | None = path.open("ab", buffering=0)
        self._fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def handed_over(self) -> None:
        """The process has its end of the pipe; ours would keep it open."""
        os.close(self.write_fd)

    def drain(self) -> None:
        """Take what is in the pipe now."""
        while not self.ended.done() and self._read():
            pass

    def tail(self, lines: int) -> list[str]:
        """The last lines so far, without secrets."""
        text = bytes(self._tail) + self._stream.peek()
        return text.decode(errors="replace").splitlines()[-lines:]

    def close(self) -> None:
        """Stop reading."""
        if not self.ended.done():
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._keep(self._stream.end())
            if self._file is not None:
                self._file.close()
            self.ended.set_result(None)

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return False
        at = time.monotonic_ns()
        if self._sink is not None:
            self._sink(data, at)
        if not data:
            self.close()
            return False
        self._keep(self._stream.feed(data))
        return True

    def _keep(self, data: bytes) -> None:
        if not data:
            return
        self._tail += data[-_TAIL:]
        del self._tail[:-_TAIL]
        if self._file is None:
            return
        granted = self._budget.take(len(data))
        try:
            view = memoryview(data)[:granted]
            while view:
                written = self._file.write(view) or 0
                self._kept += written
                view = view[written:]
        except OSError as error:
            self._stop_keeping(f"{self.path}: {error.strerror or error}")
        else:
            if granted < len(data):
                self._stop_keeping(f"the run's limit of {self._budget.limit:,} bytes of logs is met")

    def _stop_keeping(self, reason: str) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
        self._truncated(reason, self._kept)
