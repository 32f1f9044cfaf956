"""What to break, as data: a kind, a target, and the kind's own arguments."""

from typing import Any, Literal

import msgspec

Role = Literal["serving", "another_worker", "every_worker", "frontend", "named", "client"]


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom a fault hits, by its role in a request; which process that is, is found when the trigger fires.

    Attributes:
        role: ``serving``: the worker that last took the request; ``another_worker``: the first that did not;
            ``every_worker``; ``frontend``; ``named``: the process ``name``; ``client``: no process of the stack, but who
            sent the request.
        request: The request's place in the workload.
        name: Of the process, for ``named``.
    """

    role: Role
    request: int = 0
    name: str = ""

    def __str__(self) -> str:
        """As it stands in a report."""
        if self.role == "named":
            return self.name
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


def named(name: str) -> Target:
    """The process of that name, such as ``worker-1``."""
    return Target(role="named", name=name)


def client_of(request: int = 0) -> Target:
    """The client of the request at that place in the workload."""
    return Target(role="client", request=request)
