"""The simulated stack over real HTTP: what a client asks and gets, and what becomes of it when a process is lost.

What needs no fault is asked of one stack, which the tests of a process share; a test with a fault has a stack of its own.
"""

import json
from collections.abc import Callable, Iterator
from signal import Signals
from typing import Any

import httpx
import pytest

from ftharness.client import chat, completion
from ftharness.engine.tokens import VOCABULARY, chat_prompt, choice_seed, encode, generate, logprob
from ftharness.faults import freeze, frontend, kill, serving, terminate, thaw
from ftharness.handles import StreamHandle
from ftharness.history import Event, Log, RequestChunk
from ftharness.logs import read_metrics
from ftharness.portal import Portal
from ftharness.process import Process
from ftharness.pytest_plugin import Ft
from ftharness.scenario import (
    exits_as,
    fails_with,
    migrated,
    never_logged,
    not_migrated,
    succeeds,
    tokens_exact,
)
from ftharness.stack import aggregated

MODEL = "ftharness-sim"
PROMPT = "Once upon a time"
CHAT = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
MIGRATIONS = "dynamo_frontend_model_migration_total"
TOO_LONG = "dynamo_frontend_model_migration_max_seq_len_exceeded_total"
# Beyond what any test waits for: a request that only ends when something ends it.
ENDLESS = 100_000

forms = pytest.mark.parametrize("path,stream", [(p, s) for p in (COMPLETIONS, CHATS) for s in (True, False)])


class Got:
    """An answer as OpenAI's clients read it: per choice its texts, piece by piece, its reasons and log probabilities."""

    def __init__(self, response: httpx.Response, *, stream: bool) -> None:
        assert response.status_code == 200, response.text
        self.done, self.bodies = False, [] if stream else [response.json()]
        for line in response.text.splitlines() if stream else ():
            assert not (self.done and line), "something comes after [DONE]"
            self.done = self.done or line == "data: [DONE]"
            if line and not self.done:
                self.bodies.append(json.loads(line.removeprefix("data: ")))
        self.pieces: dict[int, list[str]] = {}
        self.reasons: dict[int, list[str]] = {}
        self.logprobs: dict[int, list[Any]] = {}
        for choice in (choice for body in self.bodies for choice in body["choices"]):
            said = choice.get("delta") or choice.get("message") or {"content": choice.get("text", "")}
            self.pieces.setdefault(choice["index"], []).append(said["content"])
            if choice["finish_reason"]:
                self.reasons.setdefault(choice["index"], []).append(choice["finish_reason"])
            if choice["logprobs"]:
                self.logprobs.setdefault(choice["index"], []).append(choice["logprobs"])

    def text(self, choice: int = 0) -> str:
        return "".join(self.pieces[choice])

    @property
    def usage(self) -> Any:
        return self.bodies[-1].get("usage")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ft]:
    """Two workers to which nothing happens. Torn down, and judged, as every other stack."""
    portal = Portal()
    defaults = {"stack": "sim", "engine": "", "sut_python": "", "seed": 0}
    stack = Ft(portal, tmp_path_factory.mktemp("shared") / "stack", defaults, "shared")
    yield stack
    stack.finish()
    portal.close()


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
def ask(shared: Ft, http: httpx.Client) -> Callable[..., Got]:
    """``ask(path, stream=stream, **fields)``: one request to the shared stack, read whole."""

    def one(path: str, *, stream: bool, **fields: Any) -> Got:
        said = {"messages": CHAT} if path == CHATS else {"prompt": PROMPT}
        body = {"model": MODEL, "stream": stream, "max_tokens": 40, "seed": 7, **said, **fields}
        if stream:
            body.setdefault("stream_options", {"include_usage": True})
        return Got(http.post(shared.stack.url + path, json=body), stream=stream)

    return one


def prompt_ids(path: str) -> list[int]:
    return encode(chat_prompt(CHAT) if path == CHATS else PROMPT)


def ids_for(path: str, count: int, *, seed: int = 7, choice: int = 0) -> list[int]:
    return generate(choice_seed(seed, choice), prompt_ids(path), count)


def text_of(ids: list[int]) -> str:
    return "".join(VOCABULARY[token_id] for token_id in ids)


def cut(ids: list[int], stops: list[str]) -> tuple[str, int]:
    """The text before the first stop string, and the tokens that it takes to complete one."""
    for count in range(1, len(ids) + 1):
        text = text_of(ids[:count])
        places = [text.index(stop) for stop in stops if stop in text]
        if places:
            return text[: min(places)], count
    raise AssertionError("no stop string comes")


def seen(ft: Ft, event: str, *, source: str = "", request: str = "", deadline_s: float = 10.0) -> Log:
    """The first log line of that meaning, which may still be on its way."""

    def fits(seen: Event) -> bool:
        return (
            isinstance(seen, Log)
            and seen.event == event
            and source in ("", seen.source)
            and seen.captures.get("request", "").startswith(request)
        )

    found = ft._portal.call(ft.history.wait_for(fits, deadline_s=deadline_s, what=f"{event} of {source or 'anybody'}"))
    assert isinstance(found, Log)
    return found


def lines(ft: Ft, event: str) -> list[Log]:
    return list(ft.history.select(Log, event=event))


def samples(http: httpx.Client, url: str, name: str) -> dict[str, float]:
    """A metric's values, by their labels."""
    text = http.get(f"{url}/metrics").text
    return {str(sorted(one.labels.items())): one.value for one in read_metrics(text) if one.name == name}


def slots_busy(ft: Ft, http: httpx.Client, worker: Process) -> float:
    port = seen(ft, "listening", source=worker.name).captures["port"]
    return sum(samples(http, f"http://127.0.0.1:{port}", "ftsim_slots_busy").values())


def texts(ft: Ft, stream: StreamHandle) -> dict[int, str]:
    """Each choice's text, as the client got it."""
    found: dict[int, str] = {}
    for chunk in ft.history.select(RequestChunk, request=stream.id):
        found[chunk.choice] = found.get(chunk.choice, "") + chunk.text
    return found


def kill_server_of(ft: Ft, stream: StreamHandle, *, at_token: int) -> Process:
    """Kill whoever has the request, once that many tokens have come."""
    stream.token(at_token).wait()
    worker = ft.stack.serving(stream)
    ft.inject(kill(worker)).wait()
    return worker


async def let_go(process: Process) -> None:
    """SIGCONT that is no fault: it may come when the request is over, where a fault would count as off its target."""
    process.signal(Signals.SIGCONT, reason="heal")


# What a client asks and gets.


@forms
def test_an_answer_is_the_computed_tokens(ask: Callable[..., Got], path: str, stream: bool) -> None:
    """Text, finish reason, usage and framing of a plain answer are those that follow from prompt and seed."""
    got = ask(path, stream=stream)
    assert got.text() == text_of(ids_for(path, 40))
    assert got.reasons == {0: ["length"]}
    prompt = len(prompt_ids(path))
    assert got.usage == {"prompt_tokens": prompt, "completion_tokens": 40, "total_tokens": prompt + 40}
    assert got.done == stream
    kinds = {COMPLETIONS: "text_completion", CHATS: "chat.completion.chunk" if stream else "chat.completion"}
    assert {(body["object"], body["model"]) for body in got.bodies} == {(kinds[path], MODEL)}
    if stream:
        assert len(got.pieces[0]) > 20, "at 200 tokens a second they come one by one"
        assert all(body["usage"] is None for body in got.bodies[:-1])
        assert got.bodies[-1]["choices"] == []
        if path == CHATS:
            assert got.bodies[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


@forms
def test_every_choice_has_tokens_of_its_own(ask: Callable[..., Got], path: str, stream: bool) -> None:
    """Two choices are two answers, each from its own seed and with its own end; usage counts both."""
    got = ask(path, stream=stream, n=2)
    assert {choice: got.text(choice) for choice in got.pieces} == {
        choice: text_of(ids_for(path, 40, choice=choice)) for choice in (0, 1)
    }
    assert got.text(0) != got.text(1)
    assert got.reasons == {0: ["length"], 1: ["length"]}
    assert got.usage["completion_tokens"] == 80


@forms
def test_a_stop_string_ends_the_answer_before_itself(ask: Callable[..., Got], path: str, stream: bool) -> None:
    """Nothing of a stop string comes, though three tokens make it; usage counts the tokens that completed it."""
    ids = ids_for(path, 40)
    middle = text_of(ids[20:23])
    stop = middle[2:-1]
    before, used = cut(ids, [stop, "never said"])
    got = ask(path, stream=stream, stop=["never said", stop], logprobs=True if path == CHATS else 0)
    assert got.text() == before
    assert got.reasons == {0: ["stop"]}
    assert got.usage["completion_tokens"] == used == 23
    if stream:
        counts = [len(part.get("content") or part.get("tokens")) for part in got.logprobs[0]]
        assert counts[-1] < 3, "the whole stop string came in one chunk: nothing was held back"
    assert ask(path, stream=stream, stop="never said").text() == text_of(ids)


@forms
def test_what_may_become_a_stop_string_comes_late_but_whole(ask: Callable[..., Got], path: str, stream: bool) -> None:
    """Text that was held back for a stop string that does not come is not lost, at the end of the answer neither."""
    ids = ids_for(path, 40)
    got = ask(path, stream=stream, stop=[text_of(ids[10:12]) + "!", text_of(ids[38:40]) + "!"])
    assert got.text() == text_of(ids)
    assert got.reasons == {0: ["length"]}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("stop", [False, True], ids=["plain", "held back"])
def test_completions_have_a_logprob_a_token(ask: Callable[..., Got], stream: bool, stop: bool) -> None:
    """Tokens, log probabilities, alternatives and offsets are a list each, over all chunks as in one body."""
    ids = ids_for(COMPLETIONS, 40)
    # A text that begins as the stop string does is held back: its tokens come before it, at the offsets that it will have.
    got = ask(COMPLETIONS, stream=stream, logprobs=2, stop=[text_of(ids[10:12]) + "!"] if stop else None)
    whole = {key: [one for part in got.logprobs[0] for one in part[key]] for key in got.logprobs[0][0]}
    assert whole["tokens"] == [VOCABULARY[token_id] for token_id in ids]
    assert whole["token_logprobs"] == [logprob(token_id) for token_id in ids]
    assert whole["text_offset"] == [len(text_of(ids[:count])) for count in range(40)]
    assert [top[VOCABULARY[i]] for top, i in zip(whole["top_logprobs"], ids, strict=True)] == whole["token_logprobs"]
    assert {len(top) for top in whole["top_logprobs"]} == {2}


@pytest.mark.parametrize("stream", [True, False])
def test_chats_have_a_logprob_a_token(ask: Callable[..., Got], stream: bool) -> None:
    """Each token stands with its bytes, its log probability and as many alternatives as were asked for."""
    ids = ids_for(CHATS, 40)
    got = ask(CHATS, stream=stream, logprobs=True, top_logprobs=3)
    content = [one for part in got.logprobs[0] for one in part["content"]]
    assert [(one["token"], one["logprob"]) for one in content] == [(VOCABULARY[i], logprob(i)) for i in ids]
    assert all(bytes(one["bytes"]).decode() == one["token"] for one in content)
    assert {len(one["top_logprobs"]) for one in content} == {3}
    assert "".join(one["token"] for one in content) == got.text()


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}], ids=str)
def test_usage_of_a_stream_is_told_to_those_who_ask(ask: Callable[..., Got], options: Any) -> None:
    """Without include_usage no event of a stream says anything of usage, and the last has the finish reason."""
    got = ask(COMPLETIONS, stream=True, stream_options=options)
    assert not any("usage" in body for body in got.bodies)
    assert got.bodies[-1]["choices"][0]["finish_reason"] == "length"


def test_a_request_without_a_seed_has_the_stacks(ask: Callable[..., Got]) -> None:
    """The run's seed decides where the request brings none; the largest of its own that OpenAI allows is taken too."""
    assert ask(COMPLETIONS, stream=False, seed=None).text() == text_of(ids_for(COMPLETIONS, 40, seed=0))
    most = 2**63 - 1
    got = ask(COMPLETIONS, stream=False, seed=most, n=2)
    assert got.text(1) == text_of(ids_for(COMPLETIONS, 40, seed=most, choice=1))


GOOD: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"model": MODEL, "prompt": PROMPT, "max_tokens": 4},
    CHATS: {"model": MODEL, "messages": CHAT, "max_tokens": 4},
}
BAD = [
    (COMPLETIONS, {"model": "other"}, 404, "model"),
    (COMPLETIONS, {"n": 0}, 400, "n"),
    (COMPLETIONS, {"echo": True}, 400, "echo"),
    (COMPLETIONS, {"max_tokens": 0}, 400, "max_tokens"),
    (COMPLETIONS, {"max_tokens": 131_072}, 400, "max_tokens"),
    (COMPLETIONS, {"prompt": "x" * 131_072}, 400, "max_tokens"),
    (COMPLETIONS, {"prompt": ["one", "two"]}, 400, "prompt"),
    (COMPLETIONS, {"prompt": [1_000_000]}, 400, "prompt"),
    (COMPLETIONS, {"stream_options": {"include_usage": True}}, 400, "stream_options"),
    (COMPLETIONS, {"stop": [""]}, 400, "stop"),
    (COMPLETIONS, {"logprobs": 6}, 400, "logprobs"),
    (CHATS, {"messages": []}, 400, "messages"),
    (CHATS, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
    (CHATS, {"stream_options": {}}, 400, "stream_options"),
    (CHATS, {"top_logprobs": 21}, 400, "top_logprobs"),
]


def test_a_request_that_cannot_be_served_is_refused(shared: Ft, http: httpx.Client) -> None:
    """Each fault in a body gets its status and an error object that names the field; no worker hears of it."""
    routed = len(lines(shared, "request_routed"))
    for path, change, status, param in BAD:
        response = http.post(shared.stack.url + path, json=GOOD[path] | change)
        assert response.status_code == status, (change, response.text)
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert (error["param"], bool(error["message"])) == (param, True), change
    too_long = http.post(shared.stack.url + COMPLETIONS, json=GOOD[COMPLETIONS] | {"max_tokens": 131_072})
    assert too_long.json()["error"]["code"] == "context_length_exceeded"
    for content in (b"", b"{", b"[]", b'{"model": "\xff"}'):
        response = http.post(shared.stack.url + CHATS, content=content)
        assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error"), content
    for method, path, status in (("GET", COMPLETIONS, 405), ("POST", "/v1/other", 404)):
        response = http.request(method, shared.stack.url + path)
        assert (response.status_code, response.json()["error"]["code"]) == (status, status)
    # The good one's line comes after all that the bad ones could have caused.
    good = shared.client.complete(max_tokens=4).wait()
    good.finished().wait()
    seen(shared, "request_routed", request=good.id)
    assert len(lines(shared, "request_routed")) == routed + 1


def test_models_and_health_say_who_serves(shared: Ft, http: httpx.Client) -> None:
    """The model is listed once, and health has both workers."""
    assert [model["id"] for model in http.get(f"{shared.stack.url}/v1/models").json()["data"]] == [MODEL]
    health = http.get(f"{shared.stack.url}/health")
    assert (health.status_code, health.json()["status"]) == (200, "healthy")
    assert [(one["worker"], one["draining"]) for one in health.json()["instances"]] == [
        ("worker-1", False),
        ("worker-2", False),
    ]


def test_metrics_count_requests_and_tokens(shared: Ft, http: httpx.Client) -> None:
    """A request is counted by endpoint, type and end, and its tokens with it; afterwards nothing is in flight."""

    def counted() -> tuple[float, float]:
        requests = samples(http, shared.stack.url, "dynamo_frontend_requests_total")
        ours = [value for labels, value in requests.items() if all(f"'{word}'" in labels for word in words)]
        return sum(ours), sum(samples(http, shared.stack.url, "dynamo_frontend_output_tokens_total").values())

    words = ("chat_completions", "stream", "success")
    before = counted()
    stream = shared.client.chat(max_tokens=10).wait()
    stream.finished().wait()
    seen(shared, "request_completed", request=stream.id)  # it is counted before it is logged
    assert counted() == (before[0] + 1, before[1] + 10)
    assert sum(samples(http, shared.stack.url, "dynamo_frontend_inflight_requests").values()) == 0


def test_workers_take_turns(shared: Ft) -> None:
    """Requests, and the choices of one, go round robin."""
    takers = []
    for _ in range(6):
        stream = shared.client.complete(max_tokens=2).wait()
        assert stream.finished().wait().outcome == "success"
        takers.append(shared.stack.serving(stream).name)
    assert set(takers[::2]) != set(takers[1::2])
    assert (len(set(takers[::2])), len(set(takers[1::2]))) == (1, 1)
    both = shared.client.complete(max_tokens=2, n=2).wait()
    both.finished().wait()
    assert {seen(shared, "request_received", request=f"{both.id}-{choice}").source for choice in (0, 1)} == set(takers)


# What becomes of a request when a process is lost.


def test_a_request_moves_while_it_is_short(ft: Ft, http: httpx.Client) -> None:
    """Beyond migration_max_seq_len a request fails where a shorter one moves; log and metric say why."""
    bound = len(encode(PROMPT)) + 60
    ft.launch(aggregated(workers=3, migration_limit=3, migration_max_seq_len=bound))
    stream = ft.client.complete(PROMPT, max_tokens=ENDLESS).wait()
    kill_server_of(ft, stream, at_token=5)
    ft.expect(migrated(stream), never_logged("migration_refused"))
    kill_server_of(ft, stream, at_token=80)
    assert stream.finished().wait(10).outcome == "error"
    refused = seen(ft, "migration_refused", source="frontend", request=stream.id)
    assert int(refused.captures["tokens"]) >= len(encode(PROMPT)) + 80
    assert int(refused.captures["limit"]) == bound
    ft.expect(fails_with(500, stream), migrated(stream), never_logged("migration_exhausted"))
    assert sum(samples(http, ft.stack.url, TOO_LONG).values()) == 1


def test_a_choice_does_not_outlive_its_failed_request(ft: Ft) -> None:
    """When one choice may not move the request fails, and its other choices move nowhere."""
    # With one slot a worker, the third choice waits behind the first: it is short when the first is too long to move.
    ft.launch(aggregated(workers=2, slots=1, migration_max_seq_len=len(encode(PROMPT)) + 20))
    stream = ft.client.complete(PROMPT, max_tokens=ENDLESS, n=3).wait()
    stream.token(100).wait()
    first = seen(ft, "request_received", request=f"{stream.id}-0").source
    assert seen(ft, "request_received", request=f"{stream.id}-2").source == first
    ft.inject(kill(ft.stack[first])).wait()
    assert stream.finished().wait(10).error_code == 500
    other = next(worker for worker in ft.stack.workers if worker.name != first)
    seen(ft, "request_aborted", source=other.name, request=f"{stream.id}-1")
    seen(ft, "request_completed", request=stream.id)
    ft.expect(never_logged("migration_started"))


def test_everything_of_an_answer_migrates(ft: Ft) -> None:
    """With n, logprobs and stop, streamed or not, completion or chat: all is as it is without the fault."""
    ft.launch(aggregated(workers=2, speed=120))  # more than a second is left for the kill, on a busy machine too
    asked = []
    for make, prompt in ((completion, PROMPT), (chat, chat_prompt([{"role": "user", "content": PROMPT}]))):
        ids = [generate(choice, encode(prompt), 250) for choice in (0, 1)]
        # Across tokens, and at another place in each choice.
        stops = [text_of(ids[0][150:153])[2:-1], text_of(ids[1][170:172])[3:]]
        whole = [cut(one, stops) for one in ids]
        for stream in (True, False):
            request = make(PROMPT, n=2, logprobs=True, stop=stops, max_tokens=250, stream=stream)
            asked.append((request, len(encode(prompt)), whole))
    control = [ft.client.send(request).wait() for request, _, _ in asked]
    ends = [one.finished().wait(20) for one in control]
    struck = [ft.client.send(request).wait() for request, _, _ in asked]
    lost = kill_server_of(ft, struck[0], at_token=20)
    for (_, prompt_tokens, whole), before, expected, stream in zip(asked, control, ends, struck, strict=True):
        end = stream.finished().wait(20)
        assert end.outcome == "success", end
        assert texts(ft, stream) == texts(ft, before) == {choice: text for choice, (text, _) in enumerate(whole)}
        used = [count for _, count in whole]
        assert used == [153, 172]
        assert end.usage == expected.usage
        assert end.usage == {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": sum(used),
            "total_tokens": prompt_tokens + sum(used),
        }
        assert end.finish_reasons == expected.finish_reasons == ["stop", "stop"]
        assert end.logprobs == expected.logprobs == used
    # Of each request one choice was on the worker that was lost.
    moved = [line.captures["request"] for line in lines(ft, "migration_started")]
    assert sorted(name[:-2] for name in moved) == sorted(stream.id for stream in struck)
    assert {
        line.source for name in moved for line in lines(ft, "request_received") if line.captures["request"] == name
    } == {
        "worker-1",
        "worker-2",
    }
    ft.expect(exits_as("SIGKILL", source=lost.name), never_logged("request_aborted"))


def test_a_request_moves_as_often_as_it_may(ft: Ft, http: httpx.Client) -> None:
    """With a limit of 2, two losses leave the answer exact: the first before half of it, the second after."""
    ft.launch(aggregated(workers=3, migration_limit=2))
    stream = ft.client.complete(PROMPT, max_tokens=250).wait()
    first = kill_server_of(ft, stream, at_token=20)
    second = kill_server_of(ft, stream, at_token=130)
    assert first is not second
    assert stream.finished().wait(10).finish_reason == "length"
    ft.expect(migrated(stream, times=2), tokens_exact(stream), succeeds(stream))
    assert sum(samples(http, ft.stack.url, MIGRATIONS).values()) == 2


def test_a_request_moves_no_more_often(ft: Ft) -> None:
    """With a limit of 2 the third loss is the request's end, though a fourth worker is there."""
    ft.launch(aggregated(workers=4, migration_limit=2))
    stream = ft.client.complete(PROMPT, max_tokens=ENDLESS).wait()
    for at_token in (20, 60, 100):
        kill_server_of(ft, stream, at_token=at_token)
    assert stream.finished().wait(10).error_code == 500
    seen(ft, "migration_exhausted", source="frontend", request=stream.id)
    ft.expect(fails_with(500, stream), migrated(stream, times=2))
    after = ft.client.complete(max_tokens=5).wait()
    assert after.finished().wait(10).outcome == "success"


def test_a_silent_worker_counts_as_lost(ft: Ft) -> None:
    """With a stream timeout the request of a frozen worker moves; once thawed that one gives up what it had."""
    ft.launch(aggregated(workers=2, frontend_args=["--stream-timeout-s", "0.5"]))
    stream = ft.client.complete(PROMPT, max_tokens=400).wait()
    stream.token(20).wait()
    frozen = ft.stack.serving(stream)
    ft.inject(freeze(serving)).wait()
    seen(ft, "stream_timeout", request=stream.id)
    stream.token(stream.tokens + 10).wait()
    assert frozen.state() == "T"
    ft.inject(thaw(frozen)).wait()  # while the request still runs
    seen(ft, "request_aborted", source=frozen.name, request=stream.id)
    assert stream.finished().wait(10).outcome == "success"
    ft.expect(migrated(stream), tokens_exact(stream), succeeds(stream))


def test_a_late_word_of_a_silent_worker_is_not_heard(ft: Ft) -> None:
    """A worker that counted as lost gets the same request again, and is thawed: what it made of it before is nobody's."""
    ft.launch(aggregated(workers=2, frontend_args=["--stream-timeout-s", "1"]))
    stream = ft.client.complete(PROMPT, max_tokens=700).wait()
    stream.token(20).wait()
    frozen = ft.stack.serving(stream)
    ft.inject(freeze(serving, tree=False)).wait()  # its engine works on: there are old tokens for it to tell
    seen(ft, "stream_timeout", request=stream.id)
    stream.token(stream.tokens + 10).wait()
    kill_server_of(ft, stream, at_token=stream.tokens)
    ft._portal.call(let_go(frozen))
    assert stream.finished().wait(10).outcome == "success"
    assert [line.captures["worker"] for line in lines(ft, "request_routed")][::2] == [frozen.name] * 2
    seen(ft, "request_aborted", source=frozen.name, request=stream.id)  # the first attempt
    ft.expect(migrated(stream, times=2), tokens_exact(stream), succeeds(stream))


def test_without_a_timeout_a_request_waits_for_its_worker(ft: Ft) -> None:
    """A frozen worker's request stalls, and goes on exactly where it was once the worker is thawed."""
    ft.launch(aggregated(workers=2))
    stream = ft.client.complete(PROMPT, max_tokens=150).wait()
    stream.token(20).wait()
    frozen = ft.stack.serving(stream)
    ft.inject(freeze(serving)).wait()
    # At 200 tokens a second the rest would take 650 ms; what was under way when it froze is less than 50 tokens.
    with pytest.raises(TimeoutError):
        stream.token(stream.tokens + 50, deadline_s=0.8).wait()
    assert stream.result is None
    ft.inject(thaw(frozen)).wait()
    assert stream.finished().wait(10).finish_reason == "length"
    ft.expect(tokens_exact(stream), not_migrated(), succeeds(stream), never_logged("stream_timeout"))


def test_a_client_that_goes_away_frees_its_slot(ft: Ft, http: httpx.Client) -> None:
    """Running or queued, streamed or not: the worker aborts the request and its slot is the next one's."""
    ft.launch(aggregated(workers=1, slots=1))
    (worker,) = ft.stack.workers
    running = ft.client.complete(PROMPT, max_tokens=ENDLESS).wait()
    running.token(10).wait()
    unary = ft.client.chat(PROMPT, max_tokens=ENDLESS, stream=False).wait()
    behind = ft.client.complete(PROMPT, max_tokens=20).wait()
    for queued in (unary, behind):
        assert seen(ft, "request_phase", source=worker.name, request=queued.id).captures["phase"] == "queued"
    assert slots_busy(ft, http, worker) == 1
    for gone in (unary, running):
        gone.cancel().wait()
        for event, source in (
            ("client_disconnected", "frontend"),
            ("cancel_sent", "frontend"),
            ("request_aborted", worker.name),
        ):
            seen(ft, event, source=source, request=gone.id)
        assert seen(ft, "request_completed", request=gone.id).captures["status"] == "cancelled"
    assert behind.finished().wait(10).outcome == "success"
    assert slots_busy(ft, http, worker) == 0
    ft.expect(tokens_exact(behind), succeeds(behind))
    assert not [line for line in lines(ft, "request_aborted") if line.captures["request"] == behind.id]


def test_nothing_hangs_when_the_frontend_is_lost(ft: Ft, http: httpx.Client) -> None:
    """Requests end as errors, a new one finds nobody, and the workers drop what nobody reads any more."""
    ft.launch(aggregated(workers=2))
    streams = [ft.client.complete(PROMPT, max_tokens=ENDLESS, stream=stream).wait() for stream in (True, False)]
    streams[0].token(10).wait()
    takers = [ft.stack.serving(stream) for stream in streams]
    ft.inject(kill(frontend)).wait()
    ends = [stream.finished().wait(5) for stream in streams]
    assert [(end.outcome, end.status) for end in ends] == [("error", 200), ("error", None)]
    late = ft.client.complete(PROMPT).wait().finished().wait(5)
    assert late.outcome == "error"
    assert late.error.startswith("no connection")
    for stream, worker in zip(streams, takers, strict=True):
        seen(ft, "plane_lost", source=worker.name)
        seen(ft, "request_aborted", source=worker.name, request=stream.id)
        assert slots_busy(ft, http, worker) == 0
    ft.expect(exits_as("SIGKILL", source="frontend"))


def test_an_idle_worker_leaves_at_once(ft: Ft, http: httpx.Client) -> None:
    """SIGTERM ends an idle worker with status 0, and new requests go to the other."""
    ft.launch(aggregated(workers=2))
    first, second = ft.stack.workers
    ft.inject(terminate(first)).wait()
    seen(ft, "worker_left", source="frontend")
    streams = [ft.client.complete(PROMPT, max_tokens=5).wait() for _ in range(3)]
    assert {stream.finished().wait(10).outcome for stream in streams} == {"success"}
    assert {ft.stack.serving(stream).name for stream in streams} == {second.name}
    ft.expect(exits_as(0, source=first.name), not_migrated(), succeeds(), tokens_exact())
    assert [one["worker"] for one in http.get(f"{ft.stack.url}/health").json()["instances"]] == [second.name]


def test_a_stack_without_a_worker_says_so(ft: Ft, http: httpx.Client) -> None:
    """The last worker finishes what it has and takes nothing new; then health is 503, and there is no model."""

    def refused() -> tuple[int, int]:
        response = http.post(ft.stack.url + COMPLETIONS, json=GOOD[COMPLETIONS])
        return response.status_code, response.json()["error"]["code"]

    ft.launch(aggregated(workers=1))
    (worker,) = ft.stack.workers
    stream = ft.client.complete(PROMPT, max_tokens=250).wait()
    stream.token(20).wait()
    leaving = ft.inject(terminate(worker))
    seen(ft, "worker_draining", source="frontend")
    assert refused() == (503, 503)
    assert [one["draining"] for one in http.get(f"{ft.stack.url}/health").json()["instances"]] == [True]
    assert stream.finished().wait(10).outcome == "success"
    leaving.wait()
    seen(ft, "worker_left", source="frontend")
    health = http.get(f"{ft.stack.url}/health")
    assert (health.status_code, health.json()) == (503, {"status": "unhealthy", "instances": []})
    assert http.get(f"{ft.stack.url}/v1/models").json()["data"] == []
    assert refused() == (503, 503)
    ft.expect(exits_as(0), tokens_exact(stream), not_migrated())
