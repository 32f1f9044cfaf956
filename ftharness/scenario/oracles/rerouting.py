"""How traffic goes round what is broken, and comes back: ``stops_failing_after``, ``rejoins_within``, ``takes_down_at_most``."""

from ftharness.history import Log, ProcessReady
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.oracles.latency import Milliseconds
from ftharness.scenario.views import RequestView
from ftharness.stack.holders import CLAIM


def stops_failing_after(case: Case, requests: int) -> Finding:
    """Of what was sent after the first fault at most so many failed, and behind those none: it is known who is broken.

    Requests that ran when the fault landed are not counted: nobody could send them elsewhere.
    """
    broken = next((fault.landed for fault in case.faults if fault.broke), None)
    if broken is None:
        return Finding("unknown", "no fault landed")
    later = sorted((view for view in case.phase_requests if view.sent.t > broken.t), key=lambda view: view.sent.t)
    if any(view.finished is None for view in later):
        return Finding("unknown", "a request had not ended", pending=True)
    if len(later) <= requests:
        return Finding("unknown", f"only {len(later)} requests were sent after the fault; {requests} may fail")
    failed = [view for view in later if view.finished is not None and view.finished.outcome != "success"]
    told = f"{len(failed)} of {len(later)} requests after the fault failed"
    if len(failed) > requests:
        last = failed[-1]
        return Finding("fail", f"{told}, {requests} may; the last: {last.name}: {last.how_it_ended}", _ends(failed))
    return Finding("pass", told, _ends(failed))


def rejoins_within(case: Case, ms: Milliseconds) -> Finding:
    """A process that was started again got its first request in time, counted from when it was ready.

    What shows it is a request that is sent meanwhile: there have to be enough of them for each worker's turn.
    """
    started = [
        (fault.landed.evidence["started"], fault)
        for fault in case.faults
        if fault.requested.fault == "restart" and fault.landed is not None and "started" in fault.landed.evidence
    ]
    if not started:
        return Finding("unknown", "nothing was started again")
    said = []
    for name, _ in started:
        ready = next(case.select(ProcessReady, source=name), None)
        if ready is None:
            return Finding("unknown", f"{name}: it was never ready")
        claims = (line for line in case.select(Log, event=CLAIM, source=name) if not case.in_cut(line.t))
        first = next((line for line in claims if line.t >= ready.t), None)
        if first is not None and (first.t - ready.t) / 1e6 <= ms:
            said.append(f"{name} got a request {(first.t - ready.t) / 1e6:.0f} ms after it was ready")
            continue
        chances = [view for view in case.phase_requests if ready.t <= view.sent.t <= ready.t + ms * 1e6]
        workers = sum(role != "frontend" for source, role in case.roles.items() if not case.ended_in_phase(source))
        if len(chances) < 2 * workers:
            return Finding(
                "unknown",
                f"{name} got none in time, but only {len(chances)} were sent within {ms:g} ms of when it was ready: "
                f"{2 * workers} would show it",
            )
        when = f"only {(first.t - ready.t) / 1e6:.0f} ms after" if first else "after"
        none = "" if first else f"no request, of {len(chances)} that were sent within {ms:g} ms, "
        return Finding("fail", f"{name} got {none or 'its first request '}{when} it was ready", (ready.n,))
    return Finding("pass", "; ".join(said))


def takes_down_at_most(case: Case, workers: int) -> Finding:
    """The first request of the workload, which kills what serves it, was given to at most so many workers.

    Where none of them fell nothing is known of it: that request killed nobody.
    """
    view = next(iter(case.phase_requests), None)
    if view is None:
        return Finding("unknown", "no request was sent")
    if view.finished is None:
        return Finding("unknown", f"{view.name}: {view.how_it_ended}", pending=True)
    taken = list(dict.fromkeys(case.takers(view)))
    if not taken:
        return Finding("unknown", f"{view.name}: no worker said that it received it: {view.how_it_ended}")
    hit = [fault.process for fault in case.faults if fault.broke]
    down = [name for name in taken if name in hit or case.ended_in_phase(name)]
    told = f"{view.name} was given to {', '.join(taken)}, of which {len(down)} fell"
    if not down:
        return Finding("unknown", f"{told}: it took nobody down")
    # Those that took it count, fallen or not: a scenario has so many faults, and a request that kills has no end of them.
    if len(taken) > workers:
        return Finding("fail", f"{told}; at most {workers} may have it")
    return Finding("pass", told)


def _ends(views: list[RequestView]) -> tuple[int, ...]:
    return tuple(view.finished.n for view in views if view.finished is not None)
