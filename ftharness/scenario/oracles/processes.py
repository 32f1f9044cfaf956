"""What processes did: ``exits_as``, ``exits_explained``, ``no_leaks``."""

import signal

from ftharness.history import Leak, Log, ProcessExited, ProcessStarted, RunFinished
from ftharness.scenario.case import Case, Finding, Part
from ftharness.scenario.oracles.pool_lines import managers, policy
from ftharness.stack.job import JOB, is_control

_PAUSES = {"SIGSTOP", "SIGCONT"}  # no process ends of these
_CRASHES = {"SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE"}


def exits_as(case: Case, how: str | int, source: str = "") -> Finding:
    """The process that a fault hit, or the named one, ended so; by its real wait status.

    ``failure`` is any end that tells whoever supervises it that something went wrong: by a signal, or with a status but 0.
    """
    hit = [
        fault.process
        for fault in case.faults  # no client is among them, and none that was only looked at
        if fault.broke and fault.process in case.roles
    ]
    names = [source] if source else hit
    if not names:
        return Finding("unknown", "no fault landed")
    for name in names:
        ended = case.exits.get(name)
        if ended is None:
            return Finding("fail", f"{name} did not end", pending=True)
        failed = ended.signal is not None or ended.returncode not in (0, None)
        if how not in (ended.signal, ended.returncode) and not (how == "failure" and failed):
            return Finding("fail", f"{name} ended by {said(ended)}, not by {how}", (ended.n,))
    ends = ", ".join(f"{name} ended by {said(case.exits[name])}" for name in names)
    return Finding("pass", ends, tuple(case.exits[name].n for name in names))


def exits_explained(case: Case) -> Finding:
    """Every exit was a fault's or the teardown's doing: a stack that loses a process by itself is broken.

    One that never became ready has shown nothing but that, and what the harness's own failure took down explains nothing.
    """
    if any(end.outcome in ("stack_failed", "error") for end in case.select(RunFinished)):
        return Finding("unknown", "the stack did not start, or the harness failed")
    teardown, complete = case.phase_t("teardown"), _complete(case)
    strikes = [(fault.process, fault.landed) for fault in case.faults if fault.landed]
    for name, ended in case.exits.items():
        sent_before = [sent for sent in case.signals_to(name) if sent.t <= ended.t]
        signals = [sent for sent in sent_before if sent.signal not in _PAUSES]
        struck = any(
            hit == name and landed.t <= ended.t and landed.evidence.get("signal") not in _PAUSES
            for hit, landed in strikes
        )
        if ended.signal in _CRASHES and ended.signal not in {sent.signal for sent in signals}:
            return Finding("fail", f"{name} crashed: {said(ended)}", (ended.n,))
        # A launch that is cut short may start a process that is ended at once, with all that is left.
        if teardown is not None and ended.t >= teardown and (signals or not complete):
            continue
        if struck and (not signals or _fits(ended, {s.signal for s in signals})):
            continue
        if signals and _fits(ended, {sent.signal for sent in signals}):
            continue
        if ended.signal == "SIGKILL" and _was_fenced(case, name):
            continue
        if case.roles.get(name) == JOB and ended.signal is None and _as_jobs_end(case, name, ended):
            continue
        asked = (
            f"; it had been sent {', '.join(sent.signal for sent in sent_before)}"
            if sent_before
            else "; nothing was sent to it"
        )
        return Finding("fail", f"{name} ended by itself: {said(ended)}{asked}", (ended.n,))
    return Finding("pass", f"{len(case.exits)} exits, each a fault's or the teardown's")


def _as_jobs_end(case: Case, name: str, ended: ProcessExited) -> bool:
    """Whether a job ended with status 0, or said why not: what that is worth, other oracles say.

    One of the control that did not pass has tested nothing, whatever it had.
    """
    said_why = any(any(case.select(Log, source=name, event=event)) for event in ("job_incomplete", "job_failed"))
    return ended.returncode == 0 or said_why or is_control(name)


def _was_fenced(case: Case, name: str) -> bool:
    """Whether another engine said that it killed this process, since it held the lock and was silent."""
    pids = {str(start.pid) for start in case.select(ProcessStarted, source=name)}
    return any(line.captures.get("pid") in pids for line in case.select(Log, event="fenced"))


def _complete(case: Case) -> bool:
    return all(end.outcome == "complete" for end in case.select(RunFinished))


def no_leaks(case: Case) -> Finding:
    """Nothing outlived its owner. Only a run that came to its end can show that."""
    meant = _meant(case)
    leaks = [leak for leak in case.select(Leak) if leak.source not in meant]
    if leaks:
        parts = tuple(Part(f"{leak.what} of {leak.source}: {leak.detail}", leak.source) for leak in leaks)
        what = "; ".join(part.said for part in parts[:5])
        return Finding("fail", what, tuple(leak.n for leak in leaks), parts=parts)
    if case.phase_t("teardown") is None:
        return Finding("unknown", "the run ended before it was looked for")
    if meant:
        return Finding(
            "unknown", "the run was ended before it could drain its pools, whose engines outlive their manager"
        )
    return Finding("pass", "no process, port, shared memory or slot left over")


def _meant(case: Case) -> list[str]:
    """Managers that leave their engines to the next one, as they were told, in a run that was ended before it had ended those."""
    told = policy(case)
    early = any(end.outcome != "complete" for end in case.select(RunFinished))
    return managers(case) if early and told is not None and told.engines_survive else []


def said(ended: ProcessExited) -> str:
    """How a process ended, for a person."""
    return ended.signal or f"exit status {ended.returncode}"


def _fits(ended: ProcessExited, sent: set[str]) -> bool:
    """Whether this end is one that those signals bring about: by the signal itself, orderly, or by the shell's 128 + n."""
    if ended.signal is not None:
        return ended.signal in sent
    return ended.returncode == 0 or ended.returncode in {128 + signal.Signals[name] for name in sent}
