"""Sweeps: a matrix of scenarios in one file, run cell by cell in processes of their own, and gone on with where it was ended."""

from ftharness.sweep.executor import Executor, Ran, SweepTold
from ftharness.sweep.folder import Begun, FinishedCell, SweepFolder
from ftharness.sweep.local import LocalExecutor
from ftharness.sweep.matrix import Planned, chosen
from ftharness.sweep.progress import Progress
from ftharness.sweep.sweep import Sweep, Swept, file_of, load, opened, run_sweep

__all__ = [
    "Begun",
    "Executor",
    "FinishedCell",
    "LocalExecutor",
    "Planned",
    "Progress",
    "Ran",
    "Sweep",
    "SweepFolder",
    "SweepTold",
    "Swept",
    "chosen",
    "file_of",
    "load",
    "opened",
    "run_sweep",
]
