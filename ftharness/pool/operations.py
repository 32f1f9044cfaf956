"""What takes a while and is asked for by others: each has a number, one at a time to a pool, and its end can be read later."""

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from typing import Literal

import msgspec

Kind = Literal["preload", "drain", "resume", "reload", "reset_breaker"]

#: Operations that are over and kept, so that whoever asks late still sees how they ended.
KEPT = 256
_LOG = logging.getLogger(__name__)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was asked of a pool.

    Attributes:
        id: Unique among this manager's.
        kind: What was asked.
        pool_id: Of which pool.
        state: ``running``, ``succeeded`` or ``failed``.
        error: Why it failed; null where it did not.
        started_ms: Milliseconds since the epoch.
        ended_ms: The same; null while it runs.
        detail: What it is at, or what it came to.
    """

    id: str
    kind: Kind
    pool_id: str
    state: Literal["running", "succeeded", "failed"] = "running"
    error: str | None = None
    started_ms: int
    ended_ms: int | None = None
    detail: str = ""


class Busy(Exception):  # noqa: N818 - says what is the case
    """The pool is at something else.

    Attributes:
        operation: At what.
    """

    def __init__(self, operation: Operation) -> None:
        super().__init__(f"pool {operation.pool_id!r} is busy: {operation.kind} {operation.id} is under way")
        self.operation = operation


class UnknownOperation(LookupError):  # noqa: N818 - says what is the case
    """There is no such operation, or it ended too long ago to be known."""


class OperationFailed(Exception):  # noqa: N818 - says what is the case
    """It did not come to what was asked; the message says what was tried, seen, and is the case now.

    Attributes:
        outcome: In a word.
    """

    def __init__(self, message: str, *, outcome: str = "failed") -> None:
        super().__init__(message)
        self.outcome = outcome


#: Gets what an operation is at.
Progress = Callable[[str], None]
#: Does it; returns what it came to.
Work = Callable[[Progress], Awaitable[str]]


class Operations:
    """All operations of a manager.

    Args:
        now_ms: What the machine's clock says, in milliseconds since the epoch.
        kept: How many that are over are kept.
    """

    def __init__(self, now_ms: Callable[[], int], *, kept: int = KEPT) -> None:
        self._now_ms = now_ms
        self._kept = kept
        self._serial = itertools.count(1)
        self._all: OrderedDict[str, Operation] = OrderedDict()
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}  # by pool
        self._let_go = asyncio.Event()

    def get(self, operation_id: str) -> Operation:
        """One, as it is.

        Raises:
            UnknownOperation: There is none.
        """
        try:
            return self._all[operation_id]
        except KeyError:
            raise UnknownOperation(
                f"no operation {operation_id!r}: this manager has had none of that name, or it ended long ago"
            ) from None

    def running(self, pool_id: str) -> Operation | None:
        """What a pool is at; None: nothing."""
        running = self._running.get(pool_id)
        return None if running is None else self._all[running[0]]

    def begin(self, kind: Kind, pool_id: str, work: Work, *, instead_of: Collection[Kind] = ()) -> Operation:
        """Begin one.

        Args:
            kind: What was asked.
            pool_id: Of which pool.
            work: Does it.
            instead_of: One of these kinds is called off for it, and cleans up behind itself first.

        Raises:
            Busy: The pool is at another.
        """
        under_way, before = self.running(pool_id), None
        if under_way is not None:
            if under_way.kind not in instead_of:
                raise Busy(under_way)
            before = self._running[pool_id][1]
            before.cancel()
        operation = Operation(id=f"op-{next(self._serial)}", kind=kind, pool_id=pool_id, started_ms=self._now_ms())
        self._all[operation.id] = operation
        if len(self._all) > self._kept + len(self._running):
            self._forget_one()
        task = asyncio.get_running_loop().create_task(self._run(operation.id, work, before), name=f"{kind} {pool_id}")
        self._running[pool_id] = operation.id, task
        task.add_done_callback(lambda _: self._is_over(pool_id, operation.id))
        return operation

    async def until_over(self, operation_id: str, deadline_s: float | None = None) -> Operation:
        """Wait for the end of one, for at most so many seconds; it is returned as it is then.

        Raises:
            UnknownOperation: There is none.
        """
        operation = self.get(operation_id)
        running = self._running.get(operation.pool_id)
        if running is not None and running[0] == operation_id and not self._let_go.is_set():
            let_go = asyncio.ensure_future(self._let_go.wait())
            await asyncio.wait((running[1], let_go), timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            let_go.cancel()
            await asyncio.sleep(0)  # what the task's end calls may come after us
        return self._all.get(operation_id, operation)

    def let_go(self) -> None:
        """The manager ends: whoever waits for an operation has it as it is."""
        self._let_go.set()

    async def call_off(self, pool_id: str) -> None:
        """End what a pool is at, if anything, and wait until it has cleaned up behind itself."""
        running = self._running.get(pool_id)
        if running is not None:
            running[1].cancel()
            await asyncio.wait((running[1],))
            await asyncio.sleep(0)  # what the task's end calls may come after us

    async def close(self) -> None:
        """Call off all of them."""
        for pool_id in list(self._running):
            await self.call_off(pool_id)

    async def _run(self, operation_id: str, work: Work, before: asyncio.Task[None] | None) -> None:
        def progress(detail: str) -> None:
            self._change(operation_id, detail=detail)

        try:
            if before is not None:
                await asyncio.wait((before,))
            detail = await work(progress)
        except OperationFailed as error:
            self._end(operation_id, "failed", str(error), error.outcome)
        except asyncio.CancelledError:
            self._end(operation_id, "failed", "it was called off", "cancelled")
        except Exception as error:  # noqa: BLE001 - the caller sees it in the operation; the manager lives on
            _LOG.exception("operation %s", operation_id)
            self._end(operation_id, "failed", f"{type(error).__name__}: {error}", "failed")
        else:
            self._end(operation_id, "succeeded", None, detail)

    def _is_over(self, pool_id: str, operation_id: str) -> None:
        if self._running[pool_id][0] == operation_id:
            del self._running[pool_id]
        if self._all[operation_id].state == "running":  # it was called off before its first step
            self._end(operation_id, "failed", "it was called off", "cancelled")

    def _end(self, operation_id: str, state: Literal["succeeded", "failed"], error: str | None, detail: str) -> None:
        self._change(operation_id, state=state, error=error, detail=detail, ended_ms=self._now_ms())

    def _change(self, operation_id: str, **fields: object) -> None:
        self._all[operation_id] = msgspec.structs.replace(self._all[operation_id], **fields)

    def _forget_one(self) -> None:
        """The oldest that is over."""
        running = {operation_id for operation_id, _ in self._running.values()}
        del self._all[next(one for one in self._all if one not in running)]
