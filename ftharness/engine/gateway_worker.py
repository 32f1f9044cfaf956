"""One engine server behind the gateway: what it says of its health, and the events with which it answers a request."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import msgspec

from ftharness.engine.frontend_log import FrontendLog

#: Seconds from one look at a worker that serves to the next: an engine may die under a server that lives.
_SERVING_S = 1.0
#: Seconds between looks at one that is away: a restarted worker is to serve again within a second.
_AWAY_S = 0.1
#: Seconds that a worker has for an answer about its health. SGLang's takes a second even when all is well, and a busy one more.
_HEALTH_S = 5.0
#: Seconds for a connection: on one machine it comes at once, or is refused.
_CONNECT_S = 5.0
#: Characters of a worker's words about an error that are worth a log line.
_WORDS = 300

_decode = msgspec.json.Decoder().decode


class Lost(Exception):  # noqa: N818  it says what is the case
    """The worker does not go on with the request."""


class Silent(Lost):
    """It said nothing about the request for too long."""


class Declined(Exception):  # noqa: N818  it says what is the case
    """The worker's own answer to a request that is not one: it is the client's, as it is."""

    def __init__(self, status: int, kind: str, body: bytes) -> None:
        super().__init__(f"answered {status}")
        self.status = status
        self.kind = kind
        self.body = body


class EventReader:
    """Server-sent events from bytes, however they are split.

    By bytes, not by lines of text: an engine writes U+2028 and its like into a text as they are, which would be ends of lines.
    """

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event that is complete now; comments, which keep a connection alive, are none."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


class Worker:
    """A server, and what is known of it.

    Attributes:
        name: As the operator calls it.
        life: Goes up whenever it was away: what it was before says nothing about it now.
        serves: It answered that it is well.
        here: It answers.
        running: Requests on it.
        context: Tokens that prompt and answer may have together there, or None where it does not say.
    """

    def __init__(self, name: str, url: str, engine: str, log: FrontendLog, told: Callable[[], None]) -> None:
        self.name = name
        self.life = 0
        self.serves = False
        self.here = False
        self.running = 0
        self.context: int | None = None
        self._engine = engine
        self._log = log
        self._told = told
        self._doubted = asyncio.Event()
        self._doubts = 0
        # One client a worker, and a connection a request: httpx looks through a client's connections for each request, and one
        # that is kept may be closed by the server in the moment in which it is used again, which would look like a loss.
        self._client = httpx.AsyncClient(
            base_url=url,
            trust_env=False,
            verify=False,  # noqa: S501  workers are on this machine, without TLS; loading certificates takes longer than all else
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            headers={"accept-encoding": "identity"},
        )

    @property
    def doubted(self) -> bool:
        """A request was lost there, and it has not said yet how it is."""
        return self.here and self._doubted.is_set()

    def doubt(self) -> None:
        """A request was lost there: it gets nothing new until it has said how it is, which it is asked now."""
        self._doubts += 1
        self._doubted.set()

    async def watch(self) -> None:
        """Asks again and again how it is. There is no other way: nothing tells us of a server that is not our child."""
        try:
            while True:
                doubts = self._doubts
                health = await self._health()
                if self._doubts != doubts:
                    continue  # what it said may be older than the loss
                self._doubted.clear()
                await self._is(health)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._doubted.wait(), _SERVING_S if self.here else _AWAY_S)
        finally:
            await self._client.aclose()

    async def ask(
        self, path: str, body: bytes, headers: dict[str, str], silence_s: float | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Has it answer a request, as a stream of events; ends where the worker says that this was all.

        ``silence_s``: seconds without a byte after which it counts as lost, or None.

        Raises:
            Lost: It does not answer to the end.
            Declined: It does not take the request, for what the request is.
        """
        timeout = httpx.Timeout(silence_s, connect=_CONNECT_S, pool=None)
        reader = EventReader()
        self.running += 1
        try:
            async with self._client.stream("POST", path, content=body, headers=headers, timeout=timeout) as answer:
                await self._accepted(answer)
                async for data in answer.aiter_raw():
                    for payload in reader.feed(data):
                        if payload == b"[DONE]":
                            return
                        yield self._event(payload)
        except httpx.ReadTimeout as error:
            raise Silent(f"Timeout: worker {self.name} said nothing for {silence_s:g} s") from error
        except httpx.TransportError as error:
            raise Lost(f"Disconnected: worker {self.name}: {str(error) or type(error).__name__}") from error
        finally:
            self.running -= 1
        raise Lost(f"Disconnected: worker {self.name} ended the stream without [DONE]")

    async def _accepted(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        said = await answer.aread()
        if answer.is_server_error:
            raise Lost(f"Unavailable: worker {self.name} answered {answer.status_code}: {_words(said)}")
        raise Declined(answer.status_code, answer.headers.get("content-type", "application/json"), said)

    def _event(self, payload: bytes) -> dict[str, Any]:
        try:
            event: dict[str, Any] = _decode(payload)
        except msgspec.DecodeError as error:
            raise Lost(f"Disconnected: worker {self.name} said what is not JSON: {_words(payload)}") from error
        # What kind of error it is it does not say: both engines call an engine's death a bad request now and then.
        if "error" in event:
            raise Lost(f"Disconnected: worker {self.name} failed: {_words(payload)}")
        return event

    async def _health(self) -> int | None:
        """The status that it answers with, or None."""
        try:
            return (await self._client.get("/health", timeout=_HEALTH_S)).status_code
        except httpx.TransportError:
            return None

    async def _is(self, health: int | None) -> None:
        """What it said about itself, or did not, is so from now on."""
        serves = health == httpx.codes.OK
        if serves and not self.serves:
            self.context = await self._context()
            self._log.worker_joined(self.name, self._engine, "aggregated")
        elif self.serves and health is not None and not serves:
            self._log.worker_draining(self.name)
        elif self.here and health is None:
            self._log.worker_left(self.name, self.running)
        if not serves:
            self.life += 1
        # One that never served has not joined, be its server up already.
        self.serves, self.here = serves, serves or (self.here and health is not None)
        self._told()

    async def _context(self) -> int | None:
        try:
            models = (await self._client.get("/v1/models", timeout=_HEALTH_S)).json()
            return int(models["data"][0]["max_model_len"])
        except (httpx.TransportError, ValueError, LookupError, TypeError):
            return None


def _words(said: bytes) -> str:
    return " ".join(said.decode("utf-8", "replace").split())[:_WORDS]
