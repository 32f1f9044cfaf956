"""An engine that is ready to be started, and was not: everything that its start takes, as data."""

from typing import Any

import msgspec


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an engine says something of itself: a field of a JSON answer.

    Attributes:
        path: Of the ``GET``.
        key: The field; of nested ones, with a dot between.
    """

    path: str
    key: str

    def of(self, answer: Any) -> Any:
        """The field of an answer; None where it has none."""
        for step in self.key.split("."):
            answer = answer.get(step) if isinstance(answer, dict) else None
        return answer


class Supports(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an engine can, as its profile says.

    Attributes:
        quantizations: Of models.
        features: Of its API.
    """

    quantizations: list[str] = []
    features: list[str] = []


class PreparedEngine(msgspec.Struct, frozen=True, kw_only=True):
    """How one engine is started.

    Attributes:
        engine_id: Whose.
        bin: The program: a path, or a name in the ``PATH`` of ``env``.
        args: Its arguments, without the program.
        env: All of its variables: it inherits none.
        ports: By what the profile calls them; ``http`` is where it serves.
        workdir: Its own folder, made when it is started.
        health_path: Of the request that says whether it is well.
        user: Who it runs as; "": whoever starts it.
        device_mask: The UUIDs of the devices that it sees.
        engine: The profile's name.
        version: Of the engine, where it is known before it is started.
        model_id: What requests call the model.
        slots: Leases that it carries, unless it says otherwise itself.
        version_at: Where it says its version once it serves.
        slots_at: And where how many requests it runs at once.
        supports: What it can.
        container: The container's name, where it runs in one.
        stop: What ends its container, where ending the process may not be enough.
        stop_grace_s: Seconds from SIGTERM to SIGKILL.
        advisory: What somebody should know of the pool; "": nothing.
    """

    engine_id: str
    bin: str
    args: tuple[str, ...]
    env: dict[str, str]
    ports: dict[str, int]
    workdir: str
    health_path: str
    user: str = ""
    device_mask: tuple[str, ...] = ()
    engine: str = ""
    version: str = ""
    model_id: str = ""
    slots: int = 1
    version_at: Told | None = None
    slots_at: Told | None = None
    supports: Supports = Supports()
    container: str = ""
    stop: tuple[str, ...] = ()
    stop_grace_s: float = 10.0
    advisory: str = ""

    @property
    def argv(self) -> list[str]:
        """Program and arguments."""
        return [self.bin, *self.args]

    @property
    def url(self) -> str:
        """Where it serves: loopback."""
        return f"http://127.0.0.1:{self.ports['http']}"
