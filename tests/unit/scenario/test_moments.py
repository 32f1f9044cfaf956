"""When a trigger's moment has come, asked of events made by hand: which line, which token, of which request."""

from collections.abc import Sequence

import pytest

from ftharness.history import (
    Event,
    FaultLanded,
    History,
    Log,
    ProcessExited,
    ProcessStarted,
    RequestChunk,
    RequestFinished,
    RequestSent,
)
from ftharness.scenario import Trigger, after_fault, at, on_exit, on_log, on_token
from ftharness.scenario.moments import moment_of
from ftharness.scenario.trigger import when


def sent(name: str, index: int = 0, *, control: bool = False, stream: bool = True) -> RequestSent:
    return RequestSent(source="client", request=name, endpoint="/", control=control, index=index, stream=stream)


def chunk(name: str, tokens: int = 1) -> RequestChunk:
    return RequestChunk(source="client", request=name, first=0, tokens=tokens)


def ended(name: str) -> RequestFinished:
    return RequestFinished(source="client", request=name, outcome="success")


def claim(name: str, source: str = "worker-1") -> Log:
    return Log(source=source, event="request_received", captures={"request": name})


def landed(fault: str) -> FaultLanded:
    return FaultLanded(source="worker-1", id=fault, evidence={})


def moments(trigger: Trigger, events: Sequence[Event], *, control: Sequence[Event] = ()) -> list[float | None]:
    """What the trigger says of each event, in a run whose control left those before."""
    history = History()
    for event in control:
        history.append(event)
    moment = moment_of(trigger, history, 200.0)
    return [moment(history.append(event)) for event in events]


CONTROL = [sent("c", control=True), chunk("c"), ended("c")]


def test_on_log_is_about_the_fault_phase_only() -> None:
    """A line about a request of the control may be read when that is over; the next about another counts."""
    lines = [claim("c"), Log(source="worker-1", event="ready"), claim("c-0"), claim("r")]
    assert moments(on_log("request_received"), lines, control=CONTROL) == [None, None, None, 0.0]
    assert moments(on_log("ready"), lines, control=CONTROL) == [None, 0.0, None, None]


def test_on_log_of_a_process_is_not_anothers() -> None:
    """Its source is asked for by name."""
    lines = [claim("r", "worker-2"), claim("r", "worker-1")]
    assert moments(on_log("request_received", source="worker-1"), lines, control=CONTROL) == [None, 0.0]


def test_on_log_may_ask_for_what_is_said() -> None:
    """Only lines that say just that are counted."""
    lines = [
        Log(source="job-1", event="batch_started", captures={"rank": rank, "batch": batch})
        for rank, batch in (("0", "2"), ("1", "2"), ("1", "3"), ("1", "2"))
    ]
    of_rank = {"rank": "1", "batch": "2"}
    assert moments(on_log("batch_started", captures=of_rank), lines) == [None, 0.0, None, None]
    assert moments(on_log("batch_started", captures=of_rank, nth=2), lines) == [None, None, None, 0.0]
    assert moments(on_log("batch_started", captures={"shard": "1"}), lines) == [None] * 4


def test_on_exit_is_the_end_of_that_process() -> None:
    """Not of its next life, nor of another's."""
    ends = [ProcessExited(source=name, pid=1, returncode=0) for name in ("control-job-1", "job-1", "job-1.2")]
    assert moments(on_exit("job-1"), ends) == [None, 0.0, None]
    assert str(on_exit("job-1")) == "on the end of job-1"


def test_at_counts_from_the_first_job_too() -> None:
    """Where no request is sent; not from the disk that it has."""
    starts = [ProcessStarted(source=name, pid=1, role=name[:-2]) for name in ("disk-1", "job-1")]
    assert moments(at(2), starts) == [None, 0.0]


def test_on_token_counts_the_tokens_of_its_request() -> None:
    """By its place in the workload, whichever was sent first; tokens that came together count each."""
    events = [sent("s", 1), chunk("s"), sent("r", 0), chunk("r", 3), chunk("s", 9), chunk("r", 1), chunk("r", 2)]
    assert moments(on_token(4), events, control=CONTROL) == [None, None, None, None, None, 0.0, 0.0]
    assert moments(on_token(10, request=1), events, control=CONTROL)[4] == 0.0


def test_on_token_has_no_moment_after_the_end() -> None:
    """An answer with fewer tokens never has it."""
    events = [sent("r"), chunk("r", 3), ended("r")]
    assert moments(on_token(4), events, control=CONTROL) == [None, None, None]


@pytest.mark.parametrize("claims,place", [(["s", "r"], 1), (["s-1", "r-0"], 1), (["task-3", "s"], 0)], ids=str)
def test_of_an_answer_in_one_piece_the_claim_is_its_own(claims: list[str], place: int) -> None:
    """A worker's line about another request is not its moment; one under a name of the backend's own may be."""
    events: list[Event] = [sent("s", 1, stream=False), sent("r", 0, stream=False), *(claim(name) for name in claims)]
    said = moments(on_token(50), events, control=CONTROL)[2:]
    assert [one is not None for one in said].index(True) == place
    assert said[place] == 0.25


def test_at_is_the_first_request_of_the_fault_phase() -> None:
    """Whichever it is."""
    assert moments(at(1), [sent("c", control=True), claim("c"), sent("r", 3)]) == [None, None, 0.0]


def test_after_fault_is_the_landing_of_that_one() -> None:
    """Counted from 0, as the faults of a scenario are; named as they are in the history."""
    assert moments(after_fault(1), [landed("fault-1"), landed("fault-2")]) == [None, 0.0]


def three_events(events: Sequence[Event]) -> bool:
    """A predicate."""
    return len(events) >= 3


def test_when_is_asked_about_all_events_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the control too; it is found by its name."""
    from ftharness.scenario import library  # noqa: PLC0415 - lends its name: a test's module cannot be imported by its own

    monkeypatch.setattr(library, "three_events", three_events, raising=False)
    trigger = when("ftharness.scenario.library:three_events")
    assert moments(trigger, [sent("r"), chunk("r")], control=CONTROL[:1]) == [None, 0.0]


def test_a_trigger_reads_as_it_is_meant() -> None:
    """In a report, with its delay."""
    said = [
        str(one) for one in (at(0), at(1.5), on_log("ready"), on_log("ready", source="w"), after_fault(0), when("a:b"))
    ]
    assert said == [
        "at the begin",
        "at the begin, 1.5 s later",
        "on ready of any process",
        "on ready of w",
        "after_fault(0)",
        "when a:b",
    ]
