"""How an engine is launched: a profile, as data. A release that takes other flags is another file, not other code.

In the strings of a profile's and a pool's commands and variables stand placeholders: ``{python}`` and ``{bin}``, the
interpreter and the folder of its programs; ``{pool}``, the folder of this package; ``{model}`` and ``{served}``, where the model
lies and what requests call it; ``{port}`` or ``{port.NAME}``; ``{slots}``; ``{gpus}``, how many devices it sees; ``{engine_id}``;
``{workdir}``; ``{unique}``, a word that no other start has; ``{stop_s}``, whole seconds that it may take to end. Other braces, as
of JSON, stay.
"""

from pathlib import Path

import msgspec

from ftharness.logs import read_toml
from ftharness.pool.prepared import Supports, Told
from ftharness.suggest import nearest

FOLDER = Path(__file__).parent / "profiles"


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What it has beside, on one kind of device.

    Attributes:
        args: More arguments.
        env: More variables.
    """

    args: list[str] = []
    env: dict[str, str] = {}


class EngineProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A profile.

    Attributes:
        what: In a few words, for people.
        package: The distribution that it was compared with; "": ours.
        versions: And its versions.
        command: The program and its arguments; [] where the pool brings its own.
        env: Variables.
        pass_env: Names of the manager's variables that it needs.
        ports: Names of the ports that it listens on; ``http`` is where it serves.
        hold_ports: Whether a port can be held for it until it binds it: a server without SO_REUSEADDR cannot bind one that is.
        health_path: Of the request that says whether it is well.
        slots: Requests that it runs at once, where the pool does not say.
        needs_model: Whether it cannot be started without a model.
        needs_device: Whether it cannot without a GPU.
        version_at: Where it says its version.
        slots_at: And how many requests it runs at once.
        supports: What it can.
        cpu: What it has beside where it sees no device.
        gpu: And where it does.
    """

    what: str
    package: str = ""
    versions: str = ""
    command: list[str] = []
    env: dict[str, str] = {}
    pass_env: list[str] = []
    ports: list[str] = msgspec.field(default_factory=lambda: ["http"])
    hold_ports: bool = True
    health_path: str = "/health"
    slots: int = 1
    needs_model: bool = True
    needs_device: bool = False
    version_at: Told | None = None
    slots_at: Told | None = None
    supports: Supports = Supports()
    cpu: Variant = Variant()
    gpu: Variant = Variant()


def find_profile(name: str) -> EngineProfile:
    """The profile of a name.

    Args:
        name: Of one that ships, or a file that ends in ``.toml``.

    Raises:
        LookupError: There is none; names the nearest.
        TomlError: The file is wrong; says where.
    """
    if name.endswith(".toml"):
        return read_toml(Path(name), EngineProfile)
    known = {path.stem: path for path in FOLDER.glob("*.toml")}
    if name not in known:
        raise LookupError(f"no engine profile {name!r}; {nearest(name, known, ', or a .toml file')}")
    return read_toml(known[name], EngineProfile)
