"""Worker processes on devices, seen through whatever befalls them: preemption, memory that runs out, an input that kills.

A library in its own right: it knows nothing of scenarios. Its runner needs torch (``ftharness[torch]``).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ftharness.coordinator.child import exit_on_sigterm
from ftharness.coordinator.clock import Clock, HeldClock, SystemClock
from ftharness.coordinator.config import RuntimeConfig
from ftharness.coordinator.coordinator import GPUProcessCoordinator, Told
from ftharness.coordinator.errors import Diagnosis, ErrorClass, classify
from ftharness.coordinator.monitor import Finished, Manifest
from ftharness.coordinator.policy import Decision, RetryPolicy
from ftharness.coordinator.reports import Attempt, Reports
from ftharness.coordinator.worker import Ending

if TYPE_CHECKING:
    from ftharness.coordinator.folder import FolderCheck, validate_checkpoint_dir
    from ftharness.coordinator.runner import AsyncInferenceRunner, InferenceResult

__all__ = [
    "AsyncInferenceRunner",
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
    "InferenceResult",
    "Manifest",
    "Reports",
    "RetryPolicy",
    "RuntimeConfig",
    "SystemClock",
    "Told",
    "classify",
    "exit_on_sigterm",
    "validate_checkpoint_dir",
]


#: What is imported when it is asked for: each worker imports this package, and not each has to do with checkpoints.
_LATER = {
    "AsyncInferenceRunner": "runner",
    "InferenceResult": "runner",
    "FolderCheck": "folder",
    "validate_checkpoint_dir": "folder",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
