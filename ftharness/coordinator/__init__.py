"""Worker processes on devices, seen through whatever befalls them: preemption, memory that runs out, an input that kills.

A library in its own right, of the standard library alone but for its runner, which needs torch (``ftharness[torch]``).
"""

from ftharness.coordinator.clock import Clock, HeldClock, SystemClock
from ftharness.coordinator.config import RuntimeConfig
from ftharness.coordinator.coordinator import GPUProcessCoordinator
from ftharness.coordinator.errors import Diagnosis, ErrorClass, classify
from ftharness.coordinator.folder import FolderCheck, validate_checkpoint_dir
from ftharness.coordinator.monitor import Finished, Manifest
from ftharness.coordinator.policy import Decision, RetryPolicy
from ftharness.coordinator.reports import Attempt, Reports
from ftharness.coordinator.worker import Ending

__all__ = [
    "Attempt",
    "Clock",
    "Decision",
    "Diagnosis",
    "Ending",
    "ErrorClass",
    "Finished",
    "FolderCheck",
    "GPUProcessCoordinator",
    "HeldClock",
    "Manifest",
    "Reports",
    "RetryPolicy",
    "RuntimeConfig",
    "SystemClock",
    "classify",
    "validate_checkpoint_dir",
]
