"""The pytest plugin: one fixture, ``ft``.

The harness runs in an event loop of its own, in a thread of its own, so that ``await ft.client.complete(…)`` works in
whatever loop a test has, and a test that blocks its own loop does not stop the harness from reading.
"""

import asyncio
import inspect
import os
import select
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pytest

if TYPE_CHECKING:  # imported when a test asks for ``ft``: whoever does not use it pays nothing
    from ftharness.client import Request
    from ftharness.faults import Fault
    from ftharness.history import History, RequestFinished
    from ftharness.process import Process
    from ftharness.scenario import Expect, Scenario, ScenarioRecord
    from ftharness.scenario.record import OracleRecord
    from ftharness.scenario.runner import Run
    from ftharness.stack import StackKind, Topology

T = TypeVar("T")

_OUT = pytest.StashKey[Path]()
_PORTAL = pytest.StashKey["Portal"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options."""
    group = parser.getgroup("ftharness", "fault injection (ftharness)")
    group.addoption("--ft-stack", default="sim", metavar="STACK", help="sim, dynamo-sim, dynamo-mocker, or a TOML file")
    group.addoption("--ft-engine", default="", metavar="ENGINE", help="vllm, sglang or trtllm; a test's own goes first")
    group.addoption("--ft-sut-python", default="", metavar="PATH", help="the interpreter of the system under test")
    group.addoption("--ft-seed", type=int, default=0, metavar="N", help="of tokens, ids and whatever else is random")
    group.addoption("--ft-out", default="", metavar="DIR", help="where runs go [default: a new folder under reports/]")


def pytest_configure(config: pytest.Config) -> None:
    """Look at the options; in an xdist worker, end when the controller does: execnet would keep it alive for 15 s more.

    Raises:
        pytest.UsageError: A stack or an engine that does not exist, or a stack's file is wrong.
    """
    if hasattr(config, "workerinput"):
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True, name="ftharness: controller").start()
    stack, engine = config.getoption("--ft-stack"), config.getoption("--ft-engine")
    if (stack, engine) != ("sim", ""):  # whoever gives neither pays for no import
        _check_options(stack, engine)


def _check_options(stack: str, engine: str) -> None:
    from ftharness.logs import ContractError, TomlError
    from ftharness.stack import find_stack
    from ftharness.suggest import nearest

    try:
        engines = find_stack(stack).engines
    except LookupError as error:
        raise pytest.UsageError(f"--ft-stack: {error.args[0]}") from error
    except (TomlError, ContractError) as error:
        raise pytest.UsageError(f"--ft-stack: {error}") from error
    if engine and engine not in engines:
        raise pytest.UsageError(f"--ft-engine: no engine {engine!r}; {nearest(engine, engines)}")


def _end_with(pid: int) -> None:
    try:
        controller = os.pidfd_open(pid)
    except (OSError, AttributeError):  # no pidfd here, or it is gone: then execnet notices, later
        return
    poll = select.poll()
    poll.register(controller, select.POLLIN)
    poll.poll()
    os._exit(1)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """All of xdist's workers write below one folder."""
    node.workerinput["ft_out"] = str(_out_folder(node.config))


def _out_folder(config: pytest.Config) -> Path:
    """Where this session's runs go; made when the first one is."""
    if _OUT not in config.stash:
        given = config.getoption("--ft-out") or getattr(config, "workerinput", {}).get("ft_out", "")
        if not given:
            from ftharness.session import new_folder

            given = new_folder("pytest", config.rootpath / "reports")
        config.stash[_OUT] = Path(given)
    return config.stash[_OUT]


@pytest.hookimpl(trylast=True)  # after pytest's own, which ends the fixtures of a test that was interrupted
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the harness's loop; one report over all runs of the session."""
    if _PORTAL in session.config.stash:
        session.config.stash[_PORTAL].close()
    if not hasattr(session.config, "workerinput") and _OUT in session.config.stash:
        _write_whole(session.config.stash[_OUT], session.config.getoption("--ft-seed"))


def _write_whole(folder: Path, seed: int) -> None:
    from ftharness.session import gather

    if not gather(folder, seed=seed) and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()  # xdist was told of it, and no test made a run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Where the report is."""
    if not hasattr(config, "workerinput") and _OUT in config.stash:
        report = config.stash[_OUT] / "report.html"
        if report.exists():
            terminalreporter.write_line(f"ftharness report: {report}")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an ``async def`` test that uses ``ft`` and that no other plugin has claimed: nothing needs to be configured."""
    claimed = any(pyfuncitem.get_closest_marker(name) for name in ("asyncio", "anyio", "trio"))
    theirs = type(pyfuncitem).__module__.partition(".")[0] != "_pytest"
    if claimed or theirs or "ft" not in pyfuncitem.fixturenames or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames  # noqa: SLF001 - as every plugin of this kind does
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


class Portal:
    """The harness's event loop, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ftharness", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begin ``work`` there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` there, and wait. A Ctrl-C meanwhile cancels it."""
        future = self.start(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Pending(Generic[T]):
    """Something that happens in the harness's loop: ``await`` it in a test's own loop, or ``wait()`` in a plain test."""

    def __init__(self, future: "Future[T]") -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, T]:
        """In any asyncio loop."""
        return asyncio.wrap_future(self._future).__await__()

    def wait(self, timeout_s: float | None = None) -> T:
        """The same, in a test that is not async."""
        return self._future.result(timeout_s)


class StreamHandle:
    """A request that is under way.

    Attributes:
        id: The request's id.
    """

    def __init__(self, portal: Portal, stream: Any) -> None:
        self._portal = portal
        self._stream = stream
        self.id: str = stream.id

    @property
    def tokens(self) -> int:
        """Tokens received so far."""
        return int(self._stream.tokens)

    @property
    def text(self) -> str:
        """The text so far, of choice 0."""
        return str(self._stream.text)

    @property
    def result(self) -> "RequestFinished | None":
        """How it ended, or None."""
        result: RequestFinished | None = self._stream.result
        return result

    def token(self, number: int, *, deadline_s: float = 30.0) -> Pending[None]:
        """Until ``number`` tokens have arrived; TimeoutError where they do not."""
        return Pending(self._portal.start(self._stream.token(number, deadline_s=deadline_s)))

    def finished(self) -> "Pending[RequestFinished]":
        """Until it has ended, in whatever way."""
        return Pending(self._portal.start(self._stream.finished()))

    def cancel(self) -> Pending[None]:
        """Go away: close the connection."""
        return Pending(self._portal.start(self._stream.cancel()))


class ClientHandle:
    """Sends requests to the test's stack."""

    def __init__(self, portal: Portal, run: "Run") -> None:
        self._portal = portal
        self._run = run

    def complete(self, prompt: str = "Once upon a time", **fields: Any) -> Pending[StreamHandle]:
        """Send a completion; ``fields`` as of :class:`ftharness.client.Request`."""
        from ftharness.client import completion

        return self.send(completion(prompt, **fields))

    def chat(self, prompt: str = "Tell me a story", **fields: Any) -> Pending[StreamHandle]:
        """Send a chat of one user message."""
        from ftharness.client import chat

        return self.send(chat(prompt, **fields))

    def send(self, request: "Request") -> Pending[StreamHandle]:
        """Send ``request``; there once it is on its way."""
        return Pending(self._portal.start(self._send(request)))

    async def _send(self, request: "Request") -> StreamHandle:
        stream = await self._run.send(request)
        return StreamHandle(self._portal, stream)


class StackHandle:
    """The test's stack."""

    def __init__(self, portal: Portal, run: "Run") -> None:
        self._portal = portal
        self._run = run

    @property
    def url(self) -> str:
        """The frontend's base URL."""
        return self._run.stack.client.url

    @property
    def workers(self) -> "list[Process]":
        """The workers, also those that have ended."""
        return self._run.stack.workers

    @property
    def frontend(self) -> "Process":
        """The frontend."""
        return self._run.stack.frontend

    def __getitem__(self, name: str) -> "Process":
        """The process of that name."""
        return self._run.stack[name]

    def serving(self, request: StreamHandle) -> "Process":
        """The worker that last took the request; LookupError where none says so."""
        return self._portal.call(self._run.stack.find_serving(request.id))


class Ft:
    """What a test gets as ``ft``. The stack is launched when it is first needed.

    Args:
        portal: The harness's loop.
        folder: Of this test's run.
        defaults: The command line's options.
        name: The test's.
    """

    def __init__(self, portal: Portal, folder: Path, defaults: dict[str, Any], name: str) -> None:
        self._portal = portal
        self.folder = folder
        self._defaults = defaults
        self._name = name
        self._run: Run | None = None
        self._close_history: Callable[[], None] = lambda: None
        self._records: list[ScenarioRecord] = []
        self._judged: list[OracleRecord] = []
        self._scenario: Scenario | None = None

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
        """Launch the stack now, with a topology of the test's own.

        Args:
            topology: Two workers and a migration limit of 3, if not given.
            bug: A planted bug, or "".
            idle_s: Seconds without a byte after which a request counts as a hang.

        Raises:
            RuntimeError: It has been launched already.
        """
        if self._run is not None:
            raise RuntimeError("the stack has been launched already: call ft.launch() before anything else of ft")
        self._start(topology, bug, idle_s)
        return self.stack

    def inject(self, fault: "Fault") -> Pending[None]:
        """Inject a fault now; there when it has landed or missed, and its own length and grace are over."""
        return Pending(self._portal.start(self._launched().nemesis.inject(fault)))

    def expect(self, *expects: "Expect") -> None:
        """Judge these expectations now.

        Raises:
            AssertionError: One of them does not pass; the message is the story of what happened.
        """
        __tracebackhide__ = True
        run = self._launched()
        record = self._portal.call(run.judged(self._named(expects)))
        self._judged += record.oracles
        _assert_passed(record, run, self.folder)

    def run(
        self,
        scenario: "str | Scenario",
        *,
        engine: str = "",
        stack: str = "",
        bug: str = "",
        check: bool = True,
        **params: Any,
    ) -> "ScenarioRecord":
        """Run a scenario on a stack of its own.

        Args:
            scenario: Its name, or itself.
            engine: Instead of the command line's.
            stack: The same.
            bug: A planted bug, or "".
            check: Whether anything but a pass fails the test.
            params: Numbers of the scenario to replace, as ``--set`` does.

        Raises:
            AssertionError: It did not pass; the message is the story of what happened.
        """
        __tracebackhide__ = True
        from ftharness.report import story
        from ftharness.scenario.runner import run_cell
        from ftharness.session import cell_of, read_events

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
        path = f"run-{len(self._records) + 1}"
        record = self._portal.call(run_cell(cell, kind, self.folder / path, path=path))
        self._records.append(record)
        if check and record.verdict != "pass":
            pytest.fail(story(record, read_events(self.folder / path), self.folder), pytrace=False)
        return record

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
        from ftharness.history import History
        from ftharness.scenario import Scenario
        from ftharness.scenario.runner import Cell, Run, keep_cell
        from ftharness.stack import StackFailed, aggregated

        kind, name = self._kind("")
        self._scenario = Scenario(
            name=self._name,
            topology=topology or aggregated(workers=2),
            workload=[],
            seed=self._defaults["seed"],
            idle_s=idle_s,
        )
        cell = Cell(
            scenario=self._scenario,
            stack=name,
            engine=self._defaults["engine"],
            bug=bug,
            sut_python=self._defaults["sut_python"],
        )
        keep_cell(cell, self.folder)
        history = History(self.folder / "history.jsonl")
        self._close_history = history.close

        async def launch() -> Run:
            run = Run(cell, kind, self.folder, history, lambda _: None)
            self._run = run
            await run.launch()
            await run.begin_faults()
            return run

        try:
            self._portal.call(launch())
        except StackFailed as error:
            if self._run is not None:
                self._run.ended("stack_failed", f"the stack did not start: {error}")
            pytest.fail(f"the stack did not start: {error}", pytrace=False)

    def _named(self, expects: "Sequence[Expect]") -> "Scenario":
        import msgspec

        assert self._scenario is not None
        return msgspec.structs.replace(self._scenario, expect=list(expects))

    def finish(self) -> None:
        """Tear down, judge the invariants, write this test's report.

        Raises:
            AssertionError: An invariant does not hold: a request hangs, something leaks, an exit has no explanation.
        """
        __tracebackhide__ = True
        from ftharness.scenario import judge
        from ftharness.session import keep_records

        run, record = self._run, None
        if run is not None:
            try:
                run.ended_well()
                self._portal.call(run.teardown())
                record = judge(self._named(()), run.history.events)
            finally:
                self._portal.call(_closed(self._close_history))
        whole = [_with(record, self._judged)] if record else []
        if whole or self._records:
            keep_records(self.folder, [*whole, *self._records], seed=self._defaults["seed"])
        if record is not None and run is not None:
            _assert_passed(record, run, self.folder)


async def _closed(close: Callable[[], None]) -> None:
    close()


def _with(record: "ScenarioRecord", judged: "list[OracleRecord]") -> "ScenarioRecord":
    """The record with what was judged while the test went on."""
    import msgspec

    from ftharness.scenario import worst

    verdict = worst([record.verdict, *(one.verdict for one in judged)])
    reason = record.reason or next(
        (f"{one.name}: {one.reason}" for one in judged if one.verdict == verdict != "pass"), ""
    )
    return msgspec.structs.replace(record, oracles=[*judged, *record.oracles], verdict=verdict, reason=reason)


def _assert_passed(record: "ScenarioRecord", run: "Run", folder: Path) -> None:
    __tracebackhide__ = True
    from ftharness.report import story

    if record.verdict != "pass":
        pytest.fail(story(record, run.history.events, folder), pytrace=False)


@pytest.fixture
def ft(request: pytest.FixtureRequest) -> Iterator[Ft]:
    """A stack to break, a client to drive it, and the judgement: see ftharness's docs/writing-a-test.md."""
    from ftharness.session import safe_name

    config = request.config
    if _PORTAL not in config.stash:
        config.stash[_PORTAL] = Portal()
    defaults = {
        "stack": config.getoption("--ft-stack"),
        "engine": config.getoption("--ft-engine"),
        "sut_python": config.getoption("--ft-sut-python"),
        "seed": config.getoption("--ft-seed"),
    }
    node = request.node.nodeid.replace("::", ".").rpartition("/")[2]
    folder = _out_folder(config) / safe_name(node)
    fixture = Ft(config.stash[_PORTAL], folder, defaults, node)
    yield fixture
    fixture.finish()
