"""Which worker has a request, by the workers' own words: what the targets of faults go by, and what "on target" means.

A request that is prefilled and decoded apart has two workers at a time, whose lines come through two pipes: which claim was
read last tells nothing. Their phases do, and a token does: only a decode worker makes one.
"""

from collections.abc import Iterator, Mapping

from ftharness.history import History, Log, RequestChunk, RequestSent

CLAIM = "request_received"
#: Phases in which the engine works for the request; who has it queued does not have it yet.
_WORKING = ("prefill", "kv_transfer", "decode")
_ENDS = ("request_finished", "request_aborted", "remote_aborted", "request_lost")


class Holders:
    """Asked again and again of a history that grows.

    Args:
        history: With the workers' lines.
        roles: Of each process; others may join.
    """

    def __init__(self, history: History, roles: Mapping[str, str]) -> None:
        self._history = history
        self._roles = roles

    def now(self, request: str) -> str | None:
        """The worker that works for it: of its last phase, or of its last claim where no line tells phases.

        Once a token has come it is the decode worker. None: no line says it, or that line may still be on its way.
        """
        claims = list(self._lines(CLAIM, request))
        last = {self._roles.get(claim.source, ""): claim for claim in claims}
        if "decode" in self._roles.values():
            read, token = last.get("prefill"), self._token_t(request)
            if token is not None and (read is None or token > read.t):
                return last["decode"].source if "decode" in last else None
        phases = [
            line
            for line in self._lines("request_phase", request)
            if line.captures.get("phase") in _WORKING
            and any(line.source == claim.source and line.t >= claim.t for claim in last.values())
        ]
        return next((line.source for line in (*phases[-1:], *claims[-1:])), None)

    def of_role(self, request: str, role: str) -> str | None:
        """The last worker of that role that took it."""
        its = [claim.source for claim in self._lines(CLAIM, request) if self._roles.get(claim.source) == role]
        return its[-1] if its else None

    def ever(self, request: str) -> list[str]:
        """Every worker that took it, in order."""
        return list(dict.fromkeys(claim.source for claim in self._lines(CLAIM, request)))

    def has(self, worker: str, request: str, t: int) -> bool:
        """Whether that worker, which took it, was not done with it by ``t``, in ns since the run's start."""
        names = {c.captures.get("request", "") for c in self._lines(CLAIM, request) if c.source == worker}
        return not names or not names.isdisjoint(self.held(worker, t))

    def held(self, worker: str, t: int) -> set[str]:
        """The names of all that a worker took and was not done with by ``t``, in ns since the run's start."""
        last = {c.captures.get("request", ""): c.t for c in self._history.select(Log, event=CLAIM, source=worker)}
        done = {
            line.captures.get("request", "")
            for event in _ENDS
            for line in self._history.select(Log, event=event, source=worker)
            if last.get(line.captures.get("request", ""), t) <= line.t < t
        }
        return last.keys() - done

    def _token_t(self, request: str) -> int | None:
        return max((chunk.t for chunk in self._history.select(RequestChunk, request=request)), default=None)

    def _lines(self, event: str, request: str) -> Iterator[Log]:
        """The lines about a request, or a choice of it, whose name begins with its own."""
        lines = list(self._history.select(Log, event=event))
        own = [line for line in lines if line.captures.get("request", "").startswith(request)]
        if own:
            yield from own
            return
        # A backend with request names of its own: those since it was sent, if nothing else was sent.
        sent = next(self._history.select(RequestSent, request=request), None)
        if sent is None or any(other.t > sent.t for other in self._history.select(RequestSent)):
            return
        known = {event.request for event in self._history.select(RequestSent)}
        yield from (line for line in lines if line.t > sent.t and line.captures.get("request", "") not in known)
