"""Workers among themselves, over real connections: whose turn it is, who is dialled when, and what a lost one says."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.engine.link import Link
from ftharness.engine.peers import Peers

DEADLINE_S = 20.0


class Side:
    """One worker's peers, and what came from them."""

    def __init__(self, name: str) -> None:
        self.heard: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.lost: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.peers = Peers(
            name,
            lambda link, message: self.heard.put_nowait((link.name, message)),
            lambda link, reason: self.lost.put_nowait((link.name, reason)),
        )
        self.port = 0

    async def listens(self) -> "Side":
        self.port = await self.peers.listen(0)
        return self

    def told_of(self, *others: dict[str, Any]) -> None:
        self.peers.announced(list(others))

    def link(self, name: str) -> Link:
        link = self.peers.link(name)
        assert link is not None
        return link


def peer(name: str, *, role: str = "prefill", port: int = 1, draining: bool = False) -> dict[str, Any]:
    return {"worker": name, "role": role, "port": port, "draining": draining}


async def within(waiting: Any) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        return await waiting


@pytest.fixture
async def two() -> AsyncIterator[tuple[Side, Side]]:
    """``decode-1``, which knows ``prefill-1``, and that one, which knows nobody."""
    near, far = await Side("decode-1").listens(), await Side("prefill-1").listens()
    near.told_of(peer("prefill-1", port=far.port))
    yield near, far
    for side in (near, far):
        side.peers.close()


async def test_what_is_said_before_there_is_a_connection_comes_first(two: tuple[Side, Side]) -> None:
    """In its order, from one whose name is known; and there is one connection, both ways."""
    near, far = two
    for number in range(3):
        near.link("prefill-1").send(op="count", number=number)
    assert [await within(far.heard.get()) for _ in range(3)] == [
        ("decode-1", {"op": "count", "number": number}) for number in range(3)
    ]
    near.link("prefill-1").send(op="long", text="x" * 1_000_000)  # in many pieces
    _, message = await within(far.heard.get())
    assert message == {"op": "long", "text": "x" * 1_000_000}


async def test_each_end_hears_that_the_other_is_gone(two: tuple[Side, Side]) -> None:
    """By its name; what is sent afterwards is lost, and the next request dials anew."""
    near, far = two
    first = near.link("prefill-1")
    first.send(op="count")
    await within(far.heard.get())
    first.close()
    assert (await within(far.lost.get()))[0] == "decode-1"
    assert (await within(near.lost.get()))[0] == "prefill-1"
    first.send(op="late")
    second = near.link("prefill-1")
    assert second is not first
    second.send(op="again")
    assert await within(far.heard.get()) == ("decode-1", {"op": "again"})


async def test_one_that_nobody_listens_behind_is_lost(two: tuple[Side, Side]) -> None:
    """With the reason, and not before the caller is done with what it does now."""
    near, far = two
    far.peers.close()
    link = near.link("prefill-1")
    link.send(op="count")
    assert near.lost.empty()
    name, reason = await within(near.lost.get())
    assert name == "prefill-1"
    assert "Connect call failed" in reason


async def test_who_is_not_known_is_not_dialled(two: tuple[Side, Side]) -> None:
    """And one that the frontend does not know any more is nobody's turn, though the connection to it may be there still."""
    near, _ = two
    assert near.peers.link("prefill-2") is None
    there = near.link("prefill-1")
    near.told_of()
    assert near.peers.pick("prefill", but=()) is None
    assert near.peers.link("prefill-1") is there


NAMES = [f"prefill-{number}" for number in range(6)]


@given(st.lists(st.sampled_from(NAMES), unique=True), st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)))
async def test_turns_go_round(known: list[str], draining: set[str], but: set[str]) -> None:
    """Among those of the role that take requests and are not excepted, each once before any twice."""
    side = Side("decode-1")
    peers = [peer(name, draining=name in draining) for name in known]
    side.told_of(*peers, peer("decode-2", role="decode"))
    able = [name for name in known if name not in draining | but]
    picked = [link.name for _ in range(2 * len(able)) if (link := side.peers.pick("prefill", but=but))]
    assert picked == able * 2
    side.told_of(*reversed(peers))  # whoever is told of again keeps its turn
    assert (side.peers.pick("prefill", but=but) is None) == (not able)
    side.peers.close()
