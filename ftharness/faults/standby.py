"""The fault ``start_standby``, which is none: a further shadow engine joins a group, as after a failover one has to."""

from ftharness.faults.strike import Strike
from ftharness.process import NotReady, StartError


async def start_standby(strike: Strike) -> None:
    """One more engine of the target's group is started; the evidence is its process, and that it waits for the lock."""
    try:
        joined = await strike.join()
    except (LookupError, StartError, NotReady) as error:
        strike.missed(str(error))
    else:
        strike.landed(at=joined.started_ns, started=joined.name, pid=joined.pid, state="standby")
