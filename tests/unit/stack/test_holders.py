"""Whose a request is, by lines that two pipes bring in whatever order."""

import pytest

from ftharness.history import Event, History, Log, RequestChunk, RequestSent
from ftharness.stack.holders import Holders

ROLES = {
    "frontend": "frontend",
    **{f"{role}-{n}": role for role in ("prefill", "decode") for n in (1, 2)},
    "worker-1": "aggregated",
    "worker-2": "aggregated",
}


def said(event: str, source: str, request: str = "r", **captures: str) -> Log:
    return Log(source=source, event=event, captures={"request": request, **captures})


def took(source: str, request: str = "r") -> Log:
    return said("request_received", source, request)


def phase(source: str, name: str) -> Log:
    return said("request_phase", source, phase=name)


TOKEN = RequestChunk(source="client", request="r", first=0, tokens=1)


def holders(*events: Event, roles: dict[str, str] = ROLES) -> Holders:
    """Each event 10 ns after the one before."""
    history = History(start_ns=0)
    for place, event in enumerate(
        (RequestSent(source="client", request="r", endpoint="/v1/completions"), *events), start=1
    ):
        history.append(event, at=place * 10)
    return Holders(history, roles)


@pytest.mark.parametrize(
    "events,name",
    [
        ([took("decode-1"), took("prefill-1"), phase("prefill-1", "prefill")], "prefill-1"),
        (
            [took("prefill-1"), phase("prefill-1", "prefill"), took("decode-1"), phase("decode-1", "queued")],
            "prefill-1",
        ),
        (
            [took("decode-1"), took("prefill-1"), phase("prefill-1", "prefill"), phase("decode-1", "kv_transfer")],
            "decode-1",
        ),
        ([took("decode-1"), took("prefill-1"), TOKEN], "decode-1"),
        ([took("decode-1"), phase("decode-1", "decode"), TOKEN, took("prefill-1")], "decode-1"),
        ([took("prefill-1"), TOKEN], None),
        ([took("decode-1"), took("prefill-1")], "prefill-1"),
        ([], None),
    ],
    ids=["prefill", "queued", "transfer", "token", "late claim", "line on its way", "no phases", "nothing"],
)
def test_it_is_whose_phase_it_is_and_the_decode_worker_once_a_token_came(events: list[Event], name: str | None) -> None:
    """Whichever claim was read last."""
    assert holders(*events).now("r") == name


def test_a_request_that_moved_is_with_those_who_took_it_last() -> None:
    """What an earlier attempt said of its phases counts no more, though its worker may still believe that it decodes."""
    first = [took("prefill-1"), took("decode-1"), phase("decode-1", "decode"), TOKEN]
    again = [*first, took("prefill-2"), phase("prefill-2", "prefill")]
    assert holders(*again).now("r") == "prefill-2"
    assert holders(*again, took("decode-2"), phase("decode-2", "decode")).now("r") == "decode-2"
    assert holders(*again).ever("r") == ["prefill-1", "decode-1", "prefill-2"]
    assert holders(*again).of_role("r", "prefill") == "prefill-2"
    assert holders(*again).of_role("r", "decode") == "decode-1"
    whole = {"worker-1": "aggregated", "worker-2": "aggregated"}
    moved = [took("worker-1"), phase("worker-1", "decode"), TOKEN, took("worker-2")]
    assert holders(*moved, roles=whole).now("r") == "worker-2"


def test_a_worker_has_it_until_it_says_that_it_is_done() -> None:
    """Of a request of two choices until it is done with both; one that took it again has it again."""
    one = holders(took("prefill-1"), said("request_finished", "prefill-1"), took("prefill-1"))
    assert [one.has("prefill-1", "r", t) for t in (25, 35, 45)] == [True, True, True]
    done = holders(took("prefill-1"), said("request_finished", "prefill-1"))
    assert [done.has("prefill-1", "r", t) for t in (25, 35)] == [True, False]
    both = holders(took("prefill-1", "r-0"), took("prefill-1", "r-1"), said("request_finished", "prefill-1", "r-0"))
    assert both.has("prefill-1", "r", 99)
