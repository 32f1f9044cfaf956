"""The judgement of one run: a pure function of the scenario and the history."""

from collections.abc import Mapping, Sequence
from typing import Any

from ftharness.engine.bugs import BUGS
from ftharness.history import ContractChosen, Event, Leak, RunFinished
from ftharness.scenario import expectations
from ftharness.scenario.case import Case, Finding, Part
from ftharness.scenario.departure import departed
from ftharness.scenario.expect import Expect, apply
from ftharness.scenario.explained import Explained, Judged, explained
from ftharness.scenario.oracles.processes import said
from ftharness.scenario.oracles.tokens import count_tokens
from ftharness.scenario.record import PLANTED, Annotation, FaultRecord, OracleRecord, ScenarioRecord, Verdict, worst
from ftharness.scenario.recovery import recovery_of
from ftharness.scenario.scenario import Scenario
from ftharness.stack.job import job_name

INVARIANTS = (expectations.every_request_ends(), expectations.no_leaks(), expectations.exits_explained())
_INVARIANT_NAMES = {expect.oracle for expect in INVARIANTS}


def judge(scenario: Scenario, events: Sequence[Event], *, path: str = ".", ongoing: bool = False) -> ScenarioRecord:
    """What the run showed.

    Only invariants, and what an oracle says is one, may fail where a fault did not land as intended, the run without the
    fault did not pass, or the run did not come to its end; everything else is then ``unknown``, for it was not tested.

    Args:
        scenario: What was run.
        events: Its history.
        path: The folder of the run's files, relative to the run's own.
        ongoing: Whether the run still goes on: then its end is not waited for, and the invariants, which need it, are left
            for later.
    """
    case = Case(events)
    started = case.started
    trouble = _trouble(case, scenario, ongoing=ongoing)
    applies = not any(end.outcome == "not_applicable" for end in case.select(RunFinished))
    invariants = INVARIANTS if applies and not ongoing else ()
    behaviour = case.params.get("behaviour", {})
    expects = scenario.expected_of(behaviour) if applies else []
    own_count = len(expects)
    # One that is expected of a single request, or of other versions, says nothing of the whole run.
    expects += [one for one in invariants if one.oracle not in {own.oracle for own in expects if not own.of_one}]
    findings = [(expect, _finding(expect, case, trouble)) for expect in expects]
    # An unknown that only says that this version logs differently decides nothing: behaviour does, the drift is listed.
    deciding = [finding.verdict for _, finding in findings if not _is_drift(finding)]
    untested = trouble
    # Unless that is all that was expected: then nothing of it has been seen.
    if not trouble and own_count and all(_is_drift(finding) for _, finding in findings[:own_count]):
        untested = findings[0][1].reason
    if untested:
        deciding.append("unknown")
    verdict = worst(deciding)
    leaks = [f"{leak.what} of {leak.source}: {leak.detail}" for leak in case.select(Leak)]
    known = _known(case, scenario, findings, untested) if applies and not ongoing else Explained()
    return ScenarioRecord(
        name=scenario.name,
        stack=started.stack if started else "",
        engine=started.engine if started else "",
        sut_version=started.sut_version if started else "",
        params=started.params.get("set", {}) if started else {},
        path=path,
        annotations=[
            *_planted(case.params.get("bug", ""), scenario.name),
            *_documented(scenario, behaviour, started.sut_version if started else ""),
            *(_nothing_broken(case, scenario) if applies else [Annotation(kind="not_applicable", reason=trouble)]),
            *known.notes,
        ],
        verdict=verdict,
        reason=(trouble if verdict != "fail" else "") or _first(findings, verdict),
        duration_s=round(case.events[-1].t / 1e9, 3) if case.events else 0.0,
        faults=_faults(case),
        tokens=count_tokens(case),
        oracles=[
            OracleRecord(
                name=str(expect),
                verdict=finding.verdict,
                reason=finding.reason,
                evidence=list(finding.evidence),
                known=known.by.get(place, []),
            )
            for place, (expect, finding) in enumerate(findings)
        ],
        leaks=leaks,
        drift=_drift(case, findings),
    )


def pending(expects: Sequence[Expect], events: Sequence[Event]) -> list[Expect]:
    """Those of which a run that goes on may still show more; none where the faults tested nothing."""
    if not expects:
        return []
    case = Case(events)
    return [] if case.fault_trouble() else [one for one in expects if apply(one, case).pending]


def _first(findings: Sequence[tuple[Expect, Finding]], verdict: Verdict) -> str:
    """The first of the reasons for this verdict; "" for a pass."""
    return next(
        (f"{expect}: {finding.reason}" for expect, finding in findings if finding.verdict == verdict != "pass"), ""
    )


def _is_drift(finding: Finding) -> bool:
    return finding.verdict == "unknown" and bool(finding.drift)


def _finding(expect: Expect, case: Case, trouble: str) -> Finding:
    finding = apply(expect, case)
    if not trouble:
        return finding
    harmed = finding.verdict == "fail" and finding.invariant
    if expect.oracle not in _INVARIANT_NAMES and not harmed:
        return Finding("unknown", f"not tested: {trouble}", finding.evidence)
    return finding


def _trouble(case: Case, scenario: Scenario, *, ongoing: bool) -> str:
    """Why the run tested nothing; "" when it did."""
    finished = next(case.select(RunFinished), None)
    if case.started is None:
        return "the history holds no run"
    if finished is None and not ongoing:
        return "the harness was ended before the run was"
    if finished is not None and finished.outcome != "complete":
        return finished.reason or finished.outcome
    if not case.control and scenario.workload:
        return "the run without the fault is missing"
    for view in case.control:
        if view.finished is None or view.finished.outcome != "success":
            return f"the run without the fault did not pass: {view.name}: {view.how_it_ended}"
    for place in range(len(scenario.jobs)):
        name = job_name(place, control=True)
        ended = case.exits.get(name)
        if ended is None or ended.returncode != 0:
            return f"the run without the fault did not pass: {name}: {said(ended) if ended else 'it did not end'}"
    return case.fault_trouble(expecting=bool(scenario.expect)) or _never_fired(case, scenario)


def _never_fired(case: Case, scenario: Scenario) -> str:
    """Which of the scenario's faults were not asked for, as their moments did not come; "" when all were."""
    asked = {fault.requested.id for fault in case.faults}
    missing = [one for place, one in enumerate(scenario.faults, 1) if f"fault-{place}" not in asked]
    if not missing:
        return ""
    first, count = missing[0], f"{len(missing)} of {len(scenario.faults)}"
    seen = ""
    if first.trigger.kind == "on_token":
        view = next((view for view in case.requests if view.sent.index == first.trigger.request), None)
        seen = f"; {f'{view.name}: {view.how_it_ended}' if view else 'it was not sent'}"
    what = f"{first.fault.kind} {first.fault.target}, {first.trigger}{seen}"
    return f"{count} faults never fired: the trigger's moment did not come: {what}"


def _known(case: Case, scenario: Scenario, findings: Sequence[tuple[Expect, Finding]], untested: str) -> Explained:
    """What known findings say of it; nothing of a stack that was told to misbehave."""
    started = case.started
    if started is None or case.params.get("bug"):
        return Explained()
    judged = [
        Judged(
            oracle=expect.oracle,
            shown=str(expect),
            verdict=finding.verdict,
            parts=finding.parts or [Part(finding.reason)],
            decides=not _is_drift(finding),
        )
        for expect, finding in findings
    ]
    return explained(
        scenario.name, started.stack, started.engine, started.sut_version, judged, untested=untested, hit=_hit(case)
    )


def _hit(case: Case) -> set[str]:
    """What faults landed on; not what was only looked at, or started again."""
    return {one.process for one in case.faults if one.broke}


def _planted(name: str, scenario: str) -> list[Annotation]:
    """A verdict on a stack that was told to misbehave is no verdict on one that was not."""
    if not name:
        return []
    bug = BUGS.get(name)
    elsewhere = f" ({bug.scenario} is there to reveal it)" if bug and bug.scenario != scenario else ""
    return [Annotation(kind=PLANTED, reason=f"{name}{elsewhere}")]


def _documented(scenario: Scenario, behaviour: Mapping[str, Any], version: str) -> list[Annotation]:
    """What decided between expectations that depend on the version."""
    names = {expect.condition.removeprefix("!") for expect in scenario.expect if expect.condition}
    known = [(name, "yes" if behaviour[name] else "no") for name in sorted(names) if name in behaviour]
    return [Annotation(kind="documented_behaviour", reason=f"{name} of {version}: {said}") for name, said in known]


def _faults(case: Case) -> list[FaultRecord]:
    return [
        FaultRecord(
            id=fault.requested.id,
            kind=fault.requested.fault,
            target=f"{fault.requested.target} ({fault.process})"
            if fault.on_process and fault.process != fault.requested.target
            else fault.requested.target,
            process=fault.process,
            trigger=fault.requested.trigger,
            requested_ns=fault.requested.t,
            landed_ns=fault.landed.t if fault.landed else None,
            on_target=fault.landed.on_target if fault.landed else False,
            evidence=fault.landed.evidence if fault.landed else {},
            missed=fault.missed.reason if fault.missed else "",
            recovery=recovery_of(case, fault),
        )
        for fault in case.faults
    ]


def _nothing_broken(case: Case, scenario: Scenario) -> list[Annotation]:
    """A pass without a fault is one of the stack at rest, which is not what one reads into it."""
    if scenario.faults or case.faults:
        return []
    if left := departed(case):
        names = ", ".join(view.name for view in left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")  # noqa: PLR2004
        what = "client went away" if len(left) == 1 else "clients went away"
        return [Annotation(kind="client_left", reason=f"{len(left)} {what} by the test itself, from {names}; no fault")]
    return [Annotation(kind="no_fault", reason="nothing was broken: what passed here is the stack without any fault")]


def _drift(case: Case, findings: Sequence[tuple[Expect, Finding]]) -> list[str]:
    drift = [line for _, finding in findings for line in finding.drift]
    unknown = {(c.backend, c.version) for c in case.select(ContractChosen) if not c.known}
    drift += [f"contract {backend} was not written for version {version}" for backend, version in sorted(unknown)]
    return list(dict.fromkeys(drift))
