"""The fault ``restart``, which is none: what had ended is started again, as whoever supervises it would."""

from ftharness.faults.strike import Strike
from ftharness.process import NotReady, StartError


async def restart(strike: Strike) -> None:
    """The same command on the same ports, as a new process; the evidence is that one, which is ready."""
    process = strike.process
    if process.exit is None:
        strike.missed(f"{process.name} has not ended: there is nothing to start again")
        return
    try:
        again = await strike.restart()
    except (LookupError, StartError, NotReady) as error:
        strike.missed(str(error))
    else:
        strike.landed(at=again.started_ns, started=again.name, pid=again.pid, state="ready")
