"""What changed in the registry, told to whoever listens: metrics, the log, those who wait."""

import logging
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

_LOG = logging.getLogger(__name__)

What = Literal["state", "ready", "draining", "lease", "refused", "error", "version", "perf"]


class Change(NamedTuple):
    """One change, after it was made.

    ======== ===================== ============================================= ===========================
    what     of                    before, after                                 reason
    ======== ===================== ============================================= ===========================
    state    an engine             two states                                    why
    ready    a pool                "false", "true", or the other way round       why
    draining a pool                the same                                      ""
    lease    a lease               "" → held (granted), held → held (renewed),   why it ended
                                   held → released, expired, revoked,
                                   earlier → held (an earlier manager's)
    refused  a pool                "", ""                                        unknown, draining, full, not_ready, not_kept
    error    a pool                two errors                                    ""
    version  a pool                two versions, "VERSION MODEL" each            ""
    perf     an engine             "", ""                                        ""
    ======== ===================== ============================================= ===========================

    Attributes:
        pool_id: Of which pool; "" where one was asked for that there is not: names that clients make up are no labels.
        engine_id: Of which engine; "" where it is all of the pool.
        what: Of which kind.
        before: What was.
        after: What is.
        reason: Why.
        lease_id: Of which lease.
    """

    pool_id: str
    engine_id: str
    what: What
    before: str
    after: str
    reason: str = ""
    lease_id: str = ""


Listener = Callable[[Change], None]


class Changes:
    """Those who listen. One that fails is logged, and costs neither the change nor the others anything."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with each change from now on, in their order.

        Returns:
            What ends it; nothing happens the second time.
        """
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    def tell(self, changes: Iterable[Change]) -> None:
        """Tell them. To be called when the change is whole: a listener may ask the registry, and change it."""
        for change in changes:
            for listener in tuple(self._listeners):
                try:
                    listener(change)
                except Exception:  # noqa: BLE001 - logged, whatever it is: the registry goes on
                    _LOG.exception("a listener failed on %s", change)
