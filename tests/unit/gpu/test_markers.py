"""What this project's markers for GPUs skip, and what they say."""

import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def ran(environ: dict[str, str], folder: Path, *selected: str) -> str:
    """What pytest says of the tests of the night, in a process of its own."""
    argv = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *selected, "tests/nightly"]
    argv += ["--ft-out", str(folder / "out")]
    return subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, check=False).stdout


def test_what_needs_more_gpus_than_there_are_is_skipped_with_the_reason(stand_in: Any, tmp_path: Path) -> None:
    """Before anything is started."""
    stand_in.has(stand_in.gpu(0))
    said = ran(stand_in.environ, tmp_path, "-m", "nightly and gpu_2")
    assert "not applicable: 2 GPUs asked for, there are 1: GPU 0: Tesla-T4, compute capability 7.5, " in said
    assert "(docs/nightly-gpu.md)" in said
    assert " passed" not in said


def test_with_a_gpu_they_run(stand_in: Any, tmp_path: Path) -> None:
    """What is missing then is the engine, and its own test says so."""
    stand_in.has(stand_in.gpu(0))
    environ = {**stand_in.environ, "FTHARNESS_CACHE": str(tmp_path / "none")}
    said = ran(environ, tmp_path, "-m", "nightly and gpu_1", "-k", "client_left", "--ft-stack", "vllm")
    assert "vllm serve, on a GPU needs an environment of yours: --sut-python PATH, with vllm" in said
