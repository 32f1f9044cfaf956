"""The same engine as :mod:`worker`'s, served through Dynamo's Python worker API: real frontend, exact tokens.

Runs under the interpreter of the system under test, which has ``dynamo`` and not this package; so it imports the standard
library, ``dynamo``, and its neighbours here. It works unchanged on 1.4.2, 1.5.1 and 1.6.1: what differs between
releases is in :func:`register`.

Discovery and the request plane come from the environment, as for Dynamo's own workers: ``DYN_DISCOVERY_BACKEND`` (here
``file`` by default) with ``DYN_FILE_KV``, and ``DYN_REQUEST_PLANE`` (``tcp``).
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

from ftharness.engine.dialects import HandlerLog
from ftharness.engine.engine_child import EngineChild, EngineDied, Made
from ftharness.engine.settings import EngineSettings, add_worker_arguments, settings_of
from ftharness.engine.status import Counters, Page, metrics_text, serve_status
from ftharness.engine.tokens import VOCABULARY, WORDS, choice_seed, logprob

ENDPOINT = "dynamo.backend.generate"
#: What a request without ``max_tokens`` gets.
DEFAULT_MAX_TOKENS = 256
#: Seconds for the runtime to end once nothing runs: its own part of a shutdown takes 20 ms (1.4.2) to 300 ms (1.6.1).
_RUNTIME_END_S = 2.0
#: Seconds for the last chunk to leave before ``crash-after-success`` strikes: no event says that it has.
_ANSWERED_S = 0.2
#: Seconds between two looks at whether discovery lists this worker.
_LOOK_S = 0.01


async def register(endpoint: Any, model_path: str, model: str) -> None:
    """Announces the model: the one place where releases differ.

    Raises:
        ImportError: No dynamo, or one whose worker API is another.
    """
    from dynamo import llm  # noqa: PLC0415  no dynamo is a message of ours, not a traceback

    # Required from the release on that has it; those before took every worker for an aggregated one.
    roles = {"worker_type": llm.WorkerType.Aggregated} if hasattr(llm, "WorkerType") else {}
    announce = getattr(llm, "register_model", None) or llm.register_llm
    kinds = llm.ModelType.Chat | llm.ModelType.Completions
    await announce(llm.ModelInput.Tokens, kinds, endpoint, model_path, model, **roles)


class Request:
    """One request that a frontend gave us: ``n`` sequences in the engine, one stream back."""

    def __init__(self, request: dict[str, Any], context: Any, default_seed: int) -> None:
        self.id: str = context.id()
        self.token_ids: list[int] = request["token_ids"]
        stop = request.get("stop_conditions") or {}
        sampling = request.get("sampling_options") or {}
        self.max_tokens = int(stop.get("max_tokens") or DEFAULT_MAX_TOKENS)
        self.choices = int(sampling.get("n") or 1)
        seed = sampling.get("seed")
        self.seed = default_seed if seed is None else int(seed)
        top = (request.get("output_options") or {}).get("logprobs")
        self.top_logprobs: int | None = None if top is None else int(top)
        # Prompts are bytes; words come from an engine. So this one has been elsewhere, and was cut off there.
        self.resumed = any(token_id < WORDS for token_id in self.token_ids)
        self.started = asyncio.get_running_loop().time()
        self.running = self.choices
        self.aborted = False
        #: What the engine made, then None.
        self.made: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def chunk(self, index: int, token_ids: list[int], finish_reason: str | None) -> dict[str, Any]:
        """What Dynamo takes for one engine step of one choice."""
        chunk: dict[str, Any] = {"token_ids": token_ids, "finish_reason": finish_reason}
        if self.choices > 1:
            chunk["index"] = index
        if self.top_logprobs is not None:
            chunk["log_probs"] = [logprob(token_id) for token_id in token_ids]
            chunk["top_logprobs"] = [_alternatives(token_id, self.top_logprobs) for token_id in token_ids]
        return chunk


def _alternatives(token_id: int, count: int) -> list[dict[str, Any]]:
    """The chosen token, then its neighbours in the vocabulary, each a little less likely."""
    ids = [(token_id + place) % WORDS for place in range(max(1, count))]
    return [
        {
            "rank": place + 1,
            "token_id": other,
            "token": VOCABULARY[other],
            "logprob": logprob(token_id) - place,
            "bytes": list(VOCABULARY[other].encode()),
        }
        for place, other in enumerate(ids)
    ]


class DynamoWorker:
    """The handler: takes requests from Dynamo's runtime, gives them to the engine, passes on what it makes."""

    def __init__(self, arguments: argparse.Namespace, settings: EngineSettings) -> None:
        self._name: str = arguments.name
        self._model_path: str = arguments.model_path
        self._model: str = arguments.model or arguments.model_path
        self._drain_s: float = arguments.drain_s
        self._status_port: int = arguments.status_port
        self._seed: int = arguments.seed
        self._settings = settings
        self._log = HandlerLog(settings.engine, arguments.role)
        self._counters = Counters()
        self._requests: dict[int, Request] = {}  # by a number of ours: a request may come back under its id
        self._keys: dict[str, tuple[int, int]] = {}  # the engine's id -> (that number, choice)
        self._serial = 0
        self._state = "starting"
        self._engine: EngineChild
        self._runtime: Any = None
        self._endpoint: Any = None
        self._loop = asyncio.get_running_loop()
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        self._drained: asyncio.Event = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Serves until a signal or the engine's death; the exit status."""
        try:
            from dynamo.runtime import DistributedRuntime  # noqa: PLC0415  see register
        except ImportError as error:
            self._log.error(f"this interpreter has no ai-dynamo: {error}")
            return 1
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, number)
        try:
            self._engine = await EngineChild.start(self._settings, on_tokens=self._on_tokens, on_phase=self._on_phase)
        except EngineDied as death:
            self._log.engine_died(str(death))
            return 1
        self._log.engine_started(self._engine.pid)
        self._engine.died.add_done_callback(self._on_engine_died)
        pages: dict[str, Page] = {"/health": self._health, "/metrics": self._metrics}
        try:
            server, port = await serve_status(self._status_port, pages)
        except OSError as error:
            self._log.error(f"cannot serve status on 127.0.0.1:{self._status_port}: {error}")
            return 1
        self._log.listening(port)
        backend = os.environ.get("DYN_DISCOVERY_BACKEND", "file")
        self._runtime = DistributedRuntime(self._loop, backend, os.environ.get("DYN_REQUEST_PLANE", "tcp"))
        self._endpoint = self._runtime.endpoint(ENDPOINT)
        try:
            await register(self._endpoint, self._model_path, self._model)
        except Exception as error:  # noqa: BLE001  the binding raises Exception itself
            self._log.error(f"Dynamo does not take the model {self._model_path}: {error}")
            return 1
        serving = asyncio.ensure_future(self._endpoint.serve_endpoint(self.generate, graceful_shutdown=True))
        looking = asyncio.create_task(self._say_ready())
        await asyncio.wait([serving, asyncio.create_task(self._drained.wait())], return_when=asyncio.FIRST_COMPLETED)
        looking.cancel()
        if not self._drained.is_set() and self._draining is None:
            reason = serving.exception() if not serving.cancelled() else "cancelled"
            self._log.error(f"Dynamo stopped serving the endpoint: {reason}")
            return 1
        await self._drained.wait()
        if not self._requests:  # what is left behind after the drain time would keep the runtime from ending
            self._runtime.shutdown()
            await asyncio.wait([serving], timeout=_RUNTIME_END_S)
        server.close()
        await self._engine.stop()
        return 0

    async def generate(self, request: dict[str, Any], context: Any) -> AsyncIterator[dict[str, Any]]:
        """Dynamo's entry: the binding passes ``context`` by that name."""
        asked = Request(request, context, self._seed)
        self._log.received(asked.id)
        self._counters.received += 1
        self._serial += 1
        serial = self._serial
        self._requests[serial] = asked
        self._idle.clear()
        for index in range(asked.choices):
            key = f"{serial}.{index}"
            self._keys[key] = (serial, index)
            seed = choice_seed(asked.seed, index)
            self._engine.submit(key, asked.token_ids, asked.max_tokens, seed, resumed=asked.resumed)
        # Not asked for between two tokens: an engine that is slow, or stuck, has to hear of it too.
        given_up = asyncio.ensure_future(context.async_killed_or_stopped())
        given_up.add_done_callback(lambda _: self._abort(serial))
        try:
            while (chunk := await asked.made.get()) is not None:
                yield chunk
        finally:
            self._abort(serial)
            given_up.cancel()

    def _abort(self, serial: int) -> None:
        """Tells the engine that nobody reads a request any more; nothing to do when it has ended."""
        request = self._requests.get(serial)
        if request is not None:
            for index in range(request.choices):
                self._engine.abort(f"{serial}.{index}")

    def _on_phase(self, key: str, phase: str) -> None:
        serial, index = self._keys[key]
        if index == 0:
            self._log.phase(self._requests[serial].id, phase)

    def _on_tokens(self, batch: list[Made]) -> None:
        for key, token_ids, finish_reason in batch:
            serial, index = self._keys[key]
            request = self._requests[serial]
            if finish_reason == "abort":
                request.aborted = True
            else:
                request.made.put_nowait(request.chunk(index, token_ids, finish_reason))
            if finish_reason is None:
                continue
            del self._keys[key]
            request.running -= 1
            if request.running == 0:
                self._ended(serial, request)

    def _ended(self, serial: int, request: Request) -> None:
        del self._requests[serial]
        request.made.put_nowait(None)
        if request.aborted:
            # A stop string ends a request this way as well. The real handlers say 'Aborted' then, too.
            self._counters.cancelled += 1
            self._log.aborted(request.id)
        else:
            self._counters.finished += 1
            self._counters.seconds += self._loop.time() - request.started
            self._log.finished(request.id)
            if self._settings.bug == "crash-after-success" and request.resumed:
                self._loop.call_later(_ANSWERED_S, os._exit, 3)
        if not self._requests:
            self._idle.set()

    def _on_signal(self, number: signal.Signals) -> None:
        """SIGTERM drains; SIGINT, or a second signal, does not wait for what runs."""
        if self._draining is None and self._endpoint is not None:
            self._draining = asyncio.create_task(self._drain(self._drain_s if number == signal.SIGTERM else 0.0))
        else:
            self._log.drained(len(self._requests))
            os._exit(0)

    async def _drain(self, drain_s: float) -> None:
        """As Dynamo's own Python workers do it: out of discovery first, then what runs may end, then the runtime.

        They wait for a fixed grace period (5 s) before that last step; here it is over when nothing runs any more.
        """
        self._state = "draining"
        self._log.draining(len(self._requests), drain_s)
        with contextlib.suppress(Exception):  # registration may not have come so far; then nobody routes to us
            await self._endpoint.unregister_endpoint_instance()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), drain_s)
        self._log.drained(len(self._requests))
        self._drained.set()

    def _on_engine_died(self, died: "asyncio.Future[int]") -> None:
        if self._drained.is_set():
            return
        code = died.result()
        self._log.engine_died(signal.Signals(-code).name if code < 0 else f"exit status {code}")
        os._exit(1)  # at once: the frontend is to see a broken connection, not a stream that ends

    async def _say_ready(self) -> None:
        """Logs ``ready`` once discovery lists this worker."""
        client = await self._endpoint.client()
        await client.wait_for_instances()
        while self._endpoint.connection_id() not in client.instance_ids():
            await asyncio.sleep(_LOOK_S)
        if self._state == "starting":
            self._state = "ready"
            self._log.ready(self._name, self._model)

    async def _health(self) -> tuple[int, str, str]:
        body = {"status": self._state, "worker": self._name, "role": "aggregated", "running": len(self._requests)}
        return (200 if self._state == "ready" else 503), "application/json", json.dumps(body) + "\n"

    async def _metrics(self) -> tuple[int, str, str]:
        try:
            status = await self._engine.status()
        except (TimeoutError, EngineDied) as error:
            return 503, "text/plain", f"{error}\n"
        labels = {"worker": self._name, "model": self._model, "dynamo_endpoint": "generate"}
        return 200, "text/plain; version=0.0.4", metrics_text(status, self._counters, labels)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dynamo_worker", description=__doc__)
    parser.add_argument("--model-path", required=True, metavar="DIR", help="the folder with config and tokenizer")
    parser.add_argument("--model", default="", help="the name that is served (default: the folder's path)")
    add_worker_arguments(parser)
    return parser


def main(argv: list[str]) -> int:
    """Runs a worker until it is told to end."""
    arguments = _parser().parse_args(argv)
    # Its metadata is read from the folder; without this, a line warns of every worker that does not serve it by HTTP.
    os.environ.setdefault("DYN_SELF_HOST_METADATA", "0")

    async def serve() -> int:
        return await DynamoWorker(arguments, settings_of(arguments)).run()

    status = 0
    with contextlib.suppress(KeyboardInterrupt):  # before the loop has its handlers
        status = asyncio.run(serve())
    # Not sys.exit: with 1.4.2 the interpreter's end races the runtime's threads, and SIGSEGV is what the harness sees.
    os._exit(status)
