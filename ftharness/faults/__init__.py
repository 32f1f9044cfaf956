"""Faults: what to break, as data; and the code that breaks it and proves that it landed.

A kind of fault is an async function ``(Strike) -> None``, found by the entry point group ``ftharness.faults``.
"""

from ftharness.faults.fault import (
    TURNS,
    Fault,
    Target,
    active,
    another_worker,
    client_of,
    every_worker,
    frontend,
    named,
    serving,
    standby,
    waking,
)
from ftharness.faults.kinds import (
    cancel_task,
    disconnect,
    freeze,
    half_close,
    interrupt,
    kill,
    kill_client,
    kill_engine,
    reset,
    start_standby,
    terminate,
    thaw,
)
from ftharness.faults.strike import Strike, WrongTarget, fault_kind

__all__ = [
    "TURNS",
    "Fault",
    "Strike",
    "Target",
    "WrongTarget",
    "active",
    "another_worker",
    "cancel_task",
    "client_of",
    "disconnect",
    "every_worker",
    "fault_kind",
    "freeze",
    "frontend",
    "half_close",
    "interrupt",
    "kill",
    "kill_client",
    "kill_engine",
    "named",
    "reset",
    "serving",
    "standby",
    "start_standby",
    "terminate",
    "thaw",
    "waking",
]
