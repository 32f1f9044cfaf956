"""A contract file that is wrong is told with its file and line; versions choose among those that ship."""

from pathlib import Path

import pytest

from ftharness.logs import ContractError, TomlError, load_contract, read_contract, read_metrics, read_toml
from ftharness.logs.contract import _File

GOOD = """\
backend = "mine"
versions = ">=1.0,<2.0"

[[event]]
name = "request_received"
meaning = "it came"

  [[event.pattern]]
  literal = "got request "
  regex = 'got request (?P<request>\\w+)'

[[event]]
name = "done"
meaning = "it went"

  [[event.pattern]]
  literal = "done with "
"""


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("(?P<request>\\w+)", "(?P<request>\\w+", r":10: bad regular expression .*missing \)"),
        ("(?P<request>\\w+)", "(?=ahead)", r":10: bad regular expression .*invalid perl operator"),
        ('meaning = "it went"', 'meening = "it went"', r":14: unknown key 'meening'"),
        ('literal = "done with "', 'literal = "done \\"with\\" "', r":17: literal .*without quotes or backslashes"),
        ('literal = "done with "', 'literal = ""', r":17: literal ''"),
        ('versions = ">=1.0,<2.0"', 'versions = "1.x or so"', r":2: Invalid specifier: .*'>=1.4,<1.6'"),
        (
            'backend = "mine"',
            'backend = "mine"\ninclude = ["vlm"]',
            r":2: there is no shipped contract 'vlm'; there are .*vllm",
        ),
        ('backend = "mine"', "backend = 7", r":1: Expected `str`, got `int` at backend"),
        ('name = "done"', 'name = "done', r":13: not TOML"),
        ('meaning = "it went"\n', "", r":12: .*missing required field `meaning`"),
    ],
)
def test_a_broken_contract_is_told_with_file_and_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    """Whoever wrote it is led to the line."""
    path = tmp_path / "mine.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ContractError, match=f"^{path}{said}"):
        read_contract(path)


def test_a_contract_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The path stands in the error."""
    with pytest.raises(ContractError, match=r"none\.toml: there is no such file"):
        read_contract(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "version, known", [("1.4", True), ("1.9.9", True), ("2.0", False), ("", False), ("nightly", False)]
)
def test_a_version_outside_the_range_is_not_known(tmp_path: Path, version: str, known: bool) -> None:
    """The contract is used all the same; what is missing is drift then, not a failure."""
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    contract = read_contract(path, version)
    assert contract.known is known
    assert set(contract.events) == {"request_received", "done"}


def test_an_unknown_backend_names_those_that_ship() -> None:
    """The error lists what there is."""
    with pytest.raises(ContractError, match=r"no contract for 'dynamoo'; there are .*sim"):
        load_contract("dynamoo", "1.0")


def test_included_events_gain_patterns() -> None:
    """The sim contract reads the receipt lines of all three engines as one event."""
    patterns = [pattern.literal for pattern in load_contract("sim", "0.1.0").events["request_received"].pattern]
    assert {"New Request ID: ", "New SGLang Request ID: ", "AggregatedHandler Request ID: "} <= set(patterns)


def test_a_toml_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are an error with the file's name, not a traceback."""
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TomlError, match=r"bad\.toml: cannot be read"):
        read_toml(path, _File)


def test_metrics_are_read() -> None:
    """Names, labels and values of a page."""
    page = '# TYPE x_total counter\nx_total{model="m",kind="a b"} 3\n# TYPE y gauge\ny 1.5\n'
    assert [tuple(sample) for sample in read_metrics(page)] == [
        ("x_total", 3.0, {"model": "m", "kind": "a b"}),
        ("y", 1.5, {}),
    ]
