"""What goes wrong with checkpoints and their manifest."""

from pathlib import Path


class CheckpointError(RuntimeError):
    """A checkpoint or a manifest could not be written or read; the message says which, and what the system said."""


class CheckpointWriteError(CheckpointError):
    """It was not committed. What had been committed before is as it was."""


class ManifestWriteError(CheckpointError):
    """The change may not be committed. What had been committed before is as it was."""


class ManifestCorruptedError(CheckpointError):
    """No copy of the manifest can be read.

    Attributes:
        manifest_path: Where the manifest lies.
    """

    def __init__(self, message: str, manifest_path: Path | None = None) -> None:
        super().__init__(message)
        self.manifest_path = manifest_path
