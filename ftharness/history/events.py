"""The events: everything that happens in a run is one of these.

Each class is one ``kind`` of the line format in ``history.jsonl``. The fields are the format: a rename breaks every
stored run. ``n`` and ``t`` are set by :meth:`ftharness.history.History.append`, once.
"""

from typing import Any

import msgspec


# gc=False: an event refers to nothing that could refer back to it, and a collector that walked a long run's events would
# hold the loop, and with it the time of the next read, for 20 to 50 ms.
class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", omit_defaults=True, gc=False):
    """What every event has.

    Attributes:
        n: Place in the order in which the harness saw the events, from 1.
        t: Nanoseconds since the run's start on CLOCK_MONOTONIC, when the bytes were read (not when they were parsed).
        source: The process, ``client`` or ``harness``: who the event is about.
    """

    n: int = 0
    t: int = 0
    source: str = ""

    @property
    def kind(self) -> str:
        """The kind as the file spells it, such as ``process.exited``."""
        return str(self.__struct_config__.tag)


class RunStarted(Event, frozen=True, tag="run.started"):
    """A run begins; what is needed to read the rest of it."""

    scenario: str
    stack: str
    engine: str = ""
    seed: int = 0
    sut_version: str = ""
    ftharness: str = ""
    python: str = ""
    started_at: str = ""
    params: dict[str, Any] = {}


class RunPhase(Event, frozen=True, tag="run.phase"):
    """The run enters ``launch``, ``control``, ``repeat``, ``fault``, ``cut`` or ``teardown``.

    ``repeat`` and ``cut`` there are only where the run without the fault is the reference for every token.
    """

    phase: str


class RunFinished(Event, frozen=True, tag="run.finished"):
    """The run is over.

    ``outcome`` is ``complete``, ``interrupted``, ``stack_failed`` (it never became ready), ``not_applicable`` (the topology
    does not exist on the stack: nothing was started) or ``error`` (the harness's own).
    """

    outcome: str
    reason: str = ""


class RunRetried(Event, frozen=True, tag="run.retried"):
    """The launch is tried once more: a port that was to be bound was taken by another program."""

    reason: str


class ContractChosen(Event, frozen=True, tag="contract.chosen"):
    """Which contract reads this source's log, and whether it was written for this version of the backend."""

    backend: str
    version: str = ""
    known: bool = True
    events: list[str] = []


class ProcessStarted(Event, frozen=True, tag="process.started"):
    """A process of ours runs; ``argv`` is redacted."""

    pid: int
    role: str = ""
    argv: list[str] = []
    ports: dict[str, int] = {}


class ProcessReady(Event, frozen=True, tag="process.ready"):
    """A process met its readiness condition; ``how`` says which."""

    pid: int
    how: str = ""


class ProcessSignalled(Event, frozen=True, tag="process.signalled"):
    """A signal was sent. ``reason`` is ``fault``, ``teardown`` or ``escalation`` (a grace period ended)."""

    pid: int
    signal: str
    reason: str
    tree: bool = False


class ProcessExited(Event, frozen=True, tag="process.exited"):
    """A process ended; exactly one of ``returncode`` and ``signal`` is set, from its real wait status."""

    pid: int
    returncode: int | None = None
    signal: str | None = None


class Log(Event, frozen=True, tag="log"):
    """A log line that the contract names ``event``."""

    event: str
    captures: dict[str, str] = {}
    line: str = ""


class LogTruncated(Event, frozen=True, tag="log.truncated"):
    """From here on the log file is not complete: the size limit was met or the disk is full."""

    reason: str
    kept: int = 0


class Metric(Event, frozen=True, tag="metric"):
    """One sample of a metric."""

    name: str
    value: float
    labels: dict[str, str] = {}


class RequestSent(Event, frozen=True, tag="request.sent"):
    """A request left the client.

    Attributes:
        control: Whether it belongs to the run without the fault, or is a check of it.
        index: Its place in the workload.
        check: What it checks of the run without the fault: ``repeat``, whether the engine answers the same once more;
            ``cut``, whether it goes on as it did when it is given the begin of that answer; "" for neither.
        cut: How many tokens of that answer it is given.
        cut_text: How many characters of it, where they are given as text, as nobody can tell its tokens: ``cut`` is then how
            many the client had counted in them. 0: they are given as tokens.
    """

    request: str
    endpoint: str
    body: dict[str, Any] = {}
    stream: bool = False
    control: bool = False
    index: int = 0
    check: str = ""
    cut: int = 0
    cut_text: int = 0


class RequestChunk(Event, frozen=True, tag="request.chunk"):
    """Part of an answer arrived.

    It holds ``tokens`` tokens, the first of which is token number ``first`` (from 0) of the choice. ``worker`` made it, by its
    own word in the answer itself; "" where the answer does not say so.
    """

    request: str
    first: int
    tokens: int
    text: str = ""
    choice: int = 0
    worker: str = ""


class RequestFinished(Event, frozen=True, tag="request.finished"):
    """A request ended.

    Attributes:
        outcome: ``success``, ``error``, ``cancelled`` or ``hang`` (nothing arrived within its deadline).
        status: The HTTP status, or None when there was no answer.
        error_code: The code of an error event inside a stream under HTTP 200, where it has one.
        told: Whether an event of the stream said that it failed.
        finish_reason: Of choice 0; ``finish_reasons`` has every choice's.
        usage: As the server said it.
        error: What went wrong, for a person.
        logprobs: Per choice, how many log probabilities came with it, when they were asked for.
    """

    request: str
    outcome: str
    status: int | None = None
    error_code: int | None = None
    finish_reason: str | None = None
    finish_reasons: list[str | None] = []
    usage: dict[str, Any] | None = None
    error: str = ""
    logprobs: list[int] = []
    told: bool = False


class RequestTokens(Event, frozen=True, tag="request.tokens"):
    """The tokens of an answer that has ended, as the model's tokenizer tells its text; only where the run rests on them."""

    request: str
    ids: list[int]
    choice: int = 0


class FaultRequested(Event, frozen=True, tag="fault.requested"):
    """A trigger fired. ``fault`` is the kind, ``id`` this one's name, ``request`` what it was aimed at."""

    id: str
    fault: str
    target: str
    trigger: str = ""
    request: str = ""


class FaultLanded(Event, frozen=True, tag="fault.landed"):
    """The fault verifiably happened. ``on_target`` is False when the request it was aimed at had already ended."""

    id: str
    evidence: dict[str, Any]
    on_target: bool = True


class FaultMissed(Event, frozen=True, tag="fault.missed"):
    """The fault did not happen, or it could not be shown that it did."""

    id: str
    reason: str


class FaultHealed(Event, frozen=True, tag="fault.healed"):
    """What the fault did was undone."""

    id: str
    evidence: dict[str, Any] = {}


class Leak(Event, frozen=True, tag="leak"):
    """Something outlived its owner: a ``process``, ``port``, ``shm``, ``discovery``, ``slot``, ``gpu_memory`` or ``cluster``."""

    what: str
    detail: str
    pid: int | None = None


AnyEvent = (
    RunStarted
    | RunPhase
    | RunRetried
    | RunFinished
    | ContractChosen
    | ProcessStarted
    | ProcessReady
    | ProcessSignalled
    | ProcessExited
    | Log
    | LogTruncated
    | Metric
    | RequestSent
    | RequestChunk
    | RequestFinished
    | RequestTokens
    | FaultRequested
    | FaultLanded
    | FaultMissed
    | FaultHealed
    | Leak
)
