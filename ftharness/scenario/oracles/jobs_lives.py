"""The jobs of a run as their oracles see them: each with its lives, from the first to the last restart."""

import signal
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ftharness.history import Log, ProcessExited, ProcessStarted
from ftharness.id_ranges import ids_in, ranges
from ftharness.scenario.case import Case, Finding
from ftharness.scenario.views import FaultView
from ftharness.stack.job import JOB, control_of, is_control
from ftharness.stack.lives import first_life

#: What an oracle says of a run that has none.
NO_JOB = Finding("unknown", "no job was run")


class JobView(NamedTuple):
    """A job of the fault phase.

    Attributes:
        name: Of its first life, ``job-1``.
        lives: All of them in order, ``job-1``, ``job-1.2``, …
    """

    name: str
    lives: list[str]

    @property
    def control(self) -> str:
        """The same job without the faults."""
        return control_of(self.name)

    @property
    def last(self) -> str:
        """Its last life."""
        return self.lives[-1]


def jobs(case: Case) -> list[JobView]:
    """Those of the fault phase."""
    lives: dict[str, list[str]] = {}
    for source, role in case.roles.items():
        if role == JOB and not is_control(source):
            lives.setdefault(first_life(source), []).append(source)
    return [JobView(name, sorted(of, key=_number)) for name, of in sorted(lives.items())]


def _number(source: str) -> int:
    number = source.partition(".")[2]
    return int(number) if number.isdecimal() else 1


def lines(case: Case, source: str, *events: str) -> Iterator[Log]:
    """What a life said of that meaning, in order."""
    return (line for line in case.select(Log, source=source) if line.event in events)


def of_job(case: Case, job: JobView, *events: str) -> list[Log]:
    """What all its lives said of that meaning, in order."""
    return [line for line in case.select(Log) if line.event in events and line.source in job.lives]


def option(case: Case, source: str, name: str) -> str:
    """What a life was told by an option of the command that it was started with; "" where it was not told that."""
    for event in case.select(ProcessStarted, source=source):
        for word, value in pairwise(event.argv):
            if word == name:
                return value
    return ""


def rank_of(line: Log) -> int:
    """The rank, or the shard, that a line is about; both have one number."""
    return int(line.captures.get("rank", line.captures.get("shard", "0")))


def ids(line: Log, name: str = "ids") -> set[str]:
    """The ids in a line."""
    return set(ids_in(line.captures.get(name, "")))


def struck(case: Case, job: JobView, *kinds: str) -> list[FaultView]:
    """The faults of those kinds that landed on a life of the job, or on what it keeps."""
    return [
        fault
        for fault in case.faults
        if fault.landed is not None and fault.requested.fault in kinds and fault.process in job.lives
    ]


def rank_struck(case: Case, fault: FaultView) -> Log | None:
    """The line by which the process began that a fault on a rank hit, which says of which rank and attempt it was."""
    assert fault.landed is not None
    pid = str(fault.landed.evidence.get("engine_pid", ""))
    began = lines(case, fault.process, "rank_started")
    return next((line for line in began if line.captures.get("pid") == pid), None)


def killed(case: Case, source: str) -> ProcessExited | None:
    """How a life ended by a signal that a fault sent to it; None where it ended otherwise."""
    ended = case.exits.get(source)
    sent = {one.signal for one in case.signals_to(source) if one.reason != "teardown"}
    # One that is told to end writes its last checkpoint, and ends by itself with the status that says so.
    by_status = {128 + signal.Signals[name] for name in sent}
    return ended if ended is not None and (ended.signal in sent or ended.returncode in by_status) else None


def last_results(case: Case, source: str) -> list[Log]:
    """The results of a life: of each rank those of its last attempt, which has what was recovered as well."""
    last: dict[int, int] = {}
    for line in lines(case, source, "rank_started", "result"):
        last[rank_of(line)] = max(last.get(rank_of(line), 0), int(line.captures["attempt"]))
    return [line for line in lines(case, source, "result") if int(line.captures["attempt"]) == last[rank_of(line)]]


def given_up(case: Case, source: str) -> set[str]:
    """The ids of the batches that a life gave up by name: those that the batches have, whatever is said of them."""
    return {name for _, held in _given_up(case, source) for name in held}


def misnamed(case: Case, source: str) -> str:
    """What is wrong with the ids of a batch that was given up; "" where each is named as it is."""
    for line, held in _given_up(case, source):
        if ids(line) != held:
            what = f"batch {line.captures['batch']} of shard {rank_of(line)} was given up"
            return f"{what} as {ranges(ids(line))}, and holds {ranges(held) or 'nothing: it was never begun'}"
    return ""


def _given_up(case: Case, source: str) -> Iterator[tuple[Log, set[str]]]:
    """Each word of a batch that was given up, with the ids that were told of it when it was begun."""
    begun: dict[tuple[int, str], set[str]] = {}
    for line in lines(case, source, "batch_started"):
        begun.setdefault((rank_of(line), line.captures["batch"]), set()).update(ids(line))
    for line in lines(case, source, "batch_given_up"):
        yield line, begun.get((rank_of(line), line.captures["batch"]), set())
