"""What a pool manager is told, as a TOML file says it: one table for the manager, one ``[[pool]]`` for each pool.

Every number is checked when the file is read, with the file and the line in the error. Times are in seconds; what ends in ``_ms``
elsewhere is for those who read us over HTTP.
"""

import re
from math import isfinite
from typing import Annotated, Literal

import msgspec

from ftharness.pool_address import PORT

#: A pool's name becomes a folder's, a label's and a part of a URL: this is what all of them allow.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_DIGEST = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: More engines than a machine carries: a slip of the finger must not take it down.
MOST_REPLICAS = 64
MOST_SLOTS = 1_000_000

#: Longer than anything here waits; what is above it is a slip of the unit.
_LONGEST_S = 30 * 24 * 3600.0

Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=_LONGEST_S)]
Positive = Annotated[float, msgspec.Meta(gt=0.0, le=_LONGEST_S)]
Count = Annotated[int, msgspec.Meta(ge=1)]

FailMode = Literal["open", "fast"]


class ProbeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an engine's health is asked for.

    Attributes:
        path: Of the request; "": the profile's.
        interval_s: From one answer to the next question.
        timeout_s: After which no answer is a bad one.
        unready_after: Bad answers in a row after which the engine is not ready.
        restart_after: Bad answers in a row after which it is started again; 0: never.
    """

    path: str = ""
    interval_s: Positive = 5.0
    timeout_s: Positive = 2.0
    unready_after: Count = 1
    restart_after: Annotated[int, msgspec.Meta(ge=0)] = 6

    def __post_init__(self) -> None:
        if self.path and not self.path.startswith("/"):
            raise ValueError(f"path = {self.path!r}: it begins with a slash")
        if 0 < self.restart_after < self.unready_after:
            raise ValueError(
                f"restart_after = {self.restart_after} is below unready_after = {self.unready_after}: "
                "an engine is not ready before it is started again"
            )


class BackoffConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long an engine that has ended is left alone before it is started again.

    Attributes:
        initial_s: The first wait.
        factor: By which each is longer than the one before.
        max_s: The longest, before jitter.
        jitter: By what part of itself a wait may be longer or shorter, so that engines that died together do not come back so.
        stable_s: A run of that length is a success: the next wait is the first again.
    """

    initial_s: Positive = 1.0
    factor: Annotated[float, msgspec.Meta(ge=1.0, le=100.0)] = 2.0
    max_s: Positive = 60.0
    jitter: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.1
    stable_s: Positive = 300.0

    def __post_init__(self) -> None:
        if self.max_s < self.initial_s:
            raise ValueError(f"max_s = {self.max_s:g} is below initial_s = {self.initial_s:g}")


class BreakerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an engine is not started again at all, for a while.

    Attributes:
        restarts: So many within the window are let through; one more would be a storm.
        window_s: The window.
        half_open_s: How long the breaker stays open before one try is let through; 0: until it is reset by hand.
    """

    restarts: Count = 5
    window_s: Positive = 60.0
    half_open_s: Seconds = 300.0


class WarmupConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a new engine is asked before it is ready; its speed is taken from the answers.

    Attributes:
        requests: How many completions; 0: it is ready without.
        prompt: Of each.
        max_tokens: Of each.
        timeout_s: For all of them.
    """

    requests: Annotated[int, msgspec.Meta(ge=0, le=100)] = 1
    prompt: str = "Once upon a time"
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 16
    timeout_s: Positive = 60.0


class MountConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A folder of the machine in the container.

    Attributes:
        source: On the machine.
        target: In the container.
        writable: Whether it may be written.
    """

    source: str
    target: str
    writable: bool = False

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            value = getattr(self, name)
            if not value.startswith("/"):
                raise ValueError(f"{name} = {value!r}: it is a whole path")
            if ":" in value or "," in value:  # both separate what follows, in both programs' syntax
                raise ValueError(f"{name} = {value!r}: a colon or a comma cannot be in the path of a mount")


class ContainerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The engine runs in a container.

    Attributes:
        image: Its image, which has to be there: nothing is pulled.
        program: ``podman``, ``docker``, or ``auto``: podman where it is, else docker.
        mounts: More folders; the model's is mounted by itself, not writable.
        seccomp: A profile's file; "": the program's own default.
        apparmor: A profile's name; "": the program's own default.
        network: Of a name, for an engine that is to reach nothing outside; "": the program's own default.
        memory_bytes: At most; 0: no bound.
        shm_bytes: Of ``/dev/shm``; engines of several processes need some.
    """

    image: str
    program: Literal["auto", "podman", "docker"] = "auto"
    mounts: list[MountConfig] = []
    seccomp: str = ""
    apparmor: str = ""
    network: str = ""
    memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    shm_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1 << 30

    def __post_init__(self) -> None:
        if not self.image or self.image.startswith("-"):
            raise ValueError(f"image = {self.image!r}: it is the name of an image")


class PoolConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pool: some engines that serve one model.

    Attributes:
        id: Its name.
        engine: A launch profile: ``sim``, ``vllm``, ``sglang``, ``trtllm``, ``command``, or a ``.toml`` file.
        model: A folder or file, or what the provisioner knows; "": none is needed.
        digest: Of the model, SHA-256; "": it is not compared, and an advisory says so.
        provisioner: A command that gets ``{model}`` and prints the path where it now lies; nothing is installed by us.
        provisioner_timeout_s: For it.
        python: What runs the engine, and where its programs lie; "": the interpreter that runs the manager.
        command: The whole command, in place of the profile's; the profile ``command`` has none of its own.
        args: More of its command line, at its end.
        env: Variables of the engine's.
        pass_env: Names of the manager's own variables that it gets; beside the profile's there are no others.
        replicas: How many engines.
        slots_per_engine: Leases that one of them carries; 0: as many as the engine says, or its profile.
        device_mask: Which GPUs, as indices or UUIDs, in the order in which the engine is to see them; []: none.
        devices_per_engine: So many of the mask to each engine, in turn; 0: all of it to each.
        user: Who the engine runs as; "": whoever the manager runs as. Only root can be somebody else.
        workdir: The folder in which each engine has its own; "": in the state folder.
        container: In which container.
        probe: How its health is asked for.
        backoff: How long it is left alone after its end.
        breaker: And when for longer.
        warmup: What it is asked before it is ready.
        lease_ttl_s: How long a lease lasts that asks for nothing.
        lease_ttl_max_s: And at most.
        drain_deadline_s: How long a drain waits that says nothing.
        stop_grace_s: From SIGTERM to SIGKILL.
        ready_timeout_s: From the start to the first good answer; then the start has failed.
        preload: Whether it starts with the manager.
    """

    id: str
    engine: str
    model: str = ""
    digest: str = ""
    provisioner: list[str] = []
    provisioner_timeout_s: Positive = 3600.0
    python: str = ""
    command: list[str] = []
    args: list[str] = []
    env: dict[str, str] = {}
    pass_env: list[str] = []
    replicas: Annotated[int, msgspec.Meta(ge=1, le=MOST_REPLICAS)] = 1
    slots_per_engine: Annotated[int, msgspec.Meta(ge=0, le=MOST_SLOTS)] = 0
    device_mask: list[int | str] = []
    devices_per_engine: Annotated[int, msgspec.Meta(ge=0)] = 0
    user: str = ""
    workdir: str = ""
    container: ContainerConfig | None = None
    probe: ProbeConfig = ProbeConfig()
    backoff: BackoffConfig = BackoffConfig()
    breaker: BreakerConfig = BreakerConfig()
    warmup: WarmupConfig = WarmupConfig()
    lease_ttl_s: Positive = 60.0
    lease_ttl_max_s: Positive = 3600.0
    drain_deadline_s: Seconds = 30.0
    stop_grace_s: Seconds = 10.0
    ready_timeout_s: Positive = 600.0
    preload: bool = True

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(
                f"id = {self.id!r}: it is at most 63 of letters, digits, and _ . - and begins with a letter or digit"
            )
        if self.digest and not _DIGEST.fullmatch(self.digest):
            raise ValueError(
                f"digest = {self.digest!r}: it is 64 hexadecimal digits, as `python -m ftharness.pool.staging MODEL` prints them"
            )
        if self.engine == "command" and not self.command:
            raise ValueError("command is missing: the profile 'command' has none of its own")
        for name in (*self.env, *self.pass_env):
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a variable")
        for value in (*self.command, *self.args, *self.provisioner, *self.env.values(), self.model):
            if "\0" in value:
                raise ValueError("a NUL byte cannot be in an argument, a variable or a path")
        wanted = self.replicas * self.devices_per_engine
        if wanted > len(self.device_mask):
            raise ValueError(
                f"replicas = {self.replicas} with devices_per_engine = {self.devices_per_engine} are {wanted} devices; "
                f"device_mask names {len(self.device_mask)}"
            )
        if self.lease_ttl_s > self.lease_ttl_max_s:
            raise ValueError(f"lease_ttl_s = {self.lease_ttl_s:g} is above lease_ttl_max_s = {self.lease_ttl_max_s:g}")

    @property
    def engine_ids(self) -> list[str]:
        """The names of its engines: ``<pool>-1``, ``<pool>-2`` and so on."""
        return [f"{self.id}-{place}" for place in range(1, self.replicas + 1)]

    def ttl(self, ttl_s: float | None) -> float:
        """How long a lease lasts that asks for ``ttl_s`` seconds, or for nothing.

        Raises:
            ValueError: It asks for what cannot be had.
        """
        if ttl_s is None:
            return self.lease_ttl_s
        if not (isfinite(ttl_s) and 0 < ttl_s <= self.lease_ttl_max_s):
            raise ValueError(f"a lease of {ttl_s:g} s: it is above 0 and at most {self.lease_ttl_max_s:g} s here")
        return ttl_s


class ManagerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A manager and its pools.

    Attributes:
        pools: In the file, ``[[pool]]`` each.
        host: Where it listens.
        port: And at which port; 0: any, which it logs.
        token_file: A file whose first line is the bearer token.
        token_env: Or a variable of the manager's environment that holds it.
        state_dir: Where what has to survive the manager lies.
        engines_survive: Whether engines outlive the manager and are adopted by the next; otherwise they die with it.
        fail_mode: ``open``: an engine whose probe fails can still be leased, and says so: for a developer's machine. ``fast``: it
            cannot, and a pool that cannot be started ends the manager.
        log_level: Of the manager's own log.
    """

    pools: list[PoolConfig] = msgspec.field(name="pool", default_factory=list)
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = PORT
    token_file: str = ""
    token_env: str = ""
    state_dir: str = ".ftharness-pool"
    engines_survive: bool = False
    fail_mode: FailMode = "fast"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __post_init__(self) -> None:
        if self.token_file and self.token_env:
            raise ValueError("token_file and token_env: the token is in one place")
        names = [pool.id for pool in self.pools]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise ValueError(f"pool[{place}].id = {name!r}: pool[{names.index(name)}] has it, too")
