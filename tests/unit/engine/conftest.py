"""A server in the place of a real engine, with vLLM's wire format, and the gateway over two of them, on real sockets.

Its next token is a hash of the context, as our engine's is; so it goes on exactly from prompt and tokens, and from nothing else.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn

from ftharness.engine.frontend_format import chat_logprobs, completion_logprobs
from ftharness.engine.frontend_log import FrontendLog
from ftharness.engine.frontend_migration import Policy
from ftharness.engine.gateway_api import Api
from ftharness.engine.gateway_workers import Workers
from ftharness.engine.tokens import FIRST_BYTE, Chain, chat_prompt, decode, encode

MODEL = "tiny"


@dataclass(frozen=True)
class Fault:
    """What goes wrong once, before the attempt's token ``at`` is said (0: the role of a chat)."""

    kind: str  # die, end, error, hang, abort, no-done, or an HTTP status
    at: int = 0


@dataclass
class StandIn:
    """One server. ``faults`` is shared by all: whoever gets the next request has the next fault."""

    name: str
    faults: list[Fault] = field(default_factory=list)
    wide: bool = False  # its text is of three bytes a character, its tokens are bytes
    names_chat_tokens: bool = True
    pace_s: float = 0.0
    health: int = 200
    says_how_it_is: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    alive: bool = False

    def breaks(self, kind: str, at: int = 0) -> None:
        """The next request that comes to any of them ends so."""
        self.faults.append(Fault(kind, at))

    async def start(self) -> None:
        """Listens; again on the port that it had."""
        self.alive = True
        self.says_how_it_is.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    def die(self) -> None:
        """As a killed process does: nothing listens, every connection ends."""
        self.alive = False
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            path = head[0].split(" ")[1]
            if path == "/health":
                await self.says_how_it_is.wait()
                self._whole(writer, self.health, {})
            elif path == "/v1/models":
                self._whole(writer, 200, {"data": [{"id": MODEL, "max_model_len": 2048}]})
            else:
                asked = json.loads(body)
                self.asked.append((path, headers, asked))
                await self._answer(reader, writer, path, headers, asked)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _whole(self, writer: asyncio.StreamWriter, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode()
            + data
        )

    async def _answer(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        path: str,
        headers: dict[str, str],
        asked: dict[str, Any],
    ) -> None:
        chat = path.endswith("chat/completions")
        fault = self.faults.pop(0) if self.faults else Fault("none")
        if asked["model"] != MODEL:
            self._whole(writer, 404, {"error": {"message": f"The model `{asked['model']}` does not exist."}})
            return
        if chat and asked.get("return_token_ids") and not self.names_chat_tokens:
            self._whole(writer, 400, {"error": {"message": "return_token_ids is not supported with streaming"}})
            return
        if fault.kind.isdigit():
            self._whole(writer, int(fault.kind), {"error": {"message": "EngineCore is dead"}})
            return
        prompt = encode(chat_prompt(asked["messages"])) if chat else asked["prompt"]
        prompt = encode(prompt) if isinstance(prompt, str) else prompt
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        leaving = asyncio.create_task(reader.read())
        leaving.add_done_callback(lambda _: self.left.set())
        answer_id = f"{'chatcmpl' if chat else 'cmpl'}-{headers['x-request-id']}"
        try:
            for event in self._events(answer_id, prompt, asked, chat=chat):
                if event.pop("_token", -1) == fault.at:
                    if fault.kind == "die":
                        self.die()
                        return
                    if fault.kind == "hang":
                        await self.left.wait()
                        return
                    if fault.kind == "error":
                        error = {"error": {"message": "EngineCore encountered an issue", "code": 400}}
                        await self._say(writer, f"data: {json.dumps(error)}\n\ndata: [DONE]\n\n")
                    if fault.kind in ("error", "end"):
                        break
                    if fault.kind == "abort":
                        event["choices"][0]["finish_reason"] = "abort"
                await self._say(writer, f"data: {json.dumps(event, ensure_ascii=False)}\n\n")
            else:
                if fault.kind != "no-done":
                    await self._say(writer, "data: [DONE]\n\n")
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            leaving.cancel()

    async def _say(self, writer: asyncio.StreamWriter, text: str) -> None:
        """In two parts: lines and characters are split between reads."""
        data = text.encode()
        for part in (data[:131], data[131:]):
            if part:
                writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                await writer.drain()
                await asyncio.sleep(self.pace_s)

    def _events(self, answer_id: str, prompt: list[int], asked: dict[str, Any], *, chat: bool) -> Any:
        envelope = {
            "id": answer_id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": self.port,  # no two servers say the same
            "model": MODEL,
        }
        named = bool(asked.get("return_token_ids"))
        if chat:
            first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            yield envelope | {"choices": [first]} | ({"prompt_token_ids": prompt} if named else {}) | {"_token": 0}
        ids, text, sent, held, offset = list(prompt), "", 0, b"", 0
        stops = asked.get("stop") or ()
        keeps_back = max(map(len, stops), default=1) - 1 if not asked.get("include_stop_str_in_output") else 0
        limit = asked.get("max_completion_tokens") or asked["max_tokens"]
        for count in range(1, limit + 1):
            token = self._next(ids, asked.get("seed") or 0)
            ids.append(token)
            if self.wide:
                held += bytes([token - FIRST_BYTE])
                piece = held.decode("utf-8", "ignore") if len(held) == 3 else ""
                held = b"" if len(held) == 3 else held
            else:
                piece = decode([token])
            text += piece
            stop = next((one for one in stops if one in text), None)
            if keeps_back:  # what may become a stop string
                until = len(text) if count == limit else max(sent, len(text) - keeps_back)
                until = text.index(stop) if stop else until
                piece, sent = text[sent:until], until
            choice: dict[str, Any] = {"index": 0, "logprobs": None}
            choice |= {"delta": {"content": piece}} if chat else {"text": piece}
            if chat and asked.get("logprobs"):
                choice["logprobs"] = chat_logprobs([token], asked["top_logprobs"])
            elif not chat and asked.get("logprobs") is not None:
                choice["logprobs"] = completion_logprobs([token], asked["logprobs"], offset)
                offset += len(piece)
            choice["finish_reason"] = "stop" if stop else "length" if count == limit else None
            choice["stop_reason"] = stop
            if named:
                choice["token_ids"] = [token]
                if count == 1 and not chat:
                    choice["prompt_token_ids"] = prompt
            yield envelope | {"choices": [choice], "_token": count}
            if stop:
                break
        if asked["stream_options"]["include_usage"]:
            made = len(ids) - len(prompt)
            used = {"prompt_tokens": len(prompt), "completion_tokens": made, "total_tokens": len(ids)}
            yield envelope | {"choices": [], "usage": used | {"prompt_tokens_details": {"cached_tokens": 0}}}

    def _next(self, ids: list[int], seed: int) -> int:
        token = Chain(seed, ids).next()
        if not self.wide:
            return token
        begun = 0  # bytes of a character that has not ended
        while begun < len(ids) and FIRST_BYTE + 0x80 <= ids[-1 - begun] < FIRST_BYTE + 0xC0:
            begun += 1
        is_first = begun == 2 or (begun == 0 and not FIRST_BYTE + 0xE4 <= ids[-1] <= FIRST_BYTE + 0xE9)
        return FIRST_BYTE + (0xE4 + token % 6 if is_first else 0x80 + token % 64)


class _Uvicorn(uvicorn.Server):
    """Signals are the test's own."""

    def capture_signals(self) -> Any:
        return contextlib.nullcontext()


@dataclass(frozen=True)
class Front:
    """A gateway that runs, and a client of it."""

    client: httpx.AsyncClient
    workers: Workers

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits until this is so of the workers."""
        async with asyncio.timeout(10):
            while not holds():
                await self.workers._news.wait()

    async def here(self, count: int) -> None:
        """Waits until so many workers are known to be there."""
        await self.until(lambda: len(self.workers.here()) == count)


Gateway = Callable[..., AbstractAsyncContextManager[Front]]


@pytest.fixture
async def engines() -> AsyncIterator[list[StandIn]]:
    """Two servers that share their faults."""
    faults: list[Fault] = []
    servers = [StandIn("worker-1", faults), StandIn("worker-2", faults)]
    for server in servers:
        await server.start()
    yield servers
    for server in servers:
        server.die()


@pytest.fixture
def gateway(engines: list[StandIn]) -> Gateway:
    """``gateway(limit=…, …)``: the gateway over both, which have joined."""

    @contextlib.asynccontextmanager
    async def run(*, dialect: str = "vllm", **policy: Any) -> AsyncIterator[Front]:
        log = FrontendLog(MODEL)
        workers = Workers([(one.name, f"http://127.0.0.1:{one.port}") for one in engines], dialect, log)
        workers.watch()
        api = Api(workers, Policy(**policy), log, model=MODEL, engine=dialect)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        config = uvicorn.Config(api.application(), lifespan="off", log_config=None, ws="none", loop="none")
        server = _Uvicorn(config)
        serving = asyncio.create_task(server.serve([sock]))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
            front = Front(client, workers)
            await front.here(len(engines))
            yield front
        server.should_exit = True
        await serving
        await workers.close()

    return run
