"""Clients that go away from a real stack: each way with its proof, and what the stack makes of it."""

from collections.abc import Sequence
from typing import Any, TypeVar

import pytest

from ftharness.client import Left, Request, Stream, completion
from ftharness.engine.bugs import BUGS
from ftharness.faults import (
    Fault,
    cancel_task,
    client_of,
    disconnect,
    half_close,
    kill_client,
    reset,
)
from ftharness.history import (
    Event,
    FaultLanded,
    FaultMissed,
    Log,
    RequestChunk,
    RequestFinished,
    RequestSent,
    read_history,
)
from ftharness.pytest_plugin import Ft
from ftharness.scenario import (
    Injection,
    Scenario,
    aborted_in,
    at,
    cancellations_counted,
    cancelled_within,
    ends_as_asked,
    kv_freed,
    no_tokens_after_abort,
    on_log,
    on_token,
    slots_freed,
    still_serves,
    succeeds,
)
from ftharness.scenario.library import shipped
from ftharness.stack import aggregated

E = TypeVar("E", bound=Event)

ONE = completion(max_tokens=120)
ONE_LONG = completion(max_tokens=200)
APART = completion(max_tokens=120, own_process=True)
WHOLE = completion(max_tokens=120, stream=False)


def run(ft: Ft, *faults: Injection, workload: Sequence[Request] = (ONE,), check: bool = True) -> list[Event]:
    """Run these faults; the events, in order of time."""
    one = Scenario(
        name="cancellation/one", topology=aggregated(workers=1), workload=list(workload), faults=list(faults)
    )
    record = ft.run(one, stack="sim", check=check)
    return sorted(read_history(ft.folder / record.path / "history.jsonl"), key=lambda event: event.t)


def of(events: Sequence[Event], kind: type[E], **fields: object) -> list[E]:
    """The events of that kind."""
    return [
        event
        for event in events
        if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
    ]


# Of a side that was closed; the last when the server has closed its own by the time when the kernel is asked.
CLOSED = {"FIN_WAIT1", "FIN_WAIT2", "CLOSING", "CLOSE"}

LEAVING: list[tuple[Fault, Request, dict[str, Any]]] = [
    (disconnect(), ONE, {"client": "closed the connection"}),
    (reset(), ONE, {"client": "reset the connection", "socket": "closed with SO_LINGER 0"}),
    (cancel_task(), ONE, {}),
    (kill_client(), APART, {"wait_status": "SIGKILL"}),
    (disconnect(), WHOLE, {"tokens": 0}),
    (reset(), WHOLE, {"tokens": 0}),
]


@pytest.mark.parametrize("fault,asked,evidence", LEAVING, ids=[f"{fault.kind} {r.stream}" for fault, r, _ in LEAVING])
def test_a_client_goes(ft: Ft, fault: Fault, asked: Request, evidence: dict[str, Any]) -> None:
    """It landed while the request ran, the request is cancelled at that moment, and the engine gives it up."""
    events = run(ft, on_token(30).inject(fault), workload=[asked])
    (landed,) = of(events, FaultLanded)
    end = of(events, RequestFinished)[-1]
    assert landed.on_target
    assert landed.source == "client"
    assert evidence.items() <= landed.evidence.items()
    assert landed.evidence["local_port"] > 0
    assert (end.outcome, end.t) == ("cancelled", landed.t)
    came = [chunk for chunk in of(events, RequestChunk, request=end.request) if chunk.t <= landed.t]
    assert landed.evidence["tokens"] == sum(chunk.tokens for chunk in came)
    if asked.stream:
        assert landed.evidence["tokens"] >= 30
        assert landed.evidence.get("socket") in {None, *CLOSED, "closed with SO_LINGER 0"}
    assert [line for line in of(events, Log, event="request_aborted") if line.captures["request"] == end.request]


def test_half_a_close_lands_on_a_request_that_goes_on(ft: Ft) -> None:
    """The client waits on; what the server makes of it is the server's to decide, and this one takes it for a disconnect."""
    events = run(ft, on_token(30).inject(half_close()))
    (landed,) = of(events, FaultLanded)
    assert landed.evidence["socket"] in CLOSED
    end = of(events, RequestFinished)[-1]
    assert (end.outcome, end.error) == ("error", "the server closed the connection in the middle of the response")
    assert end.t > landed.t


def test_a_client_goes_when_the_worker_has_its_request(ft: Ft) -> None:
    """Before the first byte of the answer, by the worker's own line."""
    events = run(ft, on_log("request_received", delay_s=0.05).inject(disconnect()), workload=[WHOLE])
    end = of(events, RequestFinished)[-1]
    assert (end.outcome, end.status) == ("cancelled", None)


def test_a_client_goes_at_the_begin(ft: Ft) -> None:
    """The moment is the sending itself: it waits for the connection that it is to close."""
    events = run(ft, at(0).inject(disconnect()))
    assert of(events, FaultLanded)[0].on_target
    assert of(events, RequestFinished)[-1].outcome == "cancelled"


def test_only_the_client_that_is_meant_goes(ft: Ft) -> None:
    """By its place in the workload; the others get all of their answers."""
    events = run(ft, on_token(20, request=1).inject(disconnect(client_of(1))), workload=[ONE] * 3)
    outcomes = {end.request: end.outcome for end in of(events, RequestFinished)}
    sent = sorted(of(events, RequestSent, control=False), key=lambda event: event.index)
    assert [outcomes[event.request] for event in sent] == ["success", "cancelled", "success"]


MISSES: list[tuple[Fault, str]] = [
    (reset(client_of(1)), "client (request 1): request 1 had not been sent"),
]


@pytest.mark.parametrize("fault,says", MISSES, ids=[says for _, says in MISSES])
def test_a_client_that_does_not_go_is_unknown(ft: Ft, fault: Fault, says: str) -> None:
    """It says why, and the request is not touched."""
    events = run(ft, on_token(30).inject(fault), workload=[ONE, completion(max_tokens=5, after=0)], check=False)
    assert [event.reason for event in of(events, FaultMissed)] == [says]
    assert of(events, RequestFinished)[-1].outcome == "success"
    assert ft.records[-1].verdict == "unknown"


def test_a_client_whose_request_is_over_does_not_go(ft: Ft) -> None:
    """There is no connection left to close."""
    moment = on_log("request_completed", source="frontend", delay_s=0.2)
    events = run(ft, moment.inject(disconnect()), workload=[completion(max_tokens=10), ONE], check=False)
    assert [event.reason for event in of(events, FaultMissed)] == ["its request had already ended: success"]
    assert ft.records[-1].verdict == "unknown"


def test_a_connection_that_the_kernel_still_has_was_not_closed(ft: Ft, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the client believes. No kernel does so; what it says is faked."""

    async def pretends(stream: Stream) -> Left:
        return Left(0, "closed the connection", {"socket": "ESTABLISHED"})

    monkeypatch.setattr(Stream, "disconnect", pretends)
    events = run(ft, on_token(30).inject(disconnect()), check=False)
    (missed,) = of(events, FaultMissed)
    assert missed.reason == "the client closed the connection, but the kernel says that its socket is ESTABLISHED"


# A client that goes late, one that goes beside another that stays, and many at once.
HIDDEN: list[tuple[str, int, list[Request], str, str]] = [
    (
        "ignored-abort",
        60,
        [ONE_LONG, completion("And", max_tokens=60, after=0)],
        "cancelled_within",
        "the whole answer to",
    ),
    ("endless-decode", 160, [ONE_LONG, completion("And", max_tokens=60, after=0)], "no_tokens_after_abort", "went on"),
    ("endless-decode", 5, [ONE_LONG, completion("Other", max_tokens=400)], "no_tokens_after_abort", "went on"),
]


@pytest.mark.parametrize("bug,token,workload,oracle,says", HIDDEN, ids=[f"{bug} {n}" for bug, n, *_ in HIDDEN])
def test_what_goes_on_is_seen_whatever_else_does(
    ft: Ft, bug: str, token: int, workload: list[Request], oracle: str, says: str
) -> None:
    """Also where the engine is done within the time that it has to give up, or before other requests are."""
    one = Scenario(
        name="cancellation/hidden",
        topology=aggregated(workers=1),
        workload=workload,
        faults=[on_token(token).inject(disconnect())],
        expect=[cancelled_within(ms=1_000), no_tokens_after_abort(), slots_freed(), kv_freed(), ends_as_asked()],
    )
    failed = [each for each in ft.run(one, stack="sim", bug=bug, check=False).oracles if each.verdict == "fail"]
    assert [each.name.partition("(")[0] for each in failed] == [oracle]
    assert says in failed[0].reason
    assert ft.run(one, stack="sim").verdict == "pass"


def test_many_are_not_survived_by_who_finishes_everything(ft: Ft) -> None:
    """Each answer is over within the second that its workers have: none of them was given up."""
    many = Scenario(
        name="cancellation/many",
        topology=aggregated(workers=2, speed=20),
        workload=[completion(max_tokens=40, at_s=place * 0.02) for place in range(20)],
        # 0.7 s before the end: late enough to be answered in time, and early enough for a busy machine to leave before.
        faults=[on_token(26, request=place).inject(disconnect(client_of(place))) for place in range(0, 20, 2)],
        expect=[cancelled_within(ms=1_000), no_tokens_after_abort(), slots_freed(), kv_freed(), ends_as_asked()],
    )
    record = ft.run(many, stack="sim", bug="ignored-abort", check=False)
    (failed,) = [one for one in record.oracles if one.verdict == "fail"]
    assert "finished the whole answer to" in failed.reason
    assert ft.run(many, stack="sim").verdict == "pass"


def test_with_the_last_token_nothing_is_cancelled(ft: Ft) -> None:
    """Whether the kernel still had the connection or not: what is found then is unknown."""
    last = Scenario(
        name="cancellation/last",
        topology=aggregated(workers=1),
        workload=[completion(max_tokens=30), completion("And", max_tokens=20, after=0)],
        faults=[on_token(30).inject(disconnect())],
        expect=[no_tokens_after_abort(), slots_freed(), kv_freed(), still_serves()],
    )
    verdicts = {ft.run(last, stack="sim", check=False).verdict for _ in range(4)}
    assert verdicts == {"unknown"}


# Those that a planted bug runs are run without it, too, and with each engine's words: test_bugs.py.
FAMILY = sorted(
    {name for name in shipped() if name.startswith("cancellation/")} - {bug.scenario for bug in BUGS.values()}
)
ENGINES = ("vllm", "sglang", "trtllm")


@pytest.mark.parametrize("name,engine", [(name, ENGINES[place % 3]) for place, name in enumerate(FAMILY)])
def test_a_scenario_of_the_family_passes(ft: Ft, name: str, engine: str) -> None:
    """On the simulated stack, in the words of one engine or another."""
    assert ft.run(name, stack="sim", engine=engine).drift == []


def test_each_choice_is_given_up_where_it_is(ft: Ft) -> None:
    """Of a request with two choices each of two workers has one."""
    two = Scenario(
        name="cancellation/choices",
        topology=aggregated(workers=2),
        workload=[completion(max_tokens=200, n=2)],
        faults=[on_token(60).inject(disconnect())],
        expect=[
            cancelled_within(ms=500),
            aborted_in("aggregated"),
            cancellations_counted(frontend=1, workers=2),
            no_tokens_after_abort(),
            slots_freed(),
            kv_freed(),
            ends_as_asked(),
        ],
    )
    record = ft.run(two, stack="sim")
    events = read_history(ft.folder / record.path / "history.jsonl")
    assert {line.source for line in of(events, Log, event="request_aborted")} == {"worker-1", "worker-2"}


def test_a_test_of_ones_own_cancels_and_judges(ft: Ft) -> None:
    """By the stream itself; the oracles wait for what is still to come."""
    stream = ft.client.complete(max_tokens=400).wait()
    stream.token(30).wait()
    stream.cancel().wait()
    after = ft.client.complete(max_tokens=20).wait()
    again = ft.client.complete(max_tokens=20).wait()
    for one in (after, again):  # one of them on the worker that had the first
        assert one.finished().wait(20).outcome == "success"
    ft.expect(
        cancelled_within(ms=500, request=stream),
        aborted_in("aggregated", stream),
        still_serves(stream),
        no_tokens_after_abort(stream),
        succeeds(after),
        slots_freed(),
        kv_freed(),
        cancellations_counted(),
    )


def test_a_test_of_ones_own_kills_its_client(ft: Ft) -> None:
    """A fault on a request that it sent, by its place among those."""
    other = ft.client.complete(max_tokens=100).wait()
    stream = ft.client.complete(max_tokens=400, own_process=True).wait()
    stream.token(10).wait()
    ft.inject(kill_client(client_of(1))).wait()
    assert stream.finished().wait(20).outcome == "cancelled"
    assert other.finished().wait(20).outcome == "success"
    ft.expect(cancelled_within(ms=500), ends_as_asked())
