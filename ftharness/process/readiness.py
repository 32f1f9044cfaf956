"""When a process is ready: conditions over its log events, over HTTP, with a deadline and an early end when it dies."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Protocol

import msgspec

from ftharness.history import History, Log, ProcessReady
from ftharness.process.http_get import NoAnswer, http_get
from ftharness.process.living import Living

_ASK_AGAIN_S = 0.02
#: Seconds that one answer may take.
ANSWER_S = 2.0


class NotReady(Exception):  # noqa: N818 - says what is the case
    """A process died, or was not ready in time; the message has its last lines.

    Attributes:
        process: Which.
    """

    def __init__(self, message: str, process: Living) -> None:
        super().__init__(message)
        self.process = process


class Condition(Protocol):
    """Something that holds once a process is ready."""

    def __str__(self) -> str:
        """What is waited for."""

    async def met(self, process: Living, history: History) -> None:
        """Return once it holds; it is cancelled at the deadline, or when the process ends."""


class _LogEvent:
    def __init__(self, event: str) -> None:
        self._event = event

    def __str__(self) -> str:
        return f"log event {self._event}"

    async def met(self, process: Living, history: History) -> None:
        since = process.started_ns - history.start_ns
        await history.wait_for(
            lambda event: (
                isinstance(event, Log)
                and event.source == process.name
                and event.event == self._event
                and event.t >= since
            ),
            deadline_s=1e9,  # the caller has the deadline
            what=str(self),
        )


class Asked(ABC):
    """A condition that holds when it is asked for: nothing tells of it."""

    def __init__(self) -> None:
        self.seen = "nothing"

    async def met(self, process: Living, history: History) -> None:
        """Ask until it is so."""
        del process, history
        while not await self._asked():
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _asked(self) -> bool:
        try:
            return await self.holds()
        except (OSError, msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
            self.seen = str(error) if isinstance(error, NoAnswer) else f"{type(error).__name__} {error}"
            return False

    @abstractmethod
    async def holds(self) -> bool:
        """Whether it is so now; notes in ``seen`` what there is. An answer that cannot be read is a no."""


class _HttpOk(Asked):
    def __init__(self, url: str, holds: Callable[[Any], bool] | None) -> None:
        super().__init__()
        self._url = url
        self._body_holds = holds

    def __str__(self) -> str:
        return f"GET {self._url} (last answer: {self.seen})"

    async def holds(self) -> bool:
        status, body = await http_get(self._url, deadline_s=ANSWER_S)
        self.seen = f"{status} {body[:800].decode(errors='replace')[:200]}"
        return status == HTTPStatus.OK and (self._body_holds is None or self._body_holds(msgspec.json.decode(body)))


def log_event(event: str) -> Condition:
    """A line that the process's contract calls ``event`` was read."""
    return _LogEvent(event)


def http_ok(url: str, holds: Callable[[Any], bool] | None = None) -> Condition:
    """``GET url`` answers 200, with JSON of which ``holds`` says yes."""
    return _HttpOk(url, holds)


async def until_ready(process: Living, *conditions: Condition, history: History, deadline_s: float) -> None:
    """Wait until all of ``conditions`` hold, and say so in the history.

    Raises:
        NotReady: The process ended first, or ``deadline_s`` seconds passed; with its last lines.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    waiting = {asyncio.ensure_future(condition.met(process, history)): condition for condition in conditions}
    ended = asyncio.ensure_future(process.exited())
    tasks: set[asyncio.Future[Any]] = {ended, *waiting}
    try:
        while waiting:
            left_s = deadline_s - (loop.time() - began)
            done, _ = await asyncio.wait(tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in waiting if task in done]:
                task.result()
                del waiting[task]
                tasks.discard(task)
            if waiting and (ended in done or not done):
                what = f"ended ({process.exit})" if ended in done else f"was not ready within {deadline_s:g} s"
                raise NotReady(_said(process, what, loop.time() - began, list(waiting.values())), process)
    finally:
        for unneeded in tasks:
            unneeded.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    how = ", ".join(str(condition).partition(" (last answer")[0] for condition in conditions)
    history.append(ProcessReady(source=process.name, pid=process.pid, how=how))


async def must_live(process: Living) -> None:
    """Wait for a process that has no reason to end.

    Raises:
        NotReady: It ended; with its last lines.
    """
    began = asyncio.get_running_loop().time()
    await process.exited()
    what = f"ended ({process.exit}) while the others started"
    raise NotReady(_said(process, what, asyncio.get_running_loop().time() - began, ()), process)


def _said(process: Living, what: str, after_s: float, missing: Sequence[Condition]) -> str:
    lines = process.tail()
    waited = f"; waited for: {', '.join(map(str, missing))}" if missing else ""
    said = "\n".join(f"    {line}" for line in lines) if lines else "    (it wrote nothing)"
    return (
        f"{process.name} (pid {process.pid}) {what} after {after_s:.1f} s{waited}\n"
        f"  its last lines, of {process.log_path}:\n{said}"
    )
