"""What the docs show works: their examples are run, their files are read, their links lead somewhere."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from ftharness.cli import app
from ftharness.client import Request
from ftharness.engine.bugs import BUGS
from ftharness.logs import read_contract
from ftharness.pytest_plugin import Ft
from ftharness.registry import installed
from ftharness.scenario import Scenario
from ftharness.scenario.library import load_file
from ftharness.stack import Settings, Topology
from ftharness.stack.interpreters import Interpreter
from ftharness.stack.profiles import Profile, find_profile
from ftharness.stack.servers import Servers

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def _blocks(page: str, language: str, holds: str = "") -> list[str]:
    found = BLOCK.findall((ROOT / page).read_text())
    blocks = [text for kind, text in found if kind == language and holds in text]
    assert blocks, f"{page} has no {language} block with {holds!r}"
    return blocks


@pytest.mark.parametrize("page", ["README.md", "docs/writing-a-test.md", "docs/coordinator.md"])
def test_the_tests_that_the_docs_show_pass(pytester: pytest.Pytester, page: str) -> None:
    """Copied as they stand into a project without any configuration."""
    tests = _blocks(page, "python", "def test_")
    pytester.makepyfile(**{f"test_shown_{place}": text for place, text in enumerate(tests)})
    pytester.runpytest_subprocess("-p", "no:asyncio").assert_outcomes(passed=len(tests))


def test_the_scenario_that_the_docs_show_passes(ft: Ft, tmp_path: Path) -> None:
    """And what its page sets on the command line can be set."""
    (text,) = _blocks("docs/writing-a-scenario.md", "python", "# mine.py")
    (tmp_path / "mine.py").write_text(text)
    (scenario,) = load_file(tmp_path / "mine.py")
    ft.run(scenario)
    ft.run(scenario, duration_s=0.1, **{"gap_within.ms": 300})


def test_the_scenarios_with_prefill_and_decode_apart_pass(ft: Ft, tmp_path: Path) -> None:
    """Each as it stands."""
    (text,) = _blocks("docs/writing-a-scenario.md", "python", "# apart.py")
    (tmp_path / "apart.py").write_text(text)
    for scenario in load_file(tmp_path / "apart.py"):
        record = ft.run(scenario)
        assert [fault.on_target for fault in record.faults] == [True]


def test_without_the_extra_the_projects_tests_say_which_they_need(tmp_path: Path) -> None:
    """And nothing of what pytest would tell of a module that is missing."""
    (tmp_path / "hypothesis.py").write_text("raise ModuleNotFoundError('hypothesis')\n")
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:hypothesispytest",
        "-p",
        "no:schemathesis",  # it needs hypothesis, too
        "tests/fault_tolerance/migration",
        "--co",
        "-q",
    ]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "the project's own tests need its extra: pip install -e '.[dev]'" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_fault_and_the_oracle_that_the_docs_show_work(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a package that is installed: the scenario passes, and has been struck; so does the test."""
    page = "docs/writing-a-scenario.md"
    for language in ("python", "toml"):
        for text in _blocks(page, language, "# "):
            path = pytester.path / text.partition("\n")[0].removeprefix("# ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    _install(pytester.path)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=os.pathsep)
    done = pytester.run(sys.executable, "-m", "ftharness", "run", "scarce.py", "--out", "run")
    assert done.ret == 0, done.outlines
    (one,) = json.loads((pytester.path / "run" / "run.json").read_text())["scenarios"]
    (fault,) = one["faults"]
    assert (fault["kind"], fault["evidence"]) == ("out_of_files", {"open_files": 0, "request": "was running"})
    assert {"name": "ends_in_order(at_least=2)", "verdict": "pass", "reason": "2 ends"}.items() <= one["oracles"][
        2
    ].items()
    done = pytester.run(sys.executable, "-m", "ftharness", "run", "scarce.py", "--set", "ends_in_order.at_least=3")
    assert done.ret == 3, done.outlines
    pytester.runpytest_subprocess("-p", "no:asyncio", "test_scarce.py").assert_outcomes(passed=1)


def _install(project: Path) -> None:
    """What an installer leaves of a project beside its code: its name and its entry points, as packaging.python.org says."""
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    folder = project / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    lines = []
    for group, entries in about["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines))


def test_the_stack_that_the_docs_show_is_the_one_that_is_tested() -> None:
    """docs/writing-a-stack.md and examples/fakellm do not drift apart."""
    (text,) = _blocks("docs/writing-a-stack.md", "toml")
    assert text in (ROOT / "examples" / "fakellm" / "stack.toml").read_text()


def test_the_contract_that_the_docs_show_can_be_read(tmp_path: Path) -> None:
    """Events, patterns, metric and include."""
    (text,) = _blocks("docs/contracts.md", "toml")
    (tmp_path / "mine.toml").write_text(text)
    contract = read_contract(tmp_path / "mine.toml", "1.4.2")
    assert contract.known
    assert {"migration_started", "request_received"} <= set(contract.events)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the project."""
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_every_command_of_the_docs_exists() -> None:
    """``ftharness WORD`` in a block of commands is a command, and every command is in the README."""
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups if group.name}
    shown = {
        word
        for page in PAGES
        for _, text in BLOCK.findall(page.read_text())
        for word in re.findall(r"(?:^|\()(?:\S*/)?ftharness ([a-z0-9]+)", text, re.MULTILINE)
    }
    assert shown <= known
    assert known <= set(re.findall(r"ftharness ([a-z0-9]+)", (ROOT / "README.md").read_text()))


def test_every_oracle_is_explained() -> None:
    """docs/verdicts.md has a line about each."""
    text = (ROOT / "docs" / "verdicts.md").read_text()
    assert [name for name in installed("ftharness.oracles") if f"`{name}(" not in text] == []


def test_everything_a_scenario_can_say_is_explained() -> None:
    """docs/writing-a-scenario.md has a line about each fault, and names each field of topologies, requests and scenarios."""
    text = (ROOT / "docs" / "writing-a-scenario.md").read_text()
    assert [name for name in installed("ftharness.faults") if f"`{name}(" not in text] == []
    fields = {*Topology.__struct_fields__, *Request.__struct_fields__, *Scenario.__struct_fields__} - {"endpoint"}
    assert [name for name in sorted(fields) if not re.search(rf"\b{name}\b", text)] == []


def test_every_bug_of_the_docs_exists() -> None:
    """``--bug NAME`` in any page."""
    shown = {name for page in PAGES for name in re.findall(r"--bug ([a-z-]+)", page.read_text())}
    assert shown <= set(BUGS)


def test_the_profile_that_the_docs_show_is_one_and_every_key_and_placeholder_is_told(tmp_path: Path) -> None:
    """It is read, its command is filled in; what the tables leave out, or make up, fails."""
    (text,) = _blocks("docs/real-engines.md", "toml", "# mine.toml")
    (tmp_path / "mine.toml").write_text(text)
    profile = find_profile(str(tmp_path / "mine.toml"), "vllm", "vllm", "cpu")
    sut = Interpreter(Path("/sut/bin/python"), {}, "0.32.0")
    settings = Settings(engine="vllm", folder=tmp_path, hold_ports=False)
    servers = Servers(profile, sut, Topology(), settings, model="/m", served="m")
    assert servers.launch("worker-1", "aggregated").argv[:3] == ["/sut/bin/vllm", "serve", "/m"]
    mistyped = msgspec.structs.replace(profile, command=["{nothing}"])
    page = (ROOT / "docs" / "real-engines.md").read_text()
    section = page.partition("### A profile of your own")[2].partition("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    told = set(re.findall(r"`([^`]+)`", " ".join(first)))
    with pytest.raises(LookupError) as unknown:  # names those that there are
        Servers(mistyped, sut, Topology(), settings, model="/m", served="m").launch("worker-1", "aggregated")
    words = {f"{{{word}}}" for word in str(unknown.value).partition("there are ")[2].split(", ")}
    assert told == set(Profile.__struct_fields__) | (words - {"{port.http}"} | {"{port.NAME}"})
