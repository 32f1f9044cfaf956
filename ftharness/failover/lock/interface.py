"""What a failover lock is, whatever it is made of."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from ftharness.failover.identity import Identity


class FailoverLockError(Exception):
    """The lock could not be taken, or is not used as it can be; the message says what was tried and seen."""


class FailoverLockContended(FailoverLockError):  # noqa: N818 - Dynamo's name
    """Another engine held it for all of the time that there was."""


class FailoverLockFenced(FailoverLockError):  # noqa: N818 - says what is the case
    """A holder that has lost the lock asked for what only its holder may do."""


class Holder(NamedTuple):
    """Who took the lock last.

    Attributes:
        engine_id: As it said when it took it.
        identity: The process that did.
        token: The fencing token of that acquisition.
        heartbeat_s: How often it promised to beat, in seconds; None: not at all.
        taken_ns: When, CLOCK_MONOTONIC, ns; means something in the same boot only.
        holds: Whether it really holds it at this moment; None where that cannot be seen, as from another pid namespace.
    """

    engine_id: str
    identity: Identity
    token: int
    heartbeat_s: float | None
    taken_ns: int
    holds: bool | None


class FailoverLock(ABC):
    """One engine's hand on the lock: at most one hand of all has it at any time.

    A process that dies lets it go, however it dies. An object that is dropped does not: whoever has acquired may forget
    the object and serve until the process ends, as Dynamo's workers do.

    Attributes:
        was_contended: Whether another engine held it when the last :meth:`acquire` came: a takeover, not a first start.
        token: The fencing token of the last :meth:`acquire`; 0 before the first.
    """

    was_contended: bool = False
    token: int = 0

    @abstractmethod
    async def acquire(self, engine_id: str, poll_interval: float = 1.0, timeout: float | None = None) -> int:  # noqa: ASYNC109 - Dynamo's name
        """Take the lock, as soon as it is free.

        Args:
            engine_id: Who takes it.
            poll_interval: Seconds between two looks at whether it is free, where nothing tells.
            timeout: Seconds to wait at most; 0: only where it is free at once; None: without end.

        Returns:
            The fencing token: greater than that of every acquisition before.

        Raises:
            FailoverLockContended: Another held it for all of that time.
            FailoverLockError: It cannot be taken at all, or this object has it already, or is about to.
        """

    @abstractmethod
    def release_nowait(self) -> None:
        """Let it go; nothing happens where it is not held. To be called from anywhere: a signal handler, another thread."""

    async def release(self) -> None:
        """Let it go; nothing happens where it is not held."""
        self.release_nowait()

    @abstractmethod
    async def owner(self) -> str | None:
        """The engine id of whoever took it last, even where that one is gone; None where nobody ever did."""

    @abstractmethod
    async def holder(self) -> Holder | None:
        """What is known of whoever took it last, and whether it really holds it; None where nobody ever did."""

    @abstractmethod
    def guard(self, token: int) -> None:
        """Refuse a holder that has lost the lock: for a resource that is asked by one who shows its token.

        It protects the resources that call it, and nothing else; and between its answer and what the resource then does
        there is time. A resource that keeps the greatest token that it has seen closes that gap as well.

        Raises:
            FailoverLockFenced: ``token`` is not that of the last acquisition.
        """
