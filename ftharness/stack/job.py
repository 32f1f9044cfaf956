"""A job, as data: work that a process does to its end, such as inference with checkpoints; and what a stack launches for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from ftharness.stack.plan import Launch

#: The roles of processes that serve nobody: a job, and the disk that it has for itself.
JOB, DISK = "job", "disk"
_CONTROL = "control-"


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One job: run once without the faults, and once with them.

    In the fault phase the first one is the process ``job-1``; a ``restart`` makes ``job-1.2`` of it, on the same data.

    Attributes:
        program: What it does, by a name that the stack knows.
        args: The program's own arguments.
        disk_mb: The size of the disk, in MiB, that it keeps its data on and has for itself; None: the run's folder.
    """

    program: str
    args: dict[str, Any] = {}
    disk_mb: int | None = None

    def __post_init__(self) -> None:
        """Refuse a disk on which nothing could be done.

        Raises:
            ValueError: It is too small.
        """
        if self.disk_mb is not None and self.disk_mb < 1:
            raise ValueError(f"disk_mb = {self.disk_mb}: must be at least 1")

    def arguments(self) -> list[str]:
        """Its arguments as a command takes them: ``--spot-retry-s 0.2``."""
        return [word for key, value in self.args.items() for word in (f"--{key.replace('_', '-')}", _shown(value))]


@dataclass(frozen=True, kw_only=True)
class JobWork:
    """How a job goes about its work, as far as its arguments tell.

    Attributes:
        ranks: Processes among which it is divided; 0: the job's own does all.
        checkpoints: For each of its shards how many checkpoints it makes of it at most; () where it keeps none.
    """

    ranks: int = 0
    checkpoints: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """What is launched for one job in one phase.

    Attributes:
        job: The job itself.
        disk: What has to be there first; None where it needs nothing.
        work: How it goes about its work; None where that is not known.
    """

    job: "Launch"
    disk: "Launch | None" = None
    work: JobWork | None = None


@dataclass(frozen=True, kw_only=True)
class JobPlans:
    """What is launched for the jobs of a scenario, by phase, in their order."""

    control: Sequence[JobPlan] = ()
    fault: Sequence[JobPlan] = ()

    @property
    def launches(self) -> "list[Launch]":
        """All that is launched in the fault phase."""
        return [one for plan in self.fault for one in (plan.disk, plan.job) if one is not None]


def inference(*, disk_mb: int | None = None, **args: Any) -> Job:
    """Inference over items, with checkpoints; ``args`` are those of ``python -m ftharness.engine.job inference --help``."""
    return Job(program="inference", args=args, disk_mb=disk_mb)


def leases(**args: Any) -> Job:
    """Leases of a pool's engines, again and again; ``args`` are those of ``python -m ftharness.engine.job leases --help``.

    With ``until_told`` it goes on, in the fault phase, until an ``end_job`` tells it to.
    """
    return Job(program="leases", args=args)


def job_name(place: int, *, control: bool = False) -> str:
    """What the process of the job at that place of the scenario, from 0, is called."""
    name = f"job-{place + 1}"
    return control_of(name) if control else name


def control_of(name: str) -> str:
    """What the job of that name is called where it runs without the faults."""
    return f"{_CONTROL}{name}"


def is_control(name: str) -> bool:
    """Whether a process is, by its name, a job without the faults."""
    return name.startswith(_CONTROL)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
