"""Prefill and decode in processes of their own: who does what of a request, and what becomes of it when one goes away."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from signal import Signals
from typing import Any

import httpx
import pytest

from ftharness.engine.settings import STRATEGIES
from ftharness.engine.tokens import decode as text_of
from ftharness.engine.tokens import encode, generate
from ftharness.faults import freeze, frontend, kill, kill_engine, terminate, thaw
from ftharness.handles import StreamHandle
from ftharness.history import Event, Log, ProcessExited
from ftharness.logs import read_metrics
from ftharness.process import Process
from ftharness.pytest_plugin import Ft
from ftharness.scenario import exits_as, fails_with, succeeds, tokens_exact
from ftharness.stack import Topology, disaggregated

DEADLINE_S = 20.0
STRATEGY_NAMES = [name for name in STRATEGIES if name != "aggregated"]
#: Read in 0.6 s and sent in 0.4 s: what is to happen meanwhile happens, on a busy machine too.
LONG, SLOW = "x" * 300, {"prefill_tokens_per_s": 500.0, "kv_tokens_per_s": 750.0}
# Beyond what any test waits for: a request that only ends when something ends it.
ENDLESS = 100_000

by_strategy = pytest.mark.parametrize("strategy", STRATEGY_NAMES)


class Stack:
    """A launched stack, and what its processes say of a request."""

    def __init__(self, ft: Ft, topology: Topology, http: httpx.Client) -> None:
        self.ft = ft
        self._http = http
        ft.launch(topology)

    def __getitem__(self, name: str) -> Process:
        return self.ft.stack[name]

    def ask(self, prompt: str = LONG, **fields: Any) -> StreamHandle:
        return self.ft.client.complete(prompt, **fields).wait()

    def seen(self, event: str, source: str, request: str = "", **captures: str) -> Log:
        """That line, which may still be on its way."""
        return self._wait(
            f"{event} of {source}", lambda line: line.source == source and self._about(line, event, request, captures)
        )

    def seen_anywhere(self, event: str, request: str, **captures: str) -> Log:
        """That line of whichever process."""
        return self._wait(event, lambda line: self._about(line, event, request, captures))

    def _wait(self, what: str, fits: Callable[[Log], bool]) -> Log:
        found = self.ft._portal.call(
            self.ft.history.wait_for(lambda one: isinstance(one, Log) and fits(one), deadline_s=DEADLINE_S, what=what)
        )
        assert isinstance(found, Log)
        return found

    def taker(self, request: str, role: str, phase: str) -> str:
        """Which worker of that role has the request in that phase; "" where none has come to it yet."""
        self.seen_anywhere("request_phase", request, phase=phase)
        takers = [source for source, _ in self.lines("request_received", request) if source.startswith(role)]
        return takers[-1] if takers else ""

    @staticmethod
    def _about(line: Log, event: str, request: str, captures: dict[str, str]) -> bool:
        named = line.captures.get("request", "").startswith(request)
        return line.event == event and named and all(line.captures.get(key) == value for key, value in captures.items())

    def lines(self, event: str, request: str = "") -> list[tuple[str, str]]:
        """Who logged that event of a request, and with which phase, if any."""
        found = self.ft.history.select(Log, event=event)
        return [(one.source, one.captures.get("phase", "")) for one in found if self._about(one, event, request, {})]

    def phases(self, request: str, source: str) -> list[str]:
        return [phase for name, phase in self.lines("request_phase", request) if name == source]

    def metric(self, source: str, name: str) -> float:
        url = self.ft.stack.url
        if source != "frontend":
            url = f"http://127.0.0.1:{self.seen('listening', source).captures['port']}"
        text = self._http.get(f"{url}/metrics").text
        return sum(one.value for one in read_metrics(text) if one.name == name)

    def free(self, *sources: str) -> bool:
        """Whether these hold neither a slot nor KV."""
        names = ("ftsim_slots_busy", "ftsim_kv_used", "ftsim_queued")
        return not any(self.metric(source, name) for source in sources for name in names)

    def settle(self, *requests: str) -> None:
        """Wait until the frontend is done with these, and each living worker has ended every part that it had."""
        left, books = set(requests), Books()

        def done(event: Event) -> bool:
            if isinstance(event, Log) and event.event == "request_completed":
                left.discard(event.captures["request"])
            books.note(event)
            return not left and books.balanced()

        self.ft._portal.call(self.ft.history.wait_for(done, deadline_s=DEADLINE_S, what=f"the end of {books}"))


class Books:
    """Which worker was given what, took it, and ended it: each part that is begun has one line of its end."""

    ENDS = ("request_finished", "request_aborted", "remote_aborted", "request_lost", "kv_released")

    def __init__(self) -> None:
        self._gone: set[str] = set()
        self._open: Counter[tuple[str, str]] = Counter()
        self._on_its_way: Counter[tuple[str, str]] = Counter()

    def __repr__(self) -> str:
        return f"open {self._open}, on its way {self._on_its_way}"

    def note(self, event: Event) -> None:
        if isinstance(event, ProcessExited):
            self._gone.add(event.source)
        elif isinstance(event, Log) and "request" in event.captures:
            key = (event.source, event.captures["request"])
            if event.event == "request_routed":
                self._on_its_way[event.captures["worker"], key[1]] += 1
            elif event.event == "request_received":
                self._open[key] += 1
                self._on_its_way[key] -= 1  # below 0: a worker gave it
            elif event.event in self.ENDS:
                self._open[key] -= 1
                assert self._open[key] >= 0, f"{key} has ended twice"

    def balanced(self) -> bool:
        left = [key for key, count in self._open.items() if count != 0]
        left += [key for key, count in self._on_its_way.items() if count > 0]
        return all(source in self._gone for source, _ in left)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=DEADLINE_S) as client:
        yield client


def launch(ft: Ft, http: httpx.Client, strategy: Any, *, prefill: int = 1, decode: int = 1, **fields: Any) -> Stack:
    return Stack(ft, disaggregated(prefill=prefill, decode=decode, strategy=strategy, **SLOW, **fields), http)


async def let_go(process: Process) -> None:
    """SIGCONT that is no fault: the request is over, and a fault would count as off its target."""
    process.signal(Signals.SIGCONT, reason="heal")


# Where nothing happens.


@by_strategy
def test_a_request_goes_through_both_workers(ft: Ft, http: httpx.Client, strategy: str) -> None:
    """Each phase in its worker, one after the other; the tokens are those of one worker, and nothing is left behind."""
    stack = launch(ft, http, strategy)
    stream = stack.ask(max_tokens=40)
    assert stream.finished().wait(DEADLINE_S).outcome == "success"
    for source in ("prefill-1", "decode-1"):
        stack.seen("request_finished", source, stream.id)
    assert stack.phases(stream.id, "prefill-1") == ["queued", "prefill"]
    assert stack.phases(stream.id, "decode-1") == ["queued", "kv_transfer", "decode"]
    prefill = stack.seen("request_phase", "prefill-1", stream.id, phase="prefill")
    transfer = stack.seen("request_phase", "decode-1", stream.id, phase="kv_transfer")
    decode = stack.seen("request_phase", "decode-1", stream.id, phase="decode")
    # 0.6 s and 0.4 s; the first line of each pair may have been read late.
    assert transfer.t - prefill.t > 0.4e9
    assert decode.t - transfer.t > 0.2e9
    made = {source: stack.metric(source, "ftsim_generated_tokens_total") for source in ("prefill-1", "decode-1")}
    assert made == {"prefill-1": 0, "decode-1": 40}
    assert stack.free("prefill-1", "decode-1")
    ft.expect(succeeds(stream), tokens_exact(stream))


@pytest.mark.parametrize("prefill,decode", [(1, 3), (3, 1), (2, 2)])
@by_strategy
def test_any_split_gives_the_tokens_of_one_worker(
    ft: Ft, http: httpx.Client, strategy: Any, prefill: int, decode: int
) -> None:
    """Several requests at once, of several lengths and choices: what counts is the prompt and the seed."""
    stack = Stack(ft, disaggregated(prefill=prefill, decode=decode, strategy=strategy), http)
    asked = [stack.ask("x" * (1 + 97 * place), max_tokens=20 + place, n=1 + place % 2) for place in range(8)]
    assert {stream.finished().wait(DEADLINE_S).outcome for stream in asked} == {"success"}
    ft.expect(succeeds(), tokens_exact())  # what one worker would have made: it is computed
    for role in ("prefill", "decode"):  # each in its turn
        names = {source for source, _ in stack.lines("request_received") if source.startswith(role)}
        assert names == {name for name, its in disaggregated(prefill=prefill, decode=decode).members if its == role}


# A client that goes away.

#: Strategy, phase -> who gives the request up, and who hears of it as the other half's worker.
GIVEN_UP = {
    ("decode_first", "prefill"): ("prefill-1", "decode-1"),
    ("decode_first", "kv_transfer"): ("decode-1", "prefill-1"),
    ("decode_first", "decode"): ("decode-1", "prefill-1"),
    ("prefill_first", "prefill"): ("prefill-1", ""),
    ("prefill_first", "kv_transfer"): ("decode-1", "prefill-1"),
    ("prefill_first", "decode"): ("decode-1", "prefill-1"),
    ("frontend_routed", "prefill"): ("prefill-1", ""),
    ("frontend_routed", "kv_transfer"): ("decode-1", "prefill-1"),
    ("frontend_routed", "decode"): ("decode-1", "prefill-1"),
}


def in_both_workers(stack: Stack, request: str, here: str, there: str) -> None:
    """Each worker says its own line, once, and the other one's never; both are free."""
    stack.seen("request_aborted", here, request)
    if there:
        stack.seen("remote_aborted", there, request)
    assert stack.lines("request_aborted", request) == [(here, "")]
    assert stack.lines("remote_aborted", request) == ([(there, "")] if there else [])
    assert stack.free("prefill-1", "decode-1")


def given_up(stack: Stack, request: str, here: str, there: str) -> None:
    """Lines and metrics of one cancellation, and of nothing else."""
    in_both_workers(stack, request, here, there)
    for source in ("prefill-1", "decode-1"):
        cancelled = stack.metric(source, "dynamo_component_cancellation_total")
        assert cancelled == (source in (here, there)), source
    assert stack.metric("frontend", "dynamo_frontend_model_cancellation_total") == 1


@pytest.mark.parametrize("strategy,phase", GIVEN_UP)
def test_a_client_that_goes_away_is_gone_in_both_workers(ft: Ft, http: httpx.Client, strategy: str, phase: str) -> None:
    """Whoever has the request gives it up, and the other half's worker hears of it: slots and KV are free, no token more."""
    stack = launch(ft, http, strategy)
    here, there = GIVEN_UP[strategy, phase]
    stream = stack.ask(max_tokens=ENDLESS)
    if phase == "decode":
        stream.token(5).wait()
    stack.seen("request_phase", "prefill-1" if phase == "prefill" else "decode-1", stream.id, phase=phase)
    stream.cancel().wait()
    given_up(stack, stream.id, here, there)
    made = stack.metric("decode-1", "ftsim_generated_tokens_total")
    assert (made == 0) == (phase != "decode")
    if not there:
        assert stack.lines("request_received", stream.id) == [("prefill-1", "")]
    after = stack.ask("short", max_tokens=10)
    assert after.finished().wait(DEADLINE_S).outcome == "success"
    assert stack.metric("decode-1", "ftsim_generated_tokens_total") == made + 10
    ft.expect(succeeds(after), tokens_exact(after))


@by_strategy
def test_one_that_waits_for_a_slot_is_given_up_too(ft: Ft, http: httpx.Client, strategy: str) -> None:
    """In the queue of the prefill behind another, which is not disturbed."""
    stack = launch(ft, http, strategy, slots=1)
    first = stack.ask(max_tokens=20)
    stack.seen("request_phase", "prefill-1", first.id, phase="prefill")
    behind = stack.ask(max_tokens=ENDLESS)
    stack.seen("request_phase", "prefill-1", behind.id, phase="queued")
    behind.cancel().wait()
    stack.seen("request_aborted", "prefill-1", behind.id)
    assert first.finished().wait(DEADLINE_S).outcome == "success"
    for source in ("prefill-1", "decode-1"):
        stack.seen("request_finished", source, first.id)
    given_up(stack, behind.id, "prefill-1", "decode-1" if strategy == "decode_first" else "")
    ft.expect(succeeds(first), tokens_exact(first))


@by_strategy
def test_an_answer_that_is_not_streamed_is_given_up_too(ft: Ft, http: httpx.Client, strategy: str) -> None:
    """And each of its choices: the id of each is in the lines."""
    stack = launch(ft, http, strategy)
    stream = stack.ask("short", max_tokens=ENDLESS, n=2, stream=False)
    for choice in (0, 1):
        stack.seen("request_phase", "decode-1", f"{stream.id}-{choice}", phase="decode")
    stream.cancel().wait()
    for choice in (0, 1):
        stack.seen("request_aborted", "decode-1", f"{stream.id}-{choice}")
        stack.seen("remote_aborted", "prefill-1", f"{stream.id}-{choice}")
    assert stack.free("prefill-1", "decode-1")
    assert stack.metric("frontend", "dynamo_frontend_model_cancellation_total") == 1


@by_strategy
def test_a_stop_string_is_no_cancellation(ft: Ft, http: httpx.Client, strategy: str) -> None:
    """The decode ends early and in order, in both workers."""
    stack = launch(ft, http, strategy)
    stop = text_of(generate(0, encode("short"), 30)[20:22])
    stream = stack.ask("short", max_tokens=ENDLESS, stop=[stop])
    assert stream.finished().wait(DEADLINE_S).finish_reason == "stop"
    for source in ("prefill-1", "decode-1"):
        stack.seen("request_finished", source, stream.id)
    assert stack.free("prefill-1", "decode-1")
    assert not stack.lines("request_aborted") + stack.lines("remote_aborted")
    for source in ("prefill-1", "decode-1"):
        assert stack.metric(source, "dynamo_component_cancellation_total") == 0


@by_strategy
def test_whenever_clients_go_away_nothing_is_left(ft: Ft, http: httpx.Client, strategy: str) -> None:
    """Sixty requests for two slots a worker, given up wherever they are: every part ends once, every slot and block is free."""
    topology = disaggregated(prefill=2, decode=2, strategy=strategy, slots=2, prefill_tokens_per_s=20_000.0)  # type: ignore[arg-type]
    stack, chance = Stack(ft, topology, http), random.Random(strategy)  # noqa: S311 - so that a failure can be had again
    asked = [stack.ask("x" * chance.randrange(1, 400), max_tokens=ENDLESS) for _ in range(3)]
    for _ in range(57):
        asked.append(stack.ask("x" * chance.randrange(1, 400), max_tokens=ENDLESS))
        if chance.random() < 0.5:
            asked[-1].cancel().wait()
        else:
            chance.choice(asked[-4:]).cancel().wait()
    for stream in asked:
        stream.cancel().wait()
    stack.settle(*(stream.id for stream in asked))
    assert stack.free("prefill-1", "prefill-2", "decode-1", "decode-2")
    assert stack.metric("frontend", "dynamo_frontend_model_cancellation_total") == len(asked)
    after = [stack.ask("short", max_tokens=10) for _ in range(4)]
    assert {stream.finished().wait(DEADLINE_S).outcome for stream in after} == {"success"}
    ft.expect(tokens_exact(after[0]), tokens_exact(after[1]))


@pytest.mark.parametrize("how", ["cancelled", "lost"])
@by_strategy
def test_a_prompt_that_was_read_for_nothing_is_let_go(ft: Ft, http: httpx.Client, strategy: str, how: str) -> None:
    """Its KV is held, and waits for a slot of the decode worker: until its client goes, or that worker does."""
    stack = launch(ft, http, strategy, slots=1)
    running = stack.ask("short", max_tokens=ENDLESS)
    stack.seen("request_phase", "decode-1", running.id, phase="decode")
    waiting = stack.ask("waits", max_tokens=ENDLESS)
    reading = stack.ask(max_tokens=ENDLESS)
    stack.seen("request_phase", "prefill-1", reading.id, phase="prefill")  # so the one before has been read
    stack.seen("request_phase", "decode-1", waiting.id, phase="queued")
    if how == "cancelled":
        waiting.cancel().wait()
        stack.seen("request_aborted", "decode-1", waiting.id)
        stack.seen("remote_aborted", "prefill-1", waiting.id)
        for stream in (reading, running):
            stream.cancel().wait()
        stack.settle(reading.id, running.id, waiting.id)
        assert stack.free("prefill-1", "decode-1")
    else:
        ft.inject(kill(stack["decode-1"])).wait()
        ends = [stream.finished().wait(DEADLINE_S) for stream in (running, waiting, reading)]
        assert {end.outcome for end in ends} == {"error"}
        stack.settle(reading.id, running.id, waiting.id)
        assert set(stack.lines("kv_released", waiting.id)) == {("prefill-1", "")}  # once an attempt; nobody gave it up
        assert stack.free("prefill-1")


@pytest.mark.parametrize("then", ["thawed", "killed"])
@pytest.mark.parametrize(
    "strategy,frozen,other",
    [("decode_first", "prefill-1", "decode-1"), ("prefill_first", "decode-1", "prefill-1")],
)
def test_a_client_goes_away_from_a_worker_that_does_not_hear(
    ft: Ft, http: httpx.Client, strategy: str, frozen: str, other: str, then: str
) -> None:
    """The other half's worker waits for its word with nothing but the KV that it holds, and closes when it is gone instead."""
    stack = launch(ft, http, strategy, slots=1)
    stream = stack.ask(max_tokens=ENDLESS)
    stack.seen("request_phase", "prefill-1", stream.id, phase="prefill")
    ft.inject(freeze(stack[frozen], tree=False)).wait()
    if strategy == "prefill_first":
        reading = stack.ask(max_tokens=ENDLESS)
        stack.seen("request_phase", "prefill-1", reading.id, phase="prefill")  # so the first one was handed over
        reading.cancel().wait()
        stack.seen("request_aborted", "prefill-1", reading.id)
    stream.cancel().wait()
    stack.seen("cancel_sent", "frontend", stream.id)
    assert not stack.lines("request_aborted", stream.id) + stack.lines("remote_aborted", stream.id)
    if then == "thawed":
        ft._portal.call(let_go(stack[frozen]))
        in_both_workers(stack, stream.id, frozen, other)
    else:
        stack[frozen].signal(Signals.SIGKILL, reason="teardown")
        # What nobody took was given up by the one who had it.
        stack.seen("remote_aborted" if strategy == "decode_first" else "request_aborted", other, stream.id)
        assert stack.free(other)


# A worker that goes away.


def settled_and_free(stack: Stack, stream: StreamHandle) -> None:
    """Every part of the request has ended, and nobody that lives holds anything."""
    stack.settle(stream.id)
    living = [worker.name for worker in stack.ft.stack.workers if worker.exit is None]
    assert living
    assert stack.free(*living)


@pytest.mark.parametrize("phase", ["prefill", "kv_transfer", "decode"])
@pytest.mark.parametrize("role", ["prefill", "decode"])
@by_strategy
def test_the_loss_of_a_worker_costs_no_token(ft: Ft, http: httpx.Client, strategy: str, role: str, phase: str) -> None:
    """In each phase, of either role: what needed the worker begins again on two others, with all tokens that it had."""
    stack = launch(ft, http, strategy, prefill=2, decode=2)
    stream = stack.ask(max_tokens=150)
    if phase == "decode":
        stream.token(20).wait()
    parts = {role: stack.taker(stream.id, role, phase) for role in ("prefill", "decode")}
    if not parts[role]:
        assert (role, phase) == ("decode", "prefill"), "nobody decodes before there is a KV"
        assert strategy != "decode_first"
        ft.inject(kill(stack["decode-1"])).wait()
    else:
        ft.inject(kill(stack[parts[role]])).wait()
    assert stream.finished().wait(DEADLINE_S).outcome == "success"
    settled_and_free(stack, stream)
    # Without a part in it nobody is missed; nor is a prefill worker that has handed the KV over, unless it passes the answer on.
    missed = bool(parts[role]) and not (role == "prefill" and phase == "decode" and strategy != "prefill_first")
    assert len(stack.lines("migration_started", stream.id)) == missed
    assert stack.metric("frontend", "dynamo_frontend_model_migration_total") == missed
    ft.expect(succeeds(stream), tokens_exact(stream), exits_as("SIGKILL", source=parts[role] or "decode-1"))


@pytest.mark.parametrize("role", ["prefill", "decode"])
@by_strategy
def test_without_a_worker_of_a_role_a_request_fails(ft: Ft, http: httpx.Client, strategy: str, role: str) -> None:
    """The one that ran, and each one after it, with 503; the other role's worker is free."""
    stack = launch(ft, http, strategy)
    stream = stack.ask(max_tokens=ENDLESS)
    stack.seen("request_phase", "decode-1", stream.id, phase="kv_transfer")
    ft.inject(kill(stack[f"{role}-1"])).wait()
    end = stream.finished().wait(DEADLINE_S)
    assert (end.outcome, end.status) == ("error", 503)
    settled_and_free(stack, stream)
    late = stack.ask("short").finished().wait(DEADLINE_S)
    assert (late.outcome, late.status) == ("error", 503)
    assert f"no {role} worker" in str(late.error)
    health = http.get(f"{ft.stack.url}/health")
    assert (health.status_code, len(health.json()["instances"])) == (503, 1)
    assert http.get(f"{ft.stack.url}/v1/models").json()["data"] == []


@pytest.mark.parametrize("role", ["prefill", "decode"])
@by_strategy
def test_a_worker_whose_engine_dies_is_lost(ft: Ft, http: httpx.Client, strategy: str, role: str) -> None:
    """It ends, and its connections tell: the request begins again elsewhere."""
    stack = launch(ft, http, strategy, prefill=2, decode=2)
    stream = stack.ask(max_tokens=100)
    stack.seen_anywhere("request_phase", stream.id, phase="kv_transfer")
    struck = stack.taker(stream.id, role, "kv_transfer")
    ft.inject(kill_engine(stack[struck])).wait()
    assert stream.finished().wait(DEADLINE_S).outcome == "success"
    stack.seen("engine_died", struck)
    settled_and_free(stack, stream)
    assert len(stack.lines("migration_started", stream.id)) == 1
    ft.expect(succeeds(stream), tokens_exact(stream), exits_as(1, source=struck))


@by_strategy
def test_whoever_is_killed_among_many_nothing_hangs(ft: Ft, http: httpx.Client, strategy: str) -> None:
    """Thirty requests on six workers, of which one of each role is killed: all tokens come, and the others are free."""
    topology = disaggregated(prefill=3, decode=3, strategy=strategy, slots=4, prefill_tokens_per_s=2_000.0)  # type: ignore[arg-type]
    stack, chance = Stack(ft, topology, http), random.Random(strategy)  # noqa: S311 - so that a failure can be had again
    asked = [stack.ask("x" * chance.randrange(1, 400), max_tokens=60) for _ in range(30)]
    for role in ("prefill", "decode"):
        struck = stack.taker(chance.choice(asked[10:]).id, role, "decode")
        ft.inject(kill(stack[struck])).wait()
    assert {stream.finished().wait(DEADLINE_S).outcome for stream in asked} == {"success"}
    stack.settle(*(stream.id for stream in asked))
    living = [worker.name for worker in ft.stack.workers if worker.exit is None]
    assert len(living) == 4
    assert stack.free(*living)
    ft.expect(succeeds(), tokens_exact())


@pytest.mark.parametrize("role", ["prefill", "decode"])
@by_strategy
def test_a_request_that_may_not_move_fails(ft: Ft, http: httpx.Client, strategy: str, role: str) -> None:
    """Whichever half is lost: with the status and the words of a limit that is spent."""
    stack = launch(ft, http, strategy, prefill=2, decode=2, migration_limit=0)
    stream = stack.ask(max_tokens=ENDLESS)
    stack.seen_anywhere("request_phase", stream.id, phase="kv_transfer")
    ft.inject(kill(stack[stack.taker(stream.id, role, "kv_transfer")])).wait()
    assert stream.finished().wait(DEADLINE_S).outcome == "error"
    stack.seen("migration_exhausted", "frontend", stream.id)
    settled_and_free(stack, stream)
    ft.expect(fails_with(500, stream))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@by_strategy
def test_when_the_frontend_goes_everybody_lets_go(ft: Ft, http: httpx.Client, strategy: str, phase: str) -> None:
    """The request breaks off, and neither half goes on with what nobody reads any more."""
    stack = launch(ft, http, strategy)
    stream = stack.ask(max_tokens=ENDLESS)
    stack.seen_anywhere("request_phase", stream.id, phase=phase)
    ft.inject(kill(frontend)).wait()
    assert stream.finished().wait(DEADLINE_S).outcome == "error"
    in_both_workers(stack, stream.id, *GIVEN_UP[strategy, phase])


@pytest.mark.parametrize("role", ["prefill", "decode"])
@by_strategy
def test_a_frozen_worker_counts_as_lost(ft: Ft, http: httpx.Client, strategy: str, role: str) -> None:
    """After the stream's timeout the request is on others; once thawed, the worker gives up what it had of it."""
    patience = ["--stream-timeout-s", "1.5"]
    stack = Stack(ft, disaggregated(prefill=2, decode=2, strategy=strategy, frontend_args=patience), http)  # type: ignore[arg-type]
    stream = stack.ask(max_tokens=700)
    stream.token(20).wait()
    frozen = stack[stack.taker(stream.id, role, "decode")]
    ft.inject(freeze(frozen)).wait()
    needed = role == "decode" or strategy == "prefill_first"
    if needed:
        stack.seen("stream_timeout", "frontend", stream.id)
        stream.token(stream.tokens + 10).wait()
    ft.inject(thaw(frozen)).wait()
    assert stream.finished().wait(DEADLINE_S).outcome == "success"
    settled_and_free(stack, stream)
    moves = len(
        stack.lines("migration_started", stream.id)
    )  # each prefill worker has a turn of its own for decode workers
    assert needed <= moves <= 2 * needed
    ft.expect(succeeds(stream), tokens_exact(stream))


# A worker that is asked to leave.


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("role", ["prefill", "decode"])
@by_strategy
def test_a_worker_that_drains_finishes_what_it_has(
    ft: Ft, http: httpx.Client, strategy: str, role: str, phase: str
) -> None:
    """The request ends on it, and moves nowhere; requests after it have the other worker of the role, or begin with it."""
    stack = launch(ft, http, strategy, prefill=2, decode=2)
    stream = stack.ask(max_tokens=100)
    stack.seen_anywhere("request_phase", stream.id, phase=phase)
    leaving = stack.taker(stream.id, role, phase) or "decode-1"
    left = ft.inject(terminate(stack[leaving], grace_s=DEADLINE_S))
    stack.seen("worker_draining", "frontend", worker=leaving)
    others = [stack.ask("short", max_tokens=10) for _ in range(4)]
    assert {one.finished().wait(DEADLINE_S).outcome for one in (stream, *others)} == {"success"}
    left.wait()
    assert leaving not in {source for one in others for source, _ in stack.lines("request_received", one.id)}
    assert not stack.lines("migration_started")
    settled_and_free(stack, stream)
    ft.expect(succeeds(), tokens_exact(), exits_as(0, source=leaving))


@pytest.mark.parametrize("role", ["prefill", "decode"])
@by_strategy
def test_a_drain_that_is_too_short_leaves_the_rest_to_others(
    ft: Ft, http: httpx.Client, strategy: str, role: str
) -> None:
    """What is still on it when its drain time is over moves."""
    stack = launch(ft, http, strategy, prefill=2, decode=2, drain_s=0.1)
    stream = stack.ask(max_tokens=100)
    stack.seen_anywhere("request_phase", stream.id, phase="kv_transfer")
    leaving = stack.taker(stream.id, role, "kv_transfer")
    ft.inject(terminate(stack[leaving], grace_s=DEADLINE_S)).wait()
    assert stream.finished().wait(DEADLINE_S).outcome == "success"
    settled_and_free(stack, stream)
    assert len(stack.lines("migration_started", stream.id)) == 1
    ft.expect(succeeds(), tokens_exact(), exits_as(0, source=leaving))


# A connection between two workers that is lost.


class Wire:
    """What a worker is told to announce instead of its own port: passes everything on, until it is cut."""

    def __init__(self) -> None:
        self._to: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ends: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server
        self._refusing = False
        self.port = 0

    @classmethod
    async def stretch(cls) -> "Wire":
        wire = cls()
        wire._server = await asyncio.start_server(wire._join, "127.0.0.1", 0)
        wire.port = wire._server.sockets[0].getsockname()[1]
        return wire

    async def fasten(self, port: int) -> None:
        self._to.set_result(port)

    async def refuse(self) -> None:
        """Hang up on the next one that dials; who dials afterwards is connected."""
        self._refusing = True

    async def cut(self) -> None:
        """Once: who dials afterwards is connected."""
        ends, self._ends = self._ends, []
        assert ends, "nobody had dialled"
        for writer in ends:
            writer.transport.abort()

    async def remove(self) -> None:
        self._server.close()
        for writer in self._ends:
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            self._refusing = False
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", await self._to)
        self._ends += [writer, far_writer]
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
        writer.transport.abort()


@pytest.fixture
def wired(ft: Ft, http: httpx.Client) -> Iterator[Callable[..., tuple[Stack, Wire]]]:
    """``wired(strategy)``: a stack of two workers with a :class:`Wire` between them; it leads to the first of its role."""
    wires = []

    def make(strategy: Any, **counts: int) -> tuple[Stack, Wire]:
        wire = ft._portal.call(Wire.stretch())
        wires.append(wire)
        stack = launch(ft, http, strategy, worker_args=["--announce-port", str(wire.port)], **counts)
        dialled = "decode-1" if strategy == "prefill_first" else "prefill-1"
        ft._portal.call(wire.fasten(int(stack.seen("peers_listening", dialled).captures["port"])))
        return stack, wire

    yield make
    for wire in wires:
        ft._portal.call(wire.remove())


@pytest.mark.parametrize("phase", ["prefill", "kv_transfer", "decode"])
@by_strategy
def test_a_lost_connection_between_workers_costs_no_token(
    ft: Ft, wired: Callable[..., tuple[Stack, Wire]], strategy: str, phase: str
) -> None:
    """What needed it begins again on the same two workers, over a new one; what did not, goes on."""
    stack, wire = wired(strategy)
    stack.ask("short", max_tokens=1).finished().wait(DEADLINE_S)  # so that there is a connection
    stream = stack.ask(max_tokens=100)
    stack.seen_anywhere("request_phase", stream.id, phase=phase)
    ft._portal.call(wire.cut())
    for source in ("prefill-1", "decode-1"):
        stack.seen("peer_lost", source)
    assert stream.finished().wait(DEADLINE_S).outcome == "success"
    settled_and_free(stack, stream)
    over_it = {
        "decode_first": ("prefill", "kv_transfer"),
        "prefill_first": ("kv_transfer", "decode"),
        "frontend_routed": ("kv_transfer",),
    }
    assert len(stack.lines("migration_started", stream.id)) == (phase in over_it[strategy])
    ft.expect(tokens_exact(stream))


@pytest.mark.parametrize("strategy", ["decode_first", "prefill_first"])
def test_a_worker_that_cannot_be_reached_is_not_waited_for(
    ft: Ft, wired: Callable[..., tuple[Stack, Wire]], strategy: str
) -> None:
    """The next one of its role is asked; what nobody has taken yet does not have to move."""
    stack, wire = wired(strategy, prefill=2, decode=2)
    ft._portal.call(wire.refuse())
    stream = stack.ask("short", max_tokens=20)
    assert stream.finished().wait(DEADLINE_S).outcome == "success"
    settled_and_free(stack, stream)
    assert not stack.lines("migration_started")
    assert len(stack.lines("peer_lost")) == 1
    ft.expect(succeeds(stream), tokens_exact(stream))
