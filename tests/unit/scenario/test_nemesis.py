"""Which request a process had when a fault hit it: that decides whether the fault was on target."""

from functools import partial
from typing import cast

import pytest

from ftharness.client import Stream, completion
from ftharness.faults import Fault, Strike, client_of, disconnect
from ftharness.history import FaultLanded, FaultMissed, FaultRequested, History, Log, RequestChunk, RequestSent
from ftharness.process import Process
from ftharness.scenario import on_log, on_token
from ftharness.scenario.case import Case
from ftharness.scenario.nemesis import Nemesis
from ftharness.stack import RunningStack


def had(nemesis: Nemesis, t: int) -> str:
    return nemesis._had("worker-1", t)


@pytest.fixture
async def nemesis() -> Nemesis:
    """One that follows three requests, of which worker-1 took two: ``a`` ended at 50 ns, ``b`` at 80."""
    history = History(start_ns=0)
    one = Nemesis(cast("RunningStack", None), history, speed=200)
    for index, (name, ends) in enumerate((("a", 50), ("b", 80), ("c", 0))):
        stream = Stream(name, completion(), history, len, idle_s=1, index=index)
        one.follow(stream)
        history.append(
            Log(source="worker-2" if name == "c" else "worker-1", event="request_received", captures={"request": name}),
            at=10 + index,
        )
        if ends:
            stream._finish("cancelled", at=ends)
    return one


@pytest.mark.parametrize("t,request_id", [(40, "b"), (60, "b"), (80, "b"), (90, "b")])
async def test_it_is_the_last_that_ran_or_else_the_last(nemesis: Nemesis, t: int, request_id: str) -> None:
    """At the very moment of its end it still runs: it may be the fault that ended it."""
    assert had(nemesis, t) == request_id


async def test_one_that_was_taken_later_and_is_over_hides_none_that_runs(nemesis: Nemesis) -> None:
    """A storm of short requests beside a long one."""
    history = nemesis._history
    history.append(Log(source="worker-1", event="request_received", captures={"request": "c-0"}))
    assert had(nemesis, 90) == "c"
    nemesis._requests[2]._finish("cancelled", at=60)
    assert had(nemesis, 70) == "b"
    assert had(nemesis, 85) == "c"
    assert nemesis._had("worker-9", 70) == ""


@pytest.mark.parametrize("at,on_target", [(50, True), (51, False)])
async def test_what_it_had_is_asked_of_the_moment_of_the_landing(nemesis: Nemesis, at: int, on_target: bool) -> None:
    """Not of the moment when the fault was on its way: others may have ended it meanwhile."""
    history = nemesis._history
    process = cast("Process", nemesis._requests[0])  # only whom the event is about
    strike = Strike("fault-1", process, history, {}, "", lambda _: "a")
    strike.landed(at=at)
    (landed,) = history.select(FaultLanded)
    assert landed.on_target == on_target
    assert landed.evidence["request"] == ("was running" if on_target else "had already ended")


async def test_a_worker_that_is_done_with_the_request_is_not_on_target(nemesis: Nemesis) -> None:
    """The request goes on elsewhere: whoever hits here hits nothing of it. Of several it is one that the worker still has."""
    history = nemesis._history
    process = cast("Process", nemesis._requests[0])  # only whom the event is about
    history.append(Log(source="worker-1", event="request_finished", captures={"request": "b"}), at=30)
    assert had(nemesis, 40) == "a"
    history.append(Log(source="worker-1", event="request_finished", captures={"request": "a"}), at=35)
    assert had(nemesis, 40) == "b"
    history.append(FaultRequested(source="harness", id="fault-1", fault="kill", target="worker-1"))
    holds = partial(nemesis._holders.has, "worker-1")
    Strike("fault-1", process, history, {}, "", lambda _: "b", holds=holds).landed(at=40)
    (landed,) = history.select(FaultLanded)
    assert (landed.on_target, landed.evidence["request"]) == (False, "was done with there")
    assert Case(history.events).fault_trouble().endswith("which was done with the request")


@pytest.mark.parametrize(
    "fault,says",
    [
        (Fault(kind="kill", target=client_of(2)), "it hits processes, and was aimed at a client"),
        (disconnect(client_of(7)), "client (request 7): request 7 had not been sent"),
    ],
)
async def test_what_a_test_aims_at_nothing_misses(nemesis: Nemesis, fault: Fault, says: str) -> None:
    """In a scenario it would be refused; of a test it is known when it is injected."""
    await nemesis.inject(fault)
    assert [event.reason for event in nemesis._history.select(FaultMissed)] == [says]


@pytest.mark.parametrize("tokens,asked", [(2, 0), (3, 1)])
async def test_what_was_disarmed_asks_no_more(tokens: int, asked: int) -> None:
    """Armed once for a line and then for a token, it counts each token once: the third is the third."""
    history = History()
    one = Nemesis(cast("RunningStack", None), history, speed=1)
    one.arm([on_log("draining").inject(disconnect())])
    one.disarm()
    one.arm([on_token(3).inject(disconnect())])
    history.append(RequestSent(source="client", request="r", endpoint="/v1/completions"))
    for place in range(tokens):
        history.append(RequestChunk(source="client", request="r", first=place, tokens=1, text="x"))
    await one.settled(deadline_s=5)
    assert len(list(history.select(FaultRequested))) == asked
