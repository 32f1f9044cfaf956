"""What may stand in a launch profile, and which one a run means.

A profile says how one kind of process of a real system is started: an engine server, a worker, a gateway. In every string of
its command, environment, readiness and arguments stand placeholders:

``{python}`` and ``{bin}``: the interpreter of its environment, and the folder of that one's programs; ``{model}`` and
``{served}``: the model's folder, and its name in requests; ``{name}`` and ``{place}``: the process's name, and its place among
its like, from 0; ``{core}``: a core of this machine for it, round robin; ``{gpus}``: how many GPUs it has; ``{slots}``: requests
that it may run at once; ``{drain_s}``: whole seconds that it may take to end; ``{run}``: the run's folder;
``{port.NAME}``: a port of its own.
"""

from pathlib import Path
from typing import Literal, get_args

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from ftharness.logs import ContractError, TomlError, load_contract, read_toml
from ftharness.logs.toml_file import line_of
from ftharness.stack.provision_errors import SpecError
from ftharness.stack.provision_spec import parsed
from ftharness.suggest import nearest

FOLDER = Path(__file__).parent

Device = Literal["cpu", "gpu"]


class Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When it is ready: all of these hold.

    Attributes:
        http: A URL that answers 200.
        log: An event of its contract.
    """

    http: str = ""
    log: str = ""


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one such process needs.

    Attributes:
        gpus: Whole GPUs, which are its own for as long as the run lasts.
        memory_mb: Memory of the machine, in MB.
    """

    gpus: int = 0
    memory_mb: int = 0


class RoleOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a process of a role has beside.

    Attributes:
        arguments: More of its command line.
        environment: More variables.
    """

    arguments: list[str] = []
    environment: dict[str, str] = {}


class Sleep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the engine is put to sleep and woken, where it can be.

    Attributes:
        arguments: What it has to be started with.
        sleep: ``POST`` of this URL puts it to sleep.
        wake: And of this wakes it.
    """

    arguments: list[str] = []
    sleep: str = ""
    wake: str = ""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A launch profile.

    Attributes:
        stack: The stack that it is a part of.
        engine: The engine in it; empty for a gateway.
        device: ``cpu`` or ``gpu``.
        what: In a few words, for people.
        environment: The spec, without a version, of the environment that ``ftharness provision`` makes for it; empty where
            there is none, and ``--sut-python`` has to name one.
        package: The distribution whose version is the system's.
        versions: Those whose command line it was compared with.
        command: What is run.
        env: Variables; one that is empty is not passed on.
        ports: Names of ports that it listens on.
        fresh: Files that may not be there when it starts.
        ready: When it is ready.
        metrics: Where it serves ``/metrics``; or the event of its contract that says at which port.
        contract: What its log lines mean.
        resources: What it needs.
        role: Where prefill and decode are apart, by role, what the command has beside.
        strategies: In which orders its workers can be asked, where prefill and decode are apart.
        sleep: How the engine is put to sleep.
        named_in: The field of a request's body in which it looks for the request's name; empty where it takes X-Request-Id.
        stop_s: Seconds that it may take to end when nothing is left to do: one that is killed leaves its shared memory behind.
        settle_s: Seconds in which what it started may end by itself once it is gone; only what is still there then is a leak. A
            worker of vLLM's was seen to take 6 s beside other work.
        ready_s: Seconds after which one that is not ready never will be.
    """

    stack: str
    engine: str = ""
    device: Device
    what: str
    environment: str = ""
    package: str
    versions: str
    command: list[str]
    env: dict[str, str] = {}
    ports: list[str] = []
    fresh: list[str] = []
    ready: Ready = Ready()
    metrics: str = ""
    contract: str
    resources: Resources = Resources()
    role: dict[str, RoleOf] = {}
    strategies: list[str] = []
    sleep: Sleep = Sleep()
    named_in: str = ""
    stop_s: float = 20.0
    settle_s: float = 15.0
    ready_s: float = 300.0


def shipped_profiles() -> dict[str, Profile]:
    """Each profile that ships, by its file's name, such as ``vllm-cpu``."""
    return {path.stem: read_toml(path, Profile) for path in sorted(FOLDER.glob("*.toml"))}


def find_profile(name: str, stack: str, engine: str, default: Device) -> Profile:
    """The profile of an engine on a stack.

    Args:
        name: ``cpu``, ``gpu``, a file that ends in ``.toml``, or "" for ``default``.
        stack: For which stack.
        engine: And which engine on it.
        default: Where nobody says.

    Raises:
        LookupError: There is none; names those that there are.
        TomlError: The file is wrong, or it is about another stack or engine: what it launches would have a wrong name in every
            report; says where.
    """
    if name.endswith(".toml"):
        return _of_user(Path(name), stack, engine)
    device = name or default
    if device not in get_args(Device):
        raise LookupError(f"profile = {name!r}: must be cpu, gpu or a .toml file; {nearest(name, get_args(Device))}")
    its = [one for one in shipped_profiles().values() if (one.stack, one.engine) == (stack, engine)]
    found = [one for one in its if one.device == device]
    if not found:
        there_is = f"; there is {', '.join(one.device for one in its)}" if its else ""
        raise LookupError(f"no profile {device} of {engine} on {stack}{there_is}; a .toml file can be one")
    return found[0]


def _of_user(path: Path, stack: str, engine: str) -> Profile:
    """A file of the user's, which has to be about that engine on that stack."""
    profile = read_toml(path, Profile)

    def wrong(key: str, why: object) -> TomlError:
        return TomlError(f"{path}:{line_of(path.read_text(encoding='utf-8'), f'.{key}')}: {why}")

    for key, wanted in (("stack", stack), ("engine", engine)):
        given = getattr(profile, key)
        if given != wanted:
            raise wrong(key, f"{key} = {given!r}: what is to be launched is {engine} on {stack}")
    if not profile.command:
        raise wrong("command", "command is empty")
    try:
        SpecifierSet(profile.versions)
    except InvalidSpecifier:
        raise wrong("versions", f"versions = {profile.versions!r}: they look like >=0.32,<0.33") from None
    try:
        if profile.environment:
            parsed(profile.environment)
    except SpecError as error:
        raise wrong("environment", error) from None
    try:
        load_contract(profile.contract, "0")
    except ContractError as error:
        raise wrong("contract", error) from None
    return profile
