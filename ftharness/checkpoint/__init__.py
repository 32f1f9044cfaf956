"""Checkpoints that survive what kills a long job: a crash at any moment, a full disk, a damaged file.

A library in its own right: it knows nothing of scenarios. torch and numpy, the extra ``torch``, are imported when a
checkpoint is written or read; triggers and manifests do without.
"""

from ftharness.checkpoint.errors import (
    CheckpointError,
    CheckpointWriteError,
    ManifestCorruptedError,
    ManifestWriteError,
)
from ftharness.checkpoint.manifest import CheckpointManifest
from ftharness.checkpoint.resume import Resumed, resume_from_checkpoints
from ftharness.checkpoint.trigger import CheckpointTrigger
from ftharness.checkpoint.validation import validate_checkpoint_metadata, validate_checkpoint_pt
from ftharness.checkpoint.writer import AsyncCheckpointWriter

__all__ = [
    "AsyncCheckpointWriter",
    "CheckpointError",
    "CheckpointManifest",
    "CheckpointTrigger",
    "CheckpointWriteError",
    "ManifestCorruptedError",
    "ManifestWriteError",
    "Resumed",
    "resume_from_checkpoints",
    "validate_checkpoint_metadata",
    "validate_checkpoint_pt",
]
