"""What is kept of one process's output: a file without secrets, within the run's limit, and the last lines of it."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ftharness.process.redact import RedactedStream, Redactor

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


class KeptLog:
    """A log file that is written as bytes come. One that cannot be kept (a full disk, the run's limit) is said once.

    Args:
        path: The file; made anew or added to.
        redactor: What is kept goes through it.
        budget: The run's limit.
        truncated: Gets the reason, and how many bytes were kept.
    """

    def __init__(
        self, path: Path, redactor: Redactor, budget: LogBudget, truncated: Callable[[str, int], None]
    ) -> None:
        self.path = path
        self._stream = RedactedStream(redactor)
        self._budget = budget
        self._truncated = truncated
        self._kept = 0
        self._tail = bytearray()
        self._file: BinaryIO | None = path.open("ab", buffering=0)

    def feed(self, data: bytes) -> None:
        """Keep what is certain by now."""
        self._keep(self._stream.feed(data))

    def tail(self, lines: int) -> list[str]:
        """The last lines so far, without secrets."""
        text = bytes(self._tail) + self._stream.peek()
        return text.decode(errors="replace").splitlines()[-lines:]

    def close(self) -> None:
        """Keep what was held back; no more comes."""
        self._keep(self._stream.end())
        if self._file is not None:
            self._file.close()
            self._file = None

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
