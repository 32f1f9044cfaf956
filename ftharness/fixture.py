"""The fixture ``ft``: a stack to break, a client to drive it, and the judgement."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.outcomes import (
    Failed,
)  # pytest.fail.Exception, by the name under which it is a class to a type checker, too

from ftharness.handles import ClientHandle, StackHandle
from ftharness.portal import Pending, Portal

if TYPE_CHECKING:  # imported when a test asks for ``ft``: whoever does not use it pays nothing
    from ftharness.faults import Fault
    from ftharness.history import History
    from ftharness.ran import Ran
    from ftharness.scenario import Expect, Scenario, ScenarioRecord
    from ftharness.scenario.by_test import ByTest
    from ftharness.scenario.record import Annotation
    from ftharness.scenario.runner import Run
    from ftharness.stack import StackKind, Topology


class ReportWarning(pytest.PytestWarning):
    """What a test leaves could not be written; its verdict stands."""


class ExpectationFailed(Failed, AssertionError):  # noqa: N818 - as pytest calls its own
    """Something that was expected did not hold; the message is the story of what happened.

    An ``AssertionError`` to whoever catches it, or expects it by ``pytest.raises``. To pytest a failure of its own kind, of which
    it prints the message alone: the traceback leads to a line that the test's author knows.
    """

    __module__ = "builtins"  # as pytest's own: in its summary the story has the room that the module's name would take

    def __init__(self, story: str) -> None:
        super().__init__(story, pytrace=False)


class Ft:
    """What a test gets as ``ft``. The stack is launched when it is first needed.

    Args:
        portal: The harness's loop.
        place: Where the folder of this test's run is to be, unless there is one already.
        defaults: The command line's options.
        node: The test's id.

    Attributes:
        records: What :meth:`run` came to, in order.
    """

    def __init__(self, portal: Portal, place: Path, defaults: dict[str, Any], node: str) -> None:
        self._portal = portal
        self._place = place
        self._defaults = defaults
        self._node = node
        self._run: Run | None = None
        self._close_history: Callable[[], None] = lambda: None
        self.records: list[ScenarioRecord] = []

    @cached_property
    def folder(self) -> Path:
        """Of this test's run, made when it is first asked for; a test that is run twice has two."""
        from ftharness.session import unused_folder

        return unused_folder(self._place)

    @property
    def client(self) -> ClientHandle:
        """Sends requests."""
        return ClientHandle(self._portal, self._launched())

    @property
    def stack(self) -> StackHandle:
        """The processes."""
        return StackHandle(self._portal, self._launched())

    @property
    def history(self) -> "History":
        """Everything that has happened so far; for reading."""
        return self._launched().history

    def launch(self, topology: "Topology | None" = None, *, bug: str = "", idle_s: float = 30.0) -> StackHandle:
        """Launch the stack now, with a topology of the test's own; it is ready when this returns.

        A plain call, which may be awaited: ``ft.launch()`` and ``await ft.launch()`` are the same.

        Args:
            topology: Two workers and a migration limit of 3, if not given.
            bug: A planted bug, or "".
            idle_s: Seconds without a byte after which a request counts as a hang.

        Raises:
            RuntimeError: It has been launched already.
            LookupError: No such planted bug; names the nearest.
            ValueError: The stack has no planted bugs.
        """
        if self._run is not None:
            raise RuntimeError("the stack has been launched already: call ft.launch() before anything else of ft")
        self._start(topology, bug, idle_s)
        return self.stack

    def inject(self, fault: "Fault") -> Pending[None]:
        """Inject a fault now; there when it has landed or missed, and its own length and grace are over.

        It is on its way also where nobody awaits it; what it fails with then fails the test at its end.
        """
        return self._portal.begin(f"ft.inject({fault.kind} {fault.target})", self._launched().nemesis.inject(fault))

    def expect(self, *expects: "Expect") -> None:
        """Judge these expectations now.

        Raises:
            AssertionError: One of them does not pass; the message is the story of what happened.
            TypeError: There is none: that would pass whatever happened.
            LookupError: A name in one means nothing on this stack, such as a role that no worker has; names the nearest.
            ValueError: An argument is none that the oracle takes.
        """
        __tracebackhide__ = True
        if not expects:
            raise TypeError(
                "ft.expect() needs something to expect, such as ft.expect(succeeds()); without, it says nothing"
            )
        from ftharness.report import story
        from ftharness.scenario.by_test import Expected

        run = self._launched()
        record, after = self._portal.call(_judged(run, expects))
        self._keep_test(run, expected=[*_test_of(run).expected, Expected(after=after, expect=list(expects))])
        if record.verdict != "pass":
            raise ExpectationFailed(story(record, run.history.events, self.folder))

    def run(
        self,
        scenario: "str | Scenario",
        *,
        engine: str = "",
        stack: str = "",
        bug: str = "",
        check: bool = True,
        **params: Any,
    ) -> "Ran":
        """Run a scenario on a stack of its own; it has been judged when this returns.

        A plain call, which may be awaited: the record that it gives is there at once.

        Args:
            scenario: Its name, or itself.
            engine: Instead of the command line's.
            stack: The same.
            bug: A planted bug, or "".
            check: Whether anything but a pass fails the test. What does not apply skips it, and a failure that is a known
                finding ends it as one that is expected to fail (``xfail``); each with the reason.
            params: Numbers of the scenario to replace, as ``--set`` does.

        Raises:
            AssertionError: It did not pass; the message is the story of what happened.
            ValueError: The planted bug is in nothing that the scenario runs, say; it would only pass.
        """
        __tracebackhide__ = True
        import msgspec

        from ftharness.ran import Ran
        from ftharness.report import excuse, story
        from ftharness.scenario import judge
        from ftharness.scenario.planted import idle_among
        from ftharness.scenario.record import KNOWN
        from ftharness.scenario.runner import run_cell
        from ftharness.session import cell_of
        from ftharness.stored_runs import read_events

        kind, name = self._kind(stack)
        cell = cell_of(
            scenario,
            name,
            engine=engine or self._defaults["engine"],
            sut_python=self._defaults["sut_python"],
            seed=self._defaults["seed"],
            bug=bug,
            params=params,
        )
        if bug:
            idle_among(bug, [cell.scenario], [cell.scenario.name])
        path = f"run-{len(self.records) + 1}"
        with _writing(self._place):
            folder = self.folder / path
        try:
            with _writing(folder):
                record = self._portal.call(run_cell(cell, kind, folder, path=path))
        except BaseException:
            if events := read_events(folder):  # it was cut short: what it left is judged
                self.records.append(judge(cell.scenario, events, path=path))
            raise
        self.records.append(record)
        if check and (note := excuse(record)):
            pytest.xfail(_said(note)) if note.kind == KNOWN else pytest.skip(_said(note))
        if check and record.verdict != "pass":
            raise ExpectationFailed(story(record, read_events(folder), self.folder))
        return Ran(**msgspec.structs.asdict(record))

    def _launched(self) -> "Run":
        if self._run is None:
            self._start(None, "", 30.0)
        assert self._run is not None
        return self._run

    def _kind(self, stack: str) -> "tuple[StackKind, str]":
        from ftharness.stack import NotAvailable, find_stack

        name = stack or self._defaults["stack"]
        kind = find_stack(name)
        sut_python = self._defaults["sut_python"]
        try:
            kind.version(Path(sut_python) if sut_python else None)
        except NotAvailable as missing:
            pytest.skip(f"not applicable: {missing}")
        return kind, name

    def _start(self, topology: "Topology | None", bug: str, idle_s: float) -> None:
        import msgspec

        from ftharness.history import History
        from ftharness.scenario import Scenario
        from ftharness.scenario.by_test import ByTest
        from ftharness.scenario.record import HISTORY_FILE
        from ftharness.scenario.runner import Run, keep_cell
        from ftharness.session import cell_of
        from ftharness.stack import NotApplicable, StackFailed, aggregated

        seed = self._defaults["seed"]
        kind, name = self._kind("")
        own = Scenario(
            name=name_of(self._node), topology=topology or aggregated(workers=2), workload=[], seed=seed, idle_s=idle_s
        )
        cell = cell_of(
            own, name, engine=self._defaults["engine"], sut_python=self._defaults["sut_python"], seed=seed, bug=bug
        )
        cell = msgspec.structs.replace(cell, by_test=ByTest(node=self._node))
        with _writing(self._place):
            keep_cell(cell, self.folder)
            history = History(self.folder / HISTORY_FILE)
        self._close_history = history.close

        async def launch() -> Run:
            run = Run(cell, kind, self.folder, history, lambda _: None)
            self._run = run
            await run.launch()
            await run.begin_faults()
            return run

        try:
            self._portal.call(launch())
        except NotApplicable as error:
            if self._run is not None:
                self._run.ended("not_applicable", str(error))
            pytest.skip(f"not applicable: {error}")
        except StackFailed as error:
            if self._run is not None:
                self._run.ended("stack_failed", f"the stack did not start: {error}")
            pytest.fail(f"the stack did not start: {error}", pytrace=False)

    def _keep_test(self, run: "Run", **changed: Any) -> None:
        """Store more of what the test did, so that the run can be judged again from its files."""
        import msgspec

        from ftharness.scenario.runner import keep_cell

        run.cell = msgspec.structs.replace(run.cell, by_test=msgspec.structs.replace(_test_of(run), **changed))
        try:
            keep_cell(run.cell, self.folder)
        except OSError as error:  # what is stored by now is no run that could be judged again, and passes nothing
            _warn(f"{self.folder}: what the test expected could not be stored: {error.strerror or error}")

    def _report(self, records: "Sequence[ScenarioRecord]") -> None:
        """Write this test's report; where that cannot be done, the verdict stands, and pytest's summary says so."""
        from ftharness.report import ReportError
        from ftharness.stored_runs import keep_records

        try:
            keep_records(self.folder, records, seed=self._defaults["seed"])
        except ReportError as error:
            _warn(str(error))

    def finish(self, error: str = "", *, interrupted: bool = False) -> None:
        """Tear down, judge the invariants, write this test's report.

        Args:
            error: What the test itself failed with, or "": what it did not come to expect has not been tested.
            interrupted: Whether it was cut short by a Ctrl-C: then it has shown nothing, and nothing is raised.

        Raises:
            AssertionError: An invariant does not hold (a request hangs, something leaks, an exit has no explanation), or
                something that the test began has failed, and the test did not wait for it.
        """
        __tracebackhide__ = True
        from ftharness.report import excuse, story
        from ftharness.scenario import judge
        from ftharness.scenario.by_test import with_test
        from ftharness.scenario.runner import kept

        run, whole, records = self._run, None, self.records
        lost = [f"nobody waited for what failed: {failure}" for failure in self._portal.settle()]
        if run is not None:
            try:
                if interrupted:
                    run.ended("interrupted", "interrupted")
                run.ended_well()
                if failed := error or "; ".join(lost):  # before the run has its end: without it, it has shown nothing
                    self._keep_test(run, error=failed)
                self._portal.call(run.teardown())
                whole = judge(run.cell.scenario, run.history.events)
            finally:
                self._portal.call(_closed(self._close_history))
            whole = kept(whole, run.history)
            records = [with_test(whole, run.cell.scenario, _test_of(run), run.history.events), *records]
        if records:
            self._report(records)
        if interrupted:
            return
        said = [*lost, "await it, or in a plain test .wait()"] if lost else []
        # What could not be tested has failed the test already; that an invariant does not hold is something else.
        told = bool(error) and whole is not None and whole.verdict == "unknown"
        if whole is not None and run is not None and whole.verdict != "pass" and not told and not excuse(whole):
            said.append(story(whole, run.history.events, self.folder))
        if said:
            raise ExpectationFailed("\n".join(said))


def _test_of(run: "Run") -> "ByTest":
    test = run.cell.by_test
    assert test is not None
    return test


async def _judged(run: "Run", expects: "Sequence[Expect]") -> "tuple[ScenarioRecord, int]":
    """What is to be said of the run so far, and the number of the last event by then."""
    import msgspec

    record = await run.judged(msgspec.structs.replace(run.cell.scenario, expect=list(expects)))
    # Nothing has been appended since: this is the loop that does so, and it has not been let go of.
    return record, len(run.history.events)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A full disk is said in a sentence: the error of a write names no file."""
    __tracebackhide__ = True
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a time that is over
            raise
        pytest.fail(f"the run cannot be written: {error.filename or folder}: {error.strerror}", pytrace=False)


def _warn(message: str) -> None:
    warnings.warn(ReportWarning(message), stacklevel=3)


def name_of(node: str) -> str:
    """What a report calls the test of this id: its file's name, without the folders, and its own."""
    path, *names = node.split("::")
    return ".".join((path.rpartition("/")[2], *names))


def _said(note: "Annotation") -> str:
    return f"{note.kind.replace('_', ' ')}: {note.reason}"


async def _closed(close: Callable[[], None]) -> None:
    close()
