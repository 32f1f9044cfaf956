"""The pytest plugin: one fixture, ``ft``, its options, and one report over all runs of a session."""

import asyncio
import inspect
import os
import select
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ftharness.fixture import Ft, name_of
from ftharness.portal import Portal

_OUT = pytest.StashKey[Path]()
_TROUBLE = pytest.StashKey[str]()  # why there is no report over all runs
_PORTAL = pytest.StashKey[Portal]()
_ERROR = pytest.StashKey[
    str
]()  # what the test failed with; "" where it did not: without it, it did not come to its end


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options."""
    group = parser.getgroup("ftharness", "fault injection (ftharness)")
    group.addoption("--ft-stack", default="sim", metavar="STACK", help="a stack, as of `ftharness run`")
    group.addoption("--ft-engine", default="", metavar="ENGINE", help="vllm, sglang or trtllm; a test's own goes first")
    group.addoption("--ft-sut-python", default="", metavar="PATH", help="the interpreter of the system under test")
    group.addoption("--ft-seed", type=int, default=0, metavar="N", help="of tokens, ids and whatever else is random")
    group.addoption("--ft-out", default="", metavar="DIR", help="where runs go [default: a new folder under reports/]")


def pytest_configure(config: pytest.Config) -> None:
    """Look at the options; in an xdist worker, end when the controller does: execnet would keep it alive for 15 s more.

    Raises:
        pytest.UsageError: A stack or an engine that does not exist, a stack's file is wrong, or there is a run in the
            folder that is given for this one.
    """
    if hasattr(config, "workerinput"):
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True, name="ftharness: controller").start()
    stack, engine = config.getoption("--ft-stack"), config.getoption("--ft-engine")
    if (stack, engine) != ("sim", ""):  # whoever gives neither pays for no import
        _check_options(stack, engine)
    out = config.getoption("--ft-out")
    if out and not hasattr(config, "workerinput") and not config.option.collectonly:  # xdist's workers share it
        _claim(config, Path(out))


def _claim(config: pytest.Config, folder: Path) -> None:
    """Have the folder until the session's end, and leave none behind where no test made a run."""
    from ftharness.session import claimed

    claims = ExitStack()
    try:
        claims.enter_context(claimed(folder))
    except (ValueError, OSError) as error:
        raise pytest.UsageError(f"--ft-out: {error}") from error
    config.add_cleanup(claims.close)
    config.stash[_OUT] = folder


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
        from ftharness.report import ReportError, RunError

        try:
            _write_whole(session.config.stash[_OUT], session.config.getoption("--ft-seed"))
        except (ReportError, RunError, OSError) as error:  # the tests have been judged, and that stands
            session.config.stash[_TROUBLE] = str(error)


def _write_whole(folder: Path, seed: int) -> None:
    from ftharness.stored_runs import gather

    if not gather(folder, seed=seed) and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()  # xdist was told of it, and no test made a run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What is known of the failures, what of that did not show, and where the report is."""
    if not hasattr(config, "workerinput") and _OUT in config.stash:
        if trouble := config.stash.get(_TROUBLE, ""):
            terminalreporter.write_line(f"ftharness: no report over all runs: {trouble}", red=True)
        for line in _of_findings(config.stash[_OUT]):
            terminalreporter.write_line(f"ftharness: {line}")
        report = config.stash[_OUT] / "report.html"
        if report.exists():
            terminalreporter.write_line(f"ftharness report: {report}")


def _of_findings(folder: Path) -> list[str]:
    """What the session's runs say of known findings, once each, with how many say so."""
    from ftharness.report import RunError, of_findings, read_run

    try:
        run = read_run(folder)
    except RunError:  # no test made a run, or its report could not be written, which has been said
        return []
    said = Counter((note.kind, note.reason) for one in run.scenarios for note in of_findings(one))
    return [
        f"{kind.replace('_', ' ')}{f' ({count} runs)' if count > 1 else ''}: {reason}"
        for (kind, reason), count in said.items()
    ]


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Keep how a test ended, for its own report; of one that is interrupted there is no report."""
    if call.excinfo is not None and not call.excinfo.errisinstance((pytest.skip.Exception, pytest.xfail.Exception)):
        item.stash[_ERROR] = call.excinfo.exconly(tryshort=True).partition("\n")[0]
    elif call.excinfo is not None or call.when == "call":
        item.stash[_ERROR] = ""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an ``async def`` test that uses ``ft`` and that no other plugin has claimed: nothing needs to be configured."""
    if "ft" not in pyfuncitem.fixturenames or not inspect.iscoroutinefunction(pyfuncitem.obj) or _claimed(pyfuncitem):
        return None
    names = pyfuncitem._fixtureinfo.argnames  # noqa: SLF001 - as every plugin of this kind does
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


def _claimed(test: pytest.Function) -> bool:
    """Whether another plugin runs this test: its marker alone does not do so where the plugin is not there."""
    if type(test).__module__.partition(".")[0] != "_pytest":  # pytest-asyncio's own kind of test
        return True
    if test.get_closest_marker("trio"):  # nothing else can run it; without its plugin pytest says so
        return True
    plugins = {getattr(plugin, "__name__", "").partition(".")[0] for plugin in test.config.pluginmanager.get_plugins()}
    if "anyio" in plugins and "anyio_backend" in test.funcargs:  # by the marker, or by its automatic mode
        return True
    return "pytest_asyncio" in plugins and test.get_closest_marker("asyncio") is not None


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
    node = request.node.nodeid
    fixture = Ft(config.stash[_PORTAL], _out_folder(config) / safe_name(name_of(node)), defaults, node)
    yield fixture
    fixture.finish(request.node.stash.get(_ERROR, ""), interrupted=_ERROR not in request.node.stash)
