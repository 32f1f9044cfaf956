"""From a pool's configuration and a staged model to an engine that could be started: nothing is started here.

An engine gets no variable that nobody named: those of its profile, of its pool, and of the manager's only the ones that stand in
:data:`PASSED`, the profile's ``pass_env`` or the pool's. Its home is its own folder.
"""

import hashlib
import math
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from ftharness.logs import TomlError
from ftharness.placeholders import filled
from ftharness.pool.config import PoolConfig
from ftharness.pool.container import ContainerError, contained
from ftharness.pool.devices import Devices
from ftharness.pool.masks import Mask, mask
from ftharness.pool.prepared import PreparedEngine
from ftharness.pool.privileges import PrivilegesError, advisory
from ftharness.pool.profile import EngineProfile, find_profile
from ftharness.pool.staging import Staged, provisioner_words
from ftharness.process import PortReservation

#: Of the manager's variables, what every engine gets: where programs and libraries lie, and how text is written.
PASSED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")


class PrepareError(ValueError):
    """The engine could not be started as it is configured; the message says what to change."""


def prepare(
    config: PoolConfig,
    staged: Staged,
    engine_id: str,
    *,
    devices: Devices,
    state_dir: Path,
    environ: Mapping[str, str] = os.environ,
) -> PreparedEngine:
    """What it takes to start one engine of a pool.

    Args:
        config: Of the pool.
        staged: Its model.
        engine_id: Which engine: one of ``config.engine_ids``.
        devices: What there is.
        state_dir: The manager's, in which the engine has its folder unless the pool says otherwise.
        environ: The manager's variables.

    Raises:
        PrepareError: It cannot be started so: no such profile, device, user, program or placeholder.
    """
    try:
        profile = find_profile(config.engine)
        its_mask = _mask(config, engine_id, devices)
        if profile.needs_model and not staged.path:
            raise PrepareError(f"pool {config.id!r}: the profile {config.engine} needs a model, and none is set")
        if profile.needs_device and not its_mask.devices:
            raise PrepareError(f"pool {config.id!r}: the profile {config.engine} needs a GPU: set device_mask")
        advised = advisory(config.user)  # which tells of a user that there is not; who starts it asks again
        folder = Path(config.workdir) if config.workdir else state_dir / "work"
        workdir = folder.absolute() / engine_id
        slots = config.slots_per_engine or profile.slots
        model_id = staged.model_id or config.id
        ports = {name: _free_port(held=profile.hold_ports and config.container is None) for name in profile.ports}
        words = _words(
            config,
            ports,
            model=staged.path,
            served=model_id,
            engine_id=engine_id,
            slots=str(slots),
            gpus=str(len(its_mask.devices)),
            workdir=str(workdir),
        )
        variant = profile.gpu if its_mask.devices else profile.cpu
        command = [*(config.command or profile.command), *variant.args, *config.args]
        if not command:
            raise PrepareError(f"pool {config.id!r}: the profile {config.engine} has no command: set command")
        program, *args = (filled(word, words) for word in command)
        prepared = PreparedEngine(
            engine_id=engine_id,
            bin=program,
            args=tuple(args),
            env=_environment(config, profile, its_mask, words, environ),
            ports=ports,
            workdir=str(workdir),
            health_path=config.probe.path or profile.health_path,
            user=config.user,
            device_mask=its_mask.uuids,
            engine=config.engine,
            model_id=model_id,
            slots=slots,
            version_at=profile.version_at,
            slots_at=profile.slots_at,
            supports=profile.supports,
            stop_grace_s=config.stop_grace_s,
            advisory=advised if config.container is None else "",
        )
        if config.container is not None:
            # Two managers on one machine may have pools of one name: what sets them apart is where their state lies.
            place = hashlib.sha256(str(state_dir.absolute()).encode()).hexdigest()[:8]
            name = f"ftharness-{place}-{engine_id}"
            prepared = contained(
                prepared, config.container, name=name, model=staged.path, mask=its_mask, environ=environ
            )
    except (TomlError, LookupError, PrivilegesError, ContainerError) as error:
        raise PrepareError(f"pool {config.id!r}: {error.args[0]}") from error
    return prepared


def unknown_placeholders(config: PoolConfig, profile: EngineProfile) -> Iterator[tuple[str, str]]:
    """What the pool's own texts want filled in, and stands for nothing: by which key, and what there is."""
    words = _words(config, dict.fromkeys(profile.ports, 0))
    texts = [("command", config.command, words), ("args", config.args, words), ("env", config.env.values(), words)]
    for key, its, known in [*texts, ("provisioner", config.provisioner, provisioner_words(config))]:
        for text in its:
            try:
                filled(text, known)
            except LookupError as error:
                yield key, str(error.args[0])


def _mask(config: PoolConfig, engine_id: str, devices: Devices) -> Mask:
    try:
        whole = mask(config.device_mask, devices)
    except ValueError as error:
        raise PrepareError(f"pool {config.id!r}: {error}") from None
    return whole.share(config.engine_ids.index(engine_id), config.devices_per_engine)


def _words(
    config: PoolConfig,
    ports: Mapping[str, int],
    *,
    model: str = "",
    served: str = "",
    engine_id: str = "",
    slots: str = "",
    gpus: str = "",
    workdir: str = "",
) -> dict[str, str]:
    # In a container the programs are the image's; where they lie in the engines' own images.
    python = Path(config.python or (sys.executable if config.container is None else "/usr/local/bin/python3"))
    return {
        "python": str(python),
        "bin": str(python.parent),
        "pool": str(Path(__file__).parent),
        "model": model,
        "served": served,
        "engine_id": engine_id,
        "slots": slots,
        "gpus": gpus,
        "workdir": workdir,
        "unique": uuid.uuid4().hex,
        "stop_s": str(math.floor(config.stop_grace_s)),  # it is to be through before it is killed
        **({"port": str(ports["http"])} if "http" in ports else {}),
        **{f"port.{name}": str(number) for name, number in ports.items()},
    }


def _environment(
    config: PoolConfig, profile: EngineProfile, its_mask: Mask, words: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, str]:
    names = (*PASSED, *profile.pass_env, *config.pass_env)
    passed = {name: environ[name] for name in names if name in environ}
    variant = profile.gpu if its_mask.devices else profile.cpu
    own = {name: filled(value, words) for name, value in (profile.env | variant.env | config.env).items()}
    return {"PATH": os.defpath, "HOME": words["workdir"], "PYTHONUNBUFFERED": "1"} | passed | its_mask.environ | own


def _free_port(*, held: bool) -> int:
    """A port that nobody else gets for a minute: the engine binds it, and may take as long as that to come to it."""
    with PortReservation(held=held) as reserved:
        return reserved.port
