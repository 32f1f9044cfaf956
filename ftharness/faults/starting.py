"""The faults ``restart`` and ``start_standby``, which are none: what has to follow one, done as a supervisor would.

No module here has the name of a kind or of a target: loaded later than the package, it would take the name's place in it.
"""

from collections.abc import Awaitable

from ftharness.faults.strike import Strike
from ftharness.process import Living, NotReady, StartError


async def restart(strike: Strike) -> None:
    """The same command on the same ports, as a new process; the evidence is that one, which is ready."""
    process = strike.process
    if process.exit is None:
        strike.missed(f"{process.name} has not ended: there is nothing to start again")
        return
    await _started(strike, strike.restart(), "ready")


async def start_standby(strike: Strike) -> None:
    """One more engine of the target's group is started; the evidence is its process, and that it waits for the lock."""
    await _started(strike, strike.join(), "standby")


async def _started(strike: Strike, starting: Awaitable[Living], state: str) -> None:
    try:
        started = await starting
    except (LookupError, StartError, NotReady) as error:
        strike.missed(str(error))
    else:
        strike.landed(at=started.started_ns, started=started.name, pid=started.pid, state=state)
