"""What a session leaves when the harness itself fails: a readable run, and the other runs' reports."""

import gc
import os
import re
import resource
import signal
from pathlib import Path

import pytest

from ftharness.client import completion
from ftharness.engine.bugs import BUGS
from ftharness.faults import kill, named, serving
from ftharness.report import read_run
from ftharness.scenario import (
    Expect,
    Scenario,
    ScenarioRecord,
    aborted_in,
    at,
    cancellations_counted,
    cancelled_within,
    fails_with,
    logged,
    never_logged,
    never_reached,
    on_log,
    when,
)
from ftharness.scenario.runner import Cell
from ftharness.session import Session, Told, cell_of
from ftharness.stack import RunningStack
from ftharness.stored_runs import stored_cells


class Breaking(Told):
    """Breaks the harness in the second of three runs, at its teardown."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def begins(self, cell: Cell, place: int, count: int) -> None:  # noqa: ARG002 - as it is called
        """The second run finds a stack that cannot look for shared memory."""
        self._patch.undo()
        if place == 2:
            self._patch.setattr(RunningStack, "note_shared_memory", lambda _: 1 / 0)


def test_a_failure_of_the_harness_is_unknown_and_costs_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs, the second of which the harness fails: three entries, the traceback in its folder, a report over all."""
    cells = [cell_of("migration/drain", "sim", params={"max_tokens": 60, "token": 10})] * 3
    told = Breaking(monkeypatch)
    session = Session(tmp_path, told)
    before = signal.getsignal(signal.SIGINT)
    record = session.run(cells, seed=0)
    assert signal.getsignal(signal.SIGINT) is before
    assert [one.verdict for one in record.scenarios] == ["pass", "unknown", "pass"]
    assert "ZeroDivisionError" in record.scenarios[1].reason
    assert "ZeroDivisionError" in session.trouble
    assert "Traceback" in (tmp_path / record.scenarios[1].path / "harness-error.txt").read_text()
    assert (tmp_path / "report.html").exists()
    assert read_run(tmp_path).verdict == "unknown"


class Interrupting(Told):
    """A Ctrl-C that comes just before the first run begins."""

    def begins(self, cell: Cell, place: int, count: int) -> None:  # noqa: ARG002 - as it is called
        """To this process, whose main thread takes it at once."""
        os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_before_the_first_run_leaves_a_run(tmp_path: Path) -> None:
    """One that says what it was to be, and that it was interrupted; what was to follow is not in it."""
    session = Session(tmp_path, Interrupting())
    record = session.run([cell_of("migration/drain", "sim")] * 2, seed=0)
    assert session.interrupted
    assert [(one.name, one.verdict) for one in record.scenarios] == [("migration/drain", "unknown")]
    assert [one.cell.scenario.name for one in stored_cells(tmp_path)] == ["migration/drain"]


class Filling(Told):
    """Lets no file grow beyond 20 kB while a run goes on, as on a disk that is full by then."""

    _before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def begins(self, cell: Cell, place: int, count: int) -> None:  # noqa: ARG002 - as it is called
        """From here on."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, self._before[1]))

    def ended(self, cell: Cell, record: ScenarioRecord, folder: Path) -> None:  # noqa: ARG002 - the same
        """There is room for the report."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


def test_a_history_that_cannot_be_written_passes_nothing(tmp_path: Path) -> None:
    """What held cannot be looked at; it is unknown, and why is said."""
    record = Session(tmp_path, Filling()).run([cell_of("migration/drain", "sim")], seed=0)
    assert {oracle.verdict for oracle in record.scenarios[0].oracles} == {"pass"}
    assert record.verdict == "unknown"
    assert "the history could not be written" in record.scenarios[0].reason
    assert "File too large" in record.scenarios[0].reason


def test_what_cannot_begin_is_raised(tmp_path: Path) -> None:
    """Nothing was started, so there is nothing to report: the caller is told."""
    cell = Cell(scenario=Scenario(name="a/b", workload=[]), stack="sim")
    (tmp_path / "history.jsonl").mkdir()
    with pytest.raises(OSError, match=r"history\.jsonl"):
        Session(tmp_path, Told()).run([cell], seed=0)


@pytest.mark.parametrize(
    "predicate,says",
    [
        ("no_such_module:here", "when no_such_module:here: it cannot be imported: ModuleNotFoundError"),
        ("ftharness.session:wrong", "when ftharness.session:wrong: it cannot be imported: AttributeError"),
        ("ftharness.session:BUGS", "that is no function"),
    ],
)
def test_a_moment_that_cannot_be_told_is_refused_before_the_start(predicate: str, says: str) -> None:
    """Otherwise it would be seen when a stack runs already, and be called the harness's failure."""
    faults = [when(predicate).inject(kill(serving))]
    with pytest.raises(LookupError, match=says):
        cell_of(Scenario(name="a/b", workload=[], faults=faults), "sim")


WORDS = {
    "an event that is expected": (
        {"expect": [logged("migraton_started")]},
        "logged(event='migraton_started'): no contract has the event 'migraton_started'; did you mean migration_started?",
    ),
    "an event that is waited for": (
        {"faults": [on_log("request_recieved").inject(kill(serving))]},
        "on request_recieved of any process: no contract has the event 'request_recieved'; did you mean request_received?",
    ),
    "the process of an expectation": (
        {"expect": [never_logged("draining", source="worker-9")]},
        "the stack has no process 'worker-9'; did you mean worker-2?",
    ),
    "the process of a trigger": (
        {"faults": [on_log("draining", source="fronted").inject(kill(serving))]},
        "the stack has no process 'fronted'; did you mean frontend?",
    ),
    "the process of a fault": (
        {"faults": [at(0).inject(kill(named("worker-9")))]},
        "the stack has no process 'worker-9'",
    ),
    "a role, mistyped": (
        {"expect": [aborted_in("agregated")]},
        "a/b: aborted_in(role='agregated'): the stack has nothing of the role 'agregated'; did you mean aggregated?",
    ),
    "a role of another topology": (
        {"expect": [never_reached("decode")]},
        "never_reached(role='decode'): the stack has nothing of the role 'decode'; there are aggregated",
    ),
    "a role of the other phase": (
        {"expect": [aborted_in("aggregated", remote="prefill")]},
        "the stack has nothing of the role 'prefill'; there are aggregated",
    ),
    "the role of a line": (
        {"expect": [logged("request_received", role="prefill")]},
        "the stack has nothing of the role 'prefill'; there are aggregated, frontend",
    ),
    "a documented behaviour": (
        {"expect": [fails_with(500).where("!usage_survive_migration")]},
        "of no stack is it documented whether it does that; did you mean usage_survives_migration?",
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_name_that_means_nothing_is_refused_before_the_start(tmp_path: Path, name: str) -> None:
    """It would never be seen, or not be expected at all, and pass; nothing is left that looks like a run."""
    fields, says = WORDS[name]
    scenario = Scenario(name="a/b", workload=[completion()], **fields)
    with pytest.raises(LookupError, match=re.escape(says)):
        Session(tmp_path / "run", Told()).run([cell_of(scenario, "sim")], seed=0)
    assert list((tmp_path / "run").iterdir()) == []


BOUNDS: dict[str, tuple[Expect, str]] = {
    "a time": (cancelled_within(ms=-1), "ms: Expected `float` >= 0"),
    "no time that ever ends": (cancelled_within(ms=float("inf")), "ms = inf: must be finite"),
    "a role that none has": (
        logged("ready", role="decod"),
        "must be one of aggregated, decode, frontend, prefill; did you mean decode?",
    ),
    "a count in the frontend": (cancellations_counted(frontend=-1), "frontend: Expected `int` >= 0"),
    "a count in the workers": (cancellations_counted(workers=-2), "workers: Expected `int` >= 0"),
    "a request": (
        cancelled_within(request=1, ms=5),
        "cancelled_within(ms=5, request=1): request = 1: the workload has 1, counted",
    ),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_that_nothing_can_keep_is_refused_before_the_start(name: str) -> None:
    """Nothing takes less than no time, or is counted less than never."""
    expect, says = BOUNDS[name]
    with pytest.raises(ValueError, match=re.escape(says)):
        cell_of(Scenario(name="a/b", workload=[completion()], expect=[expect]), "sim")


def test_a_run_that_cannot_begin_costs_no_report_of_the_others(tmp_path: Path) -> None:
    """What they came to stands in the folder's report; where none can begin, the caller is told."""
    wrong = cell_of(Scenario(name="a/b", workload=[], expect=[logged("nothing")]), "sim")
    good = cell_of("migration/drain", "sim", params={"max_tokens": 60, "token": 10})
    with pytest.raises(LookupError, match="nothing"):
        Session(tmp_path, Told()).run([wrong, wrong], seed=0)
    session = Session(tmp_path, Told())
    session.run([wrong, good], seed=0)
    assert [type(error) for error in session.refused] == [LookupError]
    assert [one.verdict for one in read_run(tmp_path).scenarios] == ["pass"]
    assert (tmp_path / "report.html").exists()


def test_an_event_of_another_backend_is_no_mistake(tmp_path: Path) -> None:
    """The oracle says that this one does not have it."""
    scenario = Scenario(name="a/b", workload=[completion(max_tokens=5)], expect=[logged("route_cancelled")])
    record = Session(tmp_path, Told()).run([cell_of(scenario, "sim")], seed=0)
    assert record.scenarios[0].drift == ["route_cancelled: not in the contract"]


def test_planted_bugs_are_of_our_stack_only() -> None:
    """Another stack's are its own."""
    with pytest.raises(ValueError, match="has no planted bugs"):
        cell_of("migration/drain", "dynamo-mocker", bug=next(iter(BUGS)))


def test_a_program_that_there_is_not_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the verdict, and nowhere else: no failure of asyncio's is left over, which would be printed."""
    process = [f'[[process]]\nname = "{name}"\ncommand = ["/nowhere/{name}"]\n' for name in ("one", "two")]
    (tmp_path / "stack.toml").write_text(
        'name = "s"\nurl = "http://127.0.0.1:1"\nmodel = "m"\n' + "".join(process) + 'role = "frontend"\n'
    )
    scenario = Scenario(name="a/b", workload=[completion()])
    record = Session(tmp_path / "run", Told()).run([cell_of(scenario, str(tmp_path / "stack.toml"))], seed=0)
    gc.collect()
    assert re.search(
        "the stack did not start: cannot start .*: there is no program /nowhere/", record.scenarios[0].reason
    )
    assert [one.getMessage() for one in caplog.records] == []
