"""What kind of failure ended an attempt, and by what evidence."""

import re
import signal
from enum import StrEnum
from typing import NamedTuple

from ftharness.coordinator.worker import Ending

_SHELL = 128  # a shell, and a handler that follows its custom, ends with this and the signal's number
#: Signals that a process brings upon itself: with the batch that it was at, a sign that the batch is at fault.
_OWN_FAULT = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
_SPOT = re.compile(r"\bSIGTERM\b|\bpreempt", re.IGNORECASE)
_OOM = re.compile(r"out of memory|\boom\b|OutOfMemoryError|MemoryError|cuda_oom", re.IGNORECASE)
_POISON = re.compile(r"cuda_runtime|poison|device-side assert|illegal memory access|CUDA error", re.IGNORECASE)


class ErrorClass(StrEnum):
    """Kinds of failures, by what helps against them."""

    SPOT = "spot"  #: The machine was taken away: it comes back.
    OOM = "oom"  #: Out of memory, of the device or the host.
    POISON = "poison"  #: The input is at fault: it will be again.
    TRANSIENT = "transient"  #: Anything else: it may pass.


class Diagnosis(NamedTuple):
    """A failure, classified.

    Attributes:
        kind: What it was.
        evidence: By what that is told; a sentence for people.
        batch_idx: The batch that it was at; None where that is not known.
    """

    kind: ErrorClass
    evidence: str
    batch_idx: int | None = None


def classify(ending: Ending) -> Diagnosis:
    """What kind of failure ended an attempt.

    What the kernel says of a preemption comes first, then what the worker reported, then its other signals. SIGKILL alone says
    nothing of memory: it is ``oom`` where the worker reported so, or the kernel counted such a kill while it ran.

    Args:
        ending: Of an attempt that did not succeed.
    """
    kind, evidence = _kind(ending)
    return Diagnosis(kind, evidence, ending.batch_idx)


def _kind(ending: Ending) -> tuple[ErrorClass, str]:
    if ending.ended_by:  # whatever signal it died of was ours
        return ErrorClass.TRANSIENT, ending.ended_by
    status = _status(ending.exitcode)
    said = _said(ending)
    if _is_signal(ending.exitcode, signal.SIGTERM):
        return ErrorClass.SPOT, status
    if ending.failure.get("circuit_breaker"):
        return ErrorClass.POISON, f"{status}; reported circuit_breaker"
    for pattern, kind in ((_SPOT, ErrorClass.SPOT), (_OOM, ErrorClass.OOM), (_POISON, ErrorClass.POISON)):
        if pattern.search(said):
            return kind, f"{status}; reported {said}"
    if _is_signal(ending.exitcode, signal.SIGKILL):
        if ending.oom_kills > 0:
            return ErrorClass.OOM, f"{status}; the kernel killed {ending.oom_kills} for want of memory meanwhile"
        return ErrorClass.TRANSIENT, f"{status}; nothing says that memory was short"
    if ending.batch_idx is not None and any(_is_signal(ending.exitcode, one) for one in _OWN_FAULT):
        return ErrorClass.POISON, f"{status}, at batch {ending.batch_idx}"
    return ErrorClass.TRANSIENT, f"{status}; reported {said}" if said else status


def _is_signal(exitcode: int | None, number: signal.Signals) -> bool:
    return exitcode in {-number, _SHELL + number}


def _said(ending: Ending) -> str:
    """The words of a failure's report, without the traceback, whose source lines are no evidence."""
    words = (ending.failure.get(name) for name in ("error", "error_type", "error_message"))
    return ": ".join(dict.fromkeys(str(word) for word in words if word))


def _status(exitcode: int | None) -> str:
    if exitcode is None:
        return "could not be started"
    number = -exitcode if exitcode < 0 else exitcode - _SHELL
    known = {one.value for one in signal.Signals}
    if exitcode < 0:
        return f"killed by {signal.Signals(number).name if number in known else f'signal {number}'}"
    if number in known:
        return f"exit status {exitcode} ({signal.Signals(number).name})"
    return f"exit status {exitcode}"
