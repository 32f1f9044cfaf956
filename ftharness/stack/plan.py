"""What a stack would launch: processes with their commands, environments, readiness and contracts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ftharness.gpu import StackGpus
from ftharness.history import History
from ftharness.logs import Contract
from ftharness.process import Condition, Living, Owner, Processes, Redactor
from ftharness.stack.job import Job, JobPlans
from ftharness.stack.topology import Topology


class NotAvailable(Exception):  # noqa: N818 - says what is the case
    """What the stack needs is not installed here; the message says how to get it."""


class NotApplicable(ValueError):  # noqa: N818 - the same
    """The topology does not exist on this stack, or not in this version; the message says why. No fault of anybody's."""


def has_strategy(topology: Topology, stack: str, *strategies: str) -> None:
    """For a stack on which prefill and decode are apart in these ways only.

    Raises:
        NotApplicable: In this topology they are apart in another.
    """
    if topology.strategy and topology.strategy not in strategies:
        counts = f"{topology.prefill} prefill and {topology.decode} decode workers"
        there_is = f"; there is {', '.join(strategies)}" if strategies else ""
        raise NotApplicable(f"{topology.strategy} ({counts}) does not exist on {stack}{there_is}")


def has_no_standbys(topology: Topology, stack: str, why: str) -> None:
    """For a stack without shadow engines.

    Raises:
        NotApplicable: This topology has some.
    """
    if topology.standbys:
        raise NotApplicable(f"standbys = {topology.standbys} does not exist on {stack}: {why}")


def has_frontend(topology: Topology, stack: str) -> None:
    """For a stack whose workers do not speak HTTP to clients.

    Raises:
        NotApplicable: In this topology there is no frontend before them.
    """
    if not topology.frontend:
        raise NotApplicable(f"frontend = false does not exist on {stack}: its workers serve no clients of their own")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run asks of its stack, beside the topology.

    Attributes:
        engine: ``vllm``, ``sglang`` or ``trtllm``.
        folder: The scenario's folder, for what the stack keeps while it lives.
        seed: Of the engine's tokens.
        bug: A planted bug, or "".
        sut_python: The interpreter of the system under test; None: the one that was provisioned.
        hold_ports: Whether ports are held until they are bound; not so when the launch is tried a second time.
        jobs: Those of the scenario.
    """

    engine: str
    folder: Path
    seed: int = 0
    bug: str = ""
    sut_python: Path | None = None
    hold_ports: bool = True
    jobs: Sequence[Job] = ()


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One process to start.

    Attributes:
        name: Unique in the stack.
        role: ``frontend``, ``aggregated``, ``prefill`` or ``decode``.
        contract: What its log lines mean.
        ready: All of these hold once it is ready. ``{listening}`` conditions read the log.
        status_event: The log event whose capture ``port`` tells where it serves ``/metrics``; "" if nowhere.
        metrics_url: Where it serves ``/metrics``, if that is known beforehand.
        fresh: Files that may not be there when it starts: those of its last life are removed.
        files: What is written for it before it starts, by path; folders are made as needed.
        group: Of those that share a failover lock, the name of their worker; "" where it is in none.
        data: The folder where it keeps what it may not lose; None where there is no such.
        inside: The process whose view of the disks it is given, which is there before; "" where it needs none.
    """

    name: str
    role: str
    argv: Sequence[str]
    env: Mapping[str, str]
    contract: Contract
    ready: Sequence[Condition] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    pass_fds: Sequence[int] = ()
    cwd: Path | None = None
    status_event: str = ""
    metrics_url: str = ""
    fresh: Sequence[Path] = ()
    files: Mapping[Path, str] = field(default_factory=dict)
    group: str = ""
    data: Path | None = None
    inside: str = ""


class TokenIds(Protocol):
    """Tells texts as token ids, as the model's own tokenizer would."""

    def of_prompt(self, body: Mapping[str, Any]) -> list[int] | None:
        """What the engine reads for a request with this body; None where that cannot be told."""

    def of_answer(self, text: str) -> list[int] | None:
        """The tokens that were generated; None for a text that is not made of whole ones."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole stack to start.

    Attributes:
        launches: In the order in which they are started, none waiting for another.
        url: Base URL of the frontend.
        model: The model's name in requests.
        ready: Holds once the stack as a whole serves; called with the base URL.
        count: How many tokens a text holds.
        exact: Whether the tokens are known from prompt and seed (our engine).
        greedy: Whether the engine is asked to decode greedily, so that the run without the fault is the reference: once it was
            seen that the engine repeats itself, and goes on from a cut as it would have.
        ids: The tokens of a text that the engine generated, and of a prompt; None where a text's cannot be told.
        behaviour: What this version is documented to do, where versions differ.
        asks: What every request's body has as well, unless it says something else.
        join: Makes the launch of one more standby of a group, of that name; None where there are none.
        expired: The entries of discovery that have outlived their lease, at the moment when it is called.
        named_in: The field of a request's body in which the system looks for its name; "": the header X-Request-Id will do.
        scratch: Whether its processes leave temporary files behind: they get a folder of their own, which is removed with them.
        ready_s: Seconds that it may take to become ready, where a scenario does not give it more.
        stop_s: Seconds that its processes may take to end at teardown, likewise.
        settle_s: Seconds after that in which what they started may end by itself; only what is still there then is a leak.
        devices: The GPUs that it reserves before anything starts, and shares out among its processes; None where it needs none.
        jobs: What is launched for the scenario's jobs, phase by phase.
        close: Called when the processes run, or could not be started: closes what was only held for them.
    """

    launches: Sequence[Launch]
    url: str
    model: str
    ready: Condition
    count: Callable[[str], int]
    exact: bool
    greedy: bool = False
    ids: "TokenIds | None" = None
    behaviour: Mapping[str, Any] = field(default_factory=dict)
    asks: Mapping[str, Any] = field(default_factory=dict)
    join: Callable[[str], Launch] | None = None
    expired: Callable[[], Sequence[str]] = lambda: ()
    named_in: str = ""
    scratch: bool = False
    ready_s: float = 0.0
    stop_s: float = 0.0
    settle_s: float = 1.0
    devices: StackGpus | None = None
    jobs: JobPlans = field(default_factory=JobPlans)
    close: Callable[[], None] = lambda: None


class StackKind(ABC):
    """A kind of stack: what ``--stack NAME`` names.

    Attributes:
        name: As on the command line.
        needs: What it needs, in a few words.
        engines: The engines that it can stand for; the first is the default.
        bugs: Whether planted bugs can be asked for.
        moves: Whether a request whose worker is lost may go on elsewhere.
        profiles: Whether a topology's ``profile`` and ``model`` say how its engines are launched.
        programs: Those that a job may name.
    """

    name: str
    needs: str = "nothing"
    engines: Sequence[str] = ("vllm", "sglang", "trtllm")
    bugs: bool = False
    moves: bool = True
    profiles: bool = False
    programs: Sequence[str] = ()

    def checked(self, topology: Topology, engine: str) -> Topology:
        """The topology, with paths that mean the same wherever they are read.

        Refuses what could be launched on no machine; what is only missing on this one, :meth:`plan` says.

        Raises:
            ValueError: It names something that there is not.
            TomlError: Its profile is wrong; says where.
        """
        del engine
        return topology

    def untried(self, topology: Topology, engine: str, sut_python: Path | None) -> str:
        """A sentence about a version that it was never compared with, and is tried all the same; "" where there is none."""
        del topology, engine, sut_python
        return ""

    @abstractmethod
    def version(self, sut_python: Path | None) -> str:
        """The version of the system under test.

        Raises:
            NotAvailable: It is not installed.
        """

    @abstractmethod
    def plan(self, topology: Topology, settings: Settings) -> Plan:
        """What to launch.

        Raises:
            NotAvailable: What it needs is not installed.
            NotApplicable: The topology does not exist on this stack.
        """

    def owner(self, history: History, folder: Path, redactor: Redactor) -> Owner[Living]:
        """Who starts what is planned, and ends it: below our guardian, unless the stack runs elsewhere.

        Args:
            history: Where starts, signals and exits go.
            folder: Logs go to ``logs/NAME.log`` in it.
            redactor: Keeps secrets out of them.
        """
        return Processes(history, folder, redactor=redactor)
