"""The pytest plugin in projects that are not ours: real pytest processes, with each way of running async tests."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from ftharness.process.process_table import below, read_table

Until = Callable[..., None]
AllGone = Callable[[list[int], float], bool]

OWN = """
from ftharness.faults import kill
from ftharness.scenario import migrated, tokens_exact

{mark}
async def test_a_killed_worker_costs_no_token(ft):
    stream = await ft.client.complete("Once upon a time", max_tokens=100)
    await stream.token(20)
    await ft.inject(kill(ft.stack.serving(stream)))
    await stream.finished()
    ft.expect(migrated(stream), tokens_exact(stream))
"""
ANYIO = """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


@pytest.mark.parametrize(
    "arguments,mark",
    [
        (["-p", "no:asyncio", "-p", "no:anyio"], ""),
        (["-o", "asyncio_mode=strict"], ""),
        (["-o", "asyncio_mode=strict"], "@pytest.mark.asyncio"),
        (["-o", "asyncio_mode=auto"], ""),
        (["-p", "no:asyncio"], "@pytest.mark.anyio"),
        (["-p", "no:asyncio", "-o", "anyio_mode=auto"], ""),
        (["-p", "no:asyncio", "-p", "no:anyio", "-o", "markers=asyncio"], "@pytest.mark.asyncio"),
        (["-p", "no:asyncio", "-p", "no:anyio", "-o", "markers=anyio"], "@pytest.mark.anyio"),
    ],
    ids=[
        "no other plugin",
        "strict",
        "strict and marked",
        "auto",
        "anyio",
        "anyio's auto",
        "marked without pytest-asyncio",
        "marked without anyio",
    ],
)
def test_an_async_test_of_ones_own_runs_in_every_mode(
    pytester: pytest.Pytester, arguments: list[str], mark: str
) -> None:
    """The test of the design, with each plugin and mode that a project may have; nothing has to be configured."""
    if "no:anyio" not in arguments:
        pytester.makeconftest(ANYIO)
    pytester.makepyfile("import pytest\n" + OWN.format(mark=mark))
    if "no:asyncio" not in arguments:
        arguments = ["-o", "asyncio_default_fixture_loop_scope=function", *arguments]
    result = pytester.runpytest_subprocess("-W", "error", *arguments)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*ftharness report: *report.html"])


def test_a_plain_test_waits(pytester: pytest.Pytester) -> None:
    """A test that is not async says ``wait()`` where the other says ``await``."""
    pytester.makepyfile(
        """
        from ftharness.scenario import succeeds

        def test_it(ft):
            stream = ft.client.chat("Hello", max_tokens=20).wait()
            assert stream.finished().wait(30).outcome == "success"
            assert stream.tokens == 20
            ft.expect(succeeds(stream))
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_what_is_done_when_it_returns_may_be_awaited_too(pytester: pytest.Pytester) -> None:
    """``ft.launch`` and ``ft.run`` are plain calls; whoever awaits everything of ``ft`` is not told a TypeError."""
    pytester.makepyfile(
        """
        from ftharness.stack import aggregated

        async def test_it(ft):
            stack = await ft.launch(aggregated(workers=1))
            assert [worker.name for worker in stack.workers] == ["worker-1"]
            record = await ft.run("migration/drain", max_tokens=100)
            assert record.verdict == "pass"

        def test_plain(ft):
            assert ft.launch(aggregated(workers=1)).wait().url.startswith("http://127.0.0.1:")
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_a_slip_is_answered_at_the_call(pytester: pytest.Pytester) -> None:
    """With the nearest name, or what there is; a test goes on where it catches that."""
    pytester.makepyfile(
        """
        import pytest

        def test_it(ft):
            with pytest.raises(LookupError, match="no planted bug 'drop-tokn'; did you mean drop-token?"):
                ft.launch(bug="drop-tokn")
            with pytest.raises(LookupError, match="no process 'worker-9' in this stack; there are frontend, worker-1, worker-2"):
                ft.stack["worker-9"]
            with pytest.raises(TypeError, match="no field 'max_token'; did you mean max_tokens?"):
                ft.client.complete(max_token=3)
            with pytest.raises(ValueError, match="prompt cannot be sent as JSON: .* surrogates not allowed"):
                ft.client.chat("half of a pair: \\ud800")
            with pytest.raises(AttributeError, match="a completion of ft.client has to be awaited before .token: await"):
                ft.client.complete(max_tokens=3).token(3)
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_an_expectation_that_means_nothing_is_answered_at_the_call(pytester: pytest.Pytester) -> None:
    """A role that no worker has, a bound below nothing: no verdict on the stack."""
    pytester.makepyfile(
        """
        import pytest
        from ftharness.scenario import aborted_in, cancelled_within, logged, never_reached

        async def test_it(ft):
            stream = await ft.client.complete(max_tokens=200)
            await stream.token(5)
            await stream.cancel()
            with pytest.raises(LookupError, match="nothing of the role 'agregated'; did you mean aggregated?"):
                ft.expect(aborted_in("agregated"))
            with pytest.raises(LookupError, match="nothing of the role 'decode'; there are aggregated"):
                ft.expect(never_reached(stream, "decode"))
            with pytest.raises(LookupError, match="no contract has the event 'draning'; did you mean draining?"):
                ft.expect(logged("draning"))
            with pytest.raises(ValueError, match="ms: Expected `float` >= 0"):
                ft.expect(cancelled_within(stream, ms=-1))
            with pytest.raises(TypeError, match="'aggregated' is no request"):
                cancelled_within("aggregated", ms=1)
            ft.expect(aborted_in(stream, "aggregated"), cancelled_within(stream, ms=500), cancelled_within(request=0, ms=500))
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_test_that_cancels_asked_for_it_and_one_that_comes_too_late_tested_nothing(pytester: pytest.Pytester) -> None:
    """What it had go has ended as asked; where the request was over, there is nothing to be freed."""
    pytester.makepyfile(
        """
        import pytest
        from ftharness.scenario import ends_as_asked, kv_freed, slots_freed

        async def test_cancels(ft):
            stream = await ft.client.complete(max_tokens=200)
            await stream.token(5)
            await stream.cancel()
            ft.expect(ends_as_asked())

        async def test_cancels_too_late(ft):
            stream = await ft.client.complete(max_tokens=5)
            await stream.finished()
            await stream.cancel()
            ft.expect(slots_freed(), kv_freed())
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*slots_freed(): nothing was cancelled, and nothing was broken*"])


def test_a_failure_that_nobody_awaited_fails_the_test(pytester: pytest.Pytester) -> None:
    """It is named, the run's report is no pass either, and what was awaited is not said twice."""
    pytester.makepyfile(
        """
        import pytest
        from ftharness.faults import Fault, named

        def wedge(number):
            return Fault(kind="wedge", target=named(f"worker-{number}"))

        async def test_it(ft):
            with pytest.raises(LookupError, match="no fault kind 'wedge'"):
                await ft.inject(wedge(1))
            ft.inject(wedge(2))
        """
    )
    result = pytester.runpytest_subprocess("--ft-out", "out")
    result.assert_outcomes(passed=1, errors=1)
    what = "nobody waited for what failed: ft.inject(wedge worker-2): LookupError: no fault kind 'wedge'; "
    result.stdout.fnmatch_lines([f"{what}*", "await it, or in a plain test .wait()"])
    result.stdout.no_fnmatch_line("*worker-1*")
    (one,) = json.loads((pytester.path / "out" / "run.json").read_text())["scenarios"]
    assert one["verdict"] == "fail"
    assert one["reason"].startswith(f"the test failed: {what}")


def test_a_failed_expectation_tells_the_story(pytester: pytest.Pytester) -> None:
    """No traceback through the harness: what was expected, the fault and its proof, and where the run is."""
    pytester.makepyfile(OWN.format(mark="").replace("(ft):", '(ft):\n    ft.launch(bug="drop-token")'))
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["FAIL *", "*tokens_exact()*1 lost*", "*wait status SIGKILL*", "*run *report.html*"])
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_a_test_that_fails_is_no_pass_in_its_report(pytester: pytest.Pytester) -> None:
    """Whatever it failed of; and a parameter with a slash leaves its name whole."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("what", ["a/b"])
        def test_it(ft, what):
            ft.launch()
            raise ValueError("not so")
        """
    )
    pytester.runpytest_subprocess("--ft-out", "out").assert_outcomes(failed=1)
    (one,) = json.loads((pytester.path / "out" / "run.json").read_text())["scenarios"]
    assert (one["verdict"], one["reason"]) == ("fail", "the test failed: ValueError: not so")
    assert one["name"].endswith(".py.test_it[a/b]")


JUDGED_AGAIN = """
import pytest
from ftharness.faults import kill
from ftharness.scenario import not_migrated, succeeds, tokens_exact

async def drive(ft, bug=""):
    ft.launch(bug=bug)
    stream = await ft.client.complete(max_tokens=100)
    await stream.token(20)
    ft.expect(not_migrated(stream))
    await ft.inject(kill(ft.stack.serving(stream)))
    await stream.finished()
    ft.expect(tokens_exact(stream))

async def test_it_fails(ft):
    await drive(ft, bug="drop-token")

async def test_it_passes(ft):
    await drive(ft)

async def test_it_fails_by_itself(ft):
    await drive(ft)
    raise ValueError("not so")

def test_it_runs_a_scenario(ft):
    ft.run("migration/drain", max_tokens=100)
"""


def test_a_stored_test_is_judged_again(pytester: pytest.Pytester) -> None:
    """As it was: each expectation by what had happened when the test asked, and what it failed with itself."""
    pytester.makepyfile(JUDGED_AGAIN)
    pytester.runpytest_subprocess("--ft-out", "out").assert_outcomes(failed=2, passed=2)
    before = json.loads((pytester.path / "out" / "run.json").read_text())["scenarios"]
    assert [one["verdict"] for one in before] == ["fail", "fail", "pass", "pass"]
    again = pytester.run(sys.executable, "-m", "ftharness", "check", "out")
    assert again.ret == 1
    for file in pytester.path.glob("out/**/run.json"):
        file.unlink()
    pytester.run(sys.executable, "-m", "ftharness", "report", "out")
    after = json.loads((pytester.path / "out" / "run.json").read_text())["scenarios"]
    told = [[(one["name"], one["verdict"], one["reason"], one["oracles"]) for one in run] for run in (before, after)]
    assert told[0] == told[1]


def test_what_a_test_did_is_not_replayed(pytester: pytest.Pytester) -> None:
    """An empty scenario in its place would pass; the refusal says how to run the test again."""
    pytester.makepyfile(test_mine="def test_it(ft): ft.launch()")
    pytester.runpytest_subprocess("--ft-out", "out").assert_outcomes(passed=1)
    result = pytester.run(sys.executable, "-m", "ftharness", "replay", "out")
    assert result.ret == 2
    result.stderr.fnmatch_lines(["*run the test again: pytest test_mine.py::test_it"])
    assert not (pytester.path / "reports").exists()


def test_invariants_hold_in_every_test(pytester: pytest.Pytester) -> None:
    """A test that expects nothing still fails when something outlives its owner."""
    pytester.makepyfile(
        """
        from ftharness.faults import kill

        async def test_it(ft):
            ft.launch(bug="orphan-engine")
            await ft.inject(kill(ft.stack["worker-1"]))
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*no_leaks(): process of worker-1: *"])


def test_a_stack_that_does_not_start_is_quoted(pytester: pytest.Pytester) -> None:
    """The worker's last lines stand in the failure, and the run can be read."""
    pytester.makepyfile(
        """
        from ftharness.stack import aggregated

        def test_it(ft):
            ft.launch(aggregated(worker_args=["--nope"]))
        """
    )
    result = pytester.runpytest_subprocess("--ft-out", "out")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*the stack did not start: worker-*", "*unrecognized arguments: --nope*"])
    run = json.loads((pytester.path / "out" / "run.json").read_text())
    assert run["verdict"] == "unknown"


def test_what_does_not_hold_is_an_assertion_error(pytester: pytest.Pytester) -> None:
    """To the test, which may expect it as any other; what pytest prints of it is the story, and no traceback."""
    pytester.makepyfile(
        """
        import pytest
        from ftharness.scenario import fails_with, succeeds

        def test_caught(ft):
            ft.client.complete(max_tokens=5).wait().finished().wait()
            with pytest.raises(AssertionError, match="expected an error 500"):
                ft.expect(fails_with(500))
            try:
                ft.run("migration/drain", max_tokens=100, token=5000)
            except Exception as error:
                assert "never fired" in str(error)
            else:
                raise RuntimeError

        def test_told(ft):
            ft.client.complete(max_tokens=5).wait().finished().wait()
            ft.expect(fails_with(500))
        """
    )
    result = pytester.runpytest_subprocess("--ft-out", "out")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*FAILED*test_told*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*fixture.py*")
    result.stdout.no_fnmatch_line("> *ft.expect*")


def test_scenarios_run_as_tests(pytester: pytest.Pytester) -> None:
    """``ft.run`` runs by name; a verdict that is not a pass is a failure, unless the test looks at it itself."""
    pytester.makepyfile(
        """
        import pytest

        def test_it(ft):
            assert ft.run("migration/drain", max_tokens=100).verdict == "pass"
            record = ft.run("migration/drain", max_tokens=100, token=5000, check=False)
            assert record.verdict == "unknown"
            with pytest.raises(pytest.fail.Exception, match="never fired"):
                ft.run("migration/drain", max_tokens=100, token=5000)
            with pytest.raises(LookupError, match="did you mean migration/drain"):
                ft.run("migration/drane")
        """
    )
    result = pytester.runpytest_subprocess("--ft-engine", "trtllm", "--ft-seed", "5", "--ft-out", "out")
    result.assert_outcomes(passed=1)
    run = json.loads((pytester.path / "out" / "run.json").read_text())
    assert [one["engine"] for one in run["scenarios"]] == ["trtllm"] * 3
    assert run["seed"] == 5


@pytest.mark.parametrize(
    "arguments,says",
    [
        (["--ft-stack", "simm"], "*did you mean sim?*"),
        (["--ft-engine", "vlm"], "*did you mean vllm?*"),
        (["--ft-stack", "./mine.toml"], "*mine.toml: there is no such file*"),
    ],
)
def test_a_wrong_option_is_a_usage_error(pytester: pytest.Pytester, arguments: list[str], says: str) -> None:
    """Said once, before any test, in one line."""
    pytester.makepyfile("def test_it(ft): pass")
    result = pytester.runpytest_subprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([says])


def test_who_does_not_use_it_pays_nothing(pytester: pytest.Pytester) -> None:
    """Of the harness only the plugin itself is imported, and no folder is made."""
    pytester.makepyfile(
        """
        import sys

        def test_it():
            ours = {name for name in sys.modules if name.startswith("ftharness")}
            assert ours <= {f"ftharness{name}" for name in ("", ".pytest_plugin", ".fixture", ".handles", ".portal")}
            assert "httpx" not in sys.modules
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
    assert not (pytester.path / "reports").exists()


def test_markers_are_left_to_the_project(pytester: pytest.Pytester) -> None:
    """The field's markers are this project's own: in another one they are unknown."""
    pytester.makepyfile("import pytest\n@pytest.mark.gpu_1\ndef test_it(): pass")
    result = pytester.runpytest_subprocess("--strict-markers")
    result.assert_outcomes(errors=1)


def test_xdist_workers_share_one_folder_and_report(pytester: pytest.Pytester) -> None:
    """With ``-n 2`` every test's run is in the one folder, and the report covers all."""
    for name in ("one", "two"):
        pytester.makepyfile(**{f"test_{name}": "def test_it(ft): ft.run('migration/drain', max_tokens=100)"})
    result = pytester.runpytest_subprocess("-n", "2", "--ft-out", "out")
    result.assert_outcomes(passed=2)
    run = json.loads((pytester.path / "out" / "run.json").read_text())
    assert len(run["scenarios"]) == 2
    assert all((pytester.path / "out" / one["path"] / "history.jsonl").exists() for one in run["scenarios"])
    assert (pytester.path / "out" / "report.html").exists()


def test_a_folder_with_runs_is_not_written_over(pytester: pytest.Pytester) -> None:
    """Two sessions in one folder would be one history each test; the second is told so before any test."""
    pytester.makepyfile("def test_it(ft): ft.launch()")
    pytester.runpytest_subprocess("--ft-out", "out").assert_outcomes(passed=1)
    (history,) = pytester.path.glob("out/*/history.jsonl")
    before = history.read_bytes()
    for arguments in ([], ["-n", "2"]):
        result = pytester.runpytest_subprocess("--ft-out", "out", *arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*--ft-out: out: there is a run in this folder already"])
    assert history.read_bytes() == before


def test_a_full_disk_is_told_and_no_verdict_changes(pytester: pytest.Pytester) -> None:
    """What passed has passed, with a warning; a run that cannot begin is a failure that names its folder."""
    pytester.makepyfile(
        test_mine="""
        import contextlib
        import resource
        import pytest
        from ftharness.scenario import succeeds

        BEFORE = resource.getrlimit(resource.RLIMIT_FSIZE)

        @contextlib.contextmanager
        def full():
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, BEFORE[1]))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, BEFORE)  # pytest's own output is a file, too

        def refused(match):
            return pytest.raises(pytest.fail.Exception, match=match)

        def test_launch(ft):
            with refused("cannot be written: .*test_launch: File too large"), full():
                ft.launch()

        def test_run(ft):
            with refused("cannot be written: .*test_run/run-1: File too large"), full():
                ft.run("migration/drain")

        def test_report(ft):
            stream = ft.client.complete(max_tokens=5).wait()
            stream.finished().wait()
            (ft.folder / "scenario.json").unlink()
            (ft.folder / "scenario.json").mkdir()
            ft.expect(succeeds(stream))
            resource.setrlimit(resource.RLIMIT_FSIZE, (26_000, BEFORE[1]))
        """
    )
    pytester.makeconftest(
        """
        import resource

        def pytest_sessionfinish():
            resource.setrlimit(resource.RLIMIT_FSIZE, (26_000, -1))
        """
    )
    result = pytester.runpytest_subprocess("--ft-out", "out", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, warnings=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*out/test_mine.py.test_report: what the test expected could not be stored: Is a directory",
            "*cannot write out/test_mine.py.test_report/report.html *: File too large; make room*",
            "ftharness: no report over all runs: cannot write out/report.html *: File too large; make room*",
        ]
    )


def test_a_folder_that_is_in_use_is_refused(pytester: pytest.Pytester) -> None:
    """Another session's, which has made no run yet."""
    pytester.makepyfile(
        """
        import subprocess, sys

        def test_it(pytestconfig):
            argv = [sys.executable, "-m", "pytest", "-k", "none", "--ft-out", "out"]
            other = subprocess.run(argv, cwd=pytestconfig.rootpath, capture_output=True, text=True)
            assert other.returncode == 4
            assert "--ft-out: out: another run is being written into this folder" in other.stderr
        """
    )
    pytester.runpytest_subprocess("--ft-out", "out").assert_outcomes(passed=1)
    assert not (pytester.path / "out").exists()  # no test made a run


def test_a_test_that_runs_twice_has_two_folders(pytester: pytest.Pytester) -> None:
    """As plugins that repeat tests do it; each run has its own history, and both are in the report."""
    pytester.makeconftest(
        """
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            for _ in range(2):
                item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
                for report in runtestprotocol(item, nextitem=nextitem, log=False):
                    item.ihook.pytest_runtest_logreport(report=report)
            return True
        """
    )
    pytester.makepyfile(test_mine="def test_it(ft): ft.launch()")
    pytester.runpytest_subprocess("--ft-out", "out").assert_outcomes(passed=2)
    run = json.loads((pytester.path / "out" / "run.json").read_text())
    assert [one["path"] for one in run["scenarios"]] == ["test_mine.py.test_it", "test_mine.py.test_it-2"]
    for one in run["scenarios"]:
        assert (pytester.path / "out" / one["path"] / "history.jsonl").read_text().count('"run.started"') == 1


STREAM = """
async def test_it(ft):
    stream = await ft.client.complete(max_tokens=100_000)
    await stream.finished()
"""
SCENARIO = """
def test_it(ft):
    ft.run("migration/drain", max_tokens=100_000)
"""


def _start_long_tests(
    pytester: pytest.Pytester, until: Until, *arguments: str, test: str = STREAM
) -> tuple["subprocess.Popen[bytes]", list[int]]:
    """A pytest whose tests are in mid-stream, and all that is below it."""
    names = ("one", "two") if "-n" in arguments else ("one",)
    for name in names:
        pytester.makepyfile(**{f"test_{name}": test})
    argv = [sys.executable, "-m", "pytest", *arguments, "--ft-out", "out"]
    output = (pytester.path / "output").open("wb")
    process = subprocess.Popen(argv, cwd=pytester.path, stdout=output, stderr=subprocess.STDOUT)
    output.close()

    def all_stream() -> bool:
        histories = list(pytester.path.glob("out/**/history.jsonl"))
        return sum('"request.chunk"' in history.read_text() for history in histories) == len(names)

    until(all_stream, process)
    return process, [entry.pid for entry in below(process.pid, read_table())]


def test_a_killed_pytest_with_xdist_leaves_nothing_alive(
    pytester: pytest.Pytester, until: Until, all_gone: AllGone
) -> None:
    """SIGKILL of the controller of ``-n 2``: its workers and all that their tests started are gone within 2 s."""
    process, ours = _start_long_tests(pytester, until, "-n", "2")
    assert len(ours) >= 2 + 2 * 8  # xdist's workers; a guardian, three keepers, a frontend, two workers, two engines
    process.kill()
    process.wait()
    assert all_gone(ours, 2.0), [entry.name for entry in read_table().values() if entry.pid in ours]


@pytest.mark.parametrize("test", [STREAM, SCENARIO], ids=["stream", "scenario"])
@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_an_interrupted_pytest_tears_down_and_reports(
    pytester: pytest.Pytester, until: Until, all_gone: AllGone, test: str, arguments: list[str]
) -> None:
    """A Ctrl-C in a test: the stack is stopped in order, and what there was is in the report, which has shown nothing."""
    process, ours = _start_long_tests(pytester, until, *arguments, test=test)
    workers = [entry.pid for entry in read_table().values() if entry.ppid == process.pid and arguments]
    for pid in (process.pid, *workers):  # as a terminal does
        os.kill(pid, signal.SIGINT)
    assert process.wait(60) == pytest.ExitCode.INTERRUPTED
    assert all_gone(ours, 2.0)
    histories = list(pytester.path.glob("out/**/history.jsonl"))
    assert all('"kind":"run.finished"' in history.read_text().splitlines()[-1] for history in histories)
    run = json.loads((pytester.path / "out" / "run.json").read_text())
    verdicts = [(one["verdict"], one["reason"]) for one in run["scenarios"]]
    assert verdicts == [("unknown", "interrupted")] * len(histories)
    assert "ftharness report: out/report.html" in (pytester.path / "output").read_text()
