"""Bring your own: a TOML file of commands is a stack. The one of the docs, which is not ours, and files that are wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ftharness.history import RunRetried, read_history
from ftharness.logs import ContractError, TomlError
from ftharness.pytest_plugin import Ft
from ftharness.scenario.library import load_file
from ftharness.stack import Settings, aggregated, disaggregated, find_stack

EXAMPLE = Path(__file__).parents[2] / "examples" / "fakellm"
SCENARIOS = {scenario.name: scenario for scenario in load_file(EXAMPLE / "scenarios.py")}

Edit = Callable[[str, str, str], Path]


@pytest.fixture
def edit(tmp_path: Path) -> Edit:
    """A copy of the example with one text replaced in one file; returns the copy's stack file."""

    def copy(file: str, old: str, new: str) -> Path:
        folder = tmp_path / "example"
        shutil.copytree(EXAMPLE, folder)
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))
        return folder / "stack.toml"

    return copy


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_server_that_is_not_ours(ft: Ft, name: str) -> None:
    """The example of docs/writing-a-stack.md: a real server from PyPI, killed and frozen in mid-stream."""
    record = ft.run(SCENARIOS[name], stack=str(EXAMPLE / "stack.toml"))
    assert record.sut_version == "0.3.5"


def test_a_stack_that_names_no_engines_is_one_itself(ft: Ft, edit: Edit) -> None:
    """Its report says what the file is named, not that it is a vLLM."""
    stack = edit("stack.toml", 'engines = ["fakellm"]\n', "")
    record = ft.run(SCENARIOS["fakellm/frozen"], stack=str(stack))
    assert record.engine == "fakellm"


APART = """
name = "apart"
url = "http://127.0.0.1:{front.port.http}"
model = "any"
[[process]]
name = "front"
role = "frontend"
command = ["front", "{port.http}"]
ports = ["http"]
[[process]]
name = "prefill"
role = "prefill"
command = ["work"]
count = "prefill"
[[process]]
name = "decode"
role = "decode"
command = ["work"]
count = "decode"
"""


def test_prefill_and_decode_workers_are_the_topologys(tmp_path: Path) -> None:
    """As many as it says; one that has workers of another kind only does not exist there."""
    (tmp_path / "apart.toml").write_text(APART)
    stack, settings = find_stack(str(tmp_path / "apart.toml")), Settings(engine="any", folder=tmp_path)
    plan = stack.plan(disaggregated(prefill=1, decode=2, strategy="decode_first"), settings)
    plan.close()
    members = [(launch.name, launch.role) for launch in plan.launches]
    assert members == [("front", "frontend"), ("prefill-1", "prefill"), ("decode-1", "decode"), ("decode-2", "decode")]
    with pytest.raises(ValueError, match="apart has no worker in this topology: their counts are prefill, decode"):
        stack.plan(aggregated(workers=2), settings)


def test_it_has_no_planted_bugs(pytester: pytest.Pytester) -> None:
    """Whoever asks for one is told so, and is not left with a test that nothing can fail."""
    pytester.makepyfile(
        """
        import pytest

        def test_it(ft):
            with pytest.raises(ValueError, match="stack.toml has no planted bugs: it is not ours"):
                ft.launch(bug="drop-token")
        """
    )
    pytester.runpytest_subprocess("--ft-stack", str(EXAMPLE / "stack.toml")).assert_outcomes(passed=1)


def test_its_oracles_can_fail(ft: Ft) -> None:
    """A kill is no success, and a gap of a second is longer than half of one."""
    stack = str(EXAMPLE / "stack.toml")
    record = ft.run(SCENARIOS["fakellm/frozen"], stack=stack, check=False, **{"gap_within.ms": 500})
    assert record.verdict == "fail"
    assert "gap_within" in record.reason


def test_a_taken_port_is_tried_once_more(ft: Ft, edit: Edit) -> None:
    """A program that binds without SO_REUSEADDR cannot have a held port: the second launch gets it, and is said."""
    code = (
        "import socket, sys, uvicorn; from fakellm.server import app; s = socket.socket(); "
        "s.bind(('127.0.0.1', int(sys.argv[1]))); print('Uvicorn running on it'); "
        "uvicorn.Server(uvicorn.Config(app)).run(sockets=[s])"
    )
    plain = f'"-c", "{code}", "{{port.http}}"]'
    stack = edit(
        "stack.toml",
        '"-m", "uvicorn", "fakellm.server:app", "--host", "127.0.0.1", "--port", "{port.http}"]',
        plain,
    )
    record = ft.run(SCENARIOS["fakellm/frozen"], stack=str(stack))
    events = read_history(ft.folder / record.path / "history.jsonl")
    (retried,) = [event for event in events if isinstance(event, RunRetried)]
    assert "Address already in use" in retried.reason


def test_a_contract_for_other_versions_is_drift_and_no_failure(ft: Ft, edit: Edit) -> None:
    """Behaviour decides; that the log was not written for this version is listed."""
    stack = edit("stack.toml", 'version = "0.3.5"', 'version = "99.1"')
    record = ft.run(SCENARIOS["fakellm/frozen"], stack=str(stack))
    assert record.drift == ["contract fakellm was not written for version 99.1"]


WRONG = [
    ("stack.toml", "role =", "rôle =", TomlError, r"stack\.toml:{line}: not TOML"),
    ("stack.toml", "role =", "rolle =", TomlError, r"stack\.toml:{line}: unknown key 'rolle'"),
    (
        "stack.toml",
        '"aggregated"',
        '"agregated"',
        TomlError,
        r"stack\.toml:{line}: no role 'agregated'; did you mean agg",
    ),
    ("stack.toml", '"aggregated"', '"etcd"', TomlError, r"stack\.toml:{line}: no role 'etcd'; there are .*, prefill"),
    (
        "stack.toml",
        "{port.http}",
        "{port.htp}",
        TomlError,
        r"stack\.toml:{line}: unknown placeholder \{port\.htp\}; there are",
    ),
    ("stack.toml", "ports = [", "ports = [1, ", TomlError, r"stack\.toml:{line}: Expected `str`, got `int`"),
    ("stack.toml", 'name = "fakellm"\n', "", TomlError, r"stack\.toml:\d+: .*missing required field `name`"),
    ("stack.toml", "./contract.toml", "./contrakt.toml", ContractError, r"contrakt\.toml: there is no such file"),
    ("contract.toml", "HTTP/1.1", "(HTTP", ContractError, r"contract\.toml:{line}: bad regular expression .*missing"),
    ("contract.toml", "literal =", "litteral =", ContractError, r"contract\.toml:{line}: unknown key 'litteral'"),
    ("contract.toml", ">=0.3,<0.4", "0.3 or so", ContractError, r"contract\.toml:{line}: .*versions are given as"),
]


@pytest.mark.parametrize("file,old,new,error,says", WRONG, ids=[f"{one[0]} {one[2]!r}" for one in WRONG])
def test_a_wrong_file_is_told_its_line(
    edit: Edit, tmp_path: Path, file: str, old: str, new: str, error: type[Exception], says: str
) -> None:
    """File and line, before anything is started."""
    line = (EXAMPLE / file).read_text().partition(old)[0].count("\n") + 1
    stack = edit(file, old, new)
    with pytest.raises(error, match=says.replace("{line}", str(line))):
        find_stack(str(stack)).plan(aggregated(workers=1), Settings(engine="fakellm", folder=tmp_path))
