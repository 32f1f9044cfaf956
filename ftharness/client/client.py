"""The client of a stack: sends requests, and writes what becomes of them into the history."""

import asyncio
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ftharness.client.answer import CountTokens
from ftharness.client.apart import ConnectionApart
from ftharness.client.connection import Connection
from ftharness.client.request import Request, chat, check_order, completion
from ftharness.client.stream import Stream
from ftharness.history import FaultLanded, FaultMissed, History, RequestSent

_PHASE_S = 3600.0  # longer than any phase, whose own deadline comes first


def one_a_chunk(text: str) -> int:
    """Count a chunk as one token: all that can be said of an engine whose vocabulary is not known."""
    return 1 if text else 0


class Client:
    """Sends real requests to one base URL.

    Args:
        history: Where everything goes.
        url: ``http://HOST:PORT`` of the frontend.
        model: The model's name in each request.
        count: How many tokens a text holds.
        idle_s: Seconds without a byte after which a request counts as a ``hang``.
        seed: Of the request ids; with the same seed the same run has the same ids.
        redact: What is stored of a request's body goes through this.
        asks: What every request's body has as well, unless it says something else.
        named_in: The field of a body that names the request, where the system does not take its name from the header.
    """

    def __init__(
        self,
        history: History,
        url: str,
        model: str,
        *,
        count: CountTokens = one_a_chunk,
        idle_s: float = 30.0,
        seed: int | None = None,
        redact: Callable[[str], str] = str,
        asks: Mapping[str, Any] | None = None,
        named_in: str = "",
    ) -> None:
        self.url = url
        self.model = model
        self._history = history
        self._count = count
        self._idle_s = idle_s
        self._ids = random.Random(seed)  # noqa: S311 - ids, not secrets
        self._redact = redact
        self._asks = dict(asks or {})
        self._named_in = named_in
        self._open: set[Stream] = set()

    async def complete(self, prompt: str = "Once upon a time", **fields: Any) -> Stream:
        """Send a completion; ``fields`` are those of :class:`Request`."""
        return await self.send(completion(prompt, **fields))

    async def chat(self, prompt: str = "Tell me a story", **fields: Any) -> Stream:
        """Send a chat of one user message; ``fields`` are those of :class:`Request`."""
        return await self.send(chat(prompt, **fields))

    async def send(
        self,
        request: Request,
        *,
        control: bool = False,
        index: int = 0,
        check: str = "",
        cut: int = 0,
        cut_text: int = 0,
        sent: Callable[[Stream], None] = lambda _: None,
    ) -> Stream:
        """Send ``request``; returns when it is on its way.

        A refused connection is the request's outcome, not an exception.

        Args:
            request: What to ask.
            control: Whether it belongs to the run without the fault.
            index: Its place in the workload.
            check: What it checks of that run, as :class:`RequestSent` has it.
            cut: The same.
            cut_text: The same.
            sent: Told of the request before the history is: a fault at the moment of its sending can be aimed at it.
        """
        request_id = str(uuid.UUID(int=self._ids.getrandbits(128), version=4))
        stream = Stream(request_id, request, self._history, self._count, idle_s=self._idle_s, index=index)
        sent(stream)
        name = {self._named_in: request_id} if self._named_in else {}
        body = request.body(self.model, self._asks | name)
        encoded = msgspec.json.encode(body)
        self._history.append(
            RequestSent(
                source="client",
                request=request_id,
                endpoint=request.path,
                body=msgspec.json.decode(self._redact(encoded.decode())),
                stream=request.stream,
                control=control,
                index=index,
                check=check,
                cut=cut,
                cut_text=cut_text,
            )
        )
        self._open.add(stream)
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if request.stream else "application/json",
            "X-Request-Id": request_id,
            # Dynamo keeps this one as the request's own id down to the worker, if it is a UUID; the other only in its log.
            "x-dynamo-request-id": request_id,
        }
        kind = ConnectionApart if request.own_process else Connection
        try:
            async with asyncio.timeout(self._idle_s):
                connection = await kind.open(
                    self.url, "POST", request.path, headers=headers, body=encoded, on_body=stream.on_body
                )
        except TimeoutError:
            stream.unanswered()
        except OSError as error:
            stream.refused(error)
        else:
            stream.start(connection)
        return stream

    async def send_all(
        self,
        requests: Sequence[Request],
        *,
        control: bool = False,
        check: str = "",
        sent: Callable[[Stream], None] = lambda _: None,
    ) -> list[Stream]:
        """Send a workload, each request at its own time, and wait until all have ended.

        ``control`` and ``check`` are those of :meth:`send`. ``sent`` is told of each, in the order in which they were sent.

        Raises:
            ValueError: A request is to be sent after one that is not before it in the workload.
        """
        check_order(requests)
        ended = [asyncio.Event() for _ in requests]

        async def one(index: int, request: Request) -> Stream:
            if request.after is not None:
                await ended[request.after].wait()
            if request.after_fault is not None and not control:
                await self._fault(request.after_fault)
            if request.at_s:
                await asyncio.sleep(request.at_s)  # the workload's own schedule
            stream = await self.send(request, control=control, index=index, check=check, sent=sent)
            await stream.finished()
            ended[index].set()
            return stream

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(index, request)) for index, request in enumerate(requests)]
        return [task.result() for task in tasks]

    async def _fault(self, place: int) -> None:
        """Wait until the fault of that place has landed or missed; the phase's end is the deadline."""
        fault_id = f"fault-{place + 1}"
        await self._history.wait_for(
            lambda event: isinstance(event, FaultLanded | FaultMissed) and event.id == fault_id,
            deadline_s=_PHASE_S,
            what=f"{fault_id} lands or misses",
        )

    async def close(self, *, hang: str = "") -> None:
        """Go away from every request that is still open; with ``hang`` each counts as one, for that reason."""
        open_ones, self._open = self._open, set()
        await asyncio.gather(*(stream.close(hang=hang) for stream in open_ones))
