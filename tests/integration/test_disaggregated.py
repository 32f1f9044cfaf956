"""Prefill and decode in processes of their own: who does what of a request, and what becomes of it when one goes away."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ftharness.engine.settings import STRATEGIES
from ftharness.handles import StreamHandle
from ftharness.history import Event, Log, RequestChunk
from ftharness.logs import read_metrics
from ftharness.process import Process
from ftharness.pytest_plugin import Ft
from ftharness.scenario import succeeds, tokens_exact
from ftharness.stack import Topology, disaggregated

DEADLINE_S = 20.0
STRATEGY_NAMES = [name for name in STRATEGIES if name != "aggregated"]
#: Read in a second and sent in half of one: what is to happen meanwhile happens, on a busy machine too.
LONG, SLOW = "x" * 400, {"prefill_tokens_per_s": 400.0, "kv_tokens_per_s": 800.0}
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

        def fits(one: Event) -> bool:
            return (
                isinstance(one, Log)
                and (one.event, one.source) == (event, source)
                and self._about(one, request, captures)
            )

        found = self.ft._portal.call(
            self.ft.history.wait_for(fits, deadline_s=DEADLINE_S, what=f"{event} {captures} of {source}")
        )
        assert isinstance(found, Log)
        return found

    @staticmethod
    def _about(line: Log, request: str, captures: dict[str, str]) -> bool:
        named = line.captures.get("request", "").startswith(request)
        return named and all(line.captures.get(key) == value for key, value in captures.items())

    def lines(self, event: str, request: str = "") -> list[tuple[str, str]]:
        """Who logged that event of a request, and with which phase, if any."""
        found = self.ft.history.select(Log, event=event)
        return [(one.source, one.captures.get("phase", "")) for one in found if self._about(one, request, {})]

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

    def text(self, stream: StreamHandle) -> str:
        return "".join(chunk.text for chunk in self.ft.history.select(RequestChunk, request=stream.id))


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=DEADLINE_S) as client:
        yield client


def launch(ft: Ft, http: httpx.Client, strategy: Any, *, prefill: int = 1, decode: int = 1, **fields: Any) -> Stack:
    return Stack(ft, disaggregated(prefill=prefill, decode=decode, strategy=strategy, **SLOW, **fields), http)


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
    # A prompt of 400 tokens, read at 400 a second and sent at 800; the first line may have been read late.
    assert transfer.t - prefill.t > 0.8e9
    assert decode.t - transfer.t > 0.4e9
    made = {source: stack.metric(source, "ftsim_generated_tokens_total") for source in ("prefill-1", "decode-1")}
    assert made == {"prefill-1": 0, "decode-1": 40}
    assert stack.free("prefill-1", "decode-1")
    ft.expect(succeeds(stream), tokens_exact(stream))
