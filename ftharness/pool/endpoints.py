"""The HTTP API as data: each call's path, what it takes, and each answer that it can give.

The routes and the OpenAPI document are both made from this table, so neither can have what the other has not.
"""

from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from ftharness.pool.config import FailMode
from ftharness.pool.health import PoolHealth, PoolSummary
from ftharness.pool.leases import Lease
from ftharness.pool.operations import Operation
from ftharness.pool.prepared import Supports

#: Milliseconds that a caller may name, at most: 30 days, as in the configuration.
_LONGEST_MS: Final = 30 * 24 * 3_600_000
#: How long an answer is put off at most: what stands between closes a connection on which nothing comes for longer.
LONGEST_WAIT_MS: Final = 60_000

#: Numbers, not whole ones: to JSON Schema 5.0 is an integer, to those who read JSON into types it is none.
Deadline = Annotated[float, Meta(ge=0, le=_LONGEST_MS)]
TimeToLive = Annotated[float, Meta(ge=1, le=_LONGEST_MS)]
Wait = Annotated[int, Meta(ge=0, le=LONGEST_WAIT_MS)]


class Drain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a pool is drained.

    Attributes:
        deadline_ms: How long leases may take to end; null: as configured.
        on_timeout: What is done with those that have not: ``stop``: their engines are stopped; ``abort``: the drain is, and the
            pool serves on.
    """

    deadline_ms: Deadline | None = None
    on_timeout: Literal["stop", "abort"] = "stop"


class Reload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a pool is to serve.

    Attributes:
        new_model_ref: The model, as it would stand in the configuration.
    """

    new_model_ref: Annotated[str, Meta(min_length=1, max_length=4096)]


class Acquire(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who wants a slot, for how long.

    Attributes:
        holder: A name that people recognise in logs.
        ttl_ms: How long the lease lasts unless it is renewed; null: as configured. More than the pool grants is cut to that.
    """

    holder: Annotated[str, Meta(max_length=256)] = ""
    ttl_ms: TimeToLive | None = None


class Renew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how much longer.

    Attributes:
        ttl_ms: From now; null: as configured. More than the pool grants is cut to that.
    """

    ttl_ms: TimeToLive | None = None


#: What a call may bring. A member that is misspelt is refused: it would otherwise be a default that nobody meant.
Body = type[Drain] | type[Reload] | type[Acquire] | type[Renew]


class Health(msgspec.Struct, frozen=True):
    """The manager is up.

    Attributes:
        live: True, or nobody would answer.
    """

    live: bool


class PoolEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A pool in the list.

    Attributes:
        id: Its name.
        live: The manager is up.
        ready: Whether an engine of it is ready.
        draining: Whether it takes no leases.
        summary: For whoever places work.
    """

    id: str
    live: bool
    ready: bool
    draining: bool
    summary: PoolSummary


class Pools(msgspec.Struct, frozen=True):
    """All pools, in the order of the configuration.

    Attributes:
        pools: One by one.
    """

    pools: list[PoolEntry]


class PoolCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What one pool can.

    Attributes:
        id: Its name.
        engine: The profile's name.
        engine_version: As an engine said when it was last ready; null: none ever was.
        model_id: The same.
        slots_total: Leases that it carries.
        lease_ttl_max_ms: How long a lease may be asked for.
        supports: What the engine can, as its profile says.
    """

    id: str
    engine: str
    engine_version: str | None
    model_id: str | None
    slots_total: int
    lease_ttl_max_ms: int
    supports: Supports


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What this manager can.

    Attributes:
        version: Of ftharness.
        calls: The API's: ``METHOD path``.
        fail_mode: Whether engines that are not ready can be leased (``open``) or not (``fast``).
        engines_survive: Whether engines outlive the manager.
        longest_wait_ms: How long ``wait_ms`` may be.
        pools: What each pool can.
    """

    version: str
    calls: list[str]
    fail_mode: FailMode
    engines_survive: bool
    longest_wait_ms: int
    pools: list[PoolCapabilities]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Why a call was not done.

    Attributes:
        code: For programs.
        message: For people.
        pool_id: The pool that it is about.
        operation: The one that is under way, or was asked for.
        lease: As it is, where it is over.
    """

    code: str
    message: str
    pool_id: str | None = None
    operation: str | None = None
    lease: Lease | None = None


class Problem(msgspec.Struct, frozen=True):
    """A call was not done.

    Attributes:
        error: Why.
    """

    error: Told


class Endpoint(NamedTuple):
    """One call.

    Attributes:
        name: Of its handler.
        method: HTTP's.
        path: With ``{pool_id}``, ``{lease_id}`` and ``{operation_id}``.
        summary: A line.
        answers: What it can answer, beside what all can; None: a text that is no JSON.
        takes: Its body; None: it has none.
        body_needed: Whether it does without: then all is as configured.
        waits: Whether ``?wait_ms=`` puts the answer off until there is news.
    """

    name: str
    method: str
    path: str
    summary: str
    answers: dict[int, Any]
    takes: Body | None = None
    body_needed: bool = False
    waits: bool = False


_POOL = "/v1/pools/{pool_id}"
_LEASE = f"{_POOL}/leases/{{lease_id}}"
_BEGUN = {202: Operation, 404: Problem, 409: Problem}

#: Most asked for first: routes are tried in this order.
ENDPOINTS: Final = (
    Endpoint(
        "acquire",
        "POST",
        f"{_POOL}/leases",
        "Lease a slot of an engine.",
        {201: Lease, 404: Problem, 409: Problem, 422: Problem},
        takes=Acquire,
    ),
    Endpoint("release", "DELETE", _LEASE, "Give a lease back, or see how it ended.", {200: Lease, 404: Problem}),
    Endpoint(
        "renew",
        "PATCH",
        _LEASE,
        "Keep a lease for longer.",
        {200: Lease, 404: Problem, 409: Problem, 422: Problem},
        takes=Renew,
    ),
    Endpoint(
        "lease",
        "GET",
        _LEASE,
        "A lease as it is, or how it ended.",
        {200: Lease, 404: Problem, 422: Problem},
        waits=True,
    ),
    Endpoint("health", "GET", "/health", "Whether the manager is up; needs no token.", {200: Health}),
    Endpoint("pools", "GET", "/v1/pools", "All pools.", {200: Pools}),
    Endpoint("pool_health", "GET", f"{_POOL}/health", "All that is known of a pool.", {200: PoolHealth, 404: Problem}),
    Endpoint("preload", "POST", f"{_POOL}/preload", "Stage its model and start its engines.", _BEGUN),
    Endpoint(
        "drain",
        "POST",
        f"{_POOL}/drain",
        "Grant no more leases, and wait for those that there are.",
        _BEGUN | {422: Problem},
        takes=Drain,
    ),
    Endpoint("resume", "POST", f"{_POOL}/resume", "Grant leases again after a drain.", _BEGUN),
    Endpoint(
        "reload",
        "POST",
        f"{_POOL}/reload",
        "Serve another model; the old one again where that fails.",
        _BEGUN | {422: Problem},
        takes=Reload,
        body_needed=True,
    ),
    Endpoint("reset_breaker", "POST", f"{_POOL}/breaker/reset", "Allow restarts again after a storm of them.", _BEGUN),
    Endpoint(
        "operation",
        "GET",
        "/v1/operations/{operation_id}",
        "How far something is that was begun.",
        {200: Operation, 404: Problem, 422: Problem},
        waits=True,
    ),
    Endpoint("capabilities", "GET", "/v1/capabilities", "What this manager and its pools can.", {200: Capabilities}),
    Endpoint("metrics_page", "GET", "/metrics", "For Prometheus.", {200: None}),
    Endpoint("openapi", "GET", "/openapi.json", "This document.", {200: dict[str, Any]}),
)
