"""Faults: what to break, as data; and the code that breaks it and proves that it landed.

A kind of fault is an async function ``(Strike) -> None``, found by the entry point group ``ftharness.faults``.
"""

from ftharness.faults.fault import Fault, Target, another_worker, every_worker, frontend, named, serving
from ftharness.faults.kinds import freeze, interrupt, kill, kill_engine, terminate, thaw
from ftharness.faults.strike import Strike, fault_kind

__all__ = [
    "Fault",
    "Strike",
    "Target",
    "another_worker",
    "every_worker",
    "fault_kind",
    "freeze",
    "frontend",
    "interrupt",
    "kill",
    "kill_engine",
    "named",
    "serving",
    "terminate",
    "thaw",
]
