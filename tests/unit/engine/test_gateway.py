"""The gateway over two servers that break: what the client gets is one whole answer, or one honest error."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from ftharness.engine import gateway_worker
from ftharness.engine.tokens import chat_prompt, decode, encode, generate

Capture = pytest.CaptureFixture[str]
PROMPT = "Once upon a time"
MESSAGES = [{"role": "user", "content": "Tell me a story"}]
TOKENS = 12
ENDPOINTS = pytest.mark.parametrize("chat", [False, True], ids=["completion", "chat"])


def _expected(prompt: str = PROMPT, tokens: int = TOKENS) -> str:
    return decode(generate(0, encode(prompt), tokens))


def _ask(*, chat: bool = False, **fields: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": TOKENS}
    return asked | ({"messages": MESSAGES} if chat else {"prompt": PROMPT}) | fields


async def _post(front: Any, *, chat: bool = False, **fields: Any) -> httpx.Response:
    path = "/v1/chat/completions" if chat else "/v1/completions"
    return await front.client.post(path, json=_ask(chat=chat, **fields), headers={"x-request-id": "story"})


async def _stream(front: Any, **fields: Any) -> list[Any]:
    answer = await _post(front, stream=True, **fields)
    assert answer.status_code == 200, answer.text
    *events, last = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    assert last == "[DONE]"
    return [json.loads(event) for event in events]


async def _whole(front: Any, **fields: Any) -> dict[str, Any]:
    """The body of an answer without what no two answers share."""
    answer = await _post(front, **fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert body.pop("id").endswith("-story")
    assert body.pop("created")
    return body


def _text(events: list[Any]) -> str:
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize("kind", ["die", "end", "error", "abort"])
@ENDPOINTS
async def test_a_lost_worker_costs_no_token_wherever_it_is_lost(
    engines: list[Any], gateway: Any, capfd: Capture, chat: bool, kind: str
) -> None:
    """From the first token to the last: the same text, once, one id, and a usage of the prompt as asked and of all tokens."""
    prompt = chat_prompt(MESSAGES) if chat else PROMPT
    async with gateway(limit=1) as front:
        for cut in (1, 2, 7, TOKENS):
            engines[0].breaks(kind, cut)
            events = await _stream(front, chat=chat, stream_options={"include_usage": True})
            assert _text(events) == _expected(prompt)
            assert len({(event["id"], event["created"], event["object"]) for event in events}) == 1
            assert [choice["finish_reason"] for event in events for choice in event["choices"]][-1] == "length"
            usage = events[-1]["usage"]
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(encode(prompt)), TOKENS)
            assert "token_ids" not in json.dumps(events)
            said = capfd.readouterr().err
            what = "Creating new stream... retrying..." if cut == 1 else "Stream disconnected... recreating stream..."
            assert said.count(f"{what} request_id=story error=Disconnected: ") == 1
            assert ("EngineCore encountered an issue" in said) == (kind == "error")  # in the worker's own words
            if kind == "die":
                await front.here(1)
                dead = next(engine for engine in engines if not engine.alive)
                await dead.start()
                await front.here(2)  # it serves again, on the port that it had


async def test_a_chat_begins_with_its_role_once(engines: list[Any], gateway: Any) -> None:
    """A request whose worker is lost before the first token is asked anew, and what it began with is not said again."""
    async with gateway(limit=1) as front:
        engines[0].breaks("end", 1)
        events = await _stream(front, chat=True)
    assert [event["choices"][0]["delta"].get("role") for event in events].count("assistant") == 1


async def test_a_worker_that_was_away_is_another_one(engines: list[Any], gateway: Any) -> None:
    """A request may come back to a worker that it lost, once that has been restarted."""
    async with gateway(limit=2) as front:
        engines[0].breaks("die", 3)
        engines[0].breaks("hang", 5)
        answering = asyncio.create_task(_stream(front))
        await front.here(1)
        dead, other = sorted(engines, key=lambda engine: engine.alive)
        await dead.start()
        await front.here(2)
        other.die()
        assert _text(await answering) == _expected()
        assert [len(dead.asked), len(other.asked)] == [2, 1]


@ENDPOINTS
async def test_an_answer_in_one_body_is_the_same_whether_it_moved_or_not(
    engines: list[Any], gateway: Any, chat: bool
) -> None:
    """Text, usage, finish reason, and log probabilities, with a completion's offsets, in the format that was asked for."""
    tops: dict[str, Any] = {"logprobs": True, "top_logprobs": 2} if chat else {"logprobs": 2}
    async with gateway(limit=1) as front:
        whole = await _whole(front, chat=chat, **tops)
        assert whole["object"] == ("chat.completion" if chat else "text_completion")
        assert whole["usage"]["completion_tokens"] == TOKENS
        for cut in (2, 9):
            engines[0].breaks("end", cut)
            assert await _whole(front, chat=chat, **tops) == whole
            assert "logprobs" in engines[0].asked[-1][2], "or nothing was compared"


async def test_the_client_gets_the_tokens_if_it_asks_for_them(engines: list[Any], gateway: Any) -> None:
    """``return_token_ids`` is the client's too: the prompt once, then every token, those of the second worker included."""
    async with gateway(limit=1) as front:
        engines[0].breaks("end", 5)
        choices = [event["choices"][0] for event in await _stream(front, return_token_ids=True)]
    assert [ids for choice in choices for ids in choice["token_ids"]] == generate(0, encode(PROMPT), TOKENS)
    assert [choice["prompt_token_ids"] for choice in choices if "prompt_token_ids" in choice] == [encode(PROMPT)]


@pytest.mark.parametrize("cut", [None, 4, 5, 6])
async def test_a_stop_string_is_found_across_a_move(engines: list[Any], gateway: Any, cut: int | None) -> None:
    """It begins in the tokens of one worker and ends in those of the other; neither could know."""
    words = decode(generate(0, encode(PROMPT), TOKENS)).split(" ")
    stop = f"{words[4][-2:]} {words[5]} {words[6][:2]}"  # of the tokens 4, 5 and 6
    async with gateway(limit=1) as front:
        if cut is not None:
            engines[0].breaks("end", cut)
        whole = await _whole(front, stop=[stop, "never said"])
    choice = whole["choices"][0]
    assert choice["text"] == _expected().partition(stop)[0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)


async def test_a_character_in_several_tokens_survives_a_cut_within_it(engines: list[Any], gateway: Any) -> None:
    """The tokens of half a character are made again by the worker that ends it."""
    for engine in engines:
        engine.wide = True
    async with gateway(limit=1) as front:
        whole = _text(await _stream(front))
        assert len(whole) == TOKENS / 3
        for cut in range(2, TOKENS + 1):
            engines[0].breaks("end", cut)
            assert _text(await _stream(front)) == whole, f"cut at token {cut}"
            assert (await _whole(front))["usage"]["completion_tokens"] == TOKENS


async def test_without_migration_the_loss_is_the_clients_to_see(
    engines: list[Any], gateway: Any, capfd: Capture
) -> None:
    """In a stream an error event and the end mark under HTTP 200, HTTP 500 where nothing was sent."""
    async with gateway(limit=0) as front:
        engines[0].breaks("end", 4)
        *said, error = await _stream(front)
        assert _text(said) == _expected(tokens=3)
        assert error["error"]["code"] == 500
        assert error["error"]["message"] == "Migration limit exhausted"
        for at in (1, 4):
            engines[0].breaks("end", at)
            assert (await _post(front)).status_code == 500
        engines[0].breaks("end", 1)
        assert (await _post(front, stream=True)).status_code == 500
    said = capfd.readouterr().err
    assert said.count("Cannot recreate stream: Migration limit exhausted request_id=story") == 4
    assert said.count("request completed request_id=story status=error") == 4


async def test_a_request_that_has_grown_too_long_stays(engines: list[Any], gateway: Any, capfd: Capture) -> None:
    """The length is that of prompt and tokens so far, and the limit itself is not too long."""
    length = len(encode(PROMPT)) + 3
    async with gateway(limit=1, max_seq_len=length) as front:
        engines[0].breaks("end", 4)
        assert _text(await _stream(front)) == _expected()
        engines[0].breaks("end", 5)
        *_, error = await _stream(front)
    assert error["error"]["message"] == f"Migration refused: {length + 1} tokens exceed the maximum of {length}"
    assert f"max_seq_len exceeded request_id=story tokens={length + 1} limit={length}" in capfd.readouterr().err


@pytest.mark.parametrize("at", [1, 6])
async def test_a_silent_worker_counts_as_lost_after_the_timeout(
    engines: list[Any], gateway: Any, capfd: Capture, at: int
) -> None:
    """Its connection is closed, and the request goes on."""
    async with gateway(limit=1, stream_timeout_s=0.3) as front:
        engines[0].breaks("hang", at)
        assert _text(await _stream(front)) == _expected()
    assert any(engine.left.is_set() for engine in engines)
    assert "backend stream timeout worker=worker-" in capfd.readouterr().err


async def test_a_worker_in_doubt_gets_nothing_until_it_has_said_how_it_is(engines: list[Any], gateway: Any) -> None:
    """Others are asked meanwhile; where there is no other, its word is waited for."""
    async with gateway(limit=1) as front:
        doubted, other = engines
        doubted.says_how_it_is.clear()
        doubted.breaks("end", 3)
        for _ in range(3):
            assert _text(await _stream(front)) == _expected()
        assert [len(doubted.asked), len(other.asked)] == [1, 3]
        other.die()
        answering = asyncio.create_task(_stream(front))
        await front.here(1)
        doubted.says_how_it_is.set()
        assert _text(await answering) == _expected()
        assert len(doubted.asked) == 2


async def test_a_client_that_leaves_takes_its_request_along(engines: list[Any], gateway: Any, capfd: Capture) -> None:
    """The connection to the worker is closed, and nothing moves."""
    async with gateway(limit=3) as front:
        engines[0].breaks("hang", 4)
        async with front.client.stream("POST", "/v1/completions", json=_ask(stream=True)) as answer:
            async for _ in answer.aiter_lines():
                break
        serving = next(engine for engine in engines if engine.asked)
        await asyncio.wait_for(serving.left.wait(), 5)
        assert sum(len(engine.asked) for engine in engines) == 1
    said = capfd.readouterr().err
    assert "Stream closed unexpectedly; issuing cancellation" in said
    assert f"issued control message Kill to sender request_id={serving.asked[0][1]['x-request-id']}" in said
    assert "status=cancelled" in said
    assert "recreating stream" not in said


async def test_a_worker_that_cannot_serve_is_not_the_clients_business(engines: list[Any], gateway: Any) -> None:
    """5xx: the request is asked elsewhere; the worker is asked how it is, and is well."""
    async with gateway(limit=3) as front:
        engines[0].breaks("500")
        assert _text(await _stream(front)) == _expected()
        assert [len(engine.asked) for engine in engines] == [1, 1]
        await front.here(2)
        for engine in engines:
            engine.breaks("500")
        assert (await _post(front)).status_code == 503
        assert [len(engine.asked) for engine in engines] == [2, 2], "each is asked once, however often it may move"


async def test_what_is_wrong_with_a_request_its_worker_says(engines: list[Any], gateway: Any, capfd: Capture) -> None:
    """4xx: the worker's own words, and no other is asked."""
    async with gateway(limit=3) as front:
        answer = await _post(front, model="unheard-of", stream=True)
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            404,
            "The model `unheard-of` does not exist.",
        )
        assert sum(len(engine.asked) for engine in engines) == 1
        for body in (b"[]", b"{", b'{"model": "tiny", "n": "two"}'):
            assert (await front.client.post("/v1/completions", content=body)).status_code == 400
    assert "retrying" not in capfd.readouterr().err


async def test_an_answer_is_whole_without_the_end_mark(engines: list[Any], gateway: Any) -> None:
    """Its finish reason was there; what the worker still owed was nothing to its client."""
    async with gateway(limit=0) as front:
        engines[0].breaks("no-done", 1)
        assert _text(await _stream(front)) == _expected()


async def test_nobody_is_there(engines: list[Any], gateway: Any) -> None:
    """503 at once, in the health and for requests, also for one that loses its last worker in mid-stream."""
    async with gateway(limit=3) as front:
        for engine in engines:
            engine.breaks("die", 3)
        *said, error = await _stream(front)
        assert _text(said) == _expected(tokens=4)
        assert error["error"]["code"] == 503
        await front.here(0)
        health = await front.client.get("/health")
        assert (health.status_code, health.json()["instances"]) == (503, [])
        assert (await _post(front)).status_code == 503


async def test_a_worker_that_drains_gets_nothing_new(
    engines: list[Any], gateway: Any, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """Its /health says 503: it is still listed, as one that drains."""
    monkeypatch.setattr(gateway_worker, "_SERVING_S", 0.02)
    async with gateway() as front:
        engines[0].health = 503
        await front.until(lambda: not all(worker.serves for worker in front.workers.here()))
        for _ in range(3):
            assert _text(await _stream(front)) == _expected()
        assert not engines[0].asked
        health = (await front.client.get("/health")).json()
        assert [(one["worker"], one["draining"], one["role"], one["endpoint"]) for one in health["instances"]] == [
            ("worker-1", True, "aggregated", "generate"),
            ("worker-2", False, "aggregated", "generate"),
        ]
    assert "worker draining worker=worker-1" in capfd.readouterr().err


async def test_what_a_worker_is_asked(engines: list[Any], gateway: Any) -> None:
    """First as the client asked, and its own id; then with the tokens so far, what is left of max_tokens, and the same id."""
    async with gateway(limit=1) as front:
        engines[0].breaks("end", 4)
        await _stream(front, chat=True, temperature=0, min_tokens=5)
    (path, headers, first), (then_path, then_headers, then) = [engine.asked[0] for engine in engines]
    assert (path, then_path) == ("/v1/chat/completions", "/v1/completions")
    assert headers["x-request-id"] == then_headers["x-request-id"] == "story"
    assert first == _ask(chat=True, temperature=0, min_tokens=5) | {
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    prompt = encode(chat_prompt(MESSAGES))
    assert then.pop("prompt") == prompt + generate(0, prompt, 3)
    assert (then.pop("max_tokens"), then.pop("min_tokens"), then.pop("temperature")) == (TOKENS - 3, 2, 0)
    assert then == {key: first[key] for key in ("model", "stream", "stream_options", "return_token_ids")}


async def test_a_request_that_cannot_move_says_why(engines: list[Any], gateway: Any, capfd: Capture) -> None:
    """One that needs more than tokens to go on; and it may still be asked anew before the first one."""
    async with gateway(limit=1) as front:
        engines[0].breaks("end", 1)
        assert _text(await _stream(front, suffix="The end")) == _expected()
        engines[0].breaks("end", 2)
        *said, error = await _stream(front, suffix="The end")
        assert _text(said) == _expected(tokens=1)
        told = "Its worker is lost, and the request cannot move: suffix does not go on elsewhere"
        assert error["error"]["message"] == told
    assert "Migration limit exhausted request_id=story" in capfd.readouterr().err


async def test_sglang_names_the_tokens_of_completions_only(engines: list[Any], gateway: Any) -> None:
    """There a completion moves, each attempt by an id of its own; a chat is served, and stays."""
    for engine in engines:
        engine.names_chat_tokens = False
    async with gateway(limit=1, dialect="sglang") as front:
        engines[0].breaks("end", 5)
        assert _text(await _stream(front)) == _expected()
        assert [engine.asked[0][2]["rid"] for engine in engines] == ["story", "story.1"]
        assert _text(await _stream(front, chat=True)) == _expected(chat_prompt(MESSAGES))
        engines[0].breaks("end", 5)
        *_, error = await _stream(front, chat=True)
    assert error["error"]["message"].endswith("its engine does not name the tokens of a streamed chat")
