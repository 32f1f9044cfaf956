"""What a stack's process looks like to whoever does not care where it runs: here, below our guardian, or in a pod."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from ftharness.process.process import Ended
from ftharness.process.processes import Survivor


class Living(Protocol):
    """A process of a stack: named, started by us, seen to its end.

    What it takes to hit one differs by where it runs, and is no part of this: see :class:`ftharness.faults.Strike`.

    Attributes:
        name: Unique among those that live.
        role: What it is in the stack.
        pid: Its process id, where it runs.
        ports: The ports of this machine that it serves, by what they are for.
        started_ns: CLOCK_MONOTONIC just before it was started: nothing that it says is older.
    """

    name: str
    role: str
    pid: int
    ports: dict[str, int]
    started_ns: int

    @property
    def exit(self) -> Ended | None:
        """How it ended, or None while it lives."""

    @property
    def log_path(self) -> Path:
        """Where its output is kept."""

    def tail(self, lines: int = 20) -> list[str]:
        """The last lines of its output, without secrets."""

    def state(self) -> str:
        """The kernel's letter for it (R, S, D, T, Z), as far as it is known; "" when it is gone."""

    async def exited(self, deadline_s: float | None = None) -> Ended:
        """Wait until it has ended; TimeoutError where it lives on after ``deadline_s`` seconds."""


P_co = TypeVar("P_co", bound=Living, covariant=True)


class Owner(Protocol[P_co]):
    """Starts processes, and is the end of them: :class:`ftharness.process.Processes` here, and its like elsewhere."""

    async def __aenter__(self) -> Self:
        """Be ready to start some."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind."""

    def __iter__(self) -> Iterator[P_co]:
        """Every process by name, also those that have ended, in the order in which they were started."""

    def __getitem__(self, name: str) -> P_co:
        """The process of that name; KeyError where there is none."""

    async def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        role: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        ports: Mapping[str, int] | None = None,
        sink: Callable[[bytes, int], None] | None = None,
    ) -> P_co:
        """Start one; ``sink`` gets its output as it is read, with CLOCK_MONOTONIC (ns) of the read.

        Raises:
            StartError: It cannot be started; says why.
        """

    async def stop(self, *processes: Any, grace_s: float) -> None:
        """Ask these to end, and see to it that they have when the grace, in seconds, is over."""

    async def survivors(self, settle_s: float) -> Sequence[Survivor]:
        """What is left on this machine of processes that have ended, after at most ``settle_s`` seconds."""

    async def kill_survivors(self) -> None:
        """End everything that is left."""

    def shared_memory(self) -> Mapping[str, set[Path]]:
        """The files in this machine's /dev/shm that each of its processes has mapped now; by its name."""
