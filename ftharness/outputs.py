"""Standard output and error that survive their reader: where nobody listens, or the disk is full, the work goes on."""

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_OUT, _ERROR = 1, 2


class Output(io.RawIOBase):
    """Writes to a descriptor until that fails; from then on what is written is dropped.

    Attributes:
        trouble: What it failed with, or None.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.trouble: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        """Never raises: a run whose line nobody sees is still a run."""
        if self.trouble is None:
            try:
                return os.write(self._fd, data)
            except OSError as error:
                self.trouble = error
        return memoryview(data).nbytes

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The descriptor's number."""
        return self._fd

    def isatty(self) -> bool:
        """Whether a person looks."""
        return os.isatty(self._fd)

    def lost(self) -> str:
        """Why not everything was written, where that is worth saying: a reader that has left knows."""
        if self.trouble is None or self.trouble.errno == errno.EPIPE:
            return ""
        return self.trouble.strerror or str(self.trouble)


def outlast() -> Output:
    """Put outputs of this kind in the place of ``sys.stdout`` and ``sys.stderr``; returns the first."""
    for fd in (0, _OUT, _ERROR):
        _occupy(fd)
    out, err = Output(_OUT), Output(_ERROR)
    sys.stdout, sys.stderr = _text(out, sys.stdout), _text(err, sys.stderr)
    return out


def _occupy(fd: int) -> None:
    """A descriptor that is closed would be given to the next file that is opened, and what is printed would go there."""
    try:
        os.fstat(fd)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - it takes no name


def _text(output: Output, before: TextIO | None) -> TextIO:
    """``before`` is None where the descriptor was closed when the interpreter started."""
    if before is not None:
        before.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=before.encoding if before else "utf-8",
        errors=before.errors if before else "backslashreplace",
        line_buffering=output.isatty() or output.fileno() == _ERROR,
    )
