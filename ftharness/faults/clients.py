"""Faults of clients, which go away from a request: disconnect, reset, cancel_task, kill_client; and half_close, which is none.

The evidence is what the kernel then says of the client's end of the connection, or how the client's process ended.
"""

from collections.abc import Awaitable, Callable

from ftharness.client import CannotLeave, Left
from ftharness.faults.strike import Strike

_STILL_OPEN = {"ESTABLISHED", "CLOSE_WAIT"}


async def disconnect(strike: Strike) -> None:
    """The connection is closed, by close(2)."""
    await _goes(strike, strike.stream.disconnect)


async def reset(strike: Strike) -> None:
    """It is reset: SO_LINGER of 0 s, then close(2)."""
    await _goes(strike, strike.stream.reset)


async def cancel_task(strike: Strike) -> None:
    """The asyncio task that awaits the answer is cancelled, and closes its connection on the way out."""
    await _goes(strike, strike.stream.cancel_task)


async def kill_client(strike: Strike) -> None:
    """SIGKILL to the process that sent the request; the evidence is its wait status, too."""
    await _goes(strike, strike.stream.kill_client)


async def half_close(strike: Strike) -> None:
    """Its sending side is closed, by shutdown(2); it waits for the answer all the same."""
    await _goes(strike, strike.stream.half_close)


async def _goes(strike: Strike, leave: Callable[[], Awaitable[Left | None]]) -> None:
    """Do it, and say what came of it."""
    try:
        left = await leave()
    except CannotLeave as why:
        strike.missed(str(why))
        return
    if left is None:
        end = strike.stream.result
        how = end.outcome if end else "the server has closed the connection, or its client goes otherwise"
        strike.missed(f"its request had already ended: {how}")
    elif left.evidence.get("socket") in _STILL_OPEN:
        strike.missed(f"the client {left.how}, but the kernel says that its socket is {left.evidence['socket']}")
    else:
        strike.landed(at=left.at, client=left.how, tokens=strike.stream.tokens, **left.evidence)
