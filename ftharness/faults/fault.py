"""What to break, as data: a kind, a target, and the kind's own arguments."""

from typing import Any, Literal, Protocol, get_args

import msgspec

from ftharness.suggest import nearest

Role = Literal[
    "serving",
    "prefill_worker",
    "decode_worker",
    "another_worker",
    "every_worker",
    "frontend",
    "named",
    "hit",
    "client",
    "active",
    "waking",
    "standby",
]
#: Those of a request's workers where prefill and decode are apart: by the role of the process.
ROLE_OF = {"prefill_worker": "prefill", "decode_worker": "decode"}
#: Those of an engine among others that share a lock with it.
TURNS = ("active", "waking", "standby")


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom a fault hits, by its role in a request; which process that is, is found when the trigger fires.

    Attributes:
        role: ``serving``: the worker that works for the request now: of its last phase, once a token has come of the decode;
            ``prefill_worker``, ``decode_worker``: the one that took it last, where these are apart; ``another_worker``: the
            first of the serving one's role that the request was never on; ``every_worker``; ``frontend``; ``named``: the
            process ``name``; ``hit``: the one that the scenario's fault number ``fault`` hit, or as a restart started;
            ``client``: no process of the stack, but who sent the request. Of engines that share a failover
            lock ``active``: the one that serves; ``waking``: the one that has the lock and is not ready yet; ``standby``: the
            first that waits.
        request: The request's place in the workload.
        name: Of the process, for ``named``.
        fault: For ``hit``: the place of the other fault in the scenario, from 0.
        group: For those that share a lock: the number of their worker, from 1.
    """

    role: Role
    request: int = 0
    name: str = ""
    group: int = 1
    fault: int = 0

    def __post_init__(self) -> None:
        """Refuse a role and a place that are none.

        Raises:
            ValueError: There is no such role (names the nearest), or the place is before the first.
            TypeError: It is no number.
        """
        if self.role not in get_args(Role):
            raise ValueError(f"role = {self.role!r}: there is no such target; {nearest(self.role, get_args(Role))}")
        if type(self.request) is not int:  # True is none either
            raise TypeError(f"request = {self.request!r}: must be the place of a request, counted from 0")
        if self.request < 0:
            raise ValueError(f"request = {self.request}: must be at least 0; requests are counted from 0")

    @property
    def by_request(self) -> bool:
        """Whether it is a request that tells whom it means."""
        return self.role not in ("named", "hit", *TURNS)

    @property
    def needs_request(self) -> bool:
        """Whether nobody is meant without a request: the frontend and every worker are there all the same.

        But they may be about a certain one; the first of the workload is what is meant where nothing is said.
        """
        return self.by_request and (self.role not in ("frontend", "every_worker") or self.request > 0)

    def __str__(self) -> str:
        """As it stands in a report."""
        if self.role == "named":
            return self.name
        if self.role == "hit":
            return f"what fault {self.fault} hit"
        if self.group != 1:
            return f"{self.role} (group {self.group})"
        return self.role if self.request == 0 else f"{self.role} (request {self.request})"


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault: its kind (as registered), its target, and the kind's arguments."""

    kind: str
    target: Target
    args: dict[str, Any] = {}


serving = Target(role="serving")
another_worker = Target(role="another_worker")
every_worker = Target(role="every_worker")
frontend = Target(role="frontend")
active = Target(role="active")
waking = Target(role="waking")
standby = Target(role="standby")


def named(name: str) -> Target:
    """The process of that name, such as ``worker-1``; ``worker-1.2`` is what a restart makes of it."""
    return Target(role="named", name=name)


def hit(fault: int = 0) -> Target:
    """The process that the scenario's fault of that place, counted from 0, hit; of a restart the one that it started."""
    return Target(role="hit", fault=fault)


class Sent(Protocol):
    """A request that was sent, such as a test's stream."""

    @property
    def index(self) -> int:
        """Its place among those that were sent, from 0."""


def place_of(request: int | Sent) -> int:
    """The place of a request that is given by its place, or is itself there.

    Raises:
        TypeError: It is neither.
    """
    place = request if isinstance(request, int) else getattr(request, "index", None)
    if isinstance(place, bool) or not isinstance(place, int):
        raise TypeError(f"a request is given by its place, counted from 0, or by its stream; not {request!r}")
    return place


def prefill_worker(request: int | Sent = 0) -> Target:
    """The prefill worker that took the request last, whatever phase that is in; of a stack that has such workers."""
    return Target(role="prefill_worker", request=place_of(request))


def decode_worker(request: int | Sent = 0) -> Target:
    """The decode worker that took the request last; of a stack that has such workers."""
    return Target(role="decode_worker", request=place_of(request))


def client_of(request: int | Sent = 0) -> Target:
    """The client of the request: of that place in the workload, or of a stream."""
    return Target(role="client", request=place_of(request))
