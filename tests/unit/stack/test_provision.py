"""Provisioning: real environments by the real pip, from packages that lie in a folder, so that no network is needed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftharness.stack import NotAvailable
from ftharness.stack.provision import (
    ProvisionError,
    find_interpreter,
    provision,
    provisioned,
    sut_version,
)
from ftharness.stack.provision_command import run_told
from ftharness.stack.provision_place import locked

SPEC = "dynamo==9.9.9"
PROVISION = [
    sys.executable,
    "-u",
    "-c",
    "import sys; from ftharness.stack.provision import provision; print(provision(sys.argv[1], print))",
    SPEC,
]


def start_provision() -> "subprocess.Popen[str]":
    return subprocess.Popen(PROVISION, stdout=subprocess.PIPE, text=True)


def test_one_is_killed_half_way_and_two_come_after(dynamo: Any, tmp_path: Path) -> None:
    """One of the two makes it anew, the other waits, and then it is there: with what is required, without aisimulate."""
    with start_provision() as killed:
        assert killed.stdout is not None
        assert any(line.startswith("[1/2] installing ai-dynamo==9.9.9") for line in killed.stdout)
        killed.send_signal(signal.SIGKILL)
        # Its pip goes on by itself, and holds the lock as long as it does.
        assert find_interpreter(SPEC) is None
        both = [start_provision() for _ in range(2)]
        outputs = [process.communicate(timeout=100)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    made, there = sorted(outputs, key=lambda lines: "dynamo==9.9.9 is there" in " ".join(lines))
    assert there[0].startswith("waiting for another process")
    assert any("was not finished; going on after 0 steps" in line for line in made)
    assert "[2/2] installing what ai-dynamo requires: ai-dynamo-runtime==9.9.9" in made
    assert any("Installing collected packages" in line for line in made)
    assert any(line.startswith("dynamo==9.9.9 is ready after ") for line in made)
    python = tmp_path / "cache" / "sut" / "dynamo-9.9.9" / "bin" / "python"
    assert there[1:] == [f"dynamo==9.9.9 is there: {python}", str(python)]
    assert made[-1] == str(python)
    assert sut_version(python) == "9.9.9"
    assert (find_interpreter(SPEC), [one.spec for one in provisioned()]) == (python, [SPEC])


def killed_in_the_second_step(tmp_path: Path) -> Path:
    """An environment that was interrupted there, and its site-packages; nothing that made it runs any more."""
    with start_provision() as killed:
        assert killed.stdout is not None
        assert any(line.startswith("[2/2] ") for line in killed.stdout)
        killed.send_signal(signal.SIGKILL)
    with locked(tmp_path / "cache" / "sut" / "dynamo-9.9.9.lock", lambda _: None):
        assert find_interpreter(SPEC) is None
    return next((tmp_path / "cache" / "sut" / "dynamo-9.9.9").glob("lib/python3*/site-packages"))


def test_it_goes_on_with_the_step_that_was_interrupted(dynamo: Any, tmp_path: Path) -> None:
    """What is done is not done again, and what pip had written by half is no longer taken for installed."""
    packages = killed_in_the_second_step(tmp_path)
    info = packages / "ai_dynamo_runtime-9.9.9.dist-info"
    info.mkdir(exist_ok=True)  # pip was killed at any point: here, when all but the last file of the metadata was there
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ai-dynamo-runtime\nVersion: 9.9.9\n")
    (info / "INSTALLER").unlink(missing_ok=True)
    (packages / "ai_dynamo_runtime.py").unlink(missing_ok=True)
    (packages / "~i_dynamo").mkdir()
    said: list[str] = []
    python = provision(SPEC, said.append)
    assert any("going on after 1 steps" in line for line in said)
    assert "  ai_dynamo_runtime-9.9.9 was installed by half; it is installed again" in said
    assert not any("[1/2]" in line or "making it anew" in line for line in said)
    assert subprocess.run([python, "-c", "import ai_dynamo_runtime"], check=False).returncode == 0
    assert not list(packages.glob("~*"))
    assert not list(tmp_path.glob("cache/sut/*/.steps"))


def test_another_name_of_the_same_python_goes_on(dynamo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python`` and ``python3`` of one environment are links to one interpreter."""
    killed_in_the_second_step(tmp_path)
    other = tmp_path / "python-by-another-name"
    other.symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(other))
    said: list[str] = []
    provision(SPEC, said.append)
    assert any("going on after 1 steps" in line for line in said)


def test_what_another_python_began_is_made_anew(dynamo: Any, tmp_path: Path) -> None:
    """An environment is of one Python."""
    killed_in_the_second_step(tmp_path)
    journal = tmp_path / "cache" / "sut" / "dynamo-9.9.9" / ".steps"
    journal.write_text(journal.read_text().replace("python 3.", "python 2.", 1))
    said: list[str] = []
    provision(SPEC, said.append)
    assert any("was not finished; making it anew" in line for line in said)
    assert any("[1/2]" in line for line in said)


@pytest.mark.parametrize("retries", ["0", "1"])
def test_a_network_that_is_away_keeps_what_was_done(
    dynamo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retries: str
) -> None:
    """The message says so, and the next try goes on from there. Without retries pip tells of no connection at all."""
    wheel = dynamo.folder / "ai_dynamo_runtime-9.9.9-py3-none-any.whl"
    wheel.rename(tmp_path / wheel.name)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", retries)
    with pytest.raises(
        ProvisionError, match=r"requires: ai-dynamo-runtime==9\.9\.9 failed: there is no network, or"
    ) as told:
        provision(SPEC, lambda _: None)
    assert str(told.value).endswith("what was done is kept; the same command goes on from there")
    (tmp_path / wheel.name).rename(wheel)
    said: list[str] = []
    provision(SPEC, said.append)
    assert any("going on after 1 steps" in line for line in said)
    assert not any("[1/2]" in line for line in said)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a file system of the test's own cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 - wherever it is


def test_a_disk_that_is_too_small_is_told_at_once(
    dynamo: Any, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it needs, what there is, what to do; and nothing was begun."""
    monkeypatch.setenv("FTHARNESS_CACHE", str(small_disk))
    needs = r"dynamo==9\.9\.9 needs 1\.0 GB, and 0\.0 GB are free in .*/small/sut; nothing was tried; \$FTHARNESS_CACHE"
    with pytest.raises(ProvisionError, match=needs):
        provision(SPEC, lambda _: None)
    assert list((small_disk / "sut").iterdir()) == []


def test_a_disk_that_fills_up_is_told() -> None:
    """With the variables that name other places; such a failure does not pass by itself."""
    fills = [sys.executable, "-c", "open('/dev/full', 'w', buffering=1).write('x\\n')"]
    with pytest.raises(
        ProvisionError, match=r"it failed: the disk is full; \$FTHARNESS_CACHE names another place"
    ) as told:
        run_told(fills, "it", 0, lambda _: None)
    assert not told.value.passes


def test_without_a_marker_it_is_not_there(dynamo: Any, tmp_path: Path) -> None:
    """A folder that looks complete counts for nothing; nor does a marker whose interpreter is gone."""
    folder = tmp_path / "cache" / "sut" / "dynamo-9.9.9"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    assert find_interpreter(SPEC) is None
    (folder / ".complete").write_text("dynamo==9.9.9\n")
    assert find_interpreter(SPEC) == folder / "bin" / "python"
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/nowhere/python3")
    assert find_interpreter(SPEC) is None
    assert provisioned() == []


def test_the_newest_release_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By version, not by name: 1.10 is newer than 1.9."""
    monkeypatch.setenv("FTHARNESS_CACHE", str(tmp_path))
    for version in ("1.9.0", "1.10.0", "1.4.2"):
        folder = tmp_path / "sut" / f"dynamo-{version}"
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(sys.executable)
        (folder / ".complete").touch()
    assert [one.spec for one in provisioned()] == ["dynamo==1.10.0", "dynamo==1.9.0", "dynamo==1.4.2"]


def test_a_version_that_does_not_exist_is_told(dynamo: Any) -> None:
    """What was tried, what pip said, and what it means."""
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "ai-dynamo==8.8.8"]
    with pytest.raises(ProvisionError, match=r"pip install failed: there is no such version for this Python") as told:
        run_told(pip, "pip install", 0, lambda _: None)
    assert "; the index has 9.9.9\n" in str(told.value)
    assert "No matching distribution found for ai-dynamo==8.8.8" in str(told.value)


def test_a_failed_try_leaves_nothing(dynamo: Any, tmp_path: Path) -> None:
    """Neither a half-made environment nor its lock; whoever waited meanwhile makes a try of its own."""
    (dynamo.folder / "ai_dynamo_runtime-9.9.9-py3-none-any.whl").unlink()
    dynamo.add("ai_dynamo_runtime", "8.8.8")
    first = start_provision()
    assert first.stdout is not None
    assert any(line.startswith("making ") for line in first.stdout)  # it has the lock
    both = [first, start_provision()]
    outputs = [process.communicate(timeout=100)[0] for process in both]
    assert [process.returncode for process in both] == [1, 1]
    assert outputs[1].startswith("waiting for another process")
    assert all("installing what ai-dynamo requires: ai-dynamo-runtime==9.9.9" in output for output in outputs)
    assert list((tmp_path / "cache" / "sut").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder stands in the message."""
    monkeypatch.setenv("FTHARNESS_CACHE", "/proc/nothing")
    with pytest.raises(ProvisionError, match=r"cannot make /proc/nothing/sut/dynamo-9\.9\.9: "):
        provision(SPEC, lambda _: None)


def test_an_interpreter_without_dynamo_says_how_to_get_one(tmp_path: Path) -> None:
    """Not there, not an interpreter, or without the package: each says what it is."""
    with pytest.raises(NotAvailable, match="there is no interpreter /nowhere/python"):
        sut_version(Path("/nowhere/python"))
    with pytest.raises(NotAvailable, match=r"has no ai-dynamo; `ftharness provision dynamo==1\.4\.2`"):
        sut_version(Path(sys.executable))
    broken = tmp_path / "python"
    broken.write_text("not a program")
    broken.chmod(0o755)
    with pytest.raises(NotAvailable, match="does not run"):
        sut_version(broken)
