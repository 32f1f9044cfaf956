"""The history: the only channel between what happens and what judges it."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar, cast

import msgspec

from ftharness.history.events import AnyEvent, Event

E = TypeVar("E", bound=Event)
Subscriber = Callable[[Event], None]

_WRITE_WITHIN_S = 0.005

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyEvent)


class HistoryError(Exception):
    """A stored history cannot be read; the message names the file and the line.

    Attributes:
        events: What stands before that line.
    """

    def __init__(self, message: str, events: list[Event]) -> None:
        super().__init__(message)
        self.events = events


class History:
    """Everything that happened, in the order in which it was seen, on one clock.

    Not thread-safe: append on the thread that owns it (the harness's event loop). Reading ``events`` elsewhere is fine.

    Args:
        path: Where to write the events, one JSON object a line; None keeps them in memory only. What was appended is
            written within 5 ms where there is an event loop, at once where there is none.
        start_ns: CLOCK_MONOTONIC of the run's start; now, if not given.
    """

    def __init__(self, path: Path | None = None, *, start_ns: int | None = None) -> None:
        self.start_ns = time.monotonic_ns() if start_ns is None else start_ns
        self.path = path
        self.write_error: OSError | None = None
        self._events: list[Event] = []
        self._by_kind: dict[type[Event], list[Event]] = defaultdict(list)
        self._subscribers: list[Subscriber] = []
        self._pending: list[Event] = []
        self._file: BinaryIO | None = path.open("ab", buffering=0) if path else None

    @property
    def events(self) -> Sequence[Event]:
        """All events so far; do not change it."""
        return self._events

    def now(self) -> int:
        """Nanoseconds since the run's start."""
        return time.monotonic_ns() - self.start_ns

    def append(self, event: E, *, at: int | None = None) -> E:
        """Add ``event``, number it, and tell the subscribers before returning.

        Args:
            event: Not yet in any history; its ``n`` and ``t`` are set here.
            at: CLOCK_MONOTONIC in ns when its bytes were read; now, if not given.
        """
        # The one place that writes to a frozen event: before anybody else has seen it.
        msgspec.structs.force_setattr(event, "n", len(self._events) + 1)
        msgspec.structs.force_setattr(event, "t", (time.monotonic_ns() if at is None else at) - self.start_ns)
        self._add(event)
        if self._file is not None:
            self._pending.append(event)
            if len(self._pending) == 1:
                self._flush_soon()
        for subscriber in tuple(self._subscribers):
            subscriber(event)
        return event

    def _add(self, event: Event) -> None:
        self._events.append(event)
        self._by_kind[type(event)].append(event)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with each event as it is appended; what is returned ends that."""
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return unsubscribe

    def select(self, kind: type[E], **fields: object) -> Iterator[E]:
        """The events of one kind whose fields have these values, in order; what it costs goes by the events of that kind."""
        wanted = tuple(fields.items())
        for event in self._events if kind is Event else self._by_kind[kind]:
            for name, value in wanted:
                if getattr(event, name) != value:
                    break
            else:
                yield cast("E", event)

    async def wait_for(
        self, predicate: Callable[[Event], bool], *, deadline_s: float, what: str = "an event", past: bool = True
    ) -> Event:
        """The first event for which ``predicate`` holds.

        Args:
            predicate: Called once with each event, old ones first.
            deadline_s: Seconds.
            what: What is waited for, for the error.
            past: Whether what is already in the history counts.

        Raises:
            TimeoutError: It did not come; says what was waited for and what was seen last.
        """
        if past:
            for event in self._events:
                if predicate(event):
                    return event
        found: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

        def look(event: Event) -> None:
            if not found.done() and predicate(event):
                found.set_result(event)

        unsubscribe = self.subscribe(look)
        try:
            async with asyncio.timeout(deadline_s):
                return await found
        except TimeoutError:
            last = msgspec.json.encode(self._events[-1]).decode() if self._events else "nothing"
            raise TimeoutError(f"waited {deadline_s:g} s for {what}; the last event was {last}") from None
        finally:
            unsubscribe()

    def _flush_soon(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
        else:
            # Not on the loop's next round, which is a trigger's: a write may wait for the disk, and the fault with it.
            loop.call_later(_WRITE_WITHIN_S, self.flush)

    def flush(self) -> None:
        """Write what is not yet written. A full disk does not stop the run: see ``write_error``."""
        pending, self._pending = self._pending, []
        if self._file is None or not pending:
            return
        data = memoryview(b"".join(_encoder.encode(event) + b"\n" for event in pending))
        try:
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            # Nothing more goes to this file: a later line behind a half-written one would make both unreadable.
            self.write_error = error
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Flush and close the file; appending still works, in memory."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        """Nothing to do: a history is open when made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def recorded(events: Sequence[Event]) -> History:
    """A history in memory that holds events which already have their ``n`` and ``t``."""
    history = History(start_ns=0)
    for event in events:
        history._add(event)  # noqa: SLF001 - its own module
    return history


def read_history(path: Path) -> list[Event]:
    """The events of a stored history.

    A last line without its newline, as a killed harness leaves it, is passed over.

    Raises:
        HistoryError: A line is not an event; names the file, the line and what is wrong.
    """
    events: list[Event] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                events.append(_decoder.decode(line))
            except msgspec.MsgspecError as error:
                raise HistoryError(f"{path}:{number}: not an event of this version: {error}", events) from error
    return events


def json_schema() -> dict[str, object]:
    """The JSON schema of one line of ``history.jsonl``."""
    return msgspec.json.schema(AnyEvent)
