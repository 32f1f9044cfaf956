"""From a configuration to an engine that could be started."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from ftharness.pool import Devices, DeviceSnapshot, PoolConfig
from ftharness.pool.config import ContainerConfig, MountConfig
from ftharness.pool.preparation import PrepareError, prepare
from ftharness.pool.prepared import PreparedEngine, Told
from ftharness.pool.profile import FOLDER, find_profile
from ftharness.pool.staging import Staged

GPUS = Devices(
    gpus=tuple(
        DeviceSnapshot(
            id=place,
            compute_capability="9.0",
            vram_total_bytes=1,
            vram_free_bytes=1,
            uuid=f"GPU-{place}{place}{place}",
            name="H100",
        )
        for place in range(4)
    )
)
MODEL = Staged(model_id="tiny", path="/models/tiny")
SECRETS = {
    "PATH": "/usr/bin",
    "HF_TOKEN": "hf_secret",
    "HOME": "/root",
    "LANG": "C",
    "CUDA_HOME": "/cuda",
    "CUDA_VISIBLE_DEVICES": "3",
}


def prepared(config: PoolConfig, tmp_path: Path, *, engine_id: str = "", **more: Any) -> PreparedEngine:
    arguments = {"devices": GPUS, "state_dir": tmp_path, "environ": SECRETS} | more
    staged = arguments.pop("staged", MODEL)
    return prepare(config, staged, engine_id or f"{config.id}-1", **arguments)


def after(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_an_engine_gets_the_variables_that_are_named_and_no_other(tmp_path: Path) -> None:
    """Not the manager's secrets, nor its home, nor its devices."""
    config = PoolConfig(id="p", engine="vllm", env={"MINE": "{engine_id}:{port}", "JSON": '{"a": 1}'})
    engine = prepared(config, tmp_path)
    assert {key for key in engine.env if key in SECRETS} == {
        "PATH",
        "HOME",
        "LANG",
        "CUDA_HOME",
        "CUDA_VISIBLE_DEVICES",
    }
    assert engine.env["HOME"] == engine.workdir == str(tmp_path / "work" / "p-1")
    assert engine.env["CUDA_VISIBLE_DEVICES"] == ""
    assert engine.env["MINE"] == f"p-1:{engine.ports['http']}"
    assert engine.env["JSON"] == '{"a": 1}'
    passed = prepared(PoolConfig(id="p", engine="vllm", pass_env=["HF_TOKEN"]), tmp_path)
    assert passed.env["HF_TOKEN"] == SECRETS["HF_TOKEN"]


def test_nothing_is_started_and_no_folder_is_made(tmp_path: Path) -> None:
    """It is data; its port is free, and nobody listens there."""
    engine = prepared(PoolConfig(id="p", engine="sim"), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", engine.ports["http"])) != 0
    assert engine.url == f"http://127.0.0.1:{engine.ports['http']}"
    assert ("run as root" in engine.advisory) == (os.geteuid() == 0)


@pytest.mark.parametrize(
    "engine, flags",
    [
        (
            "vllm",
            {
                "serve": "/models/tiny",
                "--served-model-name": "tiny",
                "--max-num-seqs": "8",
                "--tensor-parallel-size": "2",
            },
        ),
        (
            "sglang",
            {
                "--model-path": "/models/tiny",
                "--served-model-name": "tiny",
                "--max-running-requests": "8",
                "--tp-size": "2",
            },
        ),
        ("trtllm", {"--max_batch_size": "8", "--tp_size": "2"}),
    ],
)
def test_a_profile_says_how_an_engine_is_launched(tmp_path: Path, engine: str, flags: dict[str, str]) -> None:
    """Model, name, slots and devices under the flags of each; loopback; the pool's own arguments last."""
    config = PoolConfig(
        id="p",
        engine=engine,
        slots_per_engine=8,
        device_mask=[2, "GPU-000"],
        args=["--mine", "{port}"],
        python="/venv/bin/python",
    )
    one = prepared(config, tmp_path)
    for flag, value in flags.items():
        assert after(one.argv, flag) == value
    assert after(one.argv, "--host") == "127.0.0.1"
    assert after(one.argv, "--port") == str(one.ports["http"])
    assert one.argv[-2:] == ["--mine", str(one.ports["http"])]
    assert one.bin.startswith("/venv/bin/")
    assert one.env["CUDA_VISIBLE_DEVICES"] == "2,0"
    assert one.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert one.device_mask == ("GPU-222", "GPU-000")
    assert (one.health_path, one.model_id, one.slots) == ("/health", "tiny", 8)


def test_each_replica_has_its_own_devices_ports_and_folder(tmp_path: Path) -> None:
    """So many of the mask, in turn."""
    config = PoolConfig(id="p", engine="vllm", replicas=2, device_mask=[0, 1, 2, 3], devices_per_engine=2)
    first, second = (prepared(config, tmp_path, engine_id=engine_id) for engine_id in config.engine_ids)
    assert (first.env["CUDA_VISIBLE_DEVICES"], second.env["CUDA_VISIBLE_DEVICES"]) == ("0,1", "2,3")
    assert after(second.argv, "--tensor-parallel-size") == "2"
    assert first.ports != second.ports
    assert first.workdir != second.workdir


@pytest.mark.parametrize(
    "config, staged, why",
    [
        ({"engine": "vlm"}, MODEL, r"no engine profile 'vlm'; did you mean vllm\?"),
        ({"engine": "vllm"}, Staged(), "the profile vllm needs a model, and none is set"),
        ({"engine": "trtllm"}, MODEL, "the profile trtllm needs a GPU: set device_mask"),
        ({"engine": "vllm", "device_mask": [9]}, MODEL, "no device 9; there are 0"),
        ({"engine": "sim", "user": "nobody-of-that-name"}, MODEL, "there is none on this machine"),
        ({"engine": "sim", "args": ["{prot}"]}, MODEL, r"unknown placeholder \{prot\}; there are bin, engine_id, gpus"),
        ({"engine": "none.toml"}, MODEL, "none.toml: there is no such file"),
        ({"engine": "sim", "container": ContainerConfig(image="i", program="podman")}, MODEL, "no podman on PATH"),
    ],
)
def test_what_could_not_be_started_is_told(tmp_path: Path, config: dict[str, Any], staged: Staged, why: str) -> None:
    """With the pool, and what to change."""
    with pytest.raises(PrepareError, match=f"pool 'p': .*{why}"):
        prepared(PoolConfig(id="p", **config), tmp_path, staged=staged, environ={"PATH": str(tmp_path)})


def test_every_profile_that_ships_can_be_read(tmp_path: Path) -> None:
    """And prepares an engine; a field of an answer is found where a profile says."""
    names = {path.stem for path in FOLDER.glob("*.toml")}
    assert names == {"sim", "vllm", "sglang", "trtllm", "command"}
    for name in names:
        command = ["/bin/own", "{port}"] if name == "command" else []
        engine = prepared(PoolConfig(id="p", engine=name, command=command, device_mask=[0]), tmp_path)
        assert str(engine.ports["http"]) in engine.argv
    assert find_profile("sglang").slots_at == Told("/server_info", "max_running_requests")
    assert Told("/x", "a.b").of({"a": {"b": 3}}) == 3
    assert Told("/x", "a.b").of({"a": 3}) is None


def test_a_port_is_called_what_its_profile_calls_it(tmp_path: Path) -> None:
    """Also with digits and dashes; a name that it does not have is told, whatever it looks like, and other braces stay."""
    profile = tmp_path / "own.toml"
    profile.write_text('what = "own"\ncommand = ["/bin/own"]\nports = ["http", "KV-2"]\nneeds_model = false\n')
    engine = prepared(PoolConfig(id="p", engine=str(profile), args=["{port.KV-2}", "{3}", '{"a":{}}']), tmp_path)
    assert engine.args == (str(engine.ports["KV-2"]), "{3}", '{"a":{}}')
    with pytest.raises(PrepareError, match=r"unknown placeholder \{port\.KV-3\}; there are .*, port\.KV-2, "):
        prepared(PoolConfig(id="p", engine=str(profile), args=["{port.KV-3}"]), tmp_path)


def fake_program(folder: Path, name: str) -> str:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_a_container_has_no_capability_and_a_model_that_it_cannot_write(tmp_path: Path) -> None:
    """Its port on loopback, its own folder, its devices by UUID, its program in place of the image's; nothing is pulled."""
    docker = fake_program(tmp_path, "docker")
    container = ContainerConfig(
        image="vllm/vllm-openai:v0.32.0",
        mounts=[MountConfig(source="/data", target="/d"), MountConfig(source="/out", target="/o", writable=True)],
        seccomp="/etc/seccomp.json",
        network="inside",
        memory_bytes=1 << 30,
    )
    config = PoolConfig(id="p", engine="vllm", device_mask=["GPU-111"], container=container, env={"OWN": "1"})
    engine = prepared(config, tmp_path, environ={**SECRETS, "PATH": str(tmp_path)})
    argv, port = engine.argv, engine.ports["http"]
    assert argv[:2] == [docker, "run"]
    for word in (
        "--rm",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--security-opt=seccomp=/etc/seccomp.json",
    ):
        assert word in argv
    assert "--privileged" not in argv
    assert after(argv, "--pull") == "never"
    assert after(argv, "--publish") == f"127.0.0.1:{port}:{port}"
    assert after(argv, "--network") == "inside"
    assert after(argv, "--gpus") == '"device=GPU-111"'
    assert after(argv, "--user") == f"{os.geteuid()}:{os.getegid()}"
    volumes = [argv[place + 1] for place, word in enumerate(argv) if word == "--volume"]
    assert volumes == [f"{engine.workdir}:/work", "/models/tiny:/models/tiny:ro", "/data:/d:ro", "/out:/o"]
    variables = [argv[place + 1].partition("=")[0] for place, word in enumerate(argv) if word == "--env"]
    assert {"OWN", "HOME", "HF_HUB_OFFLINE"} <= set(variables)
    assert not {"HF_TOKEN", "CUDA_VISIBLE_DEVICES", "PATH"} & set(variables)
    inside = argv[argv.index("--entrypoint") :]
    assert inside[:4] == ["--entrypoint", "/usr/local/bin/vllm", "vllm/vllm-openai:v0.32.0", "serve"]
    assert after(inside, "--host") == "0.0.0.0"  # noqa: S104 - the container's
    assert engine.stop == (docker, "rm", "--force", engine.container)
    assert "HF_TOKEN" not in engine.env
    assert "OWN=1" not in argv, "a value may be a secret, and every user can read a command line"
    assert engine.env["OWN"] == "1"
    elsewhere = prepared(config, tmp_path, environ={"PATH": str(tmp_path)}, state_dir=tmp_path / "other")
    assert elsewhere.container != engine.container, "another manager's pool may have the same name"


def test_podman_comes_before_docker(tmp_path: Path) -> None:
    """Where both are; its devices go by the interface that containers have for it."""
    fake_program(tmp_path, "docker")
    podman = fake_program(tmp_path, "podman")
    config = PoolConfig(id="p", engine="vllm", device_mask=[1], container=ContainerConfig(image="i"))
    engine = prepared(config, tmp_path, environ={"PATH": str(tmp_path)})
    assert engine.bin == podman
    assert after(engine.argv, "--device") == "nvidia.com/gpu=GPU-111"
