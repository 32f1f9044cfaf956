"""A release that nobody has written a contract for: behaviour decides, and what is missing in its logs is drift."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftharness.stack import dynamo
from ftharness.stack.dynamo_environment import dynamo_environment

Run = Callable[..., Any]  # the fixture of conftest.py


@pytest.fixture
def python_99(tmp_path: Path, python_of: Callable[[str], Path]) -> Path:
    """An interpreter with the code of 1.4.2, whose metadata says that it is 99.0: a real process of an unknown version."""
    real = python_of("1.4.2")
    made = tmp_path / "venv"
    base = (real.parent.parent / "pyvenv.cfg").read_text()
    home = next(line.partition("=")[2].strip() for line in base.splitlines() if line.startswith("home"))
    # A venv links to the interpreter that it was made by, so it has to be made by the same one.
    subprocess.run([f"{home}/python3", "-I", "-m", "venv", "--without-pip", made], check=True, timeout=30)
    (packages,) = made.glob("lib/python3*/site-packages")
    (theirs,) = (real.parent.parent).glob("lib/python3*/site-packages")
    (packages / "dynamo.pth").write_text(f"{theirs}\n")
    info = packages / "ai_dynamo-99.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ai-dynamo\nVersion: 99.0\n")
    return made / "bin" / "python"


def silent(store: Path) -> dict[str, str]:
    """As a release would be whose frontend says everything in other words: it says nothing at all."""
    return dynamo_environment(store) | {"DYN_LOG": "off"}


def test_lines_that_an_unknown_release_does_not_log_are_drift(
    run: Run, python_99: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It moved, exactly: a pass. The line is missing by name, and no contract was written for the release."""
    monkeypatch.setattr(dynamo, "dynamo_environment", silent)
    record = run("migration/worker_failure", "dynamo-sim", "99.0", python=python_99).record
    assert (record.verdict, record.sut_version) == ("pass", "99.0")
    assert any(line.startswith("migration_started: ") for line in record.drift)
    assert "contract dynamo was not written for version 99.0" in record.drift


def test_lines_that_a_known_release_owes_are_a_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same silence of 1.4.2, whose contract has the line, is no drift."""
    monkeypatch.setattr(dynamo, "dynamo_environment", silent)
    record = run("migration/worker_failure", "dynamo-sim", "1.4.2", check=False).record
    assert record.verdict == "fail"
    assert "no line that means migration_started" in record.reason


def test_what_is_not_documented_of_a_release_is_unknown(run: Run, python_99: Path) -> None:
    """Which code an exhausted migration has is nobody's guess: the request failed, and that is all that is known."""
    record = run("migration/disabled_worker_failure", "dynamo-sim", "99.0", python=python_99, check=False).record
    verdicts = {oracle.name.partition("(")[0]: oracle.verdict for oracle in record.oracles}
    assert record.verdict == "unknown"
    assert verdicts.pop("fails_with") == "unknown"
    assert set(verdicts.values()) == {"pass"}


def test_the_interpreter_is_what_it_claims_to_be(python_99: Path) -> None:
    """The other way round: a version that is asked of metadata is the one that --sut-python has, not the harness's."""
    assert dynamo.DynamoSimStack().version(python_99) == "99.0"
    assert str(python_99) != sys.executable
