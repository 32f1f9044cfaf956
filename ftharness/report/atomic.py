"""Files that are there whole or not at all."""

import contextlib
import os
from pathlib import Path


class ReportError(Exception):
    """A report cannot be written; the message names the file and what to do."""


def write_atomically(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step: whoever reads it sees the old file or the new one, never a part.

    Raises:
        ReportError: The disk is full, the folder is missing or not writable; what was at ``path`` before is still there.
    """
    # Beside the file, since a rename is atomic only within one file system; named by pid, since two may write at once.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        what = error.strerror or str(error)
        raise ReportError(
            f"cannot write {path} ({len(data):,} bytes): {what}; "
            f"make room, then `ftharness report {path.parent}` makes it from what the run has stored"
        ) from error
