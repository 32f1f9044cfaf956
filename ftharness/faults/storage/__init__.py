"""Faults of the disk, through the seam of :mod:`ftharness.checkpoint.storage`.

A crash at any moment (:mod:`~ftharness.faults.storage.recording`, :mod:`~ftharness.faults.storage.crashes`), a disk that
is full or fails (:mod:`~ftharness.faults.storage.failing`), and several writers in any order of their operations
(:mod:`~ftharness.faults.storage.turns`). :func:`~ftharness.faults.storage.explore.explore` tries a whole run with the first.
"""

from ftharness.faults.storage.crashes import Crash, crashes
from ftharness.faults.storage.explore import Lost, explore
from ftharness.faults.storage.failing import FailingDisk
from ftharness.faults.storage.image import Image, ImageDisk, image_of
from ftharness.faults.storage.recording import Log, Operation, RecordingDisk
from ftharness.faults.storage.turns import Deadlock, in_turns, schedules

__all__ = [
    "Crash",
    "Deadlock",
    "FailingDisk",
    "Image",
    "ImageDisk",
    "Log",
    "Lost",
    "Operation",
    "RecordingDisk",
    "crashes",
    "explore",
    "image_of",
    "in_turns",
    "schedules",
]
