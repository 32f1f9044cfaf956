"""Provisioning: real environments by the real pip, from packages that lie in a folder, so that no network is needed."""

import base64
import hashlib
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ftharness.stack import NotAvailable
from ftharness.stack.provision import (
    ProvisionError,
    SpecError,
    _parsed,
    _run,
    find_interpreter,
    provision,
    provisioned,
    sut_version,
)

SPEC = "dynamo==9.9.9"
PROVISION = [
    sys.executable,
    "-u",
    "-c",
    "import sys; from ftharness.stack.provision import provision; print(provision(sys.argv[1], print))",
    SPEC,
]


def wheel(folder: Path, name: str, version: str, *requires: str) -> None:
    """A package that pip installs: one module, its metadata, and the record of both."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {requirement}\n" for requirement in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a folder, and a cache folder of the test's own."""
    folder = tmp_path / "packages"
    folder.mkdir()
    wheel(
        folder,
        "ai_dynamo",
        "9.9.9",
        "ai-dynamo-runtime==9.9.9",
        "aisimulate>=1; python_version >= '3.11'",
        "never-asked-for; extra == 'vllm'",
    )
    wheel(folder, "ai_dynamo_runtime", "9.9.9")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("FTHARNESS_CACHE", str(tmp_path / "cache"))
    return folder


def start_provision() -> "subprocess.Popen[str]":
    return subprocess.Popen(PROVISION, stdout=subprocess.PIPE, text=True)


def test_one_is_killed_half_way_and_two_come_after(packages: Path, tmp_path: Path) -> None:
    """One of the two makes it anew, the other waits, and then it is there: with what is required, without aisimulate."""
    with start_provision() as killed:
        assert killed.stdout is not None
        assert any(line.startswith("installing ai-dynamo==9.9.9") for line in killed.stdout)
        killed.send_signal(signal.SIGKILL)
        # Its pip goes on by itself, and holds the lock as long as it does.
        assert find_interpreter(SPEC) is None
        both = [start_provision() for _ in range(2)]
        outputs = [process.communicate(timeout=100)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    made, there = sorted(outputs, key=lambda lines: "dynamo==9.9.9 is there" in " ".join(lines))
    assert there[0].startswith("waiting for another process")
    assert any("was not finished; making it anew" in line for line in made)
    assert "installing what it requires: ai-dynamo-runtime==9.9.9" in made
    assert any("Installing collected packages" in line for line in made)
    assert any(line.startswith("dynamo==9.9.9 is ready after ") for line in made)
    python = tmp_path / "cache" / "sut" / "dynamo-9.9.9" / "bin" / "python"
    assert there[1:] == [f"dynamo==9.9.9 is there: {python}", str(python)]
    assert made[-1] == str(python)
    assert sut_version(python) == "9.9.9"
    assert (find_interpreter(SPEC), [one.spec for one in provisioned()]) == (python, [SPEC])


def test_without_a_marker_it_is_not_there(packages: Path, tmp_path: Path) -> None:
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


def test_a_version_that_does_not_exist_is_told(packages: Path) -> None:
    """What was tried, what pip said, and what it means."""
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "ai-dynamo==8.8.8"]
    with pytest.raises(ProvisionError, match=r"pip install failed: there is no such version for this Python") as told:
        _run(pip, "pip install", 0, lambda _: None)
    assert "No matching distribution found for ai-dynamo==8.8.8" in str(told.value)


def test_a_failed_try_leaves_nothing(packages: Path, tmp_path: Path) -> None:
    """Neither a half-made environment nor its lock; whoever waited meanwhile makes a try of its own."""
    (packages / "ai_dynamo_runtime-9.9.9-py3-none-any.whl").unlink()
    first = start_provision()
    assert first.stdout is not None
    assert first.stdout.readline().startswith("making ")  # it has the lock
    both = [first, start_provision()]
    outputs = [process.communicate(timeout=100)[0] for process in both]
    assert [process.returncode for process in both] == [1, 1]
    assert outputs[1].startswith("waiting for another process")
    assert all("installing what it requires: ai-dynamo-runtime==9.9.9" in output for output in outputs)
    assert list((tmp_path / "cache" / "sut").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder stands in the message."""
    monkeypatch.setenv("FTHARNESS_CACHE", "/proc/nothing")
    with pytest.raises(ProvisionError, match=r"cannot make /proc/nothing/sut/dynamo-9\.9\.9: "):
        provision(SPEC, lambda _: None)


@pytest.mark.parametrize(
    "spec, parsed",
    [
        ("dynamo", ("dynamo", "1.4.2")),
        ("dynamo==1.6.1", ("dynamo", "1.6.1")),
        (" dynamo == 1.6.1 ", ("dynamo", "1.6.1")),
        ("dynamo==1.6.1RC2", ("dynamo", "1.6.1rc2")),
    ],
)
def test_a_spec_names_a_release(spec: str, parsed: tuple[str, str]) -> None:
    """Versions are written in one way, so that one release has one folder."""
    assert _parsed(spec) == parsed


@pytest.mark.parametrize(
    "spec, said",
    [
        ("dynmo==1.4.2", "did you mean dynamo"),
        ("dynamo==", "'' is not a version"),
        ("dynamo==../../etc", "is not a version"),
        ("dynamo>=1.4", "nothing is known of how to provision"),
    ],
)
def test_a_wrong_spec_is_told(spec: str, said: str) -> None:
    """Before anything is tried."""
    with pytest.raises(SpecError, match=said):
        _parsed(spec)


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
