"""The states of an engine in a pool: as data."""

from typing import Literal

EngineState = Literal[
    "stopped", "staging", "preparing", "starting", "warming", "ready", "unready", "draining", "backoff", "broken"
]

#: Its process is there and has answered: leases on it live. On the way to any other state they are revoked.
HOLDING: frozenset[EngineState] = frozenset({"ready", "unready", "draining"})
#: Its process is there, and is the one that the registry knows.
RUNNING: frozenset[EngineState] = HOLDING | {"warming"}
#: From where an engine becomes ready: its model was staged, its command prepared, its process has answered.
BEFORE_READY: frozenset[EngineState] = frozenset({"starting", "warming", "ready", "unready", "draining"})


class NotPrepared(Exception):  # noqa: N818 - says what is the case
    """An engine was called ready that was not started: the caller's fault."""
