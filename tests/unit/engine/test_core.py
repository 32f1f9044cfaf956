"""The engine's state as a function of time: slots, queue, speed, aborts. No process, no clock of its own."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftharness.engine import tokens
from ftharness.engine.core import BLOCK, CATCH_UP_S, Core
from ftharness.engine.settings import EngineSettings

PROMPT = [1, 2, 3, 4]


def core(**settings: Any) -> Core:
    """An engine of 100 tokens a second that reads a prompt in no time worth speaking of."""
    return Core(EngineSettings(speed=100.0, prefill_tokens_per_s=1e9, **settings))


def ask(one: Core, name: str, at: float, *, max_tokens: int = 10, prompt: list[int] = PROMPT, seed: int = 0) -> None:
    message = {"op": "generate", "id": name, "token_ids": prompt, "max_tokens": max_tokens, "seed": seed}
    assert one.receive(message, at) == []


def abort(one: Core, name: str, at: float) -> None:
    assert one.receive({"op": "abort", "id": name}, at) == []


def made(one: Core, at: float) -> dict[str, tuple[list[int], str | None]]:
    """What it says of each request that moved in a tick at ``at``."""
    one.step(at)
    batches = [line["batch"] for line in one.drain_lines() if line["op"] == "tokens"]
    return {name: (ids, reason) for batch in batches for name, ids, reason in batch}


def phases(one: Core) -> list[tuple[str, str]]:
    return [phase for line in one.drain_lines() if line["op"] == "phases" for phase in line["batch"]]


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=12), st.integers(1, 20))
def test_however_it_is_woken_the_tokens_are_the_chain(waits: list[float], max_tokens: int) -> None:
    """Ticks early, late or merged: each token once, in order, and the last with the reason."""
    one, now, got, reasons = core(), 0.0, [], []
    ask(one, "r", now, max_tokens=max_tokens)
    for wait in [*waits, *[0.1] * max_tokens]:
        now += wait
        for ids, reason in made(one, now).values():
            got += ids
            reasons.append(reason)
    assert got == tokens.generate(0, PROMPT, max_tokens)
    assert [reason for reason in reasons if reason] == ["length"]
    assert one.status()["generated"] == max_tokens


def test_one_that_has_all_its_tokens_ends() -> None:
    """A request that is moved between its last token and its end has nothing left to be made, and gets its end."""
    one = core()
    ask(one, "r", 0.0, max_tokens=0)
    assert made(one, 0.001) == {"r": ([], "length")}
    assert one.status()["generated"] == 0


def test_tokens_come_at_their_speed() -> None:
    """One at the end of the prefill, the next each 10 ms; a tick that is late brings all that were due."""
    one = core()
    ask(one, "r", 0.0)
    assert len(made(one, 0.001)["r"][0]) == 1
    assert made(one, 0.005) == {}
    assert len(made(one, 0.0101)["r"][0]) == 1
    assert len(made(one, 0.0401)["r"][0]) == 3


def test_an_engine_that_was_frozen_goes_on_at_its_speed() -> None:
    """Beyond what it may catch up with, time that passed is lost: no burst of all that it missed."""
    one = core()
    ask(one, "r", 0.0, max_tokens=100)
    made(one, 0.001)
    late = CATCH_UP_S + 0.5
    assert len(made(one, late)["r"][0]) == 1
    assert len(made(one, late + 0.0101)["r"][0]) == 1


def test_a_prompt_is_read_at_its_speed() -> None:
    """No token before its prefill is over; then it is decoded, and both are told."""
    one = Core(EngineSettings(speed=100.0, prefill_tokens_per_s=100.0))
    ask(one, "r", 0.0, prompt=[1] * 50)
    assert phases(one) == [("r", "queued"), ("r", "prefill")]
    assert made(one, 0.49) == {}
    one.step(0.5)
    assert phases(one) == [("r", "decode")]


def test_what_has_no_slot_waits_for_one() -> None:
    """In the order in which they came; the queue and the KV blocks are told."""
    one = core(slots=1)
    for name in ("a", "b", "c"):
        ask(one, name, 0.0, max_tokens=1)
    assert one.status() | {"generated": 0} == {
        "slots_busy": 1,
        "slots_total": 1,
        "kv_used": 1,
        "generated": 0,
        "queued": 2,
        "paused": 0,
    }
    order = [name for at in (0.001, 0.002, 0.003, 0.004) for name in made(one, at)]
    assert order == ["a", "b", "c"]
    assert one.status()["slots_busy"] == one.status()["queued"] == one.status()["kv_used"] == 0


def test_an_abort_frees_its_slot_for_the_next() -> None:
    """Of one that runs: it ends without another token, and the next begins."""
    one = core(slots=1)
    ask(one, "a", 0.0)
    ask(one, "b", 0.0)
    made(one, 0.001)
    abort(one, "a", 0.002)
    assert one.status()["queued"] == 0
    ended = made(one, 0.003)
    assert ended["a"] == ([], "abort")
    assert list(made(one, 1.0)) == ["b"]


def test_an_abort_takes_the_queued_out_of_the_queue() -> None:
    """Without a slot and before a token; what ended before hears nothing."""
    one = core(slots=1)
    ask(one, "a", 0.0, max_tokens=1)
    ask(one, "b", 0.0)
    abort(one, "b", 0.0005)
    assert made(one, 0.001) == {"b": ([], "abort"), "a": (made_first(), "length")}
    abort(one, "a", 0.002)
    abort(one, "nobody", 0.002)
    assert made(one, 1.0) == {}
    assert one.status()["slots_busy"] == one.status()["queued"] == 0


def made_first() -> list[int]:
    return tokens.generate(0, PROMPT, 1)


@pytest.mark.parametrize("held,blocks", [(1, 1), (BLOCK - 1, 1), (BLOCK, 2), (2 * BLOCK - 1, 2)])
def test_kv_is_held_in_whole_blocks(held: int, blocks: int) -> None:
    """Of the prompt and what was made, here one token."""
    one = core()
    ask(one, "r", 0.0, prompt=[1] * held)
    made(one, 0.001)
    assert one.status()["kv_used"] == blocks


def test_a_busy_slot_is_a_planted_bug() -> None:
    """What was aborted, or had been elsewhere before, keeps its slot; any other gives it back."""
    one = core(slots=3, bug="busy-slot")
    for name in ("whole", "cancelled"):
        ask(one, name, 0.0, max_tokens=2)
    message = {"op": "generate", "id": "moved", "token_ids": PROMPT, "max_tokens": 1, "seed": 0, "resumed": True}
    one.receive(message, 0.0)
    made(one, 0.001)
    abort(one, "cancelled", 0.002)
    made(one, 1.0)
    assert set(one.slots) == {"cancelled", "moved"}


def test_status_is_answered_at_once() -> None:
    """In the same turn, not in the next tick."""
    assert core().receive({"op": "status"}, 0.0) == [{"op": "status", "status": core().status()}]


# A request in two engines.


def tell(one: Core, at: float, op: str, name: str, **fields: Any) -> None:
    assert one.receive({"op": op, "id": name, **fields}, at) == []


def said(one: Core, at: float) -> dict[str, list[Any]]:
    """What it says in a tick at ``at``, by the kind of line."""
    one.step(at)
    return {line["op"]: line["batch"] for line in one.drain_lines()}


def ask_prefill(one: Core, name: str, at: float, prompt: list[int] = PROMPT) -> None:
    tell(one, at, "prefill", name, token_ids=prompt, seed=7)


def ask_decode(one: Core, name: str, at: float, *, context: int = len(PROMPT), prefilled: bool = True) -> None:
    tell(one, at, "decode", name, context=context, max_tokens=5, resumed=False, prefilled=prefilled)


@given(st.lists(st.integers(0, 8000), min_size=1, max_size=40))
def test_two_engines_make_the_tokens_of_one(prompt: list[int]) -> None:
    """A decode goes on from the KV of the prefill, and needs nothing else of the prompt than its length."""
    first, second = core(), core()
    ask_prefill(first, "r", 0.0, prompt)
    assert said(first, 0.001)["phases"][-1] == ("r", "prefilled")
    tell(first, 0.001, "send", "r")
    ((name, state),) = said(first, 0.002)["kv"]
    ask_decode(second, "r", 0.002, context=len(prompt))
    tell(second, 0.002, "kv", name, state=state)
    got = [token for at in (0.002, 0.1) for _, ids, _ in said(second, at).get("tokens", ()) for token in ids]
    assert got == tokens.generate(7, prompt, 5)
    assert (first.status()["generated"], second.status()["generated"]) == (0, 5)


def test_a_prefilled_prompt_holds_its_kv_but_no_slot() -> None:
    """The next one has the slot; the KV is there until it is released, whether or not it was sent."""
    one = core(slots=1)
    ask_prefill(one, "a", 0.0, [1] * (BLOCK + 1))
    ask_prefill(one, "b", 0.0)
    said(one, 0.001)
    assert said(one, 0.002)["phases"][-1] == ("b", "prefilled")
    assert (one.status()["slots_busy"], one.status()["kv_used"]) == (0, 3)
    tell(one, 0.003, "send", "a")
    assert [name for name, _ in said(one, 0.004)["kv"]] == ["a"]
    assert one.status()["kv_used"] == 3
    tell(one, 0.005, "release", "a")
    tell(one, 0.005, "release", "nobody")
    assert one.status()["kv_used"] == 1
    assert said(one, 1.0) == {}


def test_a_kv_takes_as_long_as_the_context_is() -> None:
    """At its own speed, from the moment at which it is sent for."""
    one = Core(EngineSettings(prefill_tokens_per_s=100.0, kv_tokens_per_s=1000.0))
    ask_prefill(one, "r", 0.0, [1] * 50)
    assert "prefilled" not in str(said(one, 0.49))
    assert said(one, 0.5)["phases"] == [("r", "prefilled")]
    tell(one, 2.0, "send", "r")
    assert said(one, 2.049) == {}
    assert [name for name, _ in said(one, 2.051)["kv"]] == ["r"]


def test_a_decode_takes_its_slot_before_its_kv() -> None:
    """In the order in which they came, whoever is prefilled first: the KV is sent for by those that have a slot."""
    one = core(slots=1)
    ask_decode(one, "a", 0.0, prefilled=False)
    ask_decode(one, "b", 0.0, prefilled=False)
    assert said(one, 0.001)["phases"] == [("a", "queued"), ("b", "queued")]
    tell(one, 0.001, "prefilled", "b")
    assert said(one, 0.002) == {}
    assert one.status() | {"generated": 0} == one.status() | {"slots_busy": 1, "queued": 1, "kv_used": 1}
    tell(one, 0.002, "prefilled", "a")
    assert said(one, 0.003)["phases"] == [("a", "kv_transfer")]
    tell(one, 0.003, "kv", "a", state=1)
    assert said(one, 0.003)["phases"] == [("a", "decode")]
    abort(one, "a", 0.004)
    assert said(one, 0.004)["phases"] == [("b", "kv_transfer")]


@pytest.mark.parametrize("when", ["queued", "prefill", "held", "sending", "waiting", "kv_transfer"])
def test_an_abort_frees_everything_in_each_phase(when: str) -> None:
    """Slot, queue and KV; and what comes for it afterwards comes to nobody."""
    one = core(slots=1)
    if when == "queued":
        ask(one, "other", 0.0, max_tokens=1)
    if when in ("waiting", "kv_transfer"):
        ask_decode(one, "r", 0.0, prefilled=when == "kv_transfer")
    else:
        ask_prefill(one, "r", 0.0)
    if when in ("held", "sending"):
        said(one, 0.001)
    if when == "sending":
        tell(one, 0.001, "send", "r")
    abort(one, "r", 0.001)
    assert ("r", [], "abort") in said(one, 0.002)["tokens"]
    for op, fields in (("prefilled", {}), ("kv", {"state": 1}), ("send", {}), ("release", {}), ("abort", {})):
        tell(one, 0.003, op, "r", **fields)
    assert said(one, 1.0) == {}
    status = one.status()
    assert status["slots_busy"] == status["queued"] == status["kv_used"] == 0


def awake(one: Core, at: float) -> list[str]:
    """What it says of its waking in a tick at ``at``: why it failed, or nothing that did."""
    one.step(at)
    return [reason for line in one.drain_lines() if line["op"] == "awake" for reason in line["batch"]]


def test_asleep_it_takes_requests_and_makes_nothing_of_them() -> None:
    """Neither of what ran nor of what comes; it says that it sleeps; awake it goes on at its speed, not in a burst."""
    one = core()
    ask(one, "ran", 0.0, max_tokens=1000)
    assert made(one, 0.001)
    assert one.receive({"op": "pause"}, 0.002) == [{"op": "paused"}]
    ask(one, "came", 0.003)
    assert made(one, 5.0) == {}
    assert one.next_at() is None
    assert (one.status()["paused"], one.status()["queued"]) == (1, 1)
    assert one.receive({"op": "resume", "wake_s": 0.5, "fails": False}, 5.0) == []
    assert one.next_at() == 5.5
    assert awake(one, 5.4) == []
    assert awake(one, 5.5) == [""]
    assert one.status()["paused"] == 0
    later = made(one, 5.51)
    assert set(later) == {"ran", "came"}
    assert len(later["ran"][0]) <= 2


def test_one_that_fails_to_wake_sleeps_on() -> None:
    """At the end of the time that waking takes it says so, and makes no token after that."""
    one = core()
    one.receive({"op": "pause"}, 0.0)
    one.receive({"op": "resume", "wake_s": 0.1, "fails": True}, 0.0)
    ask(one, "r", 0.0)
    assert awake(one, 0.1) == ["the engine did not wake: it was told to fail"]
    assert made(one, 9.0) == {}
    assert one.status()["paused"] == 1
