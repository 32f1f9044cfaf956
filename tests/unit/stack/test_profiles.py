"""Launch profiles: data that names what there is, and the commands that come of it."""

import asyncio
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from ftharness.cli import StackOption
from ftharness.contract_check import check_contract
from ftharness.engine.dialects import DIALECTS
from ftharness.logs import TomlError, load_contract
from ftharness.registry import installed
from ftharness.session import cell_of, checked, run_folder, untried
from ftharness.stack import (
    NotApplicable,
    NotAvailable,
    Settings,
    Topology,
    aggregated,
    alone,
    disaggregated,
    find_stack,
)
from ftharness.stack import real as real_module
from ftharness.stack import servers as servers_module
from ftharness.stack.dynamo import DynamoMockerStack, Release, Workers
from ftharness.stack.groups import Groups
from ftharness.stack.interpreters import Interpreter, interpreter_for
from ftharness.stack.profiles import Profile, find_profile, shipped_profiles
from ftharness.stack.provision_spec import parsed
from ftharness.stack.real import engine_profile
from ftharness.stack.servers import Servers, has_memory

PROFILES = shipped_profiles()


def launches(profile: Profile, folder: Path, topology: Topology, **env: str) -> list[Any]:
    """What would be started."""
    interpreter = Interpreter(Path("/sut/bin/python"), {"INHERITED": "1", **env}, "1.6.1")
    settings = Settings(engine=profile.engine or "vllm", folder=folder)
    servers = Servers(profile, interpreter, topology, settings, model="/models/m", served="m")
    try:
        return [servers.launch(name, role) for name, role in topology.members]
    finally:
        servers.close()


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_names_what_there_is(name: str, tmp_path: Path) -> None:
    """A stack that is installed, an engine, a contract, a spec that can be provisioned; every placeholder has a meaning."""
    profile = PROFILES[name]
    assert profile.stack in installed("ftharness.stacks")
    assert profile.engine in ("", *DIALECTS)
    assert load_contract(profile.contract, "0").backend == profile.contract
    assert not profile.environment or parsed(profile.environment).recipe.stacks
    topology = disaggregated() if profile.strategies else aggregated()
    for launch in launches(profile, tmp_path, topology):
        assert not [word for word in (*launch.argv, *launch.env.values()) if "{port" in word or "{model" in word]
        assert launch.env["INHERITED"] == "1"
        assert set(launch.ports) == set(profile.ports)


@pytest.mark.parametrize("name", [name for name, one in PROFILES.items() if one.device == "gpu"])
def test_an_engine_on_a_gpu_has_one_of_its_own_and_a_profile_without_an_environment(name: str) -> None:
    """Nothing that is provisioned here has a build for GPUs."""
    assert PROFILES[name].resources.gpus >= 1
    assert not PROFILES[name].environment


def test_each_server_has_its_own_ports_and_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores go round, of those that this process may use."""
    monkeypatch.setattr(servers_module.os, "sched_getaffinity", lambda _: {5, 2})
    one, two, three = launches(PROFILES["vllm-cpu"], tmp_path, aggregated(workers=3))
    assert len({launch.ports["http"] for launch in (one, two, three)}) == 3
    assert [launch.env["VLLM_CPU_OMP_THREADS_BIND"] for launch in (one, two, three)] == ["2", "5", "2"]
    assert str(one.ports["http"]) in one.argv
    assert one.metrics_url == f"http://127.0.0.1:{one.ports['http']}"
    assert one.argv[0] == "/sut/bin/vllm"


def test_a_role_adds_its_own_arguments(tmp_path: Path) -> None:
    """Where prefill and decode are apart."""
    prefill, decode = launches(PROFILES["dynamo-vllm-gpu"], tmp_path, disaggregated(strategy="frontend_routed"))
    assert prefill.argv[prefill.argv.index("--disaggregation-mode") + 1] == "prefill"
    assert decode.argv[decode.argv.index("--disaggregation-mode") + 1] == "decode"
    assert prefill.env["VLLM_NIXL_SIDE_CHANNEL_PORT"] != decode.env["VLLM_NIXL_SIDE_CHANNEL_PORT"]


def test_a_profile_of_the_users_is_a_file(tmp_path: Path) -> None:
    """It replaces the shipped one, and is read with the same care."""
    file = tmp_path / "mine.toml"
    said = {"stack": "vllm", "engine": "vllm", "device": "gpu", "what": "mine", "package": "vllm", "versions": ">=0"}
    text = "".join(f'{key} = "{value}"\n' for key, value in said.items()) + 'command = ["x"]\ncontract = "vllm-serve"\n'
    file.write_text(text)
    assert find_profile(str(file), "vllm", "vllm", "cpu").what == "mine"
    file.write_text(text + "comand = 1\n")
    with pytest.raises(TomlError, match="comand"):
        find_profile(str(file), "vllm", "vllm", "cpu")


def test_what_there_is_no_profile_of_is_said() -> None:
    with pytest.raises(LookupError, match=r"must be cpu, gpu or a \.toml file; did you mean .*gpu"):
        find_profile("gpus", "vllm", "vllm", "cpu")
    with pytest.raises(LookupError, match="no profile cpu of trtllm on dynamo; there is gpu"):
        engine_profile("dynamo", "trtllm", Topology(profile="cpu"))


def test_an_engine_that_needs_a_gpu_is_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong with the call: on another machine it runs."""
    monkeypatch.setattr(real_module, "default_device", lambda: "cpu")
    with pytest.raises(NotAvailable, match="no GPU that can be used, and there is no profile cpu of trtllm on dynamo"):
        engine_profile("dynamo", "trtllm", Topology())
    cell_of("migration/drain", "dynamo", engine="trtllm")


NOWHERE = {
    "a profile": ("vllm", {"profile": "nosuch"}, "", r"profile = 'nosuch': must be cpu, gpu or a \.toml file"),
    "a profile of another engine": ("dynamo", {"profile": "cpu"}, "", "no profile cpu of trtllm on dynamo"),
    "a profile's file": ("vllm", {"profile": "nosuch.toml"}, "", r"nosuch\.toml: there is no such file"),
    "a model": ("vllm", {"model": "/proc"}, "", "model = '/proc': /proc is no folder of a model"),
    "an interpreter": ("vllm", {}, "/nowhere/python", "--sut-python /nowhere/python: there is no such interpreter"),
    "a folder for one": ("sim", {}, "/usr", "--sut-python /usr: there is no such interpreter"),
    "a model of a stack without": ("dynamo-sim", {"model": "/m"}, "", "model=/m: the stack dynamo-sim launches no"),
}


@pytest.mark.parametrize("name", NOWHERE)
def test_what_there_can_be_on_no_machine_is_refused_before_anything_starts(name: str) -> None:
    """As the call's own mistake: it is not what is missing here."""
    stack, params, python, says = NOWHERE[name]
    engine = "trtllm" if stack == "dynamo" else ""
    with pytest.raises((LookupError, ValueError, TomlError), match=says):
        cell_of("migration/drain", stack, engine=engine, params=params, sut_python=python)


def test_a_program_that_is_no_python_is_no_interpreter() -> None:
    """It ends with 0, whatever it is asked, and says nothing."""
    with pytest.raises(ValueError, match="it runs, and is no Python"):
        interpreter_for(PROFILES["vllm-cpu"], Path("/bin/true"))


def test_what_is_run_can_be_run_again_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each path is stored whole: a profile, a model, a stack, an interpreter."""
    mine(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "python").symlink_to(sys.executable)
    (tmp_path / "stack.toml").write_text(
        'name = "s"\nurl = "http://127.0.0.1:1"\nmodel = "m"\nprocess = [{ name = "p", command = ["x"] }]\n'
    )
    monkeypatch.chdir(tmp_path)
    cell = cell_of("migration/drain", "smg", params={"profile": "./mine.toml", "model": "."}, sut_python="python")
    topology = cell.scenario.topology
    assert (topology.profile, topology.model, cell.sut_python) == tuple(
        str(tmp_path / name) for name in ("mine.toml", ".", "python")
    )
    cell = cell_of("migration/drain", "./stack.toml")
    monkeypatch.chdir("/")
    assert checked(cell) == cell
    assert cell.stack == str(tmp_path / "stack.toml")


def test_a_contract_that_could_not_be_checked_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run that did not begin."""
    monkeypatch.setattr(real_module, "default_device", lambda: "cpu")
    cell = cell_of("migration/drain", "dynamo", engine="trtllm")
    with pytest.raises(NotAvailable):
        asyncio.run(check_contract(find_stack("dynamo"), cell, tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_folder_in_which_nothing_was_run_is_not_left_behind(tmp_path: Path) -> None:
    """One that was there before is."""
    there = tmp_path / "there"
    there.mkdir()
    for out in (there, tmp_path / "new"):
        with pytest.raises(NotAvailable), run_folder(out, "x") as folder:
            raise NotAvailable(str(folder))
    assert list(tmp_path.iterdir()) == [there]


def test_a_machine_without_the_memory_is_told_apart() -> None:
    """Rather than a run that swaps, whose times mean nothing."""
    has_memory(1, PROFILES["smg"])
    with pytest.raises(
        NotAvailable, match=r"9999 of vllm serve, on a CPU need 25997\.4 GB of memory; .* are available"
    ):
        has_memory(9999, PROFILES["vllm-cpu"])


@pytest.mark.parametrize("name", ["sim", "dynamo-sim", "dynamo-mocker", "dynamo"])
def test_workers_that_serve_no_clients_need_a_frontend(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match=f"frontend = false does not exist on {name}"):
        find_stack(name).plan(alone(), Settings(engine="vllm", folder=tmp_path))


def test_only_one_worker_can_be_asked_directly() -> None:
    with pytest.raises(ValueError, match="only one worker, without standbys"):
        Topology(workers=2, frontend=False)


#: What a file of the user's has to say at least.
MINE = {
    "stack": "vllm",
    "engine": "vllm",
    "device": "gpu",
    "what": "mine",
    "package": "vllm",
    "versions": ">=0",
    "contract": "vllm-serve",
}


def mine(folder: Path, **other: str) -> str:
    """The path of such a file, with some of it replaced."""
    file = folder / "mine.toml"
    file.write_text('command = ["x"]\n' + "".join(f'{key} = "{value}"\n' for key, value in (MINE | other).items()))
    return str(file)


@pytest.mark.parametrize(
    "other,says",
    [
        ({"stack": "dynamo"}, r"mine\.toml:2: stack = 'dynamo': what is to be launched is vllm on vllm"),
        ({"engine": "sglang"}, r"mine\.toml:3: engine = 'sglang': what is to be launched is vllm on vllm"),
        ({"versions": "0.32"}, r"mine\.toml:7: versions = '0\.32': they look like"),
        (
            {"environment": "vllm-cpuu"},
            r"mine\.toml:9: nothing is known of how to provision 'vllm-cpuu'; did you mean vllm",
        ),
        ({"contract": "vllm-srve"}, r"mine\.toml:8: .*vllm-srve"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_profile_of_something_else_is_refused_with_its_line(tmp_path: Path, other: dict[str, str], says: str) -> None:
    """It would be launched under a name that is not its own, or not at all."""
    with pytest.raises(TomlError, match=says):
        find_profile(mine(tmp_path, **other), "vllm", "vllm", "cpu")


def test_a_version_that_a_profile_does_not_name_is_said(tmp_path: Path) -> None:
    """It is tried all the same: new releases are what is to be tested. Here pytest's stands for an engine's."""
    given = {"package": "pytest", "versions": ">=1,<2"}
    cell = cell_of("migration/drain", "vllm", params={"profile": mine(tmp_path, **given)}, sut_python=sys.executable)
    assert untried(cell) == f"mine.toml is for pytest >=1,<2; this is {pytest.__version__}, which is tried all the same"
    mine(tmp_path, package="pytest", versions=">=1")
    assert untried(cell) == ""


def test_help_names_every_stack() -> None:
    help_ = get_args(StackOption)[1].help
    assert not [name for name in installed("ftharness.stacks") if name not in help_]


def test_what_is_held_for_workers_is_let_go_with_the_plan(tmp_path: Path) -> None:
    """A port of a worker's, as a profile for GPUs has, as well as the frontend's."""
    closed: list[str] = []

    class Stack(DynamoMockerStack):
        def _release(self, topology: Topology, settings: Settings, store: Path) -> Release:
            del topology, store
            return Release("/sut/bin/python", "1.6.1", {}, settings.folder)

        def _workers(self, release: Release, topology: Topology, settings: Settings, groups: Groups) -> Workers:
            workers = super()._workers(release, topology, settings, groups)
            return workers._replace(close=lambda: closed.append("workers"))

    plan = Stack().plan(aggregated(), Settings(engine="vllm", folder=tmp_path))
    assert not closed
    plan.close()
    assert closed == ["workers"]
