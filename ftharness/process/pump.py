"""The output of one process: read as it comes, stamped, given to the contract, and kept without secrets."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from ftharness.process.kept_log import KeptLog, LogBudget
from ftharness.process.redact import Redactor

#: Gets each piece as it was read, and CLOCK_MONOTONIC (ns) of that read; an empty one is the end.
Sink = Callable[[bytes, int], None]

_READ = 1 << 20


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
        self._sink = sink
        self._kept = KeptLog(path, redactor, budget, truncated)
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
        return self._kept.tail(lines)

    def close(self) -> None:
        """Stop reading."""
        if not self.ended.done():
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._kept.close()
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
        self._kept.feed(data)
        return True
