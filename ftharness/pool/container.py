"""An engine in a container: the command that podman or docker is given, rendered anywhere, run only where one of them is.

What a container adds to a process of its own: its own files, its own network, no capability at all. Its port is published on
loopback; the image has to be there, for nothing is pulled.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ftharness.pool.config import ContainerConfig
from ftharness.pool.masks import Mask
from ftharness.pool.prepared import PreparedEngine
from ftharness.pool.privileges import privileges

#: What the engine listens on inside: its own network's every address, of which the host sees what is published.
_INSIDE = "0.0.0.0"  # noqa: S104 - the container's, not the host's
_WORKDIR = "/work"
#: What the program itself needs: rootless podman keeps its images below the user's home.
_OWN = ("PATH", "HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "DOCKER_HOST", "DBUS_SESSION_BUS_ADDRESS")


class ContainerError(ValueError):
    """It cannot be run in a container; the message says what is missing."""


def program(wanted: str, path: str | None = None) -> str:
    """The whole path of podman or docker: the one that is wanted, or with ``auto`` podman before docker.

    Args:
        wanted: ``podman``, ``docker`` or ``auto``.
        path: Where to look; None: in our own PATH.

    Raises:
        ContainerError: There is none.
    """
    names = ("podman", "docker") if wanted == "auto" else (wanted,)
    found = next((where for name in names if (where := shutil.which(name, path=path))), None)
    if found is None:
        raise ContainerError(f"no {' or '.join(names)} on PATH: install one, or leave container out")
    return found


def contained(
    prepared: PreparedEngine,
    config: ContainerConfig,
    *,
    name: str,
    model: str,
    mask: Mask,
    environ: Mapping[str, str] = os.environ,
) -> PreparedEngine:
    """The same engine, started in a container.

    Its output and its end are the program's, which stays in the foreground; ``stop`` removes the container where killing the
    program, which is a client of docker's daemon, left it running.

    Args:
        prepared: As it would be started without.
        config: Of the container.
        name: The container's, which no other on this machine has.
        model: Where the model lies; mounted there as well, not writable. "": it has none.
        mask: The devices that it sees.
        environ: The manager's variables: how the program finds its own files.

    Raises:
        ContainerError: There is no such program.
    """
    run = program(config.program, environ.get("PATH"))
    podman = Path(run).name == "podman"
    argv = ["run", "--rm", "--name", name, "--pull", "never", "--init"]
    argv += ["--cap-drop=ALL", "--security-opt=no-new-privileges"]
    argv += [f"--security-opt=seccomp={config.seccomp}"] if config.seccomp else []
    argv += [f"--security-opt=apparmor={config.apparmor}"] if config.apparmor else []
    argv += ["--user", _user(prepared.user)]
    argv += ["--userns=keep-id"] if podman and os.geteuid() != 0 else []
    argv += ["--network", config.network] if config.network else []
    for port in prepared.ports.values():
        argv += ["--publish", f"127.0.0.1:{port}:{port}"]
    argv += ["--memory", str(config.memory_bytes)] if config.memory_bytes else []
    argv += ["--shm-size", str(config.shm_bytes)] if config.shm_bytes else []
    argv += ["--volume", f"{prepared.workdir}:{_WORKDIR}", "--workdir", _WORKDIR]
    if model:
        argv += ["--volume", f"{model}:{model}:ro"]
    for mount in config.mounts:
        argv += ["--volume", f"{mount.source}:{mount.target}{'' if mount.writable else ':ro'}"]
    argv += _devices(mask, podman=podman)
    inside_env = _inside(prepared)
    # By name alone, and from the program's own environment: a value may be a secret, and a command line is for all to read.
    argv += [word for key, value in inside_env.items() for word in ("--env", f"{key}={value}" if key in _OWN else key)]
    entry, *inside = [word.replace(prepared.workdir, _WORKDIR) for word in _listening(prepared.argv)]
    return msgspec.structs.replace(
        prepared,
        bin=run,
        args=(*argv, "--entrypoint", entry, config.image, *inside),  # an image's own would come before the command
        env=inside_env | {key: environ[key] for key in _OWN if key in environ},
        container=name,
        stop=(run, "rm", "--force", name),
        user="",  # it is the container's: whoever runs podman has to be whoever has the images
    )


def _user(user: str) -> str:
    its = privileges(user)
    uid = os.geteuid() if its.uid is None else its.uid
    gid = os.getegid() if its.gid is None else its.gid
    return f"{uid}:{gid}"


def _devices(mask: Mask, *, podman: bool) -> list[str]:
    """The devices of the mask, by UUID: an order inside a container has no other name."""
    if not mask.devices:
        return []
    if podman:  # by the Container Device Interface, which nvidia-ctk writes the files of
        return [word for uuid in mask.uuids for word in ("--device", f"nvidia.com/gpu={uuid}")]
    return ["--gpus", f'"device={",".join(mask.uuids)}"']  # docker reads it as a line of CSV, hence the quotes


def _inside(prepared: PreparedEngine) -> dict[str, str]:
    """Its variables there: what names places of the host stays outside, and inside it sees its devices from 0."""
    outside = {"PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HOME"}
    kept = {key: value.replace(prepared.workdir, _WORKDIR) for key, value in prepared.env.items() if key not in outside}
    return kept | {"HOME": _WORKDIR}


def _listening(argv: list[str]) -> list[str]:
    """The command with its host's address for one that a published port reaches: what comes to loopback inside is inside's."""
    return [_INSIDE if before == "--host" else word for before, word in zip(["", *argv], argv, strict=False)]
