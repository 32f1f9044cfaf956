"""The same engine as :mod:`worker`'s, served through Dynamo's Python worker API: real frontend, exact tokens.

Runs under the interpreter of the system under test, which has ``dynamo`` and not this package; so it imports the standard
library, ``dynamo``, and its neighbours here. It works unchanged on 1.4.2, 1.5.1 and 1.6.1: what differs between
releases is in :mod:`dynamo_api`. What becomes of a request is in :mod:`parts` and :mod:`dynamo_parts`.

Discovery and the request plane come from the environment, as for Dynamo's own workers: ``DYN_DISCOVERY_BACKEND`` (here
``file`` by default) with ``DYN_FILE_KV``, and ``DYN_REQUEST_PLANE`` (``tcp``).
"""

import argparse
import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from ftharness.engine.dynamo_api import ENDPOINTS, election, elsewhere, log_as_dynamo, register
from ftharness.engine.dynamo_parts import begin
from ftharness.engine.dynamo_request import Lost, Request, Whereabouts
from ftharness.engine.engine_child import Made
from ftharness.engine.handler import Handler, in_shadow_mode
from ftharness.engine.link import Link
from ftharness.engine.parts import Message, Part
from ftharness.engine.settings import EngineSettings, add_worker_arguments, settings_of
from ftharness.engine.status import Page, serve_status

if TYPE_CHECKING:
    from ftharness.engine.shadow import Shadow

#: Seconds for the runtime to end once nothing runs: its own part of a shutdown takes 20 ms (1.4.2) to 300 ms (1.6.1).
_RUNTIME_END_S = 2.0
#: Seconds for the last chunk to leave before ``crash-after-success`` strikes: no event says that it has.
_ANSWERED_S = 0.2
#: Seconds between two looks at whether discovery lists this worker.
_LOOK_S = 0.01


class DynamoWorker(Handler):
    """The handler: takes requests from Dynamo's runtime, gives them to the engine, passes on what it makes."""

    def __init__(self, arguments: argparse.Namespace, settings: EngineSettings) -> None:
        super().__init__(arguments, settings, model=arguments.model or arguments.model_path)
        self._model_path: str = arguments.model_path
        self._hold_s: float = arguments.kv_hold_s
        self._seed: int = arguments.seed
        self._held: Whereabouts | None = None  # of a prefill worker
        self._serial = 0  # a request may come back under its id
        self._state = "starting"
        self._runtime: Any = None
        self._endpoint: Any = None
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
        if not await self._start_engine():
            return 1
        self._engine.died.add_done_callback(self._on_engine_died)
        server = await self._listen()
        if server is None:
            return 1
        backend = os.environ.get("DYN_DISCOVERY_BACKEND", "file")
        self._runtime = DistributedRuntime(self._loop, backend, os.environ.get("DYN_REQUEST_PLANE", "tcp"))
        self._endpoint = self._runtime.endpoint(ENDPOINTS[self._role])
        status = await self._come_to_serve(self._shadow) if self._shadow is not None else await self._serve()
        if not self._drained.is_set():  # otherwise it is to end, wherever it was
            return status
        self._peers.close()
        server.close()
        await self._engine.stop()
        if self._shadow is not None:  # not before: nobody serves any more
            self._shadow.ends()
        return 0

    async def _come_to_serve(self, shadow: "Shadow") -> int:
        """The same as :meth:`_serve`, once it is this worker's turn; or not at all, where it is told to end before."""
        self._endpoint.metrics.register_prometheus_expfmt_callback(shadow.metrics.text)
        elect = election()
        turn = asyncio.create_task(
            shadow.take_turn(self._engine, asleep="sleeping")  # the word of 1.4, which has no such code
            if elect is None
            else shadow.take_turn_by(elect, self._engine, self._runtime)
        )
        told = asyncio.create_task(self._drained.wait())
        await asyncio.wait([turn, told], return_when=asyncio.FIRST_COMPLETED)
        if self._drained.is_set():
            turn.cancel()
            await asyncio.wait([turn])
            return 0
        if why_not := turn.result():
            self._log.error(why_not)
            return 1
        return await self._serve()

    async def _serve(self) -> int:
        """Announces the model and serves until it has drained; the exit status where it ends before."""
        try:
            await register(self._endpoint, self._role, self._model_path, self._model)
        except Exception as error:  # noqa: BLE001  the binding raises Exception itself
            self._log.error(f"Dynamo does not take the model {self._model_path}: {error}")
            return 1
        if self._shadow is not None:
            self._shadow.serves()
        serving = asyncio.ensure_future(self._endpoint.serve_endpoint(self.generate, graceful_shutdown=True))
        looking = asyncio.create_task(self._say_ready())
        await asyncio.wait([serving, asyncio.create_task(self._drained.wait())], return_when=asyncio.FIRST_COMPLETED)
        looking.cancel()
        if not self._drained.is_set() and self._draining is None:
            reason = serving.exception() if not serving.cancelled() else "cancelled"
            self._log.error(f"Dynamo stopped serving the endpoint: {reason}")
            return 1
        await self._drained.wait()
        if not self._parts:  # what is left behind after the drain time would keep the runtime from ending
            self._runtime.shutdown()
            await asyncio.wait([serving], timeout=_RUNTIME_END_S)
        return 0

    async def _listen(self) -> asyncio.Server | None:
        """Awaits those that decode, where this one prefills, and serves its status; None where its port is in use."""
        if self._role == "prefill":
            self._held = Whereabouts(self._name, await self._peers.listen(0), [])
            self._log.awaiting_peers(self._held.port)
        pages: dict[str, Page] = {"/health": self._health, "/metrics": self._metrics}
        try:
            server, port = await serve_status(self._status_port, pages)
        except OSError as error:
            self._log.error(f"cannot serve status on 127.0.0.1:{self._status_port}: {error}")
            return None
        self._log.listening(port)
        return server

    async def generate(self, request: Message, context: Any) -> AsyncIterator[Message]:
        """Dynamo's entry: the binding passes ``context`` by that name."""
        self._serial += 1
        key = f"{self._name}-{os.getpid()}-{self._serial}"
        asked = Request(request, context.id(), self._seed, key, worker=self._name, held=self._held)
        self._idle.clear()
        for message in asked.messages():
            begin(self._bench, asked, self._role, message | {"hold_s": self._hold_s})
        # Not asked for between two tokens: an engine that is slow, or stuck, has to hear of it too.
        given_up = asyncio.ensure_future(context.async_killed_or_stopped())
        given_up.add_done_callback(lambda told: None if told.cancelled() else self._give_up(asked))
        complete = False  # a prefill that is has parts all the same: what holds its KV
        try:
            while (chunk := await asked.next()) is not None:
                yield chunk
            complete = True
        except Lost as lost:
            raise elsewhere(str(lost)) from lost
        finally:
            given_up.cancel()
            if not complete:
                self._give_up(asked)

    def _give_up(self, asked: Request) -> None:
        """Nobody reads a request any more; nothing to do for what of it has ended.

        A stop string ends one this way as well. The real handlers say 'Aborted' then, too.
        """
        for key in asked.keys:
            if key in self._parts:
                self._parts[key].cancel(kill=True)

    def _on_message(self, link: Link, message: Message) -> None:
        """What a worker of the other half says of a request."""
        part = self._parts.get(message["key"])
        if part is not None:
            part.on_message(link, message)
        elif message["op"] in ("accepted", "pull"):  # a decode comes too late
            link.send(op="refused", key=message["key"], reason=f"{self._name} holds no KV of it")

    def _on_tokens(self, batch: list[Made]) -> None:
        for made in batch:
            key, _, reason = made
            part = self._parts.get(key)
            if part is None:
                continue  # it was lost, and its engine told to give it up
            part.asker.send(op="tokens", batch=[made])
            if reason is not None:
                part.on_end(reason)

    def _on_ended(self, part: Part, in_order: bool) -> None:  # noqa: FBT001  a callback
        if self._settings.bug == "crash-after-success" and part.resumed and in_order:
            self._loop.call_later(_ANSWERED_S, os._exit, 3)
        if not self._parts:
            self._idle.set()

    def _on_signal(self, number: signal.Signals) -> None:
        """SIGTERM drains; SIGINT, or a second signal, does not wait for what runs."""
        if self._draining is None and self._endpoint is not None:
            self._draining = asyncio.create_task(self._drain(self._drain_s if number == signal.SIGTERM else 0.0))
        else:
            self._log.drained(len(self._parts))
            os._exit(0)

    async def _drain(self, drain_s: float) -> None:
        """As Dynamo's own Python workers do it: out of discovery first, then what runs may end, then the runtime.

        They wait for a fixed grace period (5 s) before that last step; here it is over when nothing runs any more.
        """
        self._state = "draining"
        self._log.draining(len(self._parts), drain_s)
        with contextlib.suppress(Exception):  # registration may not have come so far; then nobody routes to us
            await self._endpoint.unregister_endpoint_instance()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), drain_s)
        self._log.drained(len(self._parts))
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
        waiting = self._shadow.state if self._shadow is not None else "starting"
        return self._health_page(waiting if self._state == "starting" else self._state)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dynamo_worker", description=__doc__)
    parser.add_argument("--model-path", required=True, metavar="DIR", help="the folder with config and tokenizer")
    parser.add_argument("--model", default="", help="the name that is served (default: the folder's path)")
    parser.add_argument(
        "--kv-hold-s",
        type=float,
        default=5.0,
        help="how long a prefill's KV waits for the decode that is to come for it",
    )
    add_worker_arguments(parser)
    return parser


def main(argv: list[str]) -> int:
    """Runs a worker until it is told to end."""
    arguments = _parser().parse_args(argv)
    # Its metadata is read from the folder; without this, a line warns of every worker that does not serve it by HTTP.
    os.environ.setdefault("DYN_SELF_HOST_METADATA", "0")
    if in_shadow_mode():
        log_as_dynamo()

    async def serve() -> int:
        return await DynamoWorker(arguments, settings_of(arguments)).run()

    status = 0
    with contextlib.suppress(KeyboardInterrupt):  # before the loop has its handlers
        status = asyncio.run(serve())
    # Not sys.exit: with 1.4.2 the interpreter's end races the runtime's threads, and SIGSEGV is what the harness sees.
    os._exit(status)
