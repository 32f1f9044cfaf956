"""Worker processes on devices, seen through whatever befalls them: preemption, memory that runs out, an input that kills.

A library in its own right, of the standard library alone but for its runner, which needs torch (``ftharness[torch]``).
"""

from typing import TYPE_CHECKING, Any

from ftharness.coordinator.child import exit_on_sigterm
from ftharness.coordinator.clock import Clock, HeldClock, SystemClock
from ftharness.coordinator.config import RuntimeConfig
from ftharness.coordinator.coordinator import GPUProcessCoordinator
from ftharness.coordinator.errors import Diagnosis, ErrorClass, classify
from ftharness.coordinator.folder import FolderCheck, validate_checkpoint_dir
from ftharness.coordinator.monitor import Finished, Manifest
from ftharness.coordinator.policy import Decision, RetryPolicy
from ftharness.coordinator.reports import Attempt, Reports
from ftharness.coordinator.worker import Ending

if TYPE_CHECKING:
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
    "classify",
    "exit_on_sigterm",
    "validate_checkpoint_dir",
]


def __getattr__(name: str) -> Any:
    """The runner, when it is asked for: each worker imports this package, and not each has to do with checkpoints."""
    if name in {"AsyncInferenceRunner", "InferenceResult"}:
        from ftharness.coordinator import runner  # noqa: PLC0415

        return getattr(runner, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
